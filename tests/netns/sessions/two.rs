//! Two sessions of one server.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use mtd::status::{self, PeerState};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::SLOT;
use super::world::{Inner, Role, World};

const CLIENTS: [Role; 2] = [Role::Client, Role::Client2];

fn open() -> Result<World> {
    World::open("encrypt", &TopologyOptions { second_client: true, ..TopologyOptions::default() })
}

#[test]
fn two_sessions_flow_side_by_side_and_do_not_need_each_other() -> Result<()> {
    let mut world = open()?;
    require_unlinked(&world)?;
    let loads = [world.load(Role::Client, Inner::V6)?, world.load(Role::Client2, Inner::V4)?];
    thread::sleep(6 * SLOT);
    let [first, second] = loads;
    let report = first.stop()?;
    println!("first session: {report}");
    report.require_lossless().with_context(|| world.explain())?;

    // The end of one session does not affect the other.
    world.stop(Role::Client)?;
    thread::sleep(4 * SLOT);
    let report = second.stop()?;
    println!("second session: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    let peer = world.peer(Role::Client2)?;
    ensure!(peer.state == PeerState::Open, "{peer:?}");
    Ok(())
}

/// Checks that both ends of each session agree on its addresses, and that the two sessions have no address and no port of
/// the server in common.
fn require_unlinked(world: &World) -> Result<()> {
    let server = world.status(Role::Server)?;
    let [one, two] = server.peers.as_slice() else { anyhow::bail!("not two peers: {server:?}") };
    ensure!(one.local.address != two.local.address && one.remote.address != two.remote.address, "{server:?}");
    ensure!(one.local.address.segments()[4..] != two.local.address.segments()[4..]);
    ensure!(one.remote.address.segments()[4..] != two.remote.address.segments()[4..]);
    for (n, role) in CLIENTS.into_iter().enumerate() {
        let mut pair: Option<[status::Peer; 2]> = None;
        wait_until("both ends to be asked in one slot", Duration::from_secs(5), || {
            let both = [world.peer(role)?, world.status(Role::Server)?.peers.swap_remove(n)];
            let same = both[0].slot == both[1].slot;
            pair = Some(both);
            Ok(same)
        })?;
        let [client, server] = pair.context("nothing was asked")?;
        ensure!(client.local == server.remote && client.remote == server.local, "{client:?} {server:?}");
    }
    Ok(())
}

#[test]
fn a_client_cannot_send_in_the_name_of_the_other() -> Result<()> {
    const EACH: u64 = 20;
    let world = open()?;
    let [liar, victim] = CLIENTS;
    let mut sockets = Vec::new();
    for inner in [Inner::V6, Inner::V4] {
        let (source, server) = (world.address(victim, inner), world.address(Role::Server, inner));
        let receiver = world.netns(Role::Server).enter(|| UdpSocket::bind((server, 0)))??;
        receiver.set_nonblocking(true)?;
        world.netns(liar).add_address("lo", IpNet::from(source))?;
        let sender = world.netns(liar).enter(|| UdpSocket::bind((source, 0)))??;
        sender.connect(receiver.local_addr()?)?;
        sockets.push((sender, receiver));
    }
    // The same traffic with the sender's own address, to show that nothing else stops it.
    let load = world.load(liar, Inner::V6)?;
    let other = world.load(victim, Inner::V6)?;
    for (sender, _) in &sockets {
        for _ in 0..EACH {
            sender.send(b"in another's name")?;
        }
    }
    let counted =
        || -> Result<u64> { Ok(world.status(Role::Server)?.drops.get("inner_source").copied().unwrap_or(0)) };
    wait_until("the drops to be counted", Duration::from_secs(5), || Ok(counted()? == 2 * EACH))
        .with_context(|| world.explain())?;
    thread::sleep(SLOT);
    let total = counted()?;
    ensure!(total == 2 * EACH, "{total} drops of {}", 2 * EACH);
    for (sender, receiver) in &sockets {
        let received = receiver.recv_from(&mut [0; 64]);
        let nothing = received.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(nothing, "{received:?}");
        ensure!(sender.local_addr()?.ip() != IpAddr::from(world.end(liar).v6));
    }
    for report in [load.stop()?, other.stop()?] {
        report.require_lossless().with_context(|| world.explain())?;
    }
    Ok(())
}
