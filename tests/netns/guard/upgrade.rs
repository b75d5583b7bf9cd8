//! Another version, or another layout, takes over; if it cannot, the old data plane continues.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, bail, ensure};
use mtd_common::abi;
use mtd_tests::controller::mtd_program;
use tempfile::TempDir;

use super::operator::Site;
use crate::lifecycle::bench::{assert_error, assert_success};

/// A service in a dark prefix, to which the operator tries to connect all the time.
fn dark() -> Result<Site> {
    let site = Site::new()?;
    assert_success(&site.bench.mtd_with_config(&["attach", site.bench.ifname()])?);
    assert!(!site.is_open()?);
    Ok(site)
}

#[test]
fn another_layout_takes_over_and_back_in_the_dark() -> Result<()> {
    let mut site = dark()?;
    for (sessions, replaced) in [(64, true), (64, false), (1024, true)] {
        site.bench.setup.extra = format!("max_sessions = {sessions}\n");
        let mut controller = site.bench.start()?;
        let log = controller.process.log();
        assert_eq!(log.contains("does not fit and is replaced"), replaced, "{sessions}: {log}");
        assert_eq!(log.contains("taking over the data plane"), !replaced, "{sessions}: {log}");
        assert!(!site.is_open()?, "dark with {sessions} sessions");
        assert!(!site.bench.pins()?.join("next").exists());
        site.bench.objects()?;
        controller.stop()?;
        assert!(!site.is_open()?, "dark after {sessions} sessions");
    }
    assert_success(&site.bench.mtd(&["detach", site.bench.ifname()])?);
    assert!(site.is_open()?);
    Ok(())
}

#[test]
fn another_version_is_replaced_with_an_announcement() -> Result<()> {
    let site = dark()?;
    let before = site.bench.objects()?;
    set_version(&site.bench.pins()?, abi::VERSION + 1)?;
    assert_error(
        &site.bench.mtd(&["policy", site.bench.ifname(), "monitor"])?,
        &["nothing of mtd is attached"],
    );
    let mut controller = site.bench.start()?;
    let log = controller.process.log();
    let said = format!("layout version {} instead of {}", abi::VERSION + 1, abi::VERSION);
    assert!(log.contains(&said) && log.contains("sessions start anew"), "{log}");
    assert!(!site.is_open()?, "dark");
    assert!(site.bench.objects()?.maps.is_disjoint(&before.maps), "other maps");
    controller.stop()?;
    // A data plane of another version can be removed, with its device.
    set_version(&site.bench.pins()?, abi::VERSION + 1)?;
    assert_success(&site.bench.mtd(&["detach", site.bench.ifname()])?);
    assert!(site.is_open()?);
    let links = site.bench.netns().run(&["link"])?;
    ensure!(!links.contains("mtd0"), "the device has gone: {links}");
    Ok(())
}

#[test]
fn what_was_pinned_before_there_were_groups_is_replaced_and_goes() -> Result<()> {
    let site = dark()?;
    let pins = site.bench.pins()?;
    pin_as_before_groups(&pins)?;
    let before = site.bench.objects()?;
    let mut controller = site.bench.start()?;
    let log = controller.process.log();
    let said = format!("layout version 5 or earlier instead of {}", abi::VERSION);
    assert!(log.contains(&said) && log.contains("sessions start anew"), "{log}");
    assert!(!site.is_open()?, "dark");
    assert!(site.bench.objects()?.maps.is_disjoint(&before.maps), "other maps");
    for entry in fs::read_dir(pins.join("maps"))? {
        let name = entry?.file_name();
        assert!(name.to_string_lossy().contains('-'), "{name:?} is left");
    }
    controller.stop()?;
    pin_as_before_groups(&pins)?;
    assert_success(&site.bench.mtd(&["detach", site.bench.ifname()])?);
    assert!(site.is_open()? && !pins.exists());
    Ok(())
}

