//! Controllers killed, stopped and started at random under traffic (`cargo xtask torture`; short in the tests).

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::torture::Campaign;

use super::world::{Inner, Role, World};

/// A controller is away for less than this; the horizon is 60 s.
const LONGEST_ABSENCE_MS: u64 = 3_000;

#[test]
fn torture_kills_and_restarts_under_traffic_lose_nothing() -> Result<()> {
    let mut campaign = Campaign::from_environment();
    let mut world = World::open("encrypt", &TopologyOptions::default())?;
    let load = world.load(Role::Client, Inner::V6)?;
    let mut kills = 0;
    while campaign.goes_on() || kills == 0 {
        let victims: &[Role] = match campaign.below(3) {
            0 => &[Role::Client],
            1 => &[Role::Server],
            _ => &[Role::Client, Role::Server],
        };
        for role in victims {
            world.kill(*role)?;
        }
        thread::sleep(Duration::from_millis(campaign.below(LONGEST_ABSENCE_MS)));
        for role in victims {
            world.start(*role)?;
        }
        kills += victims.len();
        thread::sleep(Duration::from_millis(campaign.below(1_000)));
    }
    let report = load.stop()?;
    println!("{kills} kills: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops()
}
