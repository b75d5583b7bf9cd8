//! `mtd status` on one host: warnings about faults of the host, the programs, the exit status.

use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{
    Handshakes, IntroductionFile, Network, Rendezvous, RendezvousRole, Session, Status, WarningCode,
};
use mtd_tests::controller::mtd_program;
use mtd_tests::netns::Netns;
use mtd_tests::process::Running;
use mtd_tests::wait_until;
use nix::pty::openpty;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::bench::{Bench, PATIENCE, assert_success};

/// Warnings that depend on the host on which the tests run, not on the tests.
const OF_THE_HOST: [&str; 1] = ["clock_not_synchronised"];

/// The codes of the present warnings.
fn warnings(bench: &Bench) -> Result<Vec<String>> {
    let output = bench.mtd(&["status", "--json"])?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let warnings = document["instances"][0]["warnings"].as_array().context("no warnings")?.clone();
    let codes = warnings.iter().filter_map(|warning| warning["code"].as_str().map(str::to_owned));
    let mut codes: Vec<_> = codes.filter(|code| !OF_THE_HOST.contains(&code.as_str())).collect();
    // There is one warning for each offload.
    codes.dedup();
    Ok(codes)
}

fn expect(bench: &Bench, expected: &[&str]) -> Result<()> {
    let mut found = Vec::new();
    wait_until(&format!("warnings {expected:?}"), PATIENCE, || {
        found = warnings(bench)?;
        Ok(found == expected)
    })
    .with_context(|| format!("{found:?}"))
}

#[test]
fn what_is_wrong_with_the_host_is_warned_of_as_long_as_it_is() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.setup = bench.setup.with_line("xdp = \"generic\"");
    let mut controller = bench.start()?;
    let (netns, ifname) = (bench.netns(), bench.ifname());
    let ethtool = |device: &str, feature: &str, state: &str| -> Result<()> {
        let output = netns.command("ethtool")?.args(["-K", device, feature, state]).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    };
    expect(&bench, &[])?;

    netns.run(&["link", "set", ifname, "mtu", "1400"])?;
    expect(&bench, &["mtu_too_small"])?;
    netns.run(&["link", "set", ifname, "mtu", "1500"])?;

    ethtool(ifname, "rx-udp-gro-forwarding", "on")?;
    expect(&bench, &["receive_offload"])?;
    ethtool(ifname, "rx-udp-gro-forwarding", "off")?;

    // This one is put right, so that nothing is left to warn of.
    ethtool("mtd0", "tx-checksum-ip-generic", "on")?;
    wait_until("the repair", PATIENCE, || {
        let last = controller.status(netns)?.tunnel_repairs.last;
        Ok(last.is_some_and(|last| last.contains("the offloads of mtd0 set")))
    })?;
    expect(&bench, &[])?;

    let inside = format!("{}1/128", bench.topology.server.prefix.network());
    netns.run(&["address", "add", &inside, "dev", ifname])?;
    expect(&bench, &["address_in_prefix"])?;
    netns.run(&["address", "del", &inside, "dev", ifname])?;

    netns.run(&["link", "set", ifname, "down"])?;
    expect(&bench, &["interface_down"])?;
    netns.run(&["link", "set", ifname, "up"])?;
    expect(&bench, &[])?;

    let text = String::from_utf8(bench.mtd(&["status"])?.stdout)?;
    for part in ["kernel: ", "mtd_receive, number ", "mtd_send, number ", "maps: ", "wall clock: "] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    controller.stop().map(drop)
}

#[test]
fn a_receive_program_that_somebody_took_away_is_missed() -> Result<()> {
    let bench = Bench::new()?;
    let controller = bench.start()?;
    expect(&bench, &[])?;
    // Removing the pin removes the link, since the controller does not hold it in any other way.
    std::fs::remove_file(bench.pins()?.join("links/receive-native"))?;
    expect(&bench, &["not_attached"])?;
    drop(controller);
    Ok(())
}

#[test]
fn the_exit_status_tells_running_orphaned_and_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let code = |arguments: &[&str]| -> Result<Option<i32>> { Ok(bench.mtd(arguments)?.status.code()) };
    let here = ["status", "-i", bench.ifname()];
    assert_eq!((code(&here)?, code(&["status"])?), (Some(4), Some(4)), "nothing");
    let mut controller = bench.start()?;
    assert_eq!((code(&here)?, code(&["status"])?), (Some(0), Some(0)), "running");
    controller.process.kill()?;
    assert_eq!((code(&here)?, code(&["status", "--json"])?), (Some(3), Some(3)), "orphaned");
    expect(&bench, &["no_controller"])?;
    assert_success(&bench.mtd(&["detach", bench.ifname()])?);
    assert_eq!(code(&here)?, Some(4), "detached");
    Ok(())
}

