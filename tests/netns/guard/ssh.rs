//! mtd refuses to cut the SSH connection over which it is run, except with `--force`.

use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::process::Output;

use anyhow::{Context as _, Result};
use mtd_tests::controller::mtd_program;
use tempfile::TempDir;

use super::operator::{SSH, Site};
use crate::lifecycle::bench::{assert_error, assert_success};

/// Runs `mtd ARGUMENTS… -c CONFIG` over an SSH connection to `server`. `sudo`: behind a program that hides it.
fn over_ssh(site: &Site, server: &str, sudo: bool, arguments: &[&str]) -> Result<Output> {
    let mut command = site.bench.netns().command("/bin/sh")?;
    // The shell stays as the parent process, with its environment.
    let hide = if sudo { "env -u SSH_CONNECTION " } else { "" };
    command.arg("-c").arg(format!("{hide}\"$0\" \"$@\"; code=$?; exit $code")).arg(mtd_program()?);
    command.args(arguments);
    if arguments[0] != "policy" {
        command.arg("-c").arg(site.bench.setup.write()?);
    }
    command.env("SSH_CONNECTION", format!("{} 50000 {server} {SSH}", site.desk()));
    command.output().context("sh")
}

#[test]
fn what_would_cut_the_callers_connection_is_refused_with_the_ways_out() -> Result<()> {
    let mut site = Site::new()?;
    let host = site.host.to_string();
    let ifname = site.bench.ifname().to_owned();
    let before = site.bench.inventory()?;
    let ways = ["your own SSH connection", "allow = [", "--policy monitor", "--confirm-within", "--force"];
    for sudo in [false, true] {
        for command in [&["attach", &ifname][..], &["run"], &["attach", &ifname, "--policy", "dark"]] {
            let output = over_ssh(&site, &host, sudo, command)?;
            assert_error(&output, &ways);
            assert_error(&output, &[&format!("{} tcp/{SSH}", site.desk()), &host]);
            before.assert_same(&site.bench.inventory()?);
        }
    }
    assert!(site.is_open()?);

    // Each remedy in the message works.
    let attach = |site: &Site, more: &[&str]| -> Result<()> {
        assert_success(&over_ssh(site, &host, true, &[&["attach", &ifname][..], more].concat())?);
        assert_success(&site.bench.mtd(&["detach", &ifname])?);
        Ok(())
    };
    attach(&site, &["--confirm-within", "60s"])?;
    attach(&site, &["--force"])?;
    assert_success(&over_ssh(&site, &host, true, &["attach", &ifname, "--policy", "monitor"])?);
    assert_error(&over_ssh(&site, &host, true, &["policy", &ifname, "dark"])?, &ways);
    assert!(site.is_open()?, "still monitoring");
    assert_success(&over_ssh(&site, &host, true, &["policy", &ifname, "dark", "--force"])?);
    // The prefix is dark already, so the caller must have come over another connection.
    assert_success(&over_ssh(&site, &host, true, &["attach", &ifname])?);
    assert_success(&site.bench.mtd(&["detach", &ifname])?);
    site.bench.setup.extra = format!("allow = [\"tcp/{SSH}\"]\n");
    attach(&site, &[])
}

/// Runs `mtd attach` with an empty environment, as a descendant of a process with this name that has a connection to
/// `server`.
fn below(site: &Site, name: &str, server: Ipv6Addr) -> Result<Output> {
    let netns = site.bench.netns();
    let listener = netns.enter(|| TcpListener::bind((server, SSH + 2)))??;
    let client = site.operator().enter(|| TcpStream::connect(listener.local_addr()?))??;
    let (connection, _) = listener.accept()?;
    drop(listener);
    let folder = TempDir::new()?;
    let program = folder.path().join(name);
    symlink("/bin/sh", &program)?;
    let mut command = netns.command(program)?;
    command.args(["-c", "env -i \"$0\" \"$@\"; code=$?; exit $code"]).arg(mtd_program()?);
    command.args(["attach", site.bench.ifname(), "-c"]).arg(site.bench.setup.write()?);
    command.env_remove("SSH_CONNECTION").stdin(OwnedFd::from(connection));
    let output = command.output().context("sh")?;
    drop(client);
    Ok(output)
}

#[test]
fn a_connection_that_no_variable_tells_of_is_found_at_the_server() -> Result<()> {
    let site = Site::new()?;
    let before = site.bench.inventory()?;
    for name in ["sshd", "sshd-session"] {
        let rule = format!("{} tcp/{}", site.desk(), SSH + 2);
        assert_error(
            &below(&site, name, site.host)?,
            &["your own SSH connection", &site.host.to_string(), &rule],
        );
        before.assert_same(&site.bench.inventory()?);
    }
    let outside = site.bench.topology.server.address;
    for (name, server) in [("sshd", outside), ("other", site.host)] {
        assert_success(&below(&site, name, server)?);
        assert_success(&site.bench.mtd(&["detach", site.bench.ifname()])?);
    }
    Ok(())
}

#[test]
fn other_connections_are_no_reason() -> Result<()> {
    let site = Site::new()?;
    let outside = site.bench.topology.server.address.to_string();
    for server in [outside.as_str(), "192.0.2.1", "::ffff:192.0.2.1"] {
        assert_success(&over_ssh(&site, server, false, &["attach", site.bench.ifname()])?);
        assert_success(&site.bench.mtd(&["detach", site.bench.ifname()])?);
    }
    Ok(())
}
