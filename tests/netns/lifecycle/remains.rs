//! Whichever way the controller ends, nothing is left behind.

use anyhow::Result;
use mtd_tests::controller::Controller;
use nix::sys::signal::Signal;

use super::bench::{Bench, Objects, PATIENCE, assert_success};

#[test]
fn sigterm_leaves_nothing_behind() -> Result<()> {
    signal_leaves_nothing_behind(Signal::SIGTERM)
}

#[test]
fn sigint_leaves_nothing_behind() -> Result<()> {
    signal_leaves_nothing_behind(Signal::SIGINT)
}

fn signal_leaves_nothing_behind(signal: Signal) -> Result<()> {
    nothing_remains(|_, mut controller| {
        let status = controller.process.terminate(signal, PATIENCE)?;
        assert!(status.success(), "{status}: {}", controller.process.log());
        Ok(Objects::default())
    })
}

#[test]
fn sigkill_restart_and_sigterm_leave_nothing_behind() -> Result<()> {
    nothing_remains(|bench, mut controller| {
        let running = bench.inventory()?;
        controller.process.kill()?;
        assert!(bench.inventory()?.changes(&running).is_empty(), "the data plane outlives its controller");
        let mut controller = bench.start()?;
        let log = controller.process.log();
        assert!(log.contains("goes on"), "the session is taken over: {log}");
        let objects = bench.objects()?;
        controller.stop()?;
        Ok(objects)
    })
}

#[test]
fn sigkill_and_detach_leave_nothing_behind() -> Result<()> {
    nothing_remains(|bench, mut controller| {
        controller.process.kill()?;
        assert_success(&bench.mtd(&["detach", bench.ifname()])?);
        Ok(Objects::default())
    })
}

/// Checks that nothing remains after `end`, which stops the controller and returns further objects that were loaded.
fn nothing_remains(end: impl FnOnce(&Bench, Controller) -> Result<Objects>) -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.inventory()?;
    let controller = bench.start()?;
    let changes = before.changes(&bench.inventory()?);
    for kind in ["links", "addresses", "IPv4 routes", "IPv6 routes", "pins", "run-time files"] {
        assert!(changes.contains(&kind), "{kind} show no trace of the controller; changed: {changes:?}");
    }
    let mut objects = bench.objects()?;
    let more = end(&bench, controller)?;
    objects.programs.extend(more.programs);
    objects.maps.extend(more.maps);
    bench.assert_nothing_remains(&before, &objects)
}