/// Checks that every key of a real document is explained in docs/status.md.
#[test]
fn the_document_is_as_documented() -> Result<()> {
    let bench = Bench::new()?;
    let mut controller = bench.start()?;
    let output = bench.mtd(&["status", "--json"])?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let text = include_str!("../../../docs/status.md");
    let mut missing = Vec::new();
    undocumented(&document, "", text, &mut missing);
    // Parts that this instance does not have are filled in, so that their keys are checked too.
    let more = Status {
        rendezvous: Some(Rendezvous {
            role: RendezvousRole::Both,
            window_seconds: 900,
            window_start: 0,
            last_publication: None,
            last_fetch: None,
            published: 0,
            fetched: 0,
            failed: 0,
            absent: 0,
            pending: 0,
            rejected: [("stale".to_owned(), 1)].into(),
            next_seconds: None,
            network: Network::Ok,
            trouble: None,
            known_nodes: 0,
            files: vec![IntroductionFile {
                server: None,
                path: String::new(),
                good_until: None,
                problem: None,
            }],
            median_fetch_ms: None,
        }),
        handshakes: Some(Handshakes::default()),
        sessions: vec![Session::unknown()],
        ..Status::default()
    };
    undocumented(&serde_json::to_value(more)?, "instances[]", text, &mut missing);
    assert_eq!(missing, Vec::<String>::new(), "not in docs/status.md");
    for code in WarningCode::ALL {
        assert!(text.contains(&format!("`{}`", code.as_str())), "{code:?} is not in docs/status.md");
    }
    controller.stop().map(drop)
}

/// Collects the paths of the document's keys that the text does not have as `` `path` ``.
fn undocumented(value: &Value, path: &str, text: &str, missing: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                // The keys of these objects are reasons.
                let is_map = ["drops", "dropped_from_prefix", "refused", "rejected"]
                    .iter()
                    .any(|map| path.ends_with(map));
                let path = if is_map {
                    path.to_owned()
                } else {
                    format!("{path}.{key}").trim_start_matches('.').to_owned()
                };
                if !text.contains(&format!("`{path}`")) && !missing.contains(&path) {
                    missing.push(path.clone());
                }
                undocumented(value, &path, text, missing);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                undocumented(element, &format!("{path}[]"), text, missing);
            }
        }
        _ => {}
    }
}

#[test]
fn watching_without_a_terminal_prints_again_and_again() -> Result<()> {
    let bench = Bench::new()?;
    let mut controller = bench.start()?;
    let mut command = bench.netns().command(mtd_program()?)?;
    command.args(["status", "--watch", "0.2"]);
    let mut watch = Running::spawn("mtd status --watch", command)?;
    wait_until("three looks", PATIENCE, || Ok(watch.stdout()?.matches("mtd status at ").count() >= 3))?;
    let text = watch.stdout()?;
    assert!(
        text.contains("peer0: waiting") && text.contains("accepted 0/s") && !text.contains('\x1b'),
        "{text}"
    );
    assert!(watch.terminate(Signal::SIGINT, PATIENCE)?.success());
    controller.stop().map(drop)
}

#[test]
fn a_watched_terminal_is_as_before_when_the_user_quits() -> Result<()> {
    for end in [b"q".as_slice(), b"\x03"] {
        let netns = Netns::new("watch")?;
        let pty = openpty(None, None)?;
        let settings = || nix::sys::termios::tcgetattr(&pty.slave).map(|settings| settings.local_flags);
        let before = settings()?;
        let mut command = netns.command(mtd_program()?)?;
        command.args(["status", "--watch"]).stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?);
        let mut child = session_leader(&mut command).spawn()?;
        wait_until("another screen", PATIENCE, || Ok(settings()? != before))?;
        // Nobody reads the drawn text, but it fits into the terminal's buffer.
        std::thread::sleep(Duration::from_millis(200));
        nix::unistd::write(&pty.master, end)?;
        let mut status = None;
        wait_until("the end", PATIENCE, || {
            status = child.try_wait()?;
            Ok(status.is_some())
        })?;
        ensure!(status.is_some_and(|status| status.success()), "{status:?}");
        assert_eq!(settings()?, before);
        let mut drawn = vec![0; 16384];
        let count = nix::unistd::read(&pty.master, &mut drawn)?;
        let drawn = String::from_utf8_lossy(&drawn[..count]).into_owned();
        assert!(drawn.starts_with("\x1b[?1049h\x1b[?25l"), "{drawn:?}");
        assert!(drawn.contains("no controller is running"), "{drawn:?}");
    }
    Ok(())
}

/// Makes standard input the controlling terminal of the command, so that Ctrl-C is a signal to it.
fn session_leader(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt as _;

    // SAFETY: the calls between fork and exec are async-signal-safe and touch no memory of this process.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            let stdin = std::io::stdin().as_raw_fd();
            if libc::ioctl(stdin, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    }
}
