//! The library of mtd's privileged tests and of its demonstration: network namespaces, a ready-made topology, guarded
//! processes, packet capture and injection, packet builders, and bounded traffic generators.
//!
//! Everything here works only on namespaces, links and processes that this process made itself, and removes them when the
//! owning value is dropped. Nothing of the host is listed, changed or deleted.
//!
//! Measurements are independent of mtd: the capture reads an `AF_PACKET` socket, the generators count what arrives at
//! ordinary sockets, and no map or counter of mtd is read.

pub mod advertisement;
pub mod browser;
pub mod capture;
pub mod cleanup;
pub mod clocks;
pub mod controller;
pub mod dht;
pub mod firewall;
pub mod home;
pub mod inject;
pub mod link;
pub mod names;
pub mod netns;
pub mod packet;
mod packet_socket;
pub mod process;
pub mod rendezvous;
pub mod runner;
pub mod swarm;
pub mod topology;
pub mod torture;
pub mod traffic;
pub mod xdp;

#[cfg(test)]
mod selftest;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// The programs that this library starts, and the Debian package that contains each.
const PROGRAMS: [(&str, &str); 3] = [("ip", "iproute2"), ("ethtool", "ethtool"), ("ping", "iputils-ping")];

/// Interval at which conditions are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Checks that namespaces can be made here: the effective user is root, and the programs that this library starts are on
/// `PATH`.
///
/// # Errors
/// When something is missing; the error says what, and how to get it.
pub fn check_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this needs root (it makes network namespaces and raw sockets): run it as root, e.g. through `cargo xtask test`"
    );
    let path = std::env::var_os("PATH").context("PATH is not set, so `ip` and its like cannot be found")?;
    for (program, package) in PROGRAMS {
        ensure!(
            std::env::split_paths(&path).any(|directory| Path::new(&directory).join(program).is_file()),
            "the program `{program}` is not on PATH: install the package `{package}` (`cargo xtask setup` does)"
        );
    }
    Ok(())
}

/// [`check_root`] for tests: a privileged test that cannot run fails, it never passes by skipping.
///
/// # Panics
/// When something is missing, with the message of [`check_root`].
pub fn require_root() {
    if let Err(error) = check_root() {
        panic!("{error:#}");
    }
}

/// Polls `condition` every few milliseconds until it holds.
///
/// `what` completes the sentence "waited 5 s for …" of the error.
///
/// # Errors
/// When `timeout` passes first, or `condition` fails.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        if condition()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} for {what}");
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Runs a command to its end and returns its standard output.
///
/// The command has a process group of its own, so that Ctrl-C at a terminal does not interrupt a clean-up.
fn run_to_end(mut command: Command) -> Result<String> {
    command.process_group(0);
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    checked_output(&command, output)
}

/// The standard output of a command that has succeeded; otherwise an error with its standard error.
fn checked_output(command: &Command, output: Output) -> Result<String> {
    let Output { status, stdout, stderr } = output;
    ensure!(status.success(), "{command:?} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    String::from_utf8(stdout).with_context(|| format!("{command:?} printed something that is not UTF-8"))
}
