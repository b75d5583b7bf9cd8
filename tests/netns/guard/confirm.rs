//! `--confirm-within`: operators who lock themselves out get in again, whichever processes have died meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtd_tests::controller::Controller;
use mtd_tests::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::operator::Site;
use crate::lifecycle::bench::{PATIENCE, assert_error, assert_success};

#[test]
fn who_locks_themselves_out_is_let_in_again() -> Result<()> {
    let site = Site::new()?;
    let bench = &site.bench;
    let before = bench.inventory()?;
    let mut login = site.login()?;
    assert!(login.types(PATIENCE)?);

    let began = Instant::now();
    assert_success(&bench.mtd_with_config(&["attach", bench.ifname(), "--confirm-within", "6s"])?);
    assert!(login.is_stuck()? && !site.is_open()?, "locked out");
    let objects = bench.objects()?;
    let left = site.status()?.guard.confirm_seconds_left.context("time to confirm")?;
    assert!(left > 0.0 && left < 6.0, "{left} s left");
    let text = site.says(&["status"])?;
    assert!(text.contains(&format!("mtd confirm {}", bench.ifname())), "{text}");
    on_its_own(&site)?;

    // The earlier connection continues by itself.
    assert!(login.types(PATIENCE)?, "let in again");
    assert!(began.elapsed() >= Duration::from_secs(6), "too early: {:?}", began.elapsed());
    assert!(site.is_open()?);
    wait_until("the guard to clean up", PATIENCE, || Ok(site.guard_process()?.is_none()))?;
    bench.assert_nothing_remains(&before, &objects)
}

/// Checks that the process that detaches has a session of its own, so that the hang-up of the operator's session does not
/// reach it.
fn on_its_own(site: &Site) -> Result<()> {
    let id = site.guard_process()?.context("no process that detaches")?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let own: Vec<&str> = fields.split(' ').skip(2).take(3).collect();
    let (id, none) = (id.to_string(), "0");
    assert_eq!(own, [id.as_str(), id.as_str(), none], "process group, session, terminal");
    Ok(())
}

#[test]
fn the_programs_open_by_themselves_when_every_process_is_dead() -> Result<()> {
    let site = Site::new()?;
    let bench = &site.bench;
    let before = bench.inventory()?;
    assert_success(&bench.mtd_with_config(&["attach", bench.ifname(), "--confirm-within", "4s"])?);
    let id = site.guard_process()?.context("no process that detaches")?;
    kill(Pid::from_raw(id), Signal::SIGKILL)?;
    assert!(!site.is_open()?, "dark");
    let attached = bench.inventory()?;
    wait_until("the programs to open", PATIENCE, || site.is_open())?;

    attached.assert_same(&bench.inventory()?);
    let status = site.status()?;
    assert!(!status.guard.enforced && status.guard.confirm_seconds_left == Some(0.0), "{:?}", status.guard);
    assert!(site.says(&["status"])?.contains("NOT DARK"));
    assert_error(&bench.mtd(&["confirm", bench.ifname()])?, &["too late", "attach again"]);
    assert!(site.is_open()?, "what was too late changes nothing");
    assert_success(&bench.mtd(&["detach", bench.ifname()])?);
    before.assert_same(&bench.inventory()?);
    Ok(())
}

#[test]
fn what_is_confirmed_stays() -> Result<()> {
    let site = Site::new()?;
    let bench = &site.bench;
    assert_error(&bench.mtd(&["confirm"])?, &["nothing of mtd is attached"]);
    assert_error(&bench.mtd(&["confirm", bench.ifname()])?, &["nothing of mtd is attached", bench.ifname()]);
    assert_success(&bench.mtd_with_config(&["attach", bench.ifname(), "--confirm-within", "3s"])?);
    assert!(site.says(&["confirm"])?.contains(bench.ifname()));
    wait_until("the guard to see it", PATIENCE, || Ok(site.guard_process()?.is_none()))?;
    std::thread::sleep(Duration::from_secs(4));
    assert!(!site.is_open()?, "dark for good");
    let document: serde_json::Value =
        serde_json::from_str(&site.says(&["confirm", bench.ifname(), "--json"])?)?;
    assert_eq!(document["instances"][0]["guard"]["policy"], "dark", "{document}");
    assert_eq!(document["instances"][0]["guard"]["enforced"], true, "{document}");
    assert_eq!(document["instances"][0]["guard"]["confirm_seconds_left"], serde_json::Value::Null);
    assert_success(&bench.mtd(&["detach", bench.ifname()])?);
    assert!(site.is_open()?);
    Ok(())
}

#[test]
fn a_controller_that_nobody_confirms_takes_everything_down() -> Result<()> {
    let site = Site::new()?;
    let before = site.bench.inventory()?;
    // `mtd attach` is to outlive the controller, but nobody confirms the attachment either: so everything goes.
    assert_success(&site.bench.mtd_with_config(&[
        "attach",
        site.bench.ifname(),
        "--confirm-within",
        "8s",
    ])?);
    let mut controller = site.bench.start()?;
    assert!(!site.is_open()?, "dark");
    let objects = site.bench.objects()?;
    let status = controller.process.wait(PATIENCE)?;
    let log = controller.process.log();
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("nobody said `mtd confirm"), "{log}");
    assert!(site.is_open()?);
    site.bench.assert_nothing_remains(&before, &objects)
}

#[test]
fn a_controller_that_is_confirmed_goes_on() -> Result<()> {
    let site = Site::new()?;
    let mut controller = run(&site, &["--confirm-within", "4s"])?;
    assert!(!site.is_open()?, "dark");
    let text = site.says(&["confirm"])?;
    assert!(text.contains("confirmed: dark"), "{text}");
    std::thread::sleep(Duration::from_secs(5));
    assert!(controller.process.try_wait()?.is_none(), "it goes on");
    assert!(!site.is_open()? && site.status()?.guard.confirm_seconds_left.is_none());
    controller.stop().map(drop)
}

#[test]
fn a_controller_that_is_killed_does_not_keep_the_door_shut() -> Result<()> {
    let site = Site::new()?;
    let before = site.bench.inventory()?;
    let mut controller = run(&site, &["--confirm-within", "5s"])?;
    assert!(!site.is_open()?, "dark");
    controller.process.kill()?;
    assert!(!site.is_open()?, "still dark");
    wait_until("the programs to open", PATIENCE, || site.is_open())?;
    assert_success(&site.bench.mtd(&["detach", "--all"])?);
    before.assert_same(&site.bench.inventory()?);
    Ok(())
}

/// Starts a controller with further arguments.
fn run(site: &Site, arguments: &[&str]) -> Result<Controller> {
    let config = site.bench.setup.write()?;
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    let mut controller = Controller::spawn(site.bench.netns(), site.bench.ifname(), &config, &arguments)?;
    controller.wait_ready()?;
    Ok(controller)
}
