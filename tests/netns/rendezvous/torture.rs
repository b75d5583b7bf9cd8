//! Controllers killed, stopped and started at random under connections through a negotiated session (`cargo xtask torture`;
//! short in the tests).

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::rendezvous::{SERVER_V4, SERVER_V6};
use mtd_tests::runner::alone;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::torture::{Campaign, Restarts, UNDISTURBED};
use mtd_tests::traffic::Flows;

use super::world::{Inner, Who, World};

/// Number of connections. It is lower than between statically configured ends, since this shows only that sessions come
/// back.
const CONNECTIONS: usize = 20;

/// Factor by which there are fewer restarts, because a clean stop ends the session for both ends and another one has to be
/// negotiated.
const FEWER: u64 = 4;

/// An end that waits longer than this for an answer takes the connection for broken.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn torture_restarts_break_no_connection_through_negotiated_sessions() -> Result<()> {
    alone("torture loads the machine, and nobody may wait long for an answer")?;
    let mut campaign = Campaign::from_environment();
    let mut world = World::open(&TopologyOptions::default())?;
    let flows = flows(&world)?;
    let (mut killed, mut stopped) = (Restarts::default(), Restarts::default());
    while (killed.count() + stopped.count()) * FEWER < campaign.restarts() {
        let kills = campaign.below(2) == 0;
        let who = if campaign.below(2) == 0 { Who::Alice } else { Who::Server };
        if kills {
            world.kill(who)?;
        } else {
            world.stop(who)?;
        }
        thread::sleep(Duration::from_millis(campaign.below(500)));
        world.start(who)?;
        let waited = flows.wait_all().with_context(|| world.explain())?;
        ensure!(!kills || waited < UNDISTURBED, "{who:?} killed, and {waited:?} without an answer");
        if kills { &mut killed } else { &mut stopped }.note(1, waited);
    }
    let report = flows.stop()?;
    println!("{report}; {killed} after SIGKILL, {stopped} after a clean stop");
    report.require_unbroken().with_context(|| world.explain())
}

/// The connections: opened by either host, in both IP versions.
fn flows(world: &World) -> Result<Flows> {
    let (client, server) = (world.netns(Who::Alice), world.netns(Who::Server));
    let to_server: [IpAddr; 2] = [SERVER_V6.into(), SERVER_V4.into()];
    let mut ways = Vec::from(to_server.map(|to| (client, server, to)));
    for inner in [Inner::V6, Inner::V4] {
        ways.push((server, client, world.address(Who::Alice, inner)?));
    }
    Flows::start(&ways.repeat(CONNECTIONS / ways.len()), PATIENCE)
}
