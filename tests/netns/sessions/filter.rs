//! Filters of sessions with real controllers: what passes, who is told, changes under traffic, and what outlives the controller.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::dataplane::program_name;
use mtd::status::Status;
use mtd_tests::netns::Netns;
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{TcpFlow, TcpOptions};
use mtd_tests::wait_until;

use super::world::{Inner, Role, World};
use super::{PATIENCE, SLOT};

/// The port that the server's filter lets in, and one that it does not.
pub(crate) const OPEN: u16 = 2222;
pub(crate) const CLOSED: u16 = 2223;
/// How long a connection may take that is expected to be made, and one that nobody answers.
pub(crate) const SOON: Duration = Duration::from_secs(5);
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// Datagrams to a closed port, one a millisecond.
const DATAGRAMS: u64 = 2_000;

const RULES: &str = r#"filter = ["allow in tcp/2222", "allow icmp", "allow in udp/5300-5399"]"#;

/// A world whose server has this filter for its client.
fn world(mode: &str, filter: &str) -> Result<World> {
    let mut world = World::new(mode, &TopologyOptions::default())?;
    filter.clone_into(&mut world.setup_mut(Role::Server).peers[0].0.extra);
    world.start_all()?;
    Ok(world)
}

/// Changes the server's filter, and lets the controller read it.
fn reload(world: &mut World, filter: &str) -> Result<String> {
    filter.clone_into(&mut world.setup_mut(Role::Server).peers[0].0.extra);
    world.setup(Role::Server).write()?;
    let output = world.controller(Role::Server)?.command(world.netns(Role::Server), &["reload"])?;
    ensure!(output.status.success(), "mtd reload failed: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Tries to connect; listens at the other end first.
pub(crate) fn connect(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    port: u16,
    patience: Duration,
) -> Result<io::Result<()>> {
    let place = SocketAddr::new(address, port);
    let listener = to.enter(|| TcpListener::bind(place))??;
    let result = from.enter(|| TcpStream::connect_timeout(&place, patience).map(drop))?;
    drop(listener);
    Ok(result)
}

/// Whether a datagram arrives.
fn datagram(from: &Netns, to: &Netns, address: IpAddr, port: u16) -> Result<bool> {
    let place = SocketAddr::new(address, port);
    let receiver = to.enter(|| UdpSocket::bind(place))??;
    receiver.set_read_timeout(Some(SILENCE))?;
    let unspecified: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    from.enter(|| UdpSocket::bind((unspecified, 0))?.send_to(b"a datagram", place))??;
    Ok(receiver.recv(&mut [0; 64]).is_ok())
}

fn count(status: &Status, reason: &str) -> u64 {
    status.drops.get(reason).copied().unwrap_or(0)
}

/// Checks that the server's filter is as [`RULES`], in both IP versions and both directions.
fn require_rules(world: &World) -> Result<()> {
    let (client, server) = (world.netns(Role::Client), world.netns(Role::Server));
    let before = world.status(Role::Server)?;
    for address in world.end(Role::Server).addresses() {
        connect(client, server, address, OPEN, SOON)?.with_context(|| format!("{address}: the open port"))?;
        let closed = connect(client, server, address, CLOSED, SILENCE)?;
        let silent = closed.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
        ensure!(silent, "{address}: strangers to the port are told {closed:?}");
        ensure!(datagram(client, server, address, 5353)?, "{address}: an open port of UDP");
        ensure!(!datagram(client, server, address, 5400)?, "{address}: a closed port of UDP");
        ensure!(client.ping(address, 1)?.received == 1, "{address}: ping");
    }
    // What the server's own host opens is not allowed: it is told at once.
    for address in world.end(Role::Client).addresses() {
        let began = Instant::now();
        let told = connect(server, client, address, OPEN, SOON)?;
        let code = told.as_ref().map_err(io::Error::raw_os_error).err().flatten();
        let expected = if address.is_ipv4() { libc::EHOSTUNREACH } else { libc::EACCES };
        ensure!(
            code == Some(expected) && began.elapsed() < SOON / 2,
            "{address}: {told:?}, {:?}",
            began.elapsed()
        );
        ensure!(server.ping(address, 1)?.received == 1, "{address}: ping from the server");
    }
    let after = world.status(Role::Server)?;
    for (reason, least) in [("filtered", 4), ("send_filtered", 2)] {
        ensure!(count(&after, reason) >= count(&before, reason) + least, "{reason}: {:?}", after.drops);
    }
    ensure!(count(&after, "filter_missing") + count(&after, "send_filter_missing") == 0, "{:?}", after.drops);
    Ok(())
}

#[test]
fn only_what_the_rules_allow_passes_and_outlives_the_controller() -> Result<()> {
    for mode in ["encrypt", "authenticate"] {
        let mut world = world(mode, RULES)?;
        world.netns(Role::Client).wait_reachable(world.end(Role::Server).v6.into(), PATIENCE)?;
        require_rules(&world).with_context(|| world.explain())?;
        let peer = world.peer(Role::Server)?;
        ensure!(peer.filter_rules == Some(3) && world.peer(Role::Client)?.filter_rules.is_none(), "{peer:?}");
        let text = world.status_text(Role::Server)?;
        ensure!(text.contains("3 rules; what they do not allow is dropped"), "{text}");
        if mode == "authenticate" {
            continue;
        }
        world.kill(Role::Server)?;
        require_rules(&world).context("without a controller")?;
        world.start(Role::Server)?;
        require_rules(&world).context("with the next controller")?;
        let programs = world.status(Role::Server)?.programs;
        ensure!(programs.iter().any(|program| program.name == "mtd_filter"), "{programs:?}");
        world.kill(Role::Server)?;
        world.detach(Role::Server)?;
        wait_until("the programs to go", PATIENCE, || {
            Ok(programs.iter().all(|program| program_name(program.id).is_none()))
        })?;
    }
    Ok(())
}

#[test]
fn filters_change_under_traffic_without_a_lost_packet() -> Result<()> {
    let mut world = world("encrypt", "")?;
    world.wait_open()?;
    let load = world.load(Role::Client, Inner::V6)?;
    ensure!(world.peer(Role::Server)?.filter_rules.is_none());
    let all = r#"filter = ["allow in", "allow out", "deny in tcp/2223"]"#;
    for (filter, rules) in [
        (all, Some(3)),
        (r#"filter = ["allow"]"#, Some(1)),
        ("", None),
        (all, Some(3)),
        (r#"filter = ["allow udp", "allow tcp", "allow icmp", "deny to 192.0.2.0/24"]"#, Some(4)),
    ] {
        let told = reload(&mut world, filter)?;
        ensure!(told.contains("new filter for peer0") && !told.contains("next start"), "{told}");
        let peer = world.peer(Role::Server)?;
        ensure!(peer.filter_rules == rules, "{filter}: {peer:?}");
        thread::sleep(SLOT / 2);
    }
    let told =
        reload(&mut world, r#"filter = ["allow udp", "allow tcp", "allow icmp", "deny to 192.0.2.0/24"]"#)?;
    ensure!(told.contains("nothing has changed"), "{told}");
    // A mistake changes nothing, and its place is told.
    world.setup_mut(Role::Server).peers[0].0.extra = "filter = [\"allow in tcp/0\"]".to_owned();
    world.setup(Role::Server).write()?;
    let output = world.controller(Role::Server)?.command(world.netns(Role::Server), &["reload"])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && text.contains("peer.filter") && text.contains("1 to 65535"),
        "{text}"
    );
    ensure!(world.peer(Role::Server)?.filter_rules == Some(4));
    // The next controller goes on with it, too.
    reload(&mut world, all)?;
    world.kill(Role::Server)?;
    world.start(Role::Server)?;
    thread::sleep(SLOT);
    let report = load.stop()?;
    println!("{report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())?;
    let (client, server) = (world.netns(Role::Client), world.netns(Role::Server));
    for address in world.end(Role::Server).addresses() {
        connect(client, server, address, OPEN, SOON)?.context("allowed")?;
        ensure!(connect(client, server, address, CLOSED, SILENCE)?.is_err(), "denied");
    }
    Ok(())
}

#[test]
fn what_another_cpu_opens_is_filtered_there() -> Result<()> {
    alone("what is steered depends on how busy each processor is")?;
    let world = world("encrypt", r#"filter = ["allow icmp", "allow in tcp"]"#)?;
    let (client, server) = (world.netns(Role::Client), world.netns(Role::Server));
    let address: IpAddr = world.address(Role::Server, Inner::V6);
    client.wait_reachable(address, PATIENCE)?;
    let options = TcpOptions { bytes_per_second: 1 << 30, ..TcpOptions::to(address) };
    let flow = TcpFlow::start(client, server, &options)?;
    let place = SocketAddr::new(address, 5353);
    let receiver = server.enter(|| UdpSocket::bind(place))??;
    receiver.set_nonblocking(true)?;
    let sender = client.enter(|| UdpSocket::bind(("::", 0)))??;
    for _ in 0..DATAGRAMS {
        sender.send_to(b"a datagram", place)?;
        thread::sleep(Duration::from_millis(1));
    }
    let report = flow.stop();
    ensure!(report.broken.is_none(), "{report:?}");
    let status = world.status(Role::Server)?;
    println!("{:?}, {:?}", status.frames, status.drops);
    ensure!(status.frames.steered > 1_000, "hardly anything was handed to another CPU: {:?}", status.frames);
    ensure!(receiver.recv(&mut [0; 64]).is_err(), "a datagram passed");
    // The other CPU may not keep up with TCP beside them.
    ensure!(count(&status, "filtered") > DATAGRAMS / 2, "{:?}", status.drops);
    ensure!(count(&status, "filter_missing") == 0, "{:?}", status.drops);
    Ok(())
}
