//! Clients that the server does not know, and clients that do not know the server: they get no answer.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::keys::SecretKey;
use mtd::status::SessionState;
use mtd_tests::rendezvous::Part;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::watch::{Watch, received_drops};
use super::world::{Who, World};
use crate::adversary::difference;

/// Long enough for a few more attempts.
const TRIES: Duration = Duration::from_secs(5);

fn two_clients() -> TopologyOptions {
    TopologyOptions { second_client: true, ..TopologyOptions::default() }
}

#[test]
fn who_is_not_registered_and_who_has_another_servers_key_finds_nothing() -> Result<()> {
    let mut world = World::new(&two_clients())?;
    fs::remove_file(world.setup_mut(Who::Server).client_file(Who::Bob.name()))?;
    let watch = Watch::start(&world)?;
    world.start(Who::Server)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    ensure!(world.status(Who::Server)?.clients_registered == Some(1));

    world.start(Who::Bob)?;
    require_nothing_found(&world, &watch)?;
    world.stop(Who::Bob)?;

    // A registered client whose configuration names the key of a server that does not exist.
    let bob = world.public(Who::Bob).to_string();
    world.mtd(Who::Server, &["peers", "add", Who::Bob.name(), &bob])?;
    world.setup_mut(Who::Bob).part = Part::Client(SecretKey::generate()?.public());
    world.start(Who::Bob)?;
    require_nothing_found(&world, &watch)?;

    let handshakes = world.handshakes()?;
    ensure!(handshakes.received == handshakes.answered && handshakes.refused.is_empty(), "{handshakes:?}");
    ensure!(world.is_open(Who::Alice)?, "{}", world.explain());
    watch.require_silence_but_to(&[world.host(Who::Alice).prefix])
}

/// Checks that Bob's client tries for a while, finds no introduction, and sends nothing to the server, whose address it
/// does not know.
fn require_nothing_found(world: &World, watch: &Watch) -> Result<()> {
    wait_until("the client to find out", PATIENCE, || {
        let session = world.session(Who::Bob)?;
        Ok(session.state == SessionState::Finding
            && session.hint.is_some_and(|hint| hint.contains("has published nothing for this client")))
    })
    .with_context(|| world.explain())?;
    thread::sleep(TRIES);
    let bob = world.status(Who::Bob)?;
    let fetched = bob.rendezvous.map(|rendezvous| rendezvous.fetched);
    ensure!(fetched == Some(0) && bob.frames.sent == 0 && bob.frames.accepted == 0, "{:?}", bob.frames);
    ensure!(world.sessions_with(Who::Bob)?.is_empty(), "{}", world.explain());
    let sent = watch.from(world.host(Who::Bob).prefix);
    ensure!(sent.is_empty(), "{sent:02x?}");
    Ok(())
}

/// The removed client can still find the introduction that was published for it, and knows its key.
#[test]
fn who_is_no_longer_registered_is_refused_without_an_answer() -> Result<()> {
    let mut world = World::open(&two_clients())?;
    world.stop(Who::Bob)?;
    world.mtd(Who::Server, &["peers", "remove", Who::Bob.name()])?;
    ensure!(world.sessions_with(Who::Bob)?.is_empty(), "{}", world.explain());

    let watch = Watch::start(&world)?;
    let (before, drops) = (world.handshakes()?, received_drops(&world)?);
    world.start(Who::Bob)?;
    wait_until("requests to be refused", PATIENCE, || {
        Ok(world.handshakes()?.refused.values().sum::<u64>() > 1)
    })
    .with_context(|| world.explain())?;
    thread::sleep(TRIES);
    ensure!(world.session(Who::Bob)?.state == SessionState::Connecting, "{}", world.explain());
    world.stop(Who::Bob)?;
    thread::sleep(Duration::from_millis(500));

    let sent = watch.from(world.host(Who::Bob).prefix).len() as u64;
    let (after, dropped) = (world.handshakes()?, difference(&drops, &received_drops(&world)?));
    let unregistered = after.refused.get("unregistered").copied().unwrap_or(0);
    println!("{sent} requests of a client that is no longer registered: {after:?}, dropped {dropped:?}");
    ensure!(unregistered > 0 && after.refused.len() == 1, "{before:?}, {after:?}");
    // When it assumed that its clock was wrong, it also sent to addresses that are not live.
    ensure!(
        dropped.keys().all(|reason| ["unknown_address", "stale_slot"].contains(&reason.as_str())),
        "{dropped:?}"
    );
    ensure!(sent == unregistered + dropped.values().sum::<u64>(), "{sent} sent, {after:?}, {dropped:?}");
    ensure!(after.half_open == 0 && world.sessions_with(Who::Bob)?.is_empty(), "{after:?}");
    let answers = watch.to(world.host(Who::Bob).prefix);
    ensure!(answers.is_empty(), "{answers:02x?}");
    watch.require_silence_but_to(&[world.host(Who::Alice).prefix])
}
