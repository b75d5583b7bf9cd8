//! Starts that fail: one line says why and what to do, and nothing is left behind.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::{Setup, mtd_program};
use mtd_tests::link::Veth;
use mtd_tests::process::Running;
use mtd_tests::topology::Delivery;
use mtd_tests::wait_until;
use mtd_tests::xdp::{ConstantXdp, Verdict};

use super::bench::{Bench, Objects, PATIENCE, assert_error};

#[test]
fn another_xdp_program_is_not_replaced() -> Result<()> {
    let bench = Bench::new()?;
    let other = ConstantXdp::attach(bench.netns(), bench.ifname(), Verdict::Pass)?;
    for command in [&["run"][..], &["attach", bench.ifname()]] {
        fails(&bench, command, &["the XDP program mtdt_xdp (number ", "another XDP program", "detach it"])?;
    }
    drop(other);
    // The failure is not a crash, so the next start need not be careful.
    let mut controller = bench.start()?;
    let log = controller.process.log();
    assert!(!log.contains("not clean"), "{log}");
    let status = controller.status(bench.netns())?;
    assert!(status.peers[0].hint.as_ref().is_none_or(|hint| !hint.contains("last stop")), "{status:?}");
    controller.stop().map(drop)
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() -> Result<()> {
    let bench = Bench::new()?;
    fs::write(bench.setup.folder().join("state"), "a file where the folder should be")?;
    fails(&bench, &["run"], &["state", "state_dir"])
}

#[test]
fn a_limit_that_is_too_low_is_named_with_how_to_raise_it() -> Result<()> {
    let bench = Bench::new()?;
    let (before, config) = (bench.inventory()?, bench.setup.write()?);
    for limit in [20, 24, 28, 32, 40] {
        let mut command = bench.netns().command("sh")?;
        let line = format!("ulimit -n {limit}; exec \"$0\" run -c \"$1\"");
        command.args(["-c", &line]).arg(mtd_program()?).arg(&config);
        let mut process = Running::spawn("mtd with few files", command)?;
        let status = process.wait(PATIENCE)?;
        let log = process.log();
        ensure!(status.code() == Some(1) && !log.contains("Linux 6.1"), "{limit}: {status} {log}");
        ensure!(log.contains("open files"), "{limit}: {log}");
        before.assert_same(&bench.inventory()?);
    }
    Ok(())
}

#[test]
fn a_tunnel_device_belongs_to_one_controller() -> Result<()> {
    let bench = Bench::new()?;
    let cable = Veth::connect((bench.netns(), "two"), (&bench.topology.router, "two"), 1500)?;
    bench.netns().set_up(&cable.left)?;
    let mut first = bench.start()?;
    let device = || bench.netns().run(&["-o", "addr", "show", "dev", "mtd0"]);
    let before = device()?;
    let mut second = Setup::new(&bench.topology.server, &bench.setup.local, Delivery::Routed)?;
    second.peers.clone_from(&bench.setup.peers);
    second.interface.clone_from(&cable.left);
    let config = second.write()?;
    let config = config.to_str().context("path of the configuration")?;
    let running = bench.ifname();
    assert_error(&bench.mtd(&["run", "-c", config])?, &["mtd0", running, "another name", "device"]);
    ensure!(device()? == before && first.status(bench.netns())?.peers.len() == 1, "the first one goes on");
    first.stop().map(drop)
}

#[test]
fn an_unknown_interface_is_named_with_those_that_exist() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.setup.interface = "nosuch0".to_owned();
    bench.setup = bench.setup.with_line("interface_wait = \"0s\"");
    let existing = bench.ifname().to_owned();
    fails(&bench, &["run"], &["nosuch0", &existing])?;
    fails(&bench, &["attach", "nosuch0"], &["nosuch0", &existing])
}

#[test]
fn an_underlay_with_too_small_an_mtu_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    bench.netns().run(&["link", "set", bench.ifname(), "mtu", "1300"])?;
    fails(&bench, &["run"], &["1300", "raise it to 1352"])
}

#[test]
fn a_foreign_device_of_the_tunnels_name_is_left_alone() -> Result<()> {
    let bench = Bench::new()?;
    // The device is a veth pair, as mtd itself would make, but it does not have mtd's mark and so is not mtd's.
    bench.netns().run(&["link", "add", "mtd0", "type", "veth", "peer", "name", "mtd0x"])?;
    fails(&bench, &["run"], &["mtd0", "not mtd's", "another name"])
}

#[test]
fn a_control_socket_that_cannot_be_made_is_named() -> Result<()> {
    let mut bench = Bench::new()?;
    let path = bench.setup.folder().join("occupied");
    fs::write(&path, "no socket")?;
    bench.setup.extra = format!("socket = {path:?}\n");
    fails(&bench, &["run"], &["occupied", "not a control socket"])?;
    assert_eq!(fs::read_to_string(&path)?, "no socket");
    Ok(())
}

#[test]
fn a_restart_that_fails_leaves_what_a_dead_controller_had_attached() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.inventory()?;
    let mut controller = bench.start()?;
    controller.process.kill()?;
    let objects = settled(&bench)?;
    let state = bench.setup.folder().join("state");
    fs::remove_dir_all(&state)?;
    fs::write(&state, "a file where the folder should be")?;
    // The prefix stays dark, and within the horizon the session continues.
    let dead = bench.inventory()?;
    assert_error(&bench.mtd_with_config(&["run"])?, &["stays", "mtd detach", "state_dir"]);
    assert_eq!(
        dead.changes(&bench.inventory()?),
        ["run-time files"],
        "the dead controller's lock and socket go"
    );
    wait_until("the programs that it had loaded to go", PATIENCE, || Ok(bench.objects()? == objects))?;
    fs::remove_file(&state)?;
    bench.start()?.stop()?;
    bench.assert_nothing_remains(&before, &objects)
}

/// The programs and maps that are there when the kernel has freed those that nobody holds any more.
fn settled(bench: &Bench) -> Result<Objects> {
    let mut last = bench.objects()?;
    wait_until("the kernel to have freed what nobody holds", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = bench.objects()?;
        let settled = now == last;
        last = now;
        Ok(settled)
    })?;
    Ok(last)
}

/// Runs the command with the configuration, and checks that it fails, prints all of `parts`, and changes nothing.
fn fails(bench: &Bench, arguments: &[&str], parts: &[&str]) -> Result<()> {
    let before = bench.inventory()?;
    let output = bench.mtd_with_config(arguments)?;
    assert_error(&output, parts);
    before.assert_same(&bench.inventory()?);
    Ok(())
}
