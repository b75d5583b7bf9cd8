//! Two hosts with one key, as cloned machines are: one keeps the session, the other says why it has none, and so does the
//! server; when the one stops, the other gets in by itself.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::{EventDocument, SessionState};
use mtd_tests::controller::mtd_program;
use mtd_tests::rendezvous::SERVER_V6;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{UdpOptions, UdpStream};
use mtd_tests::wait_until;

use crate::rendezvous::world::{Inner, Who, World, quoted};

const PATIENCE: Duration = Duration::from_secs(30);

/// How soon the refused host gets in when the other one has stopped.
const SOON: Duration = Duration::from_secs(10);

/// The same after the other one was killed, and says nothing any more.
const AFTER_A_DEATH: Duration = Duration::from_secs(25);

/// A world in which the second client has the first one's key. The server and the first client run.
fn cloned() -> Result<World> {
    let mut world = World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    for (key, time) in [("rekey_after", "120s"), ("expire_after", "180s")] {
        world.setup_mut(Who::Server).keys.insert(key, quoted(time));
    }
    let key = world.setup(Who::Alice).identity.clone();
    world.setup_mut(Who::Bob).identity = key;
    world.start(Who::Server)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    Ok(world)
}

/// The changes of sessions that a host tells of.
fn changes(world: &World, who: Who) -> Result<Vec<String>> {
    let events = world.mtd(who, &["events", "--json"])?;
    let events: Vec<EventDocument> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter_map(|event| event.session).map(|session| session.change).collect())
}

fn is_open(world: &World, who: Who) -> Result<bool> {
    Ok(world.session(who)?.state == SessionState::Open)
}

fn is_refused(world: &World, who: Who) -> Result<bool> {
    let session = world.session(who)?;
    let hint = session.hint.unwrap_or_default();
    Ok(session.state != SessionState::Open && hint.starts_with("refused: another host uses this key"))
}

/// Waits until the second host has the session, and the first one and the server say that there are two.
fn wait_told(world: &World) -> Result<()> {
    wait_until("one host to have the session and the other to be refused", PATIENCE, || {
        Ok(is_open(world, Who::Bob)? && is_refused(world, Who::Alice)?)
    })
    .and_then(|()| {
        wait_until("the server to say that two hosts have one key", PATIENCE, || {
            let warnings = world.status(Who::Server)?.warnings;
            let warning = warnings.iter().find(|warning| warning.code == "key_in_use");
            Ok(warning.is_some_and(|warning| warning.text.contains("the key of client alice")))
        })
    })
    .with_context(|| world.explain())
}

#[test]
fn of_two_hosts_with_one_key_one_works_and_the_other_says_why_not() -> Result<()> {
    let mut world = cloned()?;
    world.start(Who::Bob)?;
    wait_told(&world)?;
    for (who, line) in [(Who::Server, "two hosts use the key"), (Who::Alice, "another host uses this key")] {
        wait_until("the event and the line in the log", PATIENCE, || {
            let told = changes(&world, who)?.iter().any(|change| change == "key-in-use");
            Ok(told && world.controller(who)?.process.log().contains(line))
        })
        .with_context(|| world.explain())?;
    }
    let text = world.mtd(Who::Server, &["status"])?;
    ensure!(text.contains("two hosts use the key of client alice"), "{text}");

    // The one that has the session keeps it, whatever the other does.
    let sessions = changes(&world, Who::Bob)?;
    let to_bob = UdpOptions::to(world.address(Who::Bob, Inner::V6)?);
    let (server, bob) = (world.netns(Who::Server), world.netns(Who::Bob));
    let there = UdpStream::start(bob, server, &UdpOptions::to(SERVER_V6.into()))?;
    let back = UdpStream::start(server, bob, &to_bob)?;
    let refused = || -> Result<u64> { Ok(world.handshakes()?.refused.get("in_use").copied().unwrap_or(0)) };
    let before = refused()?;
    wait_until("the other host to be refused again", PATIENCE, || Ok(refused()? >= before + 2))?;
    for report in [there.stop()?, back.stop()?] {
        ensure!(report.sent > 1000 && report.lost == 0, "{report:?}\n{}", world.explain());
    }
    ensure!(changes(&world, Who::Bob)? == sessions && is_refused(&world, Who::Alice)?, "{}", world.explain());
    let metrics = world.status(Who::Server)?.handshakes.context("a server")?;
    ensure!(metrics.remarks.len() == 1 && metrics.remarks[0].name == "alice", "{metrics:?}");

    world.stop(Who::Bob)?;
    let stopped = Instant::now();
    wait_until("the refused host to get in", SOON, || is_open(&world, Who::Alice))
        .with_context(|| world.explain())?;
    println!("in {:.1?} after the other one has stopped", stopped.elapsed());
    ensure!(world.session(Who::Alice)?.hint.is_none());
    world.netns(Who::Alice).wait_reachable(SERVER_V6.into(), PATIENCE)
}

#[test]
fn a_host_that_was_killed_does_not_keep_the_other_out() -> Result<()> {
    let mut world = cloned()?;
    world.start(Who::Bob)?;
    wait_told(&world)?;
    world.kill(Who::Bob)?;
    // As with the power gone: nothing of it answers any more.
    let host = world.host(Who::Bob);
    host.netns.run(&["link", "set", "dev", &host.ifname, "down"])?;
    let killed = Instant::now();
    wait_until("the refused host to get in", AFTER_A_DEATH, || is_open(&world, Who::Alice))
        .with_context(|| world.explain())?;
    println!("in {:.1?} after the other one was killed", killed.elapsed());
    Ok(())
}

#[test]
fn restarts_of_one_host_are_not_two_hosts() -> Result<()> {
    let mut world = cloned()?;
    for n in 0..4 {
        if n % 2 == 0 {
            world.kill(Who::Alice)?;
        } else {
            world.stop(Who::Alice)?;
        }
        if n == 2 {
            // What the data plane had is gone, too: the new controller must come through the introduction.
            let host = world.host(Who::Alice);
            let mut detach = host.netns.command(mtd_program()?)?;
            ensure!(detach.args(["detach", &host.ifname]).status()?.success());
        }
        world.start(Who::Alice)?;
        world.wait_open(Who::Alice)?;
        thread::sleep(Duration::from_secs(1));
        world.wait_open(Who::Alice)?;
    }
    let handshakes = world.handshakes()?;
    ensure!(!handshakes.refused.contains_key("in_use"), "{handshakes:?}");
    ensure!(handshakes.remarks.is_empty(), "{handshakes:?}");
    Ok(())
}
