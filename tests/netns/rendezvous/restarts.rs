//! Controllers that are stopped and started: the other end is notified, and sessions come back by themselves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::SessionState;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::world::{Inner, Who, World};

/// How long "at once" may take for a packet through the tunnel.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn after_a_restart_of_the_server_its_clients_are_back_by_themselves() -> Result<()> {
    let mut world = World::open(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    let clients = [(Who::Alice, Inner::V6), (Who::Bob, Inner::V4)];
    let loads = clients.map(|(client, inner)| world.load(client, inner));
    let addresses = clients.map(|(client, _)| world.address(client, Inner::V6));
    thread::sleep(Duration::from_secs(2));

    world.stop(Who::Server)?;
    for (client, _) in clients {
        wait_until("the client to learn that the server has stopped", AT_ONCE, || {
            Ok(world.session(client)?.hint.is_some_and(|hint| hint.contains("the server was stopped")))
        })
        .with_context(|| world.explain())?;
    }
    thread::sleep(Duration::from_secs(2));
    world.start(Who::Server)?;
    let since = Instant::now();
    for (client, _) in clients {
        world.wait_open(client)?;
        println!("{client:?} is back after {:.2?}", since.elapsed());
    }
    for ((load, before), (client, inner)) in loads.into_iter().zip(addresses).zip(clients) {
        let load = load?;
        let bytes = load.arrived_at_server().1;
        // TCP waits for its retransmission timer, which doubles each time.
        wait_until("TCP to go on", Duration::from_mins(1), || {
            Ok(load.arrived_at_server().1 > bytes + 500_000)
        })
        .with_context(|| world.explain())?;
        let report = load.stop()?;
        println!("{client:?}, {inner:?}: {report}");
        report.require_unbroken().with_context(|| world.explain())?;
        ensure!(world.address(client, Inner::V6)? == before?, "tunnel addresses are kept");
    }
    Ok(())
}

#[test]
fn a_client_that_stops_ends_its_session_and_gets_another_one_later() -> Result<()> {
    let mut world = World::open(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    let address = world.address(Who::Alice, Inner::V6)?;
    let load = world.load(Who::Bob, Inner::V6)?;
    world.stop(Who::Alice)?;
    wait_until("the server to close the session", AT_ONCE, || {
        Ok(world.sessions_with(Who::Alice)?.is_empty())
    })
    .with_context(|| world.explain())?;
    ensure!(world.sessions_with(Who::Bob)?.iter().all(|session| session.state == SessionState::Open));

    let took = world.start_timed(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    println!("a client that comes again: first inner packet after {took:.2?}");
    ensure!(world.address(Who::Alice, Inner::V6)? == address, "tunnel addresses are kept");
    let report = load.stop()?;
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&[Who::Bob, Who::Server])
}
