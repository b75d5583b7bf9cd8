//! A controller with another layout of the maps takes over, and then one with the old layout again, while connections go
//! through the tunnel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use mtd::status::PeerState;
use mtd_common::abi;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::Flows;

use super::world::{Inner, Role, World};
use super::{SLOT, at_once};
use crate::guard::upgrade::{move_group_version, move_versions};

/// After a switch, reception begins with a slot that had not begun, which takes up to two slots of a second. TCP retransmits
/// after 0.2, 0.4, 0.8 … seconds, so it may take twice as long from the controller's end. The rest is for a busy machine.
const SWITCH: Duration = Duration::from_secs(12);

/// What is attached when the next controller starts.
enum Found {
    /// Maps for another number of sessions than the new controller wants.
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
            // The way in which an operator installs a new version.
            world.kill(upgraded)?;
            world.setup_mut(upgraded).extra = format!("max_sessions = {sessions}\n");
            let announced = match found {
                // FILTER is the first map whose size differs.
                Found::OtherSize => "is replaced; sessions start anew (FILTER: ".to_owned(),
                Found::OtherVersion => {
                    move_versions(&world.instance(upgraded)?.pins(), 1)?;
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

/// Numbers of the pinned maps, by the names of their pins.
fn maps(pins: &Path) -> Result<BTreeMap<String, u32>> {
    let entries = fs::read_dir(pins.join("maps"))?;
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok().context("a name")?;
        Ok((name, MapInfo::from_pin(entry.path())?.id()))
    };
    entries.map(|entry| number(entry?)).collect()
}

#[test]
fn another_layout_of_one_group_ends_no_session_and_loses_no_packet() -> Result<()> {
    at_once(&[Role::Server, Role::Client], |&upgraded| {
        let mut world = World::open("encrypt", &TopologyOptions::default())?;
        let pins = world.instance(upgraded)?.pins();
        let load = world.load(Role::Client, Inner::V6)?;
        let groups = [
            ("events", abi::event::VERSION),
            ("guard", abi::guard::VERSION),
            ("counters", abi::counters::VERSION),
            ("control", abi::control_record::VERSION),
            ("filter", abi::filter::VERSION),
        ];
        for (group, version) in groups {
            thread::sleep(2 * SLOT);
            world.kill(upgraded)?;
            let before = maps(&pins)?;
            move_group_version(&pins, group, 1)?;
            world.start(upgraded)?;
            let log = world.log(upgraded)?;
            let announced = format!(
                "the attached maps of the group {group} do not fit and are replaced; sessions go on (layout version {} \
                 instead of {})",
                version + 1,
                version
            );
            for said in [announced.as_str(), "taking over the data plane"] {
                ensure!(log.contains(said), "no {said:?} in: {log}");
            }
            let after = maps(&pins)?;
            ensure!(before.keys().eq(after.keys()), "{:?} instead of {:?}", after.keys(), before.keys());
            for (name, number) in &before {
                // The arrays of stages belong to one load of the programs.
                let is_replaced =
                    [group, "stages"].iter().any(|group| name.starts_with(&format!("{group}-")));
                ensure!(
                    (after[name] != *number) == is_replaced,
                    "{group} was to be replaced, and {name} was not"
                );
            }
            ensure!(!pins.join("next").exists(), "maps of {group} are left");
            let peer = world.peer(upgraded)?;
            ensure!(peer.state == PeerState::Open && peer.hint.is_none(), "{peer:?}");
        }
        thread::sleep(2 * SLOT);
        let report = load.stop()?;
        println!("groups replaced at {upgraded:?}: {report}");
        report.require_lossless().with_context(|| world.explain())
    })
}
