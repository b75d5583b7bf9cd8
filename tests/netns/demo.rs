//! The demonstration of `cargo xtask run`, short, as a newcomer starts it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::mtd_program;
use mtd_tests::process::Running;
use mtd_tests::require_root;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Longest time that a demonstration of a few slots may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn start(options: &[&str]) -> Result<Running> {
    require_root();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtd-demo"));
    command.args(options).env("MTD_BIN", mtd_program()?);
    Running::spawn("mtd-demo", command)
}

/// Runs the demonstration to its end. Returns the last line of its standard output, and the whole log.
fn run(options: &[&str]) -> Result<(Value, String)> {
    let mut demo = start(options)?;
    let status = demo.wait(PATIENCE)?;
    let log = demo.log();
    ensure!(status.success(), "the demonstration ended with {status}:\n{log}");
    let stdout = demo.stdout()?;
    let last = stdout.lines().last().context("nothing on standard output")?;
    let value = serde_json::from_str(last).with_context(|| format!("the last line is {last:?}"))?;
    ensure!(left_behind(demo.pid())?.is_empty(), "left behind: {:?}", left_behind(demo.pid())?);
    Ok((value, log))
}

/// Namespaces, control sockets and pins of a process of this library and of the controllers that it started.
pub(crate) fn left_behind(pid: u32) -> Result<Vec<String>> {
    // The library names namespaces and interfaces like this, and a controller's files are named after the interface.
    let (namespace, interface) = (format!("mtdt-{pid}-"), format!("-{}-", base36(pid)));
    let mut left = Vec::new();
    for (folder, part) in
        [("/run/netns", &namespace), ("/run/mtd", &interface), ("/sys/fs/bpf/mtd", &interface)]
    {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("cannot list {folder}"))?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.contains(part.as_str()) {
                left.push(format!("{folder}/{name}"));
            }
        }
    }
    Ok(left)
}

fn base36(number: u32) -> String {
    let digit = char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
    if number < 36 { digit.to_string() } else { format!("{}{digit}", base36(number / 36)) }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {pointer} in {value}"))
}

fn milliseconds(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no time {pointer} in {value}"))
}

#[test]
fn the_demonstration_shows_what_it_promises() -> Result<()> {
    let (value, log) = run(&["--slots", "6", "--json"])?;
    let expected = [
        "slots",
        "server_addresses_seen",
        "server_ports_seen",
        "tcp",
        "udp",
        "stranger",
        "plaintext_seen",
        "drops",
        "rendezvous",
        "clients",
        "sessions_open",
        "start_to_first_packet_ms",
    ];
    assert_eq!(keys(&value), BTreeSet::from(expected));
    assert_eq!(keys(&value["tcp"]), BTreeSet::from(["connections", "broken", "bytes"]));
    assert_eq!(keys(&value["udp"]), BTreeSet::from(["sent", "lost"]));
    assert_eq!(keys(&value["stranger"]), BTreeSet::from(["probes", "replies"]));
    assert_eq!(keys(&value["rendezvous"]), BTreeSet::from(["published", "fetched", "median_fetch_ms"]));

    assert_eq!(number(&value, "/slots"), 6);
    // Three sessions, with some slots before and after the traffic, and the introduction.
    assert!((18..=40).contains(&number(&value, "/server_addresses_seen")), "{value}");
    // Two slots may derive the same port.
    assert!((16..=40).contains(&number(&value, "/server_ports_seen")), "{value}");
    assert_eq!(number(&value, "/tcp/connections"), 6);
    assert_eq!(number(&value, "/tcp/broken"), 0);
    assert!(number(&value, "/tcp/bytes") > 1_000_000, "{value}");
    assert!(number(&value, "/udp/sent") > 6_000, "{value}");
    assert_eq!(number(&value, "/udp/lost"), 0);
    assert_eq!(number(&value, "/stranger/replies"), 0);
    assert_eq!(number(&value, "/plaintext_seen"), 0);
    // There is one for each client and window. A window may end meanwhile, and those of the next one are published ahead.
    assert!((3..=9).contains(&number(&value, "/rendezvous/published")), "{value}");
    assert!((3..=6).contains(&number(&value, "/rendezvous/fetched")), "{value}");
    assert_eq!((number(&value, "/clients"), number(&value, "/sessions_open")), (3, 3));
    let fetched = milliseconds(&value, "/rendezvous/median_fetch_ms");
    let first = milliseconds(&value, "/start_to_first_packet_ms");
    // Only that the time is reported is checked, not its value, so that a busy machine does not fail the test.
    assert!(0.0 < fetched && fetched < first, "{value}");
    // The server dropped what the stranger sent, except for a few packets to another prefix because of a bit flip.
    let probes = number(&value, "/stranger/probes");
    let drops = value["drops"].as_object().context("drops")?;
    let dropped: u64 = drops.values().filter_map(Value::as_u64).sum();
    assert!(probes > 100, "{value}");
    assert!((probes * 9 / 10..=probes).contains(&dropped), "{dropped} of {probes} dropped: {value}");
    for reason in
        ["neighbour_dead", "icmpv6", "tcp", "wrong_port", "wrong_peer", "unknown_address", "replayed"]
    {
        assert!(drops.contains_key(reason), "{reason} in {value}");
    }
    assert!(log.contains("Everything held."), "{log}");
    let words: Vec<_> = log.split_whitespace().collect();
    assert!(words.join(" ").contains("looked for it in the DHT, found 0 introductions"), "{log}");
    Ok(())
}

