//! Clocks that go back across restarts: neither slots nor sequence numbers come again.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::capture::{Capture, CaptureOptions};
use mtd_tests::inject::Injector;
use mtd_tests::packet::Outer;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::world::{Inner, Role, World};
use super::{PATIENCE, at_once};

const SECOND: i64 = 1_000_000_000;

/// By how much the clocks of both ends were ahead.
const AHEAD: i64 = 8;

/// What the state file of a host says.
fn state_file(world: &World, role: Role) -> Result<PathBuf> {
    Ok(world.instance(role)?.state(&world.setup(role).folder().join("state")))
}

/// Traffic through the session; returns the frames that the server got.
pub(super) fn record(world: &World) -> Result<Vec<Vec<u8>>> {
    let server = world.host(Role::Server);
    let capture = Capture::start(&world.topology().router, &server.tap_ifname, &CaptureOptions::default())?;
    let load = world.load(Role::Client, Inner::V6)?;
    thread::sleep(Duration::from_secs(1));
    load.stop()?.require_lossless()?;
    let to_server =
        |frame: &[u8]| Outer::parse(frame).is_some_and(|packet| server.prefix.contains(&packet.destination));
    let frames = capture.stop()?.frames.into_iter().filter(|frame| frame.outgoing).map(|frame| frame.data);
    let frames: Vec<_> = frames.filter(|frame| to_server(frame)).collect();
    ensure!(frames.len() > 100, "only {} frames", frames.len());
    Ok(frames)
}

/// Both clocks were ahead and are set back under traffic; then the server loses what it has in memory. By its wall clock
/// the slots of before come again.
#[test]
fn slots_that_a_session_was_ahead_by_are_not_received_in_again() -> Result<()> {
    at_once(&[false, true], |&another_boot| {
        let mut world = World::new("encrypt", &TopologyOptions::default())?;
        for role in [Role::Client, Role::Server] {
            world.setup_mut(role).set_clock(AHEAD * SECOND)?;
        }
        world.start_all()?;
        world.wait_open()?;
        let frames = record(&world)?;
        let (recorded, slot) = (Instant::now(), world.peer(Role::Server)?.slot);
        for role in [Role::Client, Role::Server] {
            world.setup_mut(role).set_clock(0)?;
        }
        world.kill(Role::Server)?;
        world.detach(Role::Server)?;
        world.kill(Role::Client)?;
        if another_boot {
            // The file as it was last written, by a boot of the host that is over.
            let (path, boot) = (state_file(&world, Role::Server)?, "/proc/sys/kernel/random/boot_id");
            let (text, boot) = (fs::read_to_string(&path)?, fs::read_to_string(boot)?);
            ensure!(text.contains(boot.trim()), "{text}");
            fs::write(&path, text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000"))?;
        }
        world.start(Role::Server)?;
        let hint = world.peer(Role::Server)?.hint.unwrap_or_default();
        ensure!(hint.contains("not a clean one"), "{hint}");
        let before = world.status(Role::Server)?.frames.accepted;
        let injector = Injector::open(&world.topology().router, &world.host(Role::Server).tap_ifname)?;
        // Until the wall clock has passed the time of the recording.
        while recorded.elapsed() < Duration::from_secs(AHEAD as u64 + 2) {
            frames.iter().try_for_each(|frame| injector.send(frame))?;
            thread::sleep(Duration::from_millis(100));
        }
        ensure!(world.peer(Role::Server)?.slot >= slot, "the slots of before have not come again");
        let after = world.status(Role::Server)?.frames.accepted;
        ensure!(after == before, "{} replayed packets were accepted: {}", after - before, world.explain());
        Ok(())
    })
}

/// The ranges of numbers that a server may have sent, in the order in which they began.
pub(super) fn sent(world: &World) -> Result<Vec<Range<u64>>> {
    let text = fs::read_to_string(state_file(world, Role::Server)?)?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let sessions = document["sessions"].as_object().context("no sessions")?;
    let sent = sessions.values().next().context("no session")?["sent"].clone();
    Ok(serde_json::from_value(sent)?)
}

#[test]
fn numbers_that_were_sent_with_a_clock_that_was_ahead_are_not_sent_again() -> Result<()> {
    const STEP: i64 = 600 * SECOND;
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    world.setup_mut(Role::Server).set_clock(STEP)?;
    world.start_all()?;
    let began = Instant::now();
    // Nobody hears these.
    let ping = world.netns(Role::Server).ping(world.end(Role::Client).v6.into(), 5)?;
    ensure!(ping.received == 0, "{ping:?}");
    world.setup_mut(Role::Server).set_clock(0)?;
    wait_until("the idle session to follow the clock", PATIENCE, || {
        Ok(world.peer(Role::Server)?.clock_offset_seconds.abs() < 0.1)
    })?;
    world.netns(Role::Client).wait_reachable(world.end(Role::Server).v6.into(), PATIENCE)?;
    world.stop(Role::Server)?;
    let first = sent(&world)?;
    let [ahead, right] = [first.iter().max_by_key(|range| range.start), first.last()];
    let (ahead, right) = (ahead.context("no numbers")?.clone(), right.context("no numbers")?.clone());
    ensure!(ahead.start > right.end && ahead.end >= ahead.start + 5, "{first:?}");

    // A little before the time at which it was ahead: the numbers of before would be reached.
    let back = STEP - (began.elapsed().as_nanos() as i64) - 3 * SECOND;
    world.setup_mut(Role::Server).set_clock(back)?;
    world.start(Role::Server)?;
    world.netns(Role::Server).ping(world.end(Role::Client).v6.into(), 5)?;
    world.stop(Role::Server)?;
    let second = sent(&world)?;
    let last = second.last().context("no numbers")?;
    ensure!(last.end > ahead.end, "{second:?}");
    for before in &first {
        let known = second.iter().any(|range| range.start <= before.start && before.end <= range.end);
        ensure!(known, "{before:?} is forgotten: {second:?}");
    }
    ensure!(last.start <= ahead.start || last.start >= ahead.end, "{last:?} repeats {ahead:?}");
    // The clock is right again: so is the session.
    world.setup_mut(Role::Server).set_clock(0)?;
    world.start(Role::Server)?;
    world.netns(Role::Client).wait_reachable(world.end(Role::Server).v6.into(), PATIENCE)
}