#[test]
fn where_the_new_programs_do_not_load_the_old_ones_go_on() -> Result<()> {
    let mut site = dark()?;
    let folder = TempDir::new()?;
    let broken = broken_program(&folder)?;
    let (objects, attached) = (site.bench.objects()?, site.bench.inventory()?);
    let run = |site: &Site| -> Result<Output> {
        let config = site.bench.setup.write()?;
        site.bench.run_program(&broken, &["run", "-c", config.to_str().context("path")?])
    };
    // Try with the same layout, with another one, and with another version.
    assert_refused(&run(&site)?);
    site.bench.setup.extra = "max_sessions = 64\n".to_owned();
    assert_refused(&run(&site)?);
    site.bench.setup.extra.clear();
    set_version(&site.bench.pins()?, abi::VERSION + 1)?;
    assert_refused(&run(&site)?);
    set_version(&site.bench.pins()?, abi::VERSION)?;

    assert!(!site.is_open()?, "dark");
    attached.assert_same(&site.bench.inventory()?);
    assert!(!site.bench.pins()?.join("next").exists());
    assert_eq!(site.bench.objects()?, objects, "the programs and maps from before");
    // The way back: the old version continues with its data plane.
    let mut controller = site.bench.start()?;
    let log = controller.process.log();
    assert!(log.contains("taking over the data plane"), "{log}");
    controller.stop()?;
    assert_success(&site.bench.mtd(&["detach", site.bench.ifname()])?);
    Ok(())
}

/// Checks that the start failed because of the program, and that the message says what remains. The verifier's output takes
/// many lines.
fn assert_refused(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("mtd: "));
    let said = |part| line.is_some_and(|line| line.contains(part));
    assert!(
        said("the kernel refused the program mtd_send") && said("stays") && said("mtd detach"),
        "{stderr}"
    );
}

/// Changes the version of the data plane that is pinned in this folder.
pub(crate) fn set_version(pins: &Path, version: u32) -> Result<()> {
    set_versions(pins, |_| true, version)
}

/// Changes the version of one group of maps that are pinned in this folder.
pub(crate) fn set_group_version(pins: &Path, group: &str, version: u32) -> Result<()> {
    set_versions(pins, |found| found == group, version)
}

/// Changes the version in the names of the pins, `group-version-MAP`.
fn set_versions(pins: &Path, is_meant: impl Fn(&str) -> bool, version: u32) -> Result<()> {
    let mut renamed = 0;
    for entry in fs::read_dir(pins.join("maps"))? {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        let mut parts = name.splitn(3, '-');
        let (group, Some(_), Some(map)) = (parts.next().unwrap_or_default(), parts.next(), parts.next())
        else {
            bail!("{name} is not named as a map of a group");
        };
        if is_meant(group) {
            let maps = pins.join("maps");
            fs::rename(maps.join(&name), maps.join(format!("{group}-{version}-{map}")))?;
            renamed += 1;
        }
    }
    ensure!(renamed > 0, "no such maps");
    Ok(())
}

/// Renames the maps that are pinned in this folder to the names that versions without map groups used.
fn pin_as_before_groups(pins: &Path) -> Result<()> {
    for entry in fs::read_dir(pins.join("maps"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        let map = name.splitn(3, '-').nth(2).context("the name of a map")?;
        fs::rename(&path, path.with_file_name(map))?;
    }
    Ok(())
}

/// An `mtd` with a program that the kernel does not load, because it calls a helper that does not exist.
fn broken_program(folder: &TempDir) -> Result<PathBuf> {
    /// The instruction that calls `bpf_redirect_neigh`, helper 152.
    const CALL: &[u8] = &[0x85, 0, 0, 0, 152, 0, 0, 0];
    let mut program = fs::read(mtd_program()?)?;
    let mut places = program.windows(CALL.len()).enumerate().filter(|(_, window)| *window == CALL);
    let (Some((at, _)), None) = (places.next(), places.next()) else { bail!("not one such call in mtd") };
    program[at + 6] = 0x7f;
    let path = folder.path().join("mtd");
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("chmod")?;
    Ok(path)
}
