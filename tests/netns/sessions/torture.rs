//! Controllers killed, stopped and started at random under traffic (`cargo xtask torture`; short in the tests).

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::torture::{Campaign, Restarts, UNDISTURBED};
use mtd_tests::traffic::Flows;

use super::world::{Inner, Role, World};

/// A controller is down for less than this; the horizon is 60 s.
const LONGEST_ABSENCE_MS: u64 = 3_000;

#[test]
fn torture_kills_and_restarts_under_traffic_lose_nothing() -> Result<()> {
    alone("torture loads the machine, and nobody may wait long for an answer")?;
    let mut campaign = Campaign::from_environment();
    let mut world = World::open("encrypt", &TopologyOptions::default())?;
    let load = world.load(Role::Client, Inner::V6)?;
    let mut kills = 0;
    while campaign.goes_on() || kills == 0 {
        let victims = victims(&mut campaign);
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
    world.require_no_session_drops(&world.hosts())
}

/// Number of connections in the test below.
const CONNECTIONS: usize = 100;

/// An end that waits longer than this for an answer takes the connection for broken. A clean stop removes the tunnel, and
/// TCP then retransmits after 0.2, 0.4, 0.8 … seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A start takes less than this.
const LONGEST_START_MS: u64 = 800;

#[test]
fn torture_restarts_break_none_of_a_hundred_connections() -> Result<()> {
    alone("torture loads the machine, and nobody may wait long for an answer")?;
    let mut campaign = Campaign::from_environment();
    let mut world = World::open("encrypt", &TopologyOptions::default())?;
    let ways = world.ways();
    let flows = Flows::start(&ways.repeat(CONNECTIONS / ways.len()), PATIENCE)?;
    let (mut killed, mut stopped, mut cut_short) = (Restarts::default(), Restarts::default(), 0);
    while killed.count() + stopped.count() < campaign.restarts() {
        let kills = campaign.below(2) == 0;
        let victims = victims(&mut campaign);
        for role in victims {
            if kills { world.kill(*role)? } else { world.stop(*role)? }
        }
        thread::sleep(Duration::from_millis(campaign.below(500)));
        for role in victims {
            // Some starts are interrupted before they are complete.
            if campaign.below(4) == 0 {
                world.start_and_kill(*role, Duration::from_millis(campaign.below(LONGEST_START_MS)))?;
                cut_short += 1;
            }
            world.start(*role)?;
        }
        let waited = flows.wait_all().with_context(|| world.explain())?;
        ensure!(!kills || waited < UNDISTURBED, "{victims:?} killed, and {waited:?} without an answer");
        if kills { &mut killed } else { &mut stopped }.note(victims.len(), waited);
    }
    let report = flows.stop()?;
    println!(
        "{report}; {killed} after SIGKILL, {stopped} after a clean stop; {cut_short} more starts killed half-way"
    );
    report.require_unbroken().with_context(|| world.explain())?;
    world.wait_open()
}

/// The hosts whose controllers are restarted next.
fn victims(campaign: &mut Campaign) -> &'static [Role] {
    match campaign.below(3) {
        0 => &[Role::Client],
        1 => &[Role::Server],
        _ => &[Role::Client, Role::Server],
    }
}
