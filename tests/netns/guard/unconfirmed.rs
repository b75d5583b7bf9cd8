//! What nobody confirmed locks nobody out a second time: not a service manager that starts the controller again, not a host
//! that lost its power.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mtd_tests::controller::Controller;
use mtd_tests::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::operator::Site;
use crate::lifecycle::bench::{PATIENCE, assert_success};

/// The settings of the unit that decide over starts anew.
struct Manager {
    /// Exit statuses after which there is none.
    prevent: Vec<i32>,
}

impl Manager {
    /// As the packaged unit has it.
    fn packaged() -> Result<Self> {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd/mtd.service");
        let unit = fs::read_to_string(unit)?;
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        ensure!(value("Restart") == Some("on-failure"), "this manager starts anew on failure");
        let prevent = value("RestartPreventExitStatus").unwrap_or_default();
        Ok(Self { prevent: prevent.split_whitespace().map(str::parse).collect::<Result<_, _>>()? })
    }

    /// Starts `mtd run` again as often as a service manager would, `most` times at most, and calls `look` each time that it is
    /// ready. Returns the exit statuses.
    fn run(&self, site: &Site, arguments: &[&str], most: usize, mut look: impl FnMut(usize) -> Result<()>) -> Result<Vec<i32>> {
        let mut statuses = Vec::new();
        while statuses.len() < most {
            let mut controller = start(site, arguments)?;
            look(statuses.len())?;
            let status = controller.process.wait(PATIENCE)?.code().context("ended by a signal")?;
            statuses.push(status);
            if status == 0 || self.prevent.contains(&status) {
                break;
            }
        }
        Ok(statuses)
    }
}

/// Starts a controller with further arguments.
fn start(site: &Site, arguments: &[&str]) -> Result<Controller> {
    let config = site.bench.setup.write()?;
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    let mut controller = Controller::spawn(site.bench.netns(), site.bench.ifname(), &config, &arguments)?;
    controller.wait_ready()?;
    Ok(controller)
}

/// Fails unless nothing is enforced, and everybody who asks is told why and what to do.
fn require_open(site: &Site, controller: Option<&Controller>) -> Result<()> {
    ensure!(site.is_open()?, "the operator is locked out again");
    let guard = site.status()?.guard;
    ensure!(!guard.enforced && guard.unconfirmed && guard.confirm_seconds_left.is_none(), "{guard:?}");
    let text = site.says(&["status"])?;
    let confirm = format!("mtd confirm {}", site.bench.ifname());
    ensure!(text.contains("NOT DARK: nobody confirmed the last") && text.contains(&confirm), "{text}");
    if let Some(controller) = controller {
        let log = controller.process.log();
        ensure!(log.contains("nobody confirmed the last time") && log.contains(&confirm), "{log}");
    }
    Ok(())
}

#[test]
fn a_service_manager_does_not_lock_the_operator_out_again_and_again() -> Result<()> {
    let site = Site::new()?;
    let within = ["--confirm-within", "2s"];
    let dark = |_| if site.is_open()? { bail!("it is dark for a while") } else { Ok(()) };
    let statuses = Manager::packaged()?.run(&site, &within, 3, dark)?;
    ensure!(statuses == [5], "started again after {statuses:?}");
    ensure!(site.is_open()?, "locked out");

    // Somebody starts it all the same, or the host boots: with the unit's arguments, and without.
    for arguments in [&within[..], &[]] {
        let mut controller = start(&site, arguments)?;
        require_open(&site, Some(&controller))?;
        // Longer than the time to confirm: there is none any more.
        std::thread::sleep(Duration::from_millis(2500));
        require_open(&site, Some(&controller))?;
        controller.stop()?;
    }
    let mut controller = start(&site, &within)?;
    let said = site.says(&["confirm", site.bench.ifname()])?;
    ensure!(said.contains("confirmed: dark"), "{said}");
    ensure!(!site.is_open()? && site.status()?.guard.enforced, "confirmed");
    controller.stop()?;
    let mut controller = start(&site, &[])?;
    ensure!(!site.is_open()?, "confirmed for good");
    controller.stop().map(drop)
}

#[test]
fn a_host_that_loses_its_power_before_anybody_confirms_comes_up_open() -> Result<()> {
    let site = Site::new()?;
    let lose_power = || -> Result<()> {
        assert_success(&site.bench.mtd(&["detach", "--all"])?);
        Ok(())
    };
    let mut controller = start(&site, &["--confirm-within", "60s"])?;
    ensure!(!site.is_open()?, "dark");
    controller.process.kill()?;
    lose_power()?;
    let mut controller = start(&site, &[])?;
    require_open(&site, Some(&controller))?;
    // The operator tries it again, and likes it.
    let ifname = site.bench.ifname();
    site.says(&["policy", ifname, "dark", "--confirm-within", "60s"])?;
    ensure!(!site.is_open()?, "on trial");
    controller.process.kill()?;
    lose_power()?;
    let mut controller = start(&site, &[])?;
    require_open(&site, Some(&controller))?;
    controller.stop()?;
    let mut controller = start(&site, &["--policy", "dark"])?;
    ensure!(!site.is_open()?, "somebody has decided");
    controller.stop()?;
    let mut controller = start(&site, &[])?;
    ensure!(!site.is_open()?, "for good");
    controller.stop().map(drop)
}

#[test]
fn what_is_attached_without_a_controller_is_no_different() -> Result<()> {
    let site = Site::new()?;
    let ifname = site.bench.ifname();
    let attach = |more: &[&str]| -> Result<()> {
        assert_success(&site.bench.mtd_with_config(&[&["attach", ifname], more].concat())?);
        Ok(())
    };
    let lose_power = || -> Result<()> {
        if let Some(id) = site.guard_process()? {
            kill(Pid::from_raw(id), Signal::SIGKILL)?;
            wait_until("the guard to end", PATIENCE, || Ok(site.guard_process()?.is_none()))?;
        }
        assert_success(&site.bench.mtd(&["detach", "--all"])?);
        Ok(())
    };
    attach(&["--confirm-within", "60s"])?;
    ensure!(!site.is_open()?, "dark");
    lose_power()?;
    attach(&[])?;
    require_open(&site, None)?;
    // An operator may try again, and confirm, with no controller at all.
    lose_power()?;
    attach(&["--confirm-within", "60s"])?;
    ensure!(!site.is_open()?, "dark");
    site.says(&["confirm", ifname])?;
    lose_power()?;
    attach(&[])?;
    ensure!(!site.is_open()?, "confirmed for good");
    lose_power()?;
    // What is not confirmed can be confirmed later, too.
    attach(&["--confirm-within", "60s"])?;
    lose_power()?;
    attach(&[])?;
    require_open(&site, None)?;
    site.says(&["confirm", ifname])?;
    ensure!(!site.is_open()? && site.status()?.guard.enforced, "confirmed");
    lose_power()
}
