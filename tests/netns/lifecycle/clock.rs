//! The wall clock: what is said of it is what is known.

use anyhow::{Context as _, Result, ensure};
use mtd::status::{ClockSource, Status};
use mtd_tests::controller::mtd_program;
use mtd_tests::process::Running;

use super::bench::{Bench, PATIENCE};

const CODE: &str = "clock_not_synchronised";

/// The status of a controller that runs after this script, in a mount namespace with a `/run` of its own.
fn status_after(bench: &Bench, script: &str) -> Result<Status> {
    let scratch = tempfile::tempdir()?;
    let script = format!(
        "set -e; r={}; mkdir -p /run/mtd; mount --make-rprivate /; mount -t tmpfs none $r; mkdir $r/mtd; \
         mount --bind /run/mtd $r/mtd; {script}; mount --rbind $r /run; exec \"$0\" run -c \"$1\"",
        scratch.path().display()
    );
    let mut command = bench.netns().command("unshare")?;
    command.args(["--mount", "sh", "-c", &script]).arg(mtd_program()?).arg(bench.setup.write()?);
    let mut process = Running::spawn("mtd with another /run", command)?;
    process.wait_for_line("ready", PATIENCE * 3)?;
    let output = bench.mtd(&["status", "--json"])?;
    let mut document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    process.terminate(nix::sys::signal::Signal::SIGTERM, PATIENCE)?;
    Ok(serde_json::from_value(document["instances"][0].take())?)
}

fn warning(status: &Status) -> Option<&str> {
    status.warnings.iter().find(|warning| warning.code == CODE).map(|warning| warning.text.as_str())
}

/// Whether the kernel of this host has been told by a time service, so that nothing else counts.
fn kernel_knows() -> Result<bool> {
    let clock = mtd::health::wall_clock(false, mtd::health::Signs::default()).context("no clock")?;
    Ok(clock.synchronised)
}

#[test]
fn what_is_said_of_the_clock_comes_from_what_is_seen() -> Result<()> {
    let mut bench = Bench::new()?;
    let known = kernel_knows()?;
    let status = status_after(&bench, "mkdir $r/chrony; touch $r/chrony/chronyd.sock")?;
    ensure!(warning(&status).is_none_or(|text| text.contains("rtcsync")), "{:?}", status.warnings);
    ensure!(warning(&status).is_none() == known, "{:?}", status.warnings);

    let asked = "mkdir -p $r/systemd/timesync; touch $r/systemd/timesync/synchronized";
    let status = status_after(&bench, asked)?;
    let source = if known { ClockSource::Kernel } else { ClockSource::Timesyncd };
    ensure!(warning(&status).is_none(), "{:?}", status.warnings);
    ensure!(status.clock.and_then(|clock| clock.source) == Some(source), "{:?}", status.clock);

    // It asked long ago: nobody knows whether it is still there.
    let status =
        status_after(&bench, &format!("{asked}; touch -d '3 hours ago' $r/systemd/timesync/synchronized"))?;
    ensure!(warning(&status).is_none() == known, "{:?}", status.warnings);
    ensure!(
        warning(&status).is_none_or(|text| text.contains("clock = \"trusted\"")),
        "{:?}",
        status.warnings
    );

    bench.setup = bench.setup.with_line("clock = \"trusted\"");
    let status = status_after(&bench, "true")?;
    let source = if known { ClockSource::Kernel } else { ClockSource::Operator };
    ensure!(warning(&status).is_none(), "{:?}", status.warnings);
    ensure!(status.clock.and_then(|clock| clock.source) == Some(source), "{:?}", status.clock);
    Ok(())
}
