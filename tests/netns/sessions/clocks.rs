//! Clocks that disagree, and clocks that step.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::PeerState;
use mtd_tests::topology::{Delivery, TopologyOptions};
use mtd_tests::wait_until;

use super::world::{Inner, Role, World};
use super::{SLOT, at_once};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;

/// Time within which a session must come back by itself.
const RECOVERY: Duration = Duration::from_secs(10);

#[test]
fn clocks_apart_by_almost_a_slot_lose_nothing() -> Result<()> {
    let cases = [
        (Role::Client, 9 * SECOND / 10, Delivery::Routed, Inner::V6),
        (Role::Client, -9 * SECOND / 10, Delivery::OnLink, Inner::V4),
    ];
    at_once(&cases, |&(role, offset, delivery, inner)| {
        let mut world = World::new("encrypt", &TopologyOptions { delivery, ..TopologyOptions::default() })?;
        world.setup_mut(role).set_clock(offset)?;
        world.start_all()?;
        world.wait_open()?;
        let first = world.peer(Role::Server)?.slot;
        let load = world.load(Role::Client, inner)?;
        world.wait_for_slot(Role::Server, first + 12)?;
        let report = load.stop()?;
        println!("clock of {role:?} {offset:+} ns, {delivery:?}: {report}");
        report.require_lossless().with_context(|| world.explain())?;
        world.require_no_session_drops(&world.hosts())?;
        // The clocks still disagree, so the session has really survived that.
        let [client, server] = [world.peer(Role::Client)?, world.peer(Role::Server)?];
        ensure!(client.clock_offset_seconds.abs() < 0.1 && server.clock_offset_seconds.abs() < 0.1);
        Ok(())
    })
}

/// As long as valid packets come in, session time continues, whatever the wall clock does.
#[test]
fn a_clock_that_steps_by_an_hour_in_mid_traffic_disturbs_nothing() -> Result<()> {
    let mut world = World::open("authenticate", &TopologyOptions::default())?;
    let load = world.load(Role::Client, Inner::V6)?;
    thread::sleep(2 * SLOT);
    for (role, step) in
        [(Role::Server, HOUR), (Role::Client, -HOUR), (Role::Server, -HOUR), (Role::Client, HOUR)]
    {
        world.setup_mut(role).set_clock(step)?;
        // Longer than a session must be silent to follow the wall clock.
        thread::sleep(4 * SLOT);
        let peer = world.peer(role)?;
        ensure!(peer.state == PeerState::Open, "{peer:?}");
        let kept = -(step as f64) / 1e9;
        ensure!((peer.clock_offset_seconds - kept).abs() < 0.5, "session clock not kept: {peer:?}");
    }
    for role in [Role::Server, Role::Client] {
        world.setup_mut(role).set_clock(0)?;
    }
    thread::sleep(4 * SLOT);
    let report = load.stop()?;
    println!("steps of an hour: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())
}

/// Without traffic a static session follows the wall clock, even if that is wrong, and works again when the clock is right.
#[test]
fn an_idle_session_follows_a_step_and_comes_back_when_the_clock_is_right() -> Result<()> {
    at_once(&[HOUR, -HOUR], |&step| {
        let mut world = World::open("encrypt", &TopologyOptions::default())?;
        world.setup_mut(Role::Server).set_clock(step)?;
        wait_until("the idle session to follow the clock", RECOVERY, || {
            Ok(world.peer(Role::Server)?.clock_offset_seconds.abs() < 0.1)
        })?;
        let accepted = world.status(Role::Server)?.frames.accepted;
        require_nothing_passes(&world)?;
        ensure!(world.status(Role::Server)?.frames.accepted == accepted);
        for role in [Role::Client, Role::Server] {
            let right = |hint: &str| hint.contains("clocks");
            wait_until("a hint at the clocks", Duration::from_secs(15), || {
                Ok(world.peer(role)?.hint.is_some_and(|hint| right(&hint)))
            })
            .with_context(|| world.explain())?;
        }
        require_recovery(&mut world, Role::Server)
    })
}

#[test]
fn an_end_that_starts_with_a_wrong_clock_waits_and_recovers_once_it_is_right() -> Result<()> {
    // If the clock is ahead by less than the horizon, the other end has the addresses loaded, and can tell exactly what is wrong.
    let cases = [
        (Role::Server, HOUR, "unknown_address"),
        (Role::Client, -HOUR, "unknown_address"),
        (Role::Client, 10 * SECOND, "stale_slot"),
    ];
    at_once(&cases, |&(wrong, offset, reason)| {
        let right = if wrong == Role::Server { Role::Client } else { Role::Server };
        let mut world = World::new("encrypt", &TopologyOptions::default())?;
        world.setup_mut(wrong).set_clock(offset)?;
        world.start_all()?;
        require_nothing_passes(&world)?;
        for role in [right, wrong] {
            let status = world.status(role)?;
            let peer = &status.peers[0];
            ensure!(status.frames.accepted == 0 && peer.state == PeerState::Waiting, "{role:?}: {status:?}");
            let hint = peer.hint.as_deref().unwrap_or_default();
            ensure!(hint.contains("clocks"), "{role:?}: {hint:?}");
        }
        let dropped = world.peer(right)?.dropped_from_prefix;
        ensure!(dropped.get(reason).is_some_and(|&count| count > 0), "{wrong:?} {offset}: {dropped:?}");
        require_recovery(&mut world, wrong)
    })
}

/// Boot time is another one for the controller than for the programs, as in a container whose clocks were set.
#[test]
fn a_controller_in_a_time_namespace_goes_by_the_clock_of_the_programs() -> Result<()> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    world.setup_mut(Role::Server).boot_ahead = 100_000;
    world.start_all()?;
    world.wait_open()?;
    let load = world.load(Role::Client, Inner::V6)?;
    let slot = world.peer(Role::Server)?.slot;
    world.wait_for_slot(Role::Server, slot + 3)?;
    load.stop()?.require_lossless().with_context(|| world.explain())?;
    let last_valid = world.status(Role::Server)?.last_valid_seconds.context("no packet")?;
    ensure!(last_valid < 5.0, "the last packet came {last_valid} s ago: {}", world.explain());
    world.require_no_session_drops(&world.hosts())
}

/// Checks that both ends send, and that neither receives anything.
fn require_nothing_passes(world: &World) -> Result<()> {
    for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        let address = IpAddr::from(world.end(to).v6);
        let report = world.netns(from).ping(address, 10)?;
        ensure!(report.sent == 10 && report.received == 0, "{from:?} to {to:?}: {report:?}");
    }
    Ok(())
}

/// Sets the clock right, and checks that the session recovers without anything else.
fn require_recovery(world: &mut World, wrong: Role) -> Result<()> {
    world.setup_mut(wrong).set_clock(0)?;
    let since = Instant::now();
    world.netns(Role::Client).wait_reachable(world.end(Role::Server).v4.into(), RECOVERY)?;
    println!("{wrong:?} recovered {:.1} s after its clock was set right", since.elapsed().as_secs_f64());
    world.wait_open()?;
    let load = world.load(Role::Client, Inner::V6)?;
    thread::sleep(3 * SLOT);
    load.stop()?.require_lossless()
}
