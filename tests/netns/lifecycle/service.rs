//! The controller as a service: its messages to the service manager, the privileges that it keeps, the administrator's hook
//! commands, and the effect of a changed configuration.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::{Controller, mtd_program};
use mtd_tests::process::Running;
use mtd_tests::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::bench::{Bench, PATIENCE, assert_error, assert_success};

/// `CAP_NET_ADMIN`.
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn no_thread_keeps_privileges_that_nothing_needs() -> Result<()> {
    let bench = Bench::new()?;
    let mut controller = bench.start()?;
    let folder = format!("/proc/{}/task", controller.process.pid());
    let mut threads = 0;
    for thread in fs::read_dir(folder)? {
        let path = thread?.path().join("status");
        // A thread may have ended meanwhile.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        threads += 1;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            value.with_context(|| format!("no {name} in {text}"))
        };
        for (set, expected) in
            [("CapEff", NET_ADMIN), ("CapPrm", NET_ADMIN), ("CapBnd", NET_ADMIN), ("CapInh", 0)]
        {
            assert_eq!(u64::from_str_radix(field(set)?, 16)?, expected, "{set} in {}", path.display());
        }
        assert_eq!(field("NoNewPrivs")?, "1");
    }
    assert!(threads > 1, "it has several threads");
    controller.stop().map(drop)
}

#[test]
fn the_service_manager_is_told_what_it_wants_to_know() -> Result<()> {
    let bench = Bench::new()?;
    let path = bench.setup.folder().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let next = || -> Result<String> {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).context("the service manager hears nothing")?;
        Ok(std::str::from_utf8(&buffer[..length])?.trim().to_owned())
    };
    let config = bench.setup.write()?;
    let mut command = bench.netns().command(mtd_program()?)?;
    command.arg("run").arg("-c").arg(config).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let mut process = Running::spawn("mtd as a service", command)?;

    assert_eq!(next()?, "READY=1");
    for _ in 0..3 {
        assert_eq!(next()?, "WATCHDOG=1");
    }
    process.signal(Signal::SIGHUP)?;
    let reloading = wait_for(&next, "RELOADING=1")?;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    wait_for(&next, "READY=1")?;
    process.signal(Signal::SIGTERM)?;
    wait_for(&next, "STOPPING=1")?;
    let status = process.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", process.log());
    Ok(())
}

/// Waits for the next message, which must begin like this. Messages of the watchdog are skipped.
fn wait_for(next: &dyn Fn() -> Result<String>, start: &str) -> Result<String> {
    loop {
        let message = next()?;
        if message.starts_with(start) {
            return Ok(message);
        }
        assert_eq!(message, "WATCHDOG=1", "instead of {start}");
    }
}

#[test]
fn commands_of_the_administrator_run_in_their_turn() -> Result<()> {
    let mut bench = Bench::new()?;
    let log = bench.setup.folder().join("hooks");
    let note = format!(
        "echo $MTD_HOOK $MTD_INTERFACE $(ip -o link show dev $MTD_DEVICE 2>/dev/null | wc -l) >> {}",
        log.display()
    );
    bench.setup = bench.setup.with_line(&format!(
        "hooks = {{ pre_up = ['{note}'], post_up = ['{note}'], pre_down = ['{note}', 'false'], post_down = ['{note}'] }}"
    ));
    let before = bench.inventory()?;
    let mut controller = bench.start()?;
    controller.stop()?;
    before.assert_same(&bench.inventory()?);
    let ifname = bench.ifname();
    let expected =
        format!("pre_up {ifname} 0\npost_up {ifname} 1\npre_down {ifname} 1\npost_down {ifname} 0\n");
    assert_eq!(fs::read_to_string(log)?, expected);
    assert!(
        controller.process.log().contains("pre_down: false: exit status: 1"),
        "{}",
        controller.process.log()
    );
    Ok(())
}

#[test]
fn a_command_that_fails_on_the_way_up_ends_the_start() -> Result<()> {
    for hook in ["pre_up", "post_up"] {
        let mut bench = Bench::new()?;
        bench.setup = bench.setup.with_line(&format!("hooks = {{ {hook} = \"exit 3\" }}"));
        let before = bench.inventory()?;
        assert_error(&bench.mtd_with_config(&["run"])?, &[hook, "exit 3", "exit status: 3"]);
        before.assert_same(&bench.inventory()?);
    }
    Ok(())
}

#[test]
fn a_changed_configuration_is_told_setting_by_setting() -> Result<()> {
    let mut bench = Bench::new()?;
    let mut controller = bench.start()?;
    let reload = |bench: &Bench, controller: &Controller| -> Result<Value> {
        let output = controller.command(bench.netns(), &["reload", "--json"])?;
        assert_success(&output);
        let mut document: Value = serde_json::from_slice(&output.stdout)?;
        Ok(document["instances"][0]["settings"].take())
    };
    assert_eq!(reload(&bench, &controller)?, Value::Array(Vec::new()));
    bench.setup.extra.push_str("horizon = \"90s\"\n");
    bench.setup.write()?;
    let expected = serde_json::json!([{"key": "horizon", "in_force": null, "in_file": "\"90s\""}]);
    assert_eq!(reload(&bench, &controller)?, expected);
    let output = controller.command(bench.netns(), &["reload"])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("horizon: (default) -> \"90s\" with the next start"), "{text}");

    controller.process.signal(Signal::SIGHUP)?;
    controller.process.wait_for_line("horizon is the default until the next start", PATIENCE)?;
    bench.setup.extra.push_str("horizont = 7\n");
    bench.setup.write()?;
    assert_error(&controller.command(bench.netns(), &["reload"])?, &["horizont", "did you mean horizon?"]);
    controller.process.signal(Signal::SIGHUP)?;
    controller.process.wait_for_line("not reloaded", PATIENCE)?;
    wait_until("the session", Duration::from_secs(5), || {
        Ok(controller.status(bench.netns())?.peers.len() == 1)
    })?;
    controller.stop().map(drop)
}
