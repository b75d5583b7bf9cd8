//! Keys do not leak: neither the output of mtd nor the files that a crash leaves contain them.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mtd::config::Config;
use mtd::keys::SecretKey;
use mtd_tests::controller::{Controller, End, Session, Setup, mtd_program};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Delivery, Host, Topology, TopologyOptions};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::PATIENCE;

/// The beginnings of a key in all forms in which it could be printed. A part of a key is as bad as the whole.
fn forms(key: &str) -> Result<Vec<Vec<u8>>> {
    let secret: SecretKey = key.parse().ok().context("no key")?;
    let bytes = &secret.as_bytes()[..6];
    let hex = |upper: bool| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
            text
        })
    };
    let list = bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(vec![key.as_bytes()[..8].to_vec(), hex(false).into(), hex(true).into(), list.into(), bytes.to_vec()])
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Starts a controller with the most verbose log.
fn start(setup: &Setup, netns: &Netns, format: &str) -> Result<Controller> {
    let arguments = ["-vv", "--log-format", format].map(OsStr::new);
    let mut controller = Controller::spawn(netns, &setup.interface, &setup.write()?, &arguments)?;
    controller.wait_ready()?;
    Ok(controller)
}

#[test]
fn keys_are_in_nothing_that_is_printed_and_in_no_core_dump() -> Result<()> {
    mtd_tests::require_root();
    let topology = Topology::standard(&TopologyOptions::default())?;
    let (near, far) = (End::new(1, &topology.client), End::new(2, &topology.server));
    let session = Session::new("encrypt")?;
    let private = String::from_utf8(Command::new(mtd_program()?).arg("genkey").output()?.stdout)?;
    let client = Setup::new(&topology.client, &near, Delivery::Routed)?.with_peer(&session, &far);
    let server = Setup::new(&topology.server, &far, Delivery::Routed)?.with_peer(&session, &near);
    let server = server.with_line(
        "private_key_file = \"private.key\"\n[rendezvous]\nbootstrap = [\"127.0.0.1:1\"]\n[listen]\nperiod = \"1s\"",
    );
    let key_file = server.folder().join("private.key");
    fs::write(&key_file, &private)?;
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;

    // Children inherit the limit: from here on, a process that dies of SIGABRT leaves a core dump.
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
    let mut controllers = [
        (start(&client, &topology.client.netns, "json")?, &topology.client),
        (start(&server, &topology.server.netns, "human")?, &topology.server),
    ];
    setrlimit(Resource::RLIMIT_CORE, soft, hard)?;
    topology.client.netns.wait_reachable(far.v6.into(), PATIENCE)?;
    let mut printed = Vec::new();
    for (controller, host) in &controllers {
        printed.extend(answers(controller, host)?);
    }
    // A second controller is refused, with an error.
    let mut second =
        Controller::spawn(&topology.server.netns, &server.interface, &server.write()?, &["-vv".as_ref()])?;
    ensure!(!second.process.wait(PATIENCE)?.success());
    printed.extend(second.process.log().into_bytes());

    // A crash: this signal makes a core dump of any other process.
    let limits = fs::read_to_string(format!("/proc/{}/limits", controllers[0].0.process.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no limit")?;
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    controllers[0].0.process.signal(Signal::SIGABRT)?;
    let status = controllers[0].0.process.wait(PATIENCE)?;
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    ensure!(!status.core_dumped(), "{status:?}");
    let mut detach = topology.client.netns.command(mtd_program()?)?;
    ensure!(detach.args(["detach", &topology.client.ifname]).status()?.success());
    controllers[1].0.stop()?;

    for (controller, _) in &controllers {
        let log = controller.process.log();
        ensure!(log.contains("TRACE"), "the log does not say everything: {log}");
        printed.extend(log.into_bytes());
    }
    for (what, key) in [("the pre-shared key", session.key.as_str()), ("the private key", private.trim())] {
        for form in forms(key)? {
            ensure!(!contains(&printed, &form), "{what} was printed: {}", String::from_utf8_lossy(&printed));
        }
    }
    // Check that the search works: the private key's file contains the key in the form that is looked for first.
    ensure!(contains(&fs::read(&key_file)?, &forms(private.trim())?[0]));
    Ok(())
}

/// All answers of a controller to commands and to a request for metrics.
fn answers(controller: &Controller, host: &Host) -> Result<Vec<u8>> {
    let mut printed = Vec::new();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["sessions", "--json"],
        &["peers", "list"],
        &["drops", "--json"],
        &["reload"],
    ] {
        let output = controller.command(&host.netns, arguments)?;
        printed.extend([output.stdout, output.stderr].concat());
    }
    let instance = host.netns.enter(|| mtd::instance::Instance::of(&host.ifname))??;
    let mut curl = host.netns.command("curl")?;
    curl.args(["-sS", "--unix-socket", &instance.socket().display().to_string(), "http://x/metrics"]);
    let metrics = curl.output()?.stdout;
    ensure!(contains(&metrics, b"mtd_build_info"), "no metrics");
    printed.extend(metrics);
    Ok(printed)
}

/// A configuration with keys, for a process that will panic.
const PANICS: &str = "MTD_TEST_PANICS_WITH";

#[test]
fn keys_are_in_no_panic() -> Result<()> {
    if let Some(path) = env::var_os(PANICS) {
        let config = Config::load(Path::new(&path))?;
        let session = mtd::proto::session::Session::new(&config.peers[0]);
        let element = session.element(1, 0, 1, [[0; 16]; 2]);
        // The debug form of everything that contains keys, since any of it could appear in the message of a panic.
        panic!("{config:#?} {session:#?} {:#?} {element:#?}", (&session.rx.0, &session.tx.0));
    }
    mtd_tests::require_root();
    let topology = Topology::standard(&TopologyOptions::default())?;
    let (near, far) = (End::new(1, &topology.client), End::new(2, &topology.server));
    let session = Session::new("encrypt")?;
    let setup = Setup::new(&topology.client, &near, Delivery::Routed)?.with_peer(&session, &far);
    let mut child = Command::new(env::current_exe()?);
    child.args(["--exact", "sessions::secrets::keys_are_in_no_panic", "--nocapture"]);
    let output = child.env(PANICS, setup.write()?).env("RUST_BACKTRACE", "full").output()?;
    let printed = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&printed);
    ensure!(!output.status.success() && text.contains("panicked at") && text.contains("peer0"), "{text}");
    for form in forms(&session.key)? {
        ensure!(!contains(&printed, &form), "the pre-shared key was printed: {text}");
    }
    Ok(())
}

#[test]
fn each_line_of_a_json_log_is_an_object() -> Result<()> {
    mtd_tests::require_root();
    let topology = Topology::standard(&TopologyOptions::default())?;
    let setup = Setup::new(&topology.server, &End::new(2, &topology.server), Delivery::Routed)?;
    let mut controller = start(&setup, &topology.server.netns, "json")?;
    controller.stop()?;
    let log = controller.process.stderr()?;
    let mut ready = false;
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(object["timestamp"].is_string() && object["level"].is_string(), "{line}");
        ready |= object["fields"]["message"] == "ready" && object["level"] == "INFO";
    }
    ensure!(ready, "{log}");
    Ok(())
}
