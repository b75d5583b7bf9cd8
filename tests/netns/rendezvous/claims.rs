//! A server whose tunnel addresses are those of hosts in the client's own network: by accident, or in order to capture them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use mtd::status::EventDocument;
use mtd_tests::link::Veth;
use mtd_tests::netns::Netns;
use mtd_tests::rendezvous::{SERVER_V4, SERVER_V6};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Who, World, quoted};

/// Where the printer of the client's network listens, and a service of the server's.
const PORT: u16 = 631;

/// The client's own network, behind another interface than its underlay.
struct Home {
    printer: Netns,
    cable: Veth,
}

impl Home {
    /// A network in which a host has one of the server's tunnel addresses.
    fn new(world: &World) -> Result<Self> {
        let printer = Netns::new("printer")?;
        let cable = Veth::connect((world.netns(Who::Alice), "home"), (&printer, "prt"), 1500)?;
        world.netns(Who::Alice).set_up(&cable.left)?;
        printer.set_up(&cable.right)?;
        Ok(Self { printer, cable })
    }

    /// Gives the network this prefix; its printer is `::1` or `.1`, and the client `::9` or `.9`.
    fn add(&self, world: &World, net: &str) -> Result<()> {
        let net: IpNet = net.parse()?;
        let host = |number: u8| -> Result<IpNet> {
            let address: IpAddr = match net.network() {
                IpAddr::V4(address) => (u32::from(address) + u32::from(number)).to_be_bytes().into(),
                IpAddr::V6(address) => (u128::from(address) + u128::from(number)).to_be_bytes().into(),
            };
            Ok(IpNet::new(address, net.prefix_len())?)
        };
        self.printer.add_address(&self.cable.right, host(1)?)?;
        world.netns(Who::Alice).add_address(&self.cable.left, host(9)?)
    }
}

/// Whom the client reaches at an address: `true`: the printer, `false`: the server.
fn reaches_printer(world: &World, home: &Home, address: IpAddr) -> Result<Option<bool>> {
    let at = SocketAddr::new(address, PORT);
    let bind = |netns: &Netns| -> Result<UdpSocket> {
        let socket = netns.enter(|| UdpSocket::bind(SocketAddr::new(at.ip(), PORT)))??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let (printer, server) = (bind(&home.printer)?, bind(world.netns(Who::Server))?);
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let client = world.netns(Who::Alice).enter(|| UdpSocket::bind((any, 0)))??;
    let mut reached = None;
    let hears = |socket: &UdpSocket| socket.recv(&mut [0; 8]).is_ok();
    let _ = wait_until("somebody to hear it", Duration::from_secs(2), || {
        // Without a route there is an error, as good as a lost packet.
        let _ = client.send_to(b"hello", at);
        reached = if hears(&printer) { Some(true) } else { hears(&server).then_some(false) };
        Ok(reached.is_some())
    });
    Ok(reached)
}

fn hint(world: &World) -> Result<String> {
    Ok(world.session(Who::Alice)?.hint.unwrap_or_default())
}

/// The events of the client about addresses that were refused.
fn refusals(world: &World) -> Result<Vec<String>> {
    let events = world.mtd(Who::Alice, &["events", "--json"])?;
    let events: Vec<EventDocument> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let sessions = events.into_iter().filter_map(|event| event.session);
    let refused = sessions.filter(|session| session.change == "address-refused");
    refused.map(|session| session.reason.context("an address is refused for a reason")).collect()
}

#[test]
fn a_server_captures_no_host_of_the_clients_network() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    let home = Home::new(&world)?;
    home.add(&world, "10.66.0.0/24")?;
    world.start_all()?;
    // The addresses of the other IP version do no harm.
    world.netns(Who::Alice).wait_reachable(SERVER_V6.into(), PATIENCE).with_context(|| world.explain())?;
    ensure!(
        reaches_printer(&world, &home, SERVER_V4.into())? == Some(true),
        "the printer is captured: {}",
        world.netns(Who::Alice).run(&["route"])?
    );
    let hint = hint(&world)?;
    for part in ["10.66.0.1", "10.66.0.0/24", "allowed_ips"] {
        ensure!(hint.contains(part), "{part} is not in: {hint}");
    }
    wait_until("the event", PATIENCE, || Ok(refusals(&world)? == ["10.66.0.1 lies in 10.66.0.0/24"]))?;
    let log = world.controller(Who::Alice)?.process.log();
    ensure!(log.contains("10.66.0.1 is not used"), "{log}");

    // Who means it says so.
    world.stop(Who::Alice)?;
    world.setup_mut(Who::Alice).keys.insert("allowed_ips", format!("[{}]", quoted("10.66.0.1/32")));
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    ensure!(reaches_printer(&world, &home, SERVER_V4.into())? == Some(false), "{}", world.explain());
    Ok(())
}

#[test]
fn a_client_that_comes_into_a_network_with_the_servers_addresses_leaves_them_to_it() -> Result<()> {
    let world = World::open(&TopologyOptions::default())?;
    let home = Home::new(&world)?;
    home.add(&world, "fd00:6d74::/64")?;
    wait_until("the printer to be reached", PATIENCE, || {
        Ok(reaches_printer(&world, &home, SERVER_V6.into())? == Some(true))
    })
    .with_context(|| world.explain())?;
    ensure!(hint(&world)?.contains("fd00:6d74::/64"), "{}", world.explain());
    // IPv4 comes back without the other one.
    world.netns(Who::Alice).wait_reachable(SERVER_V4.into(), PATIENCE).with_context(|| world.explain())?;
    // It leaves the network again: the next keys bring the addresses back.
    world.netns(Who::Alice).run(&["link", "delete", &home.cable.left])?;
    world.wait_open(Who::Alice)
}
