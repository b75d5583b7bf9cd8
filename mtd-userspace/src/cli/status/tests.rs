use std::collections::BTreeMap;
use std::fs;

use clap::Parser;

use super::*;
use crate::control::tests::{Running, sample};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    status: StatusArgs,
}

fn parse(line: &str) -> Result<StatusArgs, clap::Error> {
    Command::try_parse_from(format!("status {line}").split_whitespace()).map(|command| command.status)
}

fn office() -> Peer {
    Peer {
        name: "office".to_owned(),
        state: PeerState::Open,
        mode: "encrypt".to_owned(),
        period_seconds: 3.0,
        slot: 580_000_123,
        local: Endpoint { address: "2001:db8:1::1234".parse().unwrap(), port: 4000 },
        remote: Endpoint { address: "2001:db8:2::5678".parse().unwrap(), port: 50_000 },
        slots_ahead: 20,
        last_valid_seconds: Some(2.4),
        clock_offset_seconds: -0.0123,
        received: Traffic { packets: 1_000, bytes: 1_572_864 },
        sent: Traffic { packets: 1, bytes: 60 },
        dropped_from_prefix: BTreeMap::new(),
        hint: None,
    }
}

fn shown(status: Status) -> Vec<String> {
    human(&[status], Style::new(false)).lines().map(str::to_owned).collect()
}

#[test]
fn people_see_sections_with_aligned_values() {
    let lines = shown(Status { peers: vec![office()], ..sample() });
    let expected = [
        "interface: eth0",
        "  controller:    process 42, version 0.1.0, up 1 min 1 s",
        "  prefixes:      2001:db8:1::/64",
        "  link:          routed",
        "  XDP mode:      native",
        "  tunnel device: mtd0, MTU 1428 B",
        "  pins:          /sys/fs/bpf/mtd/eth0",
        "",
        "peer: office",
        "  state:             open",
        "  last valid packet: 2 s ago",
        "  mode:              encrypt",
        "  slot:              580000123 of 3 s, 20 loaded ahead",
        "  local:             [2001:db8:1::1234]:4000",
        "  remote:            [2001:db8:2::5678]:50000",
        "  clock offset:      -0.012 s",
        "  received:          1.50 MiB in 1000 packets",
        "  sent:              60 B in 1 packet",
        "",
        "frames",
        "  passed untouched:       0",
        "  accepted:               7",
        "  sent:                   0",
        "  solicitations answered: 0",
        "  drops not reported:     0",
        "",
        "dropped packets:",
        "  reason   count  meaning",
        "  bad_tag      3  Authentication failed: the packet was changed or forged.",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_is_wrong_with_a_peer_comes_first() {
    let drops = [("wrong_port", 2), ("stale_slot", 30)].map(|(name, count)| (name.to_owned(), count));
    let peer = Peer {
        state: PeerState::Waiting,
        last_valid_seconds: None,
        dropped_from_prefix: drops.into(),
        hint: Some("the clocks disagree".to_owned()),
        ..office()
    };
    let lines = shown(Status { peers: vec![peer], ..sample() });
    let start = lines.iter().position(|line| line == "peer: office").unwrap();
    assert_eq!(lines[start + 1], "  hint:              the clocks disagree");
    assert_eq!(lines[start + 2], "  state:             waiting: no valid packet yet");
    assert_eq!(lines[start + 3], "  last valid packet: never");
    let dropped = "  dropped, sampled:  30 stale_slot, 2 wrong_port (from the peer's prefix)";
    assert!(lines.iter().any(|line| line == dropped), "{lines:#?}");
}

#[test]
fn a_data_plane_without_controller_is_pointed_out() {
    let lines = shown(Status { pid: None, drops: BTreeMap::new(), ..sample() });
    assert!(
        lines[1].starts_with("  hint:          the programs are attached, but no controller"),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2], "  controller:    not running");
    assert_eq!(lines.last().unwrap(), "dropped packets: none");
}

#[test]
fn json_has_one_shape_for_any_number_of_instances() {
    for count in 0..3 {
        let text = json(vec![sample(); count]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["instances"].as_array().unwrap().len(), count);
        assert!(text.ends_with("}\n"));
    }
    let value: serde_json::Value = serde_json::from_str(&json(vec![sample()]).unwrap()).unwrap();
    assert_eq!(value["instances"][0], serde_json::to_value(sample()).unwrap());
}

#[test]
fn the_command_line_is_checked() {
    let args = parse("--json -i eth0").unwrap();
    assert!(args.json);
    assert_eq!(args.select.interface.as_deref(), Some("eth0"));
    for wrong in ["-i ../x", "-i ..", "-i abcdefghijklmnop", "-i eth0 --socket /run/mtd/eth0.sock", "eth0"] {
        let error = parse(wrong).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong}");
    }
    assert!(parse("-i ../x").unwrap_err().to_string().contains("see `ip link`"));
}

