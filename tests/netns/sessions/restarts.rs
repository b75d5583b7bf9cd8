//! Controllers that are stopped and started: packets received before are not accepted again.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::Status;
use mtd_tests::capture::{Capture, CaptureOptions};
use mtd_tests::inject::Injector;
use mtd_tests::packet::Outer;
use mtd_tests::topology::TopologyOptions;

use super::PATIENCE;
use super::world::{Inner, Role, World};

/// Slot length. Long enough for packets to be replayed in the slot in which they were captured, after a restart of the
/// controller.
const PERIOD: Duration = Duration::from_secs(5);

/// Drop reasons of the sequence window.
const WINDOW: [&str; 2] = ["replayed", "invalid_sequence"];

fn open() -> Result<World> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    for role in [Role::Client, Role::Server] {
        world.setup_mut(role).peers[0].0.period = format!("{}s", PERIOD.as_secs());
    }
    world.start_all()?;
    world.wait_open()?;
    Ok(world)
}

/// Runs traffic for a few seconds. Returns all frames that the server accepted, as captured on its cable.
fn record(world: &World) -> Result<Vec<Vec<u8>>> {
    let (router, server) = (&world.topology().router, world.host(Role::Server));
    let capture = Capture::start(router, &server.tap_ifname, &CaptureOptions::default())?;
    let before = world.status(Role::Server)?.frames.accepted;
    let load = world.load(Role::Client, Inner::V6)?;
    thread::sleep(Duration::from_secs(2));
    load.stop()?.require_lossless()?;
    let accepted = world.status(Role::Server)?.frames.accepted - before;
    let report = capture.stop()?;
    ensure!(report.kernel_drops == 0 && report.over_limit == 0, "the capture is not complete");
    let frames: Vec<Vec<u8>> = report
        .frames
        .into_iter()
        .filter(|frame| frame.outgoing)
        .filter(|frame| {
            Outer::parse(&frame.data).is_some_and(|packet| server.prefix.contains(&packet.destination))
        })
        .map(|frame| frame.data)
        .collect();
    ensure!(frames.len() as u64 == accepted, "{accepted} accepted, {} captured", frames.len());
    Ok(frames)
}

/// Replays the frames to the server. Returns its status before and after.
fn replay(world: &World, frames: &[Vec<u8>]) -> Result<[Status; 2]> {
    let server = world.host(Role::Server);
    let injector = Injector::open(&world.topology().router, &server.tap_ifname)?;
    let before = world.status(Role::Server)?;
    for frame in frames {
        injector.send(frame)?;
    }
    // Frames pass a veth at once, so the last one should have been counted by now; wait a little nevertheless.
    thread::sleep(Duration::from_millis(300));
    Ok([before, world.status(Role::Server)?])
}

fn drops(status: &Status) -> u64 {
    status.drops.values().sum()
}

/// Checks that every one of `frames` was dropped.
fn require_refused([before, after]: &[Status; 2], frames: &[Vec<u8>]) -> Result<()> {
    ensure!(after.frames.accepted == before.frames.accepted, "replayed packets were accepted: {after:?}");
    ensure!(
        drops(after) - drops(before) >= frames.len() as u64,
        "not all were counted: {before:?} {after:?}"
    );
    Ok(())
}

#[test]
fn after_a_clean_restart_the_session_goes_on_and_replays_are_refused() -> Result<()> {
    let mut world = open()?;
    let frames = record(&world)?;
    world.stop(Role::Server)?;
    world.start(Role::Server)?;
    let peer = world.peer(Role::Server)?;
    ensure!(peer.hint.as_ref().is_none_or(|hint| !hint.contains("not a clean one")), "{peer:?}");

    // There is no new packet yet, so the old ones can be recognised only by the saved state.
    let counts = replay(&world, &frames)?;
    require_refused(&counts, &frames)?;
    let by_window: u64 = WINDOW.iter().map(|reason| counts[1].drops.get(*reason).copied().unwrap_or(0)).sum();
    println!("{} frames replayed after a clean restart: {:?}", frames.len(), counts[1].drops);
    ensure!(by_window * 2 > frames.len() as u64, "most addresses are still live: {:?}", counts[1].drops);

    let since = Instant::now();
    world.netns(Role::Client).wait_reachable(world.end(Role::Server).v6.into(), PERIOD / 2)?;
    println!("reachable again after {:.1} s", since.elapsed().as_secs_f64());
    world.wait_open()?;
    require_refused(&replay(&world, &frames)?, &frames)
}

#[test]
fn after_a_crash_that_lost_the_maps_receiving_starts_with_a_slot_to_come() -> Result<()> {
    let mut world = open()?;
    let frames = record(&world)?;
    world.kill(Role::Server)?;
    world.detach(Role::Server)?;
    let crashed_in = world.peer(Role::Client)?.slot;
    world.start(Role::Server)?;
    let peer = world.peer(Role::Server)?;
    ensure!(peer.hint.as_ref().is_some_and(|hint| hint.contains("not a clean one")), "{peer:?}");

    let counts = replay(&world, &frames)?;
    require_refused(&counts, &frames)?;
    println!("{} frames replayed after a crash: {:?}", frames.len(), counts[1].drops);
    // The client continues to send, in slots whose packets may have been received before.
    let early = world.netns(Role::Client).ping(world.end(Role::Server).v6.into(), 2)?;
    let slot = world.peer(Role::Client)?.slot;
    ensure!(slot >= crashed_in + 2 || early.received == 0, "{early:?} in slot {slot}, crash in {crashed_in}");

    world.netns(Role::Client).wait_reachable(world.end(Role::Server).v6.into(), PATIENCE)?;
    let reached_in = world.peer(Role::Client)?.slot;
    ensure!(reached_in >= crashed_in + 2, "reached in slot {reached_in}, crash in {crashed_in}");
    world.wait_open().with_context(|| world.explain())?;
    require_refused(&replay(&world, &frames)?, &frames)?;
    let load = world.load(Role::Client, Inner::V4)?;
    thread::sleep(PERIOD + Duration::from_secs(1));
    load.stop()?.require_lossless()
}
