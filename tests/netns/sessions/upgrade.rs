//! Another layout of the maps takes over, and the one before takes over again, under sealed connections.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_common::abi;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::Flows;

use super::at_once;
use super::world::{Role, World};
use crate::guard::upgrade::set_version;

/// After a switch, reception begins with a slot that had not begun: two slots of a second. TCP sends again after 0.2, 0.4,
/// 0.8 … seconds, so it may find out twice as long after the controller's end. The rest is for a busy machine.
const SWITCH: Duration = Duration::from_secs(12);

/// What is attached when the next controller starts.
enum Found {
    /// Maps with another number of sessions than it wants.
    OtherSize,
    /// The layout of a later version, or of an earlier one: the controller cannot tell which, and need not.
    OtherVersion,
}

#[test]
fn connections_go_on_through_another_layout_and_back() -> Result<()> {
    at_once(&[Role::Server, Role::Client], |&upgraded| {
        let mut world = World::open("encrypt", &TopologyOptions::default())?;
        let ways = [(Role::Client, Role::Server), (Role::Server, Role::Client)];
        let ways = ways.map(|(from, to)| (world.netns(from), world.netns(to), world.end(to).v6.into()));
        let flows = Flows::start(&ways, SWITCH)?;
        for (sessions, found) in
            [(64, Found::OtherSize), (1024, Found::OtherSize), (1024, Found::OtherVersion)]
        {
            flows.wait_all()?;
            // As an operator takes a new version into use.
            world.kill(upgraded)?;
            world.setup_mut(upgraded).extra = format!("max_sessions = {sessions}\n");
            let announced = match found {
                // The first table whose size differs.
                Found::OtherSize => "is replaced; sessions start anew (FILTER: ".to_owned(),
                Found::OtherVersion => {
                    set_version(&world.instance(upgraded)?.pins(), abi::VERSION + 1)?;
                    format!(
                        "sessions start anew (layout version {} instead of {})",
                        abi::VERSION + 1,
                        abi::VERSION
                    )
                }
            };
            world.start(upgraded)?;
            let log = world.log(upgraded)?;
            ensure!(log.contains(&announced), "no {announced:?} in: {log}");
            let waited = flows.wait_all().with_context(|| world.explain())?;
            println!("{upgraded:?}, {sessions} sessions: longest wait for an answer {waited:.1?}");
        }
        flows.stop()?.require_unbroken()?;
        world.wait_open()
    })
}
