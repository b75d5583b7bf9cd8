//! A DHT that fails: nodes that die, and nodes that lie.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{Network, SessionState};
use mtd_tests::rendezvous::SERVER_V6;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, REKEY, Who, World, quoted};

fn two_clients() -> TopologyOptions {
    TopologyOptions { second_client: true, ..TopologyOptions::default() }
}

#[test]
fn with_half_of_the_nodes_dead_a_client_connects() -> Result<()> {
    let mut world = World::new(&two_clients())?;
    world.start(Who::Server)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    let half = world.extra.dht.living().div_ceil(2);
    world.extra.dht.kill(half)?;
    let took = world.start_timed(Who::Bob)?;
    println!(
        "{} of {} nodes left: first inner packet after {took:.2?}",
        world.extra.dht.living(),
        world.extra.dht.living() + half
    );
    world.wait_open(Who::Bob)?;
    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    Ok(())
}

#[test]
fn without_a_dht_sessions_go_on_and_known_introductions_serve() -> Result<()> {
    let mut world = World::new(&two_clients())?;
    world.setup_mut(Who::Server).keys.insert("idle_timeout", quoted("5s"));
    world.setup_mut(Who::Bob).keys.insert("keepalive", quoted("1s"));
    world.open_all()?;
    let all = world.extra.dht.living();
    world.extra.dht.kill(all)?;

    let before = world.handshakes()?.answered;
    let load = world.load(Who::Alice, Inner::V6)?;
    // Two clients, three renewals each.
    wait_until("the keys to be renewed", PATIENCE + 6 * REKEY, || {
        Ok(world.handshakes()?.answered >= before + 6)
    })
    .with_context(|| world.explain())?;
    ensure!(world.is_open(Who::Alice)? && world.is_open(Who::Bob)?, "{}", world.explain());

    // Bob is cut off until both ends have given up the session.
    let rules = cut_off(&world)?;
    wait_until("both ends to give up", PATIENCE, || {
        Ok(world.sessions_with(Who::Bob)?.is_empty() && world.session(Who::Bob)?.state != SessionState::Open)
    })
    .with_context(|| world.explain())?;
    for rule in rules {
        world
            .topology()
            .router
            .run(&[&["-6", "rule", "del"], rule.each_ref().map(String::as_str).as_slice()].concat())?;
    }
    world.wait_open(Who::Bob)?;
    let found = world.status(Who::Bob)?.rendezvous.context("no rendezvous")?;
    println!("back without a DHT: {found:?}");

    // A client that starts only now cannot connect, and is told why.
    world.stop(Who::Bob)?;
    world.start(Who::Bob)?;
    wait_until("the client to find out", PATIENCE, || {
        let status = world.status(Who::Bob)?;
        let hint = status.sessions[0].hint.as_deref().unwrap_or_default();
        let network = status.rendezvous.map(|rendezvous| rendezvous.network);
        Ok(hint.contains("the DHT is out of reach") && network == Some(Network::Unreachable))
    })
    .with_context(|| world.explain())?;

    let report = load.stop()?;
    println!("without a DHT: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&[Who::Alice])
}

/// Makes the router drop everything from and to Bob's prefix. Returns the rules that do so.
fn cut_off(world: &World) -> Result<[[String; 5]; 2]> {
    let prefix = world.host(Who::Bob).prefix.to_string();
    let rules = ["from", "to"].map(|way| [way, &prefix, "priority", "10", "blackhole"].map(str::to_owned));
    for rule in &rules {
        let rule = rule.each_ref().map(String::as_str);
        world.topology().router.run(&[&["-6", "rule", "add"], rule.as_slice()].concat())?;
    }
    let ping = world.netns(Who::Bob).ping(SERVER_V6.into(), 1)?;
    ensure!(ping.received == 0, "Bob is not cut off");
    thread::sleep(Duration::from_millis(100));
    Ok(rules)
}