/// The places of a running server, whose socket gets the name that it has in this network namespace.
fn places(running: &Running) -> Places {
    let run = running.socket().parent().unwrap().to_owned();
    let socket = ControlSocket::of(&run, "eth0").unwrap().path;
    if socket != running.socket() {
        std::os::unix::fs::symlink(running.socket(), socket).unwrap();
    }
    Places { pins: run.join("../pins"), run }
}

#[tokio::test]
async fn running_and_orphaned_instances_are_found() {
    let running = Running::start();
    let places = places(&running);
    for interface in ["eth0", "eth1", "eth2"] {
        let instance = Instance::of(interface).unwrap();
        fs::create_dir_all(places.pins.join(instance.name())).unwrap();
    }
    // Of what was attached to eth2, nothing can be told.
    let offline = |instance: &Instance| {
        assert_ne!(*instance, Instance::of("eth0").unwrap(), "its controller answers");
        let known = *instance == Instance::of("eth1").unwrap();
        known.then(|| Status { pid: None, interface: "eth1".to_owned(), ..sample() })
    };
    let answers = Answers::collect(&Select::default(), &places, offline).await.unwrap();
    let found: Vec<_> =
        answers.statuses.iter().map(|status| (status.interface.as_str(), status.pid)).collect();
    assert_eq!(found, [("eth0", Some(42)), ("eth1", None)]);
    let error = joined(answers.failures.into_iter().map(Into::into).collect()).unwrap_err();
    assert_eq!(error.to_string(), "no controller is running for eth2; start one with `mtd run -c FILE`");

    let one = Select { interface: Some("eth1".to_owned()), socket: None };
    let answers = Answers::collect(&one, &places, offline).await.unwrap();
    assert_eq!((answers.statuses.len(), answers.failures.len()), (1, 0));
    assert_eq!(answers.statuses[0].interface, "eth1");

    let socket = Select { interface: None, socket: Some(running.socket()) };
    let nowhere = Places { run: "/nonexistent".into(), pins: "/nonexistent".into() };
    let answers = Answers::collect(&socket, &nowhere, offline).await.unwrap();
    assert_eq!(answers.statuses[0].interface, "eth0");
}

#[tokio::test]
async fn nothing_to_ask_is_an_error_that_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places { run: folder.path().join("run"), pins: folder.path().join("pins") };
    let error = Answers::collect(&Select::default(), &places, |_| None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no controller is running for any interface of this network namespace; start one with `mtd run -c FILE`"
    );
    let missing = Select { interface: Some("eth7".to_owned()), socket: None };
    let answers = Answers::collect(&missing, &places, |_| None).await.unwrap();
    assert!(answers.statuses.is_empty());
    let error = answers.failures[0].to_string();
    assert_eq!(error, "no controller is running for eth7; start one with `mtd run -c FILE`");
}

#[test]
fn several_failures_become_one_error() {
    assert!(joined(Vec::new()).is_ok());
    let failures = vec![anyhow::anyhow!("one").context("first"), anyhow::anyhow!("second")];
    assert_eq!(joined(failures).unwrap_err().to_string(), "first: one\nsecond");
}
