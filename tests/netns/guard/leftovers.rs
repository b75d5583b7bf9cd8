//! `mtd detach --all` restores the host, whichever process was killed at whichever moment.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mtd::instance::{Instance, RUN_DIR};
use mtd_tests::controller::mtd_program;
use mtd_tests::process::Running;
use mtd_tests::wait_until;
use nix::sys::signal::Signal;

use crate::lifecycle::bench::{Bench, PATIENCE, assert_error, assert_success};

/// Runs `mtd detach --all` with further arguments. Returns its output.
fn detach_all(bench: &Bench, more: &[&str]) -> Result<String> {
    let output = bench.mtd(&[&["detach", "--all"], more].concat())?;
    assert_success(&output);
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn whenever_it_is_killed_nothing_remains() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.inventory()?;
    let config = bench.setup.write()?;
    let mut remains = 0;
    for command in [&["run"][..], &["attach", bench.ifname(), "--confirm-within", "60s"]] {
        for delay in [3, 10, 30, 60, 100, 200, 400, 700, 1_200, 2_000] {
            let mut start = bench.netns().command(mtd_program()?)?;
            start.args(command).arg("-c").arg(&config);
            let mut process = Running::spawn(&format!("mtd {command:?}"), start)?;
            thread::sleep(Duration::from_millis(delay));
            if process.try_wait()?.is_none() {
                process.kill()?;
            }
            remains += usize::from(!before.changes(&bench.inventory()?).is_empty());
            detach_all(&bench, &[])?;
            before.assert_same(&bench.inventory()?);
        }
    }
    assert!(remains > 5, "killed too early or too late: only {remains} times something was left");
    assert_eq!(detach_all(&bench, &[])?, "nothing of mtd is here\n");
    Ok(())
}

#[test]
fn what_is_half_removed_goes_too() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.inventory()?;
    let instance = bench.netns().enter(|| Instance::of(bench.ifname()))??;
    let pins = instance.pins();
    let half: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("all pins have gone", &|| Ok(fs::remove_dir_all(&pins)?)),
        ("the maps have gone", &|| Ok(fs::remove_dir_all(pins.join("maps"))?)),
        ("the settings have gone", &|| remove_settings(&pins)),
        ("the links have gone", &|| Ok(fs::remove_dir_all(pins.join("links"))?)),
        ("the device has gone", &|| bench.netns().run(&["link", "delete", "mtd0"]).map(drop)),
        ("only the folder is left", &|| {
            bench.netns().run(&["link", "delete", "mtd0"])?;
            fs::remove_dir_all(&pins)?;
            Ok(fs::create_dir(&pins)?)
        }),
        ("only files of dead processes are left", &|| {
            bench.netns().run(&["link", "delete", "mtd0"])?;
            fs::remove_dir_all(&pins)?;
            fs::write(Path::new(RUN_DIR).join(format!("{}.sock.4000000", instance.name())), "")?;
            fs::write(instance.socket(), "")?;
            Ok(fs::write(instance.lock(), "4000000\n")?)
        }),
    ];
    for (what, undo) in half {
        for command in [&["detach", bench.ifname()][..], &["detach", "--all"]] {
            assert_success(&bench.mtd_with_config(&["attach", bench.ifname()])?);
            undo().context(what)?;
            assert_success(&bench.mtd(command)?);
            let after = bench.inventory()?;
            assert!(before.changes(&after).is_empty(), "{what}, {command:?}: {:?}", before.changes(&after));
        }
    }
    Ok(())
}

/// Removes the pin of the settings that all programs use.
fn remove_settings(pins: &Path) -> Result<()> {
    let settings = pins.join(format!("maps/core-{}-DATAPLANE", mtd_common::abi::VERSION));
    fs::remove_file(&settings).with_context(|| settings.display().to_string())
}

#[test]
fn a_device_that_was_never_marked_is_known_and_foreign_ones_are_left_alone() -> Result<()> {
    let bench = Bench::new()?;
    let pair = |name: &str, mac: &str| -> Result<()> {
        let inside = format!("{name}x");
        let end = ["address", mac, "type", "veth", "peer", "name", inside.as_str(), "address", mac];
        bench.netns().run(&[&["link", "add", name][..], &end].concat()).map(drop)
    };
    pair("other0", "02:11:22:33:44:55")?;
    let before = bench.inventory()?;
    // The state of the device after mtd has made it and before mtd has marked it.
    pair("mtd0", "02:6d:74:64:44:55")?;
    assert_eq!(detach_all(&bench, &[])?, "removed mtd0\n");
    before.assert_same(&bench.inventory()?);
    pair("mtd0", "02:6d:74:64:44:55")?;
    bench.start()?.stop()?;
    before.assert_same(&bench.inventory()?);
    Ok(())
}

#[test]
fn controllers_that_run_are_ended_only_by_force() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.inventory()?;
    let mut controller = bench.start()?;
    let running = bench.inventory()?;
    let process = format!("process {}", controller.process.pid());
    assert_error(&bench.mtd(&["detach", "--all"])?, &[bench.ifname(), &process, "--force"]);
    running.assert_same(&bench.inventory()?);
    let objects = bench.objects()?;
    assert!(detach_all(&bench, &["--force"])?.contains(bench.ifname()));
    let status = controller.process.wait(PATIENCE)?;
    assert!(status.success(), "asked to stop: {status}");
    bench.assert_nothing_remains(&before, &objects)?;

    // A controller that does not react is killed.
    let mut controller = bench.start()?;
    let objects = bench.objects()?;
    controller.process.signal(Signal::SIGSTOP)?;
    assert_success(&bench.mtd(&["detach", "--all", "--force"])?);
    wait_until("it to end", PATIENCE, || Ok(controller.process.try_wait()?.is_some()))?;
    bench.assert_nothing_remains(&before, &objects)
}