#[test]
fn without_encryption_the_capture_sees_the_marker() -> Result<()> {
    let options = "--seconds 3 --clients 1 --mode authenticate --delivery on-link --no-scan --json"
        .split(' ')
        .collect::<Vec<_>>();
    let (value, log) = run(&options)?;
    assert_eq!(number(&value, "/slots"), 3);
    assert!(number(&value, "/plaintext_seen") > 3_000, "{value}");
    assert_eq!((number(&value, "/clients"), number(&value, "/sessions_open")), (1, 1));
    assert_eq!((number(&value, "/tcp/broken"), number(&value, "/udp/lost")), (0, 0));
    assert_eq!((number(&value, "/stranger/probes"), number(&value, "/stranger/replies")), (0, 0));
    assert!(log.contains("left out (--no-scan)"), "{log}");
    Ok(())
}

#[test]
fn what_does_not_hold_is_said_and_makes_the_exit_code() -> Result<()> {
    let mut demo = start(&["--slots", "3", "--clients", "1", "--no-scan", "--json"])?;
    demo.wait_for_line("Ctrl-C ends it early", PATIENCE)?;
    let own = left_behind(demo.pid())?;
    let router = own.iter().find(|path| path.ends_with("-router")).context("no router")?;
    let route = |change: &[&str]| -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", router.rsplit('/').next().unwrap_or_default(), "-6", "route"]).args(change);
        let output = ip.output()?;
        ensure!(output.status.success(), "{ip:?}: {output:?}");
        Ok(())
    };
    // For a moment the router has no neighbour entry for the client.
    sleep(Duration::from_millis(500));
    route(&["add", "unreachable", "2001:db8:c:1::/64", "metric", "1"])?;
    sleep(Duration::from_millis(500));
    route(&["del", "unreachable", "2001:db8:c:1::/64", "metric", "1"])?;
    let status = demo.wait(PATIENCE)?;
    let log = demo.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Did not hold:") && log.contains("UDP packets were lost"), "{log}");
    let value: Value = serde_json::from_str(demo.stdout()?.lines().last().context("no JSON")?)?;
    assert!(number(&value, "/udp/lost") > 100, "{value}");
    Ok(())
}

#[test]
fn an_interrupt_ends_it_early_and_leaves_nothing() -> Result<()> {
    for moment in ["starting the server", "alice: first packet", "Ctrl-C ends it early"] {
        let mut demo = start(&["--slots", "100"])?;
        demo.wait_for_line(moment, PATIENCE)?;
        assert!(!left_behind(demo.pid())?.is_empty(), "nothing to leave behind");
        let status = demo.terminate(Signal::SIGINT, PATIENCE)?;
        assert_eq!(status.code(), Some(130), "{}", demo.log());
        assert_eq!(left_behind(demo.pid())?, [""; 0], "{}", demo.log());
    }
    Ok(())
}
