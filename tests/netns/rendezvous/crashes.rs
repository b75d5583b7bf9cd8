//! Controllers that are killed in mid-session: the data plane continues, and the next controller takes over the session.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::{Delivery, TopologyOptions};
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World, quoted};
use crate::sessions::at_once;

const SLOT: Duration = Duration::from_secs(1);

#[test]
fn a_killed_controller_that_is_back_takes_its_sessions_over_and_loses_nothing() -> Result<()> {
    let cases = [(Delivery::Routed, "encrypt", Inner::V6), (Delivery::OnLink, "authenticate", Inner::V4)];
    at_once(&cases, |&(delivery, mode, inner)| {
        let mut world = World::new(&TopologyOptions { delivery, ..TopologyOptions::default() })?;
        world.setup_mut(Who::Server).keys.insert("mode", quoted(mode));
        world.open_all()?;
        let load = world.load(Who::Alice, inner)?;
        thread::sleep(2 * SLOT);
        let killed: [&[Who]; 3] = [&[Who::Server], &[Who::Alice], &[Who::Alice, Who::Server]];
        for hosts in killed {
            let before = world.session(Who::Alice)?;
            for who in hosts {
                world.kill(*who)?;
            }
            // Slots turn over while no controller loads new ones, and keys should be renewed.
            thread::sleep(4 * SLOT);
            for who in hosts {
                world.start(*who)?;
            }
            // The session is open at once, except while keys are being renewed: then a second session exists that is not open yet.
            wait_until("the session to be open", PATIENCE, || world.is_open(Who::Alice))
                .with_context(|| format!("{hosts:?} back: {}", world.explain()))?;
            let after = world.session(Who::Alice)?;
            ensure!(after.tunnel == before.tunnel, "{before:?}, {after:?}");
            thread::sleep(2 * SLOT);
        }
        // The client did not need another handshake through an introduction.
        let handshakes = world.handshakes()?;
        ensure!(
            handshakes.refused.is_empty() && handshakes.received == handshakes.answered,
            "{handshakes:?}"
        );
        wait_until("the keys of the session that was taken over to be renewed", PATIENCE, || {
            Ok(world.handshakes()?.answered >= 2)
        })
        .with_context(|| world.explain())?;
        thread::sleep(2 * SLOT);
        let report = load.stop()?;
        println!("killed and back, {delivery:?}, {mode}: {report}");
        report.require_lossless().with_context(|| world.explain())?;
        world.require_no_session_drops(&world.hosts())
    })
}

/// The server ends the session of before while the client's controller is away. The next one must not go on with it: what it
/// sends there meets addresses that the server does not have any more.
#[test]
fn a_client_killed_while_keys_are_replaced_goes_on_with_the_new_ones_only() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    // A session that was taken over is renewed after two thirds of its life.
    world.setup_mut(Who::Server).keys.insert("expire_after", quoted("24s"));
    world.open_all()?;
    let load = world.load(Who::Alice, Inner::V6)?;
    let answered = world.handshakes()?.answered;
    wait_until("new keys", PATIENCE, || Ok(world.handshakes()?.answered > answered))?;
    world.kill(Who::Alice)?;
    wait_until("the session before to end", PATIENCE, || Ok(world.sessions_with(Who::Alice)?.len() == 1))?;
    world.start(Who::Alice)?;
    let answered = world.handshakes()?.answered;
    wait_until("new keys after the crash", PATIENCE, || Ok(world.handshakes()?.answered > answered))
        .with_context(|| world.explain())?;
    wait_until("the new session to be open", PATIENCE, || world.is_open(Who::Alice))
        .with_context(|| world.explain())?;
    load.stop()?.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())
}
