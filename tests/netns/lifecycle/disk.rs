//! A disk for the state that takes nothing: what runs goes on, and whatever is safe starts.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use mtd::status::Status;
use mtd_tests::controller::Controller;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::bench::{PATIENCE, assert_error};
use crate::guard::operator::Site;
use crate::rendezvous::world as meeting;
use crate::sessions::world::{Inner, Role, World};

/// A small file system in memory, mounted at a folder until this is dropped.
struct Disk(PathBuf);

impl Disk {
    const OPTIONS: &str = "size=64k,mode=700";

    fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(Self::OPTIONS))?;
        Ok(Self(folder.to_owned()))
    }

    /// Leaves room for nothing.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("other"))?;
        for length in [4096, 1] {
            while file.write(&vec![b'x'; length]).is_ok() {}
        }
        ensure!(fs::write(self.0.join("more"), "x").is_err(), "there is room");
        Ok(())
    }

    fn set_read_only(&self, read_only: bool) -> Result<()> {
        let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        Ok(mount(None::<&str>, &self.0, None::<&str>, flags | MsFlags::MS_REMOUNT, Some(Self::OPTIONS))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("unmounting {}: {error}", self.0.display());
        }
    }
}

/// The text of the warning with this code.
fn warning(status: &Status, code: &str) -> Option<String> {
    status.warnings.iter().find(|warning| warning.code == code).map(|warning| warning.text.clone())
}

fn wait_for_warning(code: &str, mut status: impl FnMut() -> Result<Status>) -> Result<String> {
    let mut found = None;
    wait_until(&format!("the warning {code}"), PATIENCE, || {
        found = warning(&status()?, code);
        Ok(found.is_some())
    })?;
    found.context("a warning")
}

fn reaches(world: &World) -> Result<bool> {
    let server = world.address(Role::Server, Inner::V6);
    Ok(world.netns(Role::Client).ping(server, 1)?.received > 0)
}

#[test]
fn on_a_full_disk_controllers_stop_and_start_as_ever() -> Result<()> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    let disk = Disk::mount(&world.setup(Role::Server).folder().join("state"))?;
    world.start_all()?;
    world.wait_open()?;
    disk.fill()?;
    let text = wait_for_warning("state_room_low", || world.status(Role::Server))?;
    ensure!(text.contains("0 KiB left") && text.contains("state_dir"), "{text}");
    for _ in 0..2 {
        world.stop(Role::Server)?;
        let log = world.log(Role::Server)?;
        ensure!(!log.contains("not saved") && !log.contains("cannot write"), "{log}");
        world.start(Role::Server)?;
        // What was received is remembered, as after any clean stop.
        let peer = world.peer(Role::Server)?;
        ensure!(
            peer.hint.as_ref().is_none_or(|hint| !hint.contains("clean") && !hint.contains("dark")),
            "{peer:?}"
        );
        world.wait_open()?;
    }
    Ok(())
}

#[test]
fn what_a_disk_does_not_take_is_told_and_costs_no_safety() -> Result<()> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    let disk = Disk::mount(&world.setup(Role::Server).folder().join("state"))?;
    world.start_all()?;
    world.wait_open()?;
    disk.set_read_only(true)?;
    let text = wait_for_warning("state_not_saved", || world.status(Role::Server))?;
    ensure!(text.contains("read-only"), "{text}");

    // No failure of the stop, and every word of what it costs.
    world.stop(Role::Server)?;
    let log = world.log(Role::Server)?;
    let parts =
        ["cannot write the state file", "not saved (peer0)", "dark for up to 90 s", "sent or accepted twice"];
    ensure!(parts.iter().all(|part| log.contains(part)), "{log}");

    world.start(Role::Server)?;
    let log = world.log(Role::Server)?;
    ensure!(log.contains("dark until the state file can be written: peer0"), "{log}");
    let peer = world.peer(Role::Server)?;
    ensure!(peer.hint.as_ref().is_some_and(|hint| hint.contains("dark until the state file")), "{peer:?}");
    let text = wait_for_warning("state_not_saved", || world.status(Role::Server))?;
    ensure!(text.contains("cannot write the state file") && text.contains("ReadWritePaths="), "{text}");
    ensure!(!reaches(&world)? && world.status(Role::Server)?.frames.sent == 0, "it is dark");

    disk.set_read_only(false)?;
    world.wait_open()?;
    let status = world.status(Role::Server)?;
    ensure!(warning(&status, "state_not_saved").is_none(), "{:?}", status.warnings);
    ensure!(world.log(Role::Server)?.contains("can be written again"), "it is told");
    world.stop(Role::Server)
}

#[test]
fn a_server_whose_disk_takes_nothing_serves_its_clients() -> Result<()> {
    let mut world = meeting::World::new(&TopologyOptions::default())?;
    let disk = Disk::mount(&world.setup(meeting::Who::Server).folder().join("state"))?;
    disk.set_read_only(true)?;
    world.open_all()?;
    let text = wait_for_warning("state_not_saved", || world.status(meeting::Who::Server))?;
    ensure!(text.contains("state file"), "{text}");
    let all: Vec<_> =
        world.status(meeting::Who::Server)?.warnings.into_iter().map(|warning| warning.text).collect();
    ensure!(all.iter().any(|text| text.contains("tunnel addresses")), "the leases too: {all:?}");

    disk.set_read_only(false)?;
    wait_until("the warning to go", PATIENCE, || {
        Ok(warning(&world.status(meeting::Who::Server)?, "state_not_saved").is_none())
    })?;
    let leases = fs::read_dir(&disk.0)?.count();
    ensure!(leases >= 2, "state and leases are there now");
    world.stop(meeting::Who::Server)
}

/// An enforcement that nobody may confirm is noted on a full disk too, or it does not begin.
#[test]
fn nothing_goes_dark_on_trial_without_a_note() -> Result<()> {
    let site = Site::new()?;
    let disk = Disk::mount(&site.bench.setup.folder().join("state"))?;
    let config = site.bench.setup.write()?;
    let arguments = ["--confirm-within".as_ref(), "2s".as_ref()];
    disk.fill()?;
    let mut controller = Controller::spawn(site.bench.netns(), site.bench.ifname(), &config, &arguments)?;
    controller.wait_ready()?;
    ensure!(!site.is_open()?, "on trial");
    let status = controller.process.wait(PATIENCE)?;
    ensure!(status.code() == Some(5), "nobody confirmed: {status}");
    let mut controller = site.bench.start()?;
    ensure!(site.is_open()? && site.status()?.guard.unconfirmed, "the note was written");
    controller.stop()?;

    fs::remove_file(disk.0.join("other"))?;
    for entry in fs::read_dir(&disk.0)? {
        fs::remove_file(entry?.path())?;
    }
    disk.set_read_only(true)?;
    let output = site.bench.mtd_with_config(&["run", "--confirm-within", "60s"])?;
    assert_error(&output, &["cannot note", "lock out", "read-only"]);
    ensure!(site.is_open()?, "nothing is dark");
    if controller.process.try_wait()?.is_none() {
        bail!("it runs");
    }
    Ok(())
}
