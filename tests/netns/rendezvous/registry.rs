//! Clients that are registered and removed while the server runs.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::SessionState;
use mtd_tests::rendezvous::SERVER_V6;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World};

/// How long "at once" may take for a command and for a packet through the tunnel.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn clients_come_and_go_while_the_server_runs_and_others_do_not_notice() -> Result<()> {
    let mut world = World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    let file = world.setup_mut(Who::Server).client_file(Who::Bob.name());
    fs::remove_file(&file)?;
    let bob = world.public(Who::Bob);
    world.start(Who::Server)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    let load = world.load(Who::Alice, Inner::V6)?;

    world.mtd(Who::Server, &["peers", "add", Who::Bob.name(), &bob.to_string()])?;
    ensure!(file.is_file(), "it is registered for good");
    let took = world.start_timed(Who::Bob)?;
    println!("a client that was registered just now: first inner packet after {took:.2?}");
    world.wait_open(Who::Bob)?;
    ensure!(peers(&world)? == ["alice", "bob"], "{:?}", peers(&world)?);

    world.mtd(Who::Server, &["peers", "remove", Who::Bob.name()])?;
    require_ended(&world)?;
    ensure!(!file.exists() && peers(&world)? == ["alice"], "{:?}", peers(&world)?);

    world.setup_mut(Who::Server).register(Who::Bob.name(), &bob)?;
    thread::sleep(AT_ONCE);
    ensure!(peers(&world)? == ["alice"], "nobody has asked for a reload: {:?}", peers(&world)?);
    world.mtd(Who::Server, &["reload"])?;
    let since = Instant::now();
    world.wait_open(Who::Bob)?;
    println!("a client that was registered by a file is back after {:.2?}", since.elapsed());

    // Clients can be registered in the configuration too.
    let server = world.setup_mut(Who::Server);
    server.clients.push((Who::Bob.name().to_owned(), bob));
    fs::remove_file(&file)?;
    server.write()?;
    world.mtd(Who::Server, &["reload"])?;
    ensure!(world.is_open(Who::Bob)?, "whoever stays registered notices nothing: {}", world.explain());

    world.setup_mut(Who::Server).clients.clear();
    world.setup_mut(Who::Server).write()?;
    world.mtd(Who::Server, &["reload"])?;
    require_ended(&world)?;

    let report = load.stop()?;
    println!("the other client meanwhile: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&[Who::Alice])
}

/// Names of the registered clients.
fn peers(world: &World) -> Result<Vec<String>> {
    let document: serde_json::Value =
        serde_json::from_str(&world.mtd(Who::Server, &["peers", "list", "--json"])?)?;
    let peers = document["instances"][0]["peers"].as_array().context("no peers")?;
    Ok(peers.iter().filter_map(|peer| Some(peer["name"].as_str()?.to_owned())).collect())
}

/// Fails unless Bob's session has ended at both ends and nothing passes any more.
fn require_ended(world: &World) -> Result<()> {
    ensure!(world.sessions_with(Who::Bob)?.is_empty(), "{}", world.explain());
    wait_until("the client to learn that it is removed", AT_ONCE, || {
        let session = world.session(Who::Bob)?;
        let told = session.hint.as_deref() == Some("the server has removed this client from its registry");
        Ok(session.state == SessionState::Finding && told)
    })
    .with_context(|| world.explain())?;
    let accepted = world.status(Who::Bob)?.frames.accepted;
    let ping = world.netns(Who::Bob).ping(SERVER_V6.into(), 3)?;
    ensure!(ping.received == 0 && world.status(Who::Bob)?.frames.accepted == accepted, "{ping:?}");
    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    Ok(())
}

/// Clients need not connect at the same time, since the server does not wait for any of them.
#[test]
fn a_client_that_is_there_before_it_is_registered_comes_in_by_itself() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    fs::remove_file(world.setup_mut(Who::Server).client_file(Who::Alice.name()))?;
    world.start(Who::Alice)?;
    thread::sleep(Duration::from_secs(2));
    world.start(Who::Server)?;
    thread::sleep(Duration::from_secs(2));
    ensure!(world.session(Who::Alice)?.state == SessionState::Finding);
    let alice = world.public(Who::Alice).to_string();
    world.mtd(Who::Server, &["peers", "add", Who::Alice.name(), &alice])?;
    let since = Instant::now();
    world.wait_open(Who::Alice)?;
    println!("in {:.2?} after it was registered", since.elapsed());
    ensure!(since.elapsed() < PATIENCE);
    Ok(())
}
