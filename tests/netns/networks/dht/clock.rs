//! A host without a battery for its clock: it starts with a time of long ago, or of far ahead, until a time service sets it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::{PATIENCE, rendezvous, wait_warning};
use crate::rendezvous::world::{Inner, Who, World};
use crate::sessions::at_once;

/// A year, in ns.
const YEAR: i64 = 365 * 86_400 * 1_000_000_000;

#[test]
fn a_clock_that_is_wrong_by_a_year_at_the_start_and_then_set_delays_nothing() -> Result<()> {
    at_once(
        &[(Who::Alice, -YEAR), (Who::Alice, YEAR), (Who::Server, -YEAR), (Who::Server, YEAR)],
        |&(who, error)| {
            let case = format!("{who:?} {:+} days", error / (YEAR / 365));
            let mut world = World::new(&TopologyOptions::default())?;
            world.set_clock_error(who, error)?;
            world.start_all()?;
            wait_until("the client to find nothing", PATIENCE, || {
                Ok(rendezvous(&world, Who::Alice)?.absent > 0)
            })
            .with_context(|| world.explain())?;
            // Whose clock is wrong cannot be known, but the client's operator is told to look at it.
            ensure!(wait_warning(&world, Who::Alice, "nothing_published")?.text.contains("clock"));
            thread::sleep(Duration::from_secs(2));
            ensure!(!world.is_open(Who::Alice)?, "{case}");
            world.set_clock_error(who, 0)?;
            let since = Instant::now();
            world.wait_open(Who::Alice).with_context(|| case.clone())?;
            let took = since.elapsed();
            println!("{case}: open {took:.1?} after the clock is set");
            ensure!(took < Duration::from_secs(12), "{case}: {took:?}\n{}", world.explain());
            let load = world.load(Who::Alice, Inner::V6)?;
            thread::sleep(Duration::from_secs(3));
            load.stop()?.require_lossless().with_context(|| world.explain())
        },
    )
}
