//! A client that moves to another network.

use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};
use mtd_tests::link::{Veth, Via, default_route};
use mtd_tests::netns::Netns;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::Load;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World, quoted};

const NEW_LINK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0);
const UPLINK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xe0, 0, 0, 0, 0, 0);

fn host(net: Ipv6Addr, number: u16) -> Ipv6Addr {
    let [a, b, c, ..] = net.segments();
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, number)
}

fn on_link(address: Ipv6Addr) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}

/// Another router, that the world's router reaches by a link of their own.
struct Elsewhere {
    router: Netns,
    _uplink: Veth,
}

impl Elsewhere {
    fn new(world: &World) -> Result<Self> {
        let (old, router) = (world.router(), Netns::new("router2")?);
        router.enable_forwarding()?;
        let uplink = Veth::connect((old, "up"), (&router, "down"), 1500)?;
        for (netns, ifname, number) in [(old, &uplink.left, 1), (&router, &uplink.right, 2)] {
            netns.set_up(ifname)?;
            netns.add_address(ifname, on_link(host(UPLINK, number)))?;
        }
        router.add_route(default_route(), Via::Gateway(IpAddr::V6(host(UPLINK, 1))))?;
        let new_link = on_link(NEW_LINK).trunc();
        old.add_route(new_link, Via::Gateway(IpAddr::V6(host(UPLINK, 2))))?;
        Ok(Self { router, _uplink: uplink })
    }

    /// Plugs the client's cable in here, and gives its host an address of this network, as a router would.
    fn take(&self, world: &World, client: Who) -> Result<()> {
        let at = world.host(client);
        let cable = at.tap_ifname.as_str();
        world.router().run(&["link", "set", "dev", cable, "netns", self.router.name()])?;
        self.router.set_up(cable)?;
        self.router.add_address(cable, on_link(host(NEW_LINK, 1)))?;
        // A router has been there for long: one that still looks for duplicates of its own address solicits nobody.
        self.router.wait_usable(cable, PATIENCE)?;
        let old = format!("{}/64", at.address);
        at.netns.run(&["-6", "address", "del", &old, "dev", &at.ifname])?;
        at.netns.add_address(&at.ifname, on_link(host(NEW_LINK, 2)))?;
        at.netns.run(&["-6", "route", "replace", "default", "via", &host(NEW_LINK, 1).to_string()])?;
        Ok(())
    }
}

#[test]
fn a_client_that_moves_to_another_router_keeps_its_tcp_connections() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    let member = world.setup_mut(Who::Alice);
    member.shared_prefix = true;
    member.keys.insert("keepalive", quoted("5s"));
    world.open_all()?;
    let load = world.load(Who::Alice, Inner::V6)?;
    thread::sleep(Duration::from_secs(3));
    let before = world.session(Who::Alice)?;
    let (_, arrived) = load.arrived_at_server();
    ensure!(arrived > 0, "{}", world.explain());

    let elsewhere = Elsewhere::new(&world)?;
    elsewhere.take(&world, Who::Alice)?;
    let moved = Instant::now();
    let there = IpNet::V6(Ipv6Net::new_assert(NEW_LINK, 64));
    wait_until("the session to stand in the new network", PATIENCE, || {
        let sessions = world.sessions_with(Who::Alice)?;
        Ok(world.is_open(Who::Alice)? && sessions.iter().any(|session| session.prefix == Some(there)))
    })
    .with_context(|| world.explain())?;
    println!("open in the new network {:.2?} after the move", moved.elapsed());
    for arrived in [Load::arrived_at_server, Load::arrived_at_client] {
        let (packets, bytes) = arrived(&load);
        // TCP waits for its next retransmission.
        wait_until("UDP and TCP to go on", PATIENCE, || {
            let (packets_now, bytes_now) = arrived(&load);
            Ok(packets_now > packets && bytes_now > bytes)
        })
        .with_context(|| world.explain())?;
    }

    let after = world.session(Who::Alice)?;
    ensure!(after.tunnel == before.tunnel, "{:?} instead of {:?}", after.tunnel, before.tunnel);
    let report = load.stop()?;
    println!("over the move: {report}");
    report.require_unbroken().with_context(|| world.explain())
}
