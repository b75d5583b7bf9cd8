//! Controllers that are killed: the data plane continues as long as slots are loaded, and no longer.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{PeerState, Status};
use mtd_tests::topology::{Delivery, TopologyOptions};
use mtd_tests::traffic::Load;
use mtd_tests::wait_until;

use super::world::{Inner, Role, World};
use super::{PATIENCE, SLOT, at_once};

/// The shortest horizon that the configuration accepts.
const HORIZON: Duration = Duration::from_secs(5);

#[test]
fn a_killed_controller_that_is_back_within_the_horizon_loses_nothing() -> Result<()> {
    let cases = [(Delivery::Routed, "encrypt", Inner::V6), (Delivery::OnLink, "authenticate", Inner::V4)];
    at_once(&cases, |&(delivery, mode, inner)| {
        let mut world = World::open(mode, &TopologyOptions { delivery, ..TopologyOptions::default() })?;
        let load = world.load(Role::Client, inner)?;
        thread::sleep(2 * SLOT);
        let killed: [&[Role]; 3] = [&[Role::Server], &[Role::Client], &[Role::Client, Role::Server]];
        for roles in killed {
            for role in roles {
                world.kill(*role)?;
            }
            // Slots turn over while no controller loads new ones.
            thread::sleep(4 * SLOT);
            for role in roles {
                world.start(*role)?;
                let peer = world.peer(*role)?;
                ensure!(peer.state == PeerState::Open && peer.hint.is_none(), "{role:?}: {peer:?}");
            }
            thread::sleep(2 * SLOT);
        }
        let report = load.stop()?;
        println!("killed and back, {delivery:?}, {mode}: {report}");
        report.require_lossless().with_context(|| world.explain())?;
        world.require_no_session_drops(&world.hosts())
    })
}

#[test]
fn past_the_horizon_a_killed_controllers_end_is_closed_until_it_is_back() -> Result<()> {
    at_once(&[Role::Server, Role::Client], |&killed| {
        let mut world = World::new("encrypt", &TopologyOptions::default())?;
        for role in [Role::Client, Role::Server] {
            world.setup_mut(role).extra = format!("horizon = \"{}s\"\n", HORIZON.as_secs());
        }
        world.start_all()?;
        world.wait_open()?;
        let load = world.load(Role::Client, Inner::V6)?;
        let arrived = |load: &Load| match killed {
            Role::Server => load.arrived_at_server(),
            _ => load.arrived_at_client(),
        };
        thread::sleep(2 * SLOT);

        world.kill(killed)?;
        let before = arrived(&load);
        // Only whole slots are loaded, and each stays live for one more slot.
        thread::sleep(HORIZON + 3 * SLOT);
        let (closed, at_close) = (arrived(&load), world.status(killed)?);
        ensure!(closed.0 > before.0, "the data plane must go on at first: {before:?}, {closed:?}");
        ensure!(at_close.pid.is_none(), "no controller runs");
        thread::sleep(3 * SLOT);
        let (later, offline) = (arrived(&load), world.status(killed)?);
        ensure!(later == closed, "{killed:?} still received: {closed:?}, {later:?}");
        ensure!(
            offline.frames.accepted == at_close.frames.accepted,
            "{killed:?} still accepted: {offline:?}"
        );
        ensure!(offline.frames.sent == at_close.frames.sent, "{killed:?} still sent: {offline:?}");
        // The peer continues to send, to addresses of slots that were not loaded.
        let text = world.status_text(killed)?;
        for reason in ["unknown_address", "send_no_slot"] {
            let counted = count(&offline, reason) - count(&at_close, reason);
            ensure!(counted > 2000, "{counted} {reason} in 3 s: {at_close:?}, {offline:?}");
            ensure!(text.contains(reason), "{text}");
        }

        world.start(killed)?;
        wait_until("packets to arrive again", PATIENCE, || Ok(arrived(&load).0 > later.0 + 1000))
            .with_context(|| world.explain())?;
        // TCP waits for its retransmission timer, which doubles each time.
        wait_until("TCP to go on", Duration::from_mins(1), || Ok(arrived(&load).1 > later.1 + 100_000))
            .with_context(|| world.explain())?;
        let report = load.stop()?;
        println!("{killed:?} killed for longer than the horizon: {report}");
        report.require_unbroken()?;
        let peer = world.peer(killed)?;
        ensure!(peer.state == PeerState::Open && peer.hint.is_none(), "{peer:?}");
        Ok(())
    })
}

fn count(status: &Status, reason: &str) -> u64 {
    status.drops.get(reason).copied().unwrap_or(0)
}
