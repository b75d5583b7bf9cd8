//! Copies of a machine, and of its folder for state: static sessions, whose keys stay the same.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::inject::Injector;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::marks::{record, sent};
use super::world::{Role, World};

/// Long enough for packets to be sent again in their own slot.
const PERIOD: &str = "5s";

fn world() -> Result<World> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    for role in [Role::Client, Role::Server] {
        PERIOD.clone_into(&mut world.setup_mut(role).peers[0].0.period);
    }
    world.start_all()?;
    world.wait_open()?;
    Ok(world)
}

#[test]
fn a_machine_that_was_copied_receives_nothing_that_another_copy_may_have_received() -> Result<()> {
    let mut world = world()?;
    let frames = record(&world)?;
    let noted = sent(&world)?.last().context("no numbers")?.end;
    world.setup(Role::Server).copy_machine(1)?;
    wait_until("the session to rest", PATIENCE, || {
        Ok(world.peer(Role::Server)?.hint.is_some_and(|hint| hint.contains("this machine was copied")))
    })
    .with_context(|| world.explain())?;
    let before = world.status(Role::Server)?.frames.accepted;
    let injector = Injector::open(&world.topology().router, &world.host(Role::Server).tap_ifname)?;
    frames.iter().try_for_each(|frame| injector.send(frame))?;
    // Nor are packets of the peer that another copy may have got.
    let ping = world.netns(Role::Client).ping(world.end(Role::Server).v6.into(), 3)?;
    ensure!(ping.received == 0, "{ping:?}");
    let after = world.status(Role::Server)?.frames.accepted;
    ensure!(after == before, "{} packets were accepted: {}", after - before, world.explain());
    world.stop(Role::Server)?;
    let last = sent(&world)?.last().context("no numbers")?.clone();
    ensure!(last.end >= noted, "what was noted may have been sent by another copy: {last:?}, {noted}");
    Ok(())
}

/// The folder as it was some time before, as from a backup.
#[test]
fn an_older_state_makes_no_number_come_again() -> Result<()> {
    let mut world = world()?;
    world.stop(Role::Server)?;
    let folder = world.setup(Role::Server).folder().to_owned();
    copy(&folder.join("state"), &folder.join("backup"))?;
    world.start(Role::Server)?;
    world.netns(Role::Server).wait_reachable(world.end(Role::Client).v6.into(), PATIENCE)?;
    thread::sleep(Duration::from_millis(500));
    world.stop(Role::Server)?;
    let newer = sent(&world)?;
    copy(&folder.join("backup"), &folder.join("state"))?;
    world.start(Role::Server)?;
    world.netns(Role::Server).wait_reachable(world.end(Role::Client).v6.into(), PATIENCE)?;
    world.stop(Role::Server)?;
    let (before, after) = (newer.last().context("no numbers")?, sent(&world)?);
    let last = after.last().context("no numbers")?;
    ensure!(last.start >= before.end, "{last:?} repeats {before:?}");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
