//! Clocks that are wrong by most of a window, and clocks that step.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Who, World, quoted};
use crate::sessions::at_once;

const SECOND: i64 = 1_000_000_000;
const WINDOW: Duration = Duration::from_mins(1);

#[test]
fn a_client_whose_clock_is_wrong_by_most_of_a_window_connects() -> Result<()> {
    let cases = [(50, 5), (-50, 5), (50, 50), (-50, 50)];
    at_once(&cases, |&(error, elapsed)| {
        let mut world = World::new(&TopologyOptions::default())?;
        world.begin_in_window(WINDOW, Duration::from_secs(elapsed))?;
        world.set_clock_error(Who::Alice, error * SECOND)?;
        world.start(Who::Server)?;
        // Otherwise the client whose clock is behind would be done before the server is.
        thread::sleep(Duration::from_secs(1));
        let since = Instant::now();
        world.start(Who::Alice)?;
        world
            .wait_open(Who::Alice)
            .with_context(|| format!("wrong by {error} s, {elapsed} s into the window"))?;
        println!("wrong by {error} s, {elapsed} s into the window: open after {:.2?}", since.elapsed());
        let offset = world.session(Who::Alice)?.clock_offset_seconds.context("no clock")?;
        ensure!((offset + error as f64).abs() < 0.5, "session time is the server's: {offset}");
        let load = world.load(Who::Alice, Inner::V6)?;
        thread::sleep(Duration::from_secs(6));
        load.stop()?.require_lossless().with_context(|| world.explain())?;
        Ok(())
    })
}

#[test]
fn clocks_that_step_in_mid_session_disturb_nothing() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.setup_mut(Who::Server).keys.insert("rekey_after", quoted("2s"));
    world.begin_in_window(WINDOW, Duration::from_secs(10))?;
    world.open_all()?;
    let load = world.load(Who::Alice, Inner::V4)?;
    thread::sleep(Duration::from_secs(2));
    for (who, step) in [
        (Who::Alice, 3600),
        (Who::Server, 50),
        (Who::Alice, -3600),
        (Who::Server, -50),
        (Who::Server, 3600),
        (Who::Alice, 0),
        (Who::Server, 0),
    ] {
        let renewed = world.handshakes()?.answered;
        world.set_clock_error(who, step * SECOND)?;
        // One renewal may have begun before the step; the other has not.
        wait_until("the keys to be renewed", PATIENCE, || {
            Ok(world.handshakes()?.answered > renewed + 1 && world.is_open(Who::Alice)?)
        })
        .with_context(|| format!("{who:?} {step:+} s: {}", world.explain()))?;
    }
    let report = load.stop()?;
    println!("clocks that step: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&[Who::Alice, Who::Server])
}
