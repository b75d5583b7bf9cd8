use std::collections::BTreeMap;
use std::fs;

use clap::Parser;

use super::*;
use crate::control::tests::{Running, sample};
use crate::model::{MapFill, Program, Traffic};
use crate::status::{
    Endpoint, Guard, Handshakes, Middlebox, Network, PathSource, Peer, PeerState, Rendezvous, RendezvousRole,
    Session, SessionRole, SessionState, Slots, Tunnel, WallClock,
};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    status: StatusArgs,
}

/// Unix time in s at which the status is shown.
const NOW: f64 = 1_800_000_100.0;

fn parse(line: &str) -> Result<StatusArgs, clap::Error> {
    Command::try_parse_from(format!("status {line}").split_whitespace()).map(|command| command.status)
}

pub(crate) fn office() -> Peer {
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
        path_mtu: None,
        path_source: PathSource::Configured,
        middlebox: Some(Middlebox::Found),
        answered_where_heard: false,
        dropped_from_prefix: BTreeMap::new(),
        hint: None,
    }
}

pub(crate) fn session() -> Session {
    Session {
        capabilities: None,
        name: "laptop".to_owned(),
        public_key: "vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=".to_owned(),
        role: SessionRole::Server,
        state: SessionState::Open,
        tunnel: Tunnel {
            local: vec!["fd00:6d74::1".parse().unwrap(), "10.66.0.1".parse().unwrap()],
            remote: vec!["fd00:6d74::7".parse().unwrap(), "10.66.0.7".parse().unwrap()],
        },
        mode: Some("encrypt".to_owned()),
        period_seconds: Some(3.0),
        slot: Some(580_000_123),
        local: Some(Endpoint { address: "2001:db8:1::1234".parse().unwrap(), port: 4000 }),
        remote: Some(Endpoint { address: "2001:db8:2::5678".parse().unwrap(), port: 50_000 }),
        prefix: Some("2001:db8:2::/64".parse().unwrap()),
        last_valid_seconds: Some(2.4),
        clock_offset_seconds: Some(-0.0123),
        rekeyed_seconds: Some(30.0),
        path_mtu: Some(1400),
        path_source: PathSource::Told,
        translated: true,
        middlebox: None,
        answered_where_heard: true,
        received: Traffic { packets: 1_000, bytes: 1_572_864 },
        sent: Traffic { packets: 1, bytes: 60 },
        hint: None,
        trouble: None,
    }
}

fn rendezvous() -> Rendezvous {
    Rendezvous {
        role: RendezvousRole::Both,
        window_seconds: 900,
        window_start: 1_800_000_000,
        last_publication: Some(NOW - 5.0),
        last_fetch: None,
        published: 3,
        fetched: 0,
        failed: 1,
        absent: 0,
        pending: 2,
        rejected: BTreeMap::from([("not_opened".to_owned(), 7), ("stale".to_owned(), 9)]),
        next_seconds: Some(61.0),
        network: Network::Ok,
        trouble: None,
        known_nodes: 5,
        files: Vec::new(),
        median_fetch_ms: Some(41.7),
    }
}

fn shown(status: Status) -> Vec<String> {
    human(&[status], Style::new(false), NOW).lines().map(str::to_owned).collect()
}

#[test]
fn people_see_sections_with_aligned_values() {
    let lines = shown(Status { peers: vec![office()], ..sample() });
    let expected = [
        "interface: eth0",
        "  controller:    process 42, version 0.1.0, up 1 min 1 s",
        "  prefixes:      2001:db8:1::/64",
        "  policy:        dark",
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
        "  middlebox here:    found: each slot is opened from here",
        "  received:          1.50 MiB in 1000 packets",
        "  sent:              60 B in 1 packet",
        "",
        "frames",
        "  passed untouched:       0",
        "  accepted:               7",
        "  opened on other CPUs:   0",
        "  sent:                   0",
        "  control messages:       0",
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
fn people_see_programs_clock_slots_and_maps() {
    let program = Program {
        name: "mtd_receive".to_owned(),
        id: 7,
        tag: "0123456789abcdef".to_owned(),
        loaded: Some(NOW - 61.0),
        runs: 1_000,
        run_seconds: 0.000_25,
    };
    let slots = Slots { loaded: 44, horizon_seconds: Some(59.96), ..Slots::default() };
    let lines = shown(Status {
        commit: "0123456789ab".to_owned(),
        kernel: "6.1.0-18-amd64".to_owned(),
        programs: vec![program],
        clock: Some(WallClock { synchronised: true, max_error_seconds: 0.0123, source: None }),
        slots: Some(slots),
        maps: vec![MapFill { name: "sessions".to_owned(), used: 2, capacity: 1024 }],
        ..sample()
    });
    let expected = [
        "  kernel:        6.1.0-18-amd64",
        "  program:       mtd_receive, number 7, tag 0123456789abcdef, loaded 1 min 1 s ago, 1000 runs of 250 ns",
        "  wall clock:    synchronised, to 12 ms at most",
        "  slots:         44 loaded, the first session has them for 60.0 s",
        "  maps:          sessions 2 of 1024",
    ];
    assert_eq!(lines[1], "  controller:    process 42, version 0.1.0 (0123456789ab), up 1 min 1 s");
    assert_eq!(lines[8..13], expected);
}

#[test]
fn the_exit_status_tells_who_is_missing() {
    let absent = || ControlError::NotRunning { owner: "eth0".to_owned() };
    let broken = || ControlError::PermissionDenied { path: "/run/mtd/eth0.sock".into() };
    let (running, orphaned) = (sample(), Status { pid: None, ..sample() });
    for (statuses, failures, code) in [
        (vec![running.clone()], vec![], 0),
        (vec![running.clone(), orphaned.clone()], vec![], 3),
        (vec![running.clone()], vec![absent()], 3),
        (vec![orphaned], vec![broken()], 1),
        (vec![], vec![broken()], 1),
        (vec![], vec![absent()], 4),
    ] {
        let answers = Answers { statuses, failures };
        assert_eq!(
            format!("{:?}", answers.exit_code()),
            format!("{:?}", ExitCode::from(code)),
            "{answers:?}"
        );
    }
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
fn a_server_shows_rendezvous_clients_and_sessions() {
    let handshakes = Handshakes {
        version: 2,
        remarks: Vec::new(),
        received: 12,
        answered: 10,
        refused: BTreeMap::from([("unknown_client".to_owned(), 2)]),
        half_open: 1,
    };
    let mut status = Status {
        public_key: Some(session().public_key),
        rendezvous: Some(rendezvous()),
        handshakes: Some(handshakes),
        clients_registered: Some(3),
        sessions: vec![session()],
        ..sample()
    };
    let lines = shown(status.clone());
    assert_eq!(lines[2], "  public key:    vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=");
    let expected = [
        "rendezvous",
        "  network:   ok",
        "  window:    15 min 0 s, began 1 min 40 s ago",
        "  published: 3, last 5 s ago",
        "  fetched:   0, last never, median 42 ms",
        "  pending:   2, next in 1 min 1 s",
        "  failed:    1",
        "  rejected:  9 stale, 7 not_opened",
        "",
        "clients",
        "  registered:    3",
        "  sessions open: 1",
        "  handshakes:    12 received, 10 answered, 1 half open",
        "  refused:       2 unknown_client",
        "",
        "session with client: laptop",
        "  state:             open",
        "  public key:        vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=",
        "  last valid packet: 2 s ago",
        "  tunnel:            fd00:6d74::1, 10.66.0.1 to fd00:6d74::7, 10.66.0.7",
        "  mode:              encrypt",
        "  slot:              580000123 of 3 s",
        "  local:             [2001:db8:1::1234]:4000",
        "  remote:            [2001:db8:2::5678]:50000",
        "  prefix:            2001:db8:2::/64",
        "  keys:              30 s old",
        "  clock offset:      -0.012 s",
        "  path:              carries packets of up to 1400 B, says a router",
        "  translated:        by a router on the client's side",
        "  middlebox there:   the other end is answered where it was heard",
        "  received:          1.50 MiB in 1000 packets",
        "  sent:              60 B in 1 packet",
        "",
        "frames",
    ];
    let start = lines.iter().position(|line| line == "rendezvous").unwrap();
    assert_eq!(lines[start..start + expected.len()], expected);

    status.sessions = vec![session(); 40];
    let lines = shown(status);
    assert_eq!(lines.iter().filter(|line| *line == "session with client: laptop").count(), 32);
    assert!(lines.contains(&"and 8 more sessions: `mtd sessions` shows all".to_owned()));
}

#[test]
fn a_client_that_has_not_found_its_server_says_so() {
    let finding = Session {
        name: "office".to_owned(),
        hint: Some("nothing is published for this client".to_owned()),
        public_key: session().public_key,
        ..Session::unknown()
    };
    let rendezvous =
        Rendezvous { role: RendezvousRole::Client, network: Network::Unreachable, ..rendezvous() };
    let lines = shown(Status { rendezvous: Some(rendezvous), sessions: vec![finding], ..sample() });
    let start = lines.iter().position(|line| line == "rendezvous").unwrap();
    assert!(lines[start + 1].starts_with("  hint:     no node of the DHT answers"), "{}", lines[start + 1]);
    assert!(!lines.iter().any(|line| line.starts_with("  published:") || line == "clients"), "{lines:#?}");
    let start = lines.iter().position(|line| line == "session with server: office").unwrap();
    let expected = [
        "  hint:              nothing is published for this client",
        "  state:             finding: looking for the server's introduction",
        "  public key:        vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=",
        "  last valid packet: never",
        "  tunnel:            none to none",
        "  received:          0 B in 0 packets",
        "  sent:              0 B in 0 packets",
        "",
    ];
    assert_eq!(lines[start + 1..start + 1 + expected.len()], expected);
}

#[test]
fn a_status_of_before_there_were_sessions_can_be_read() {
    let mut old = serde_json::to_value(sample()).unwrap();
    let new = ["public_key", "rendezvous", "handshakes", "clients_registered", "sessions"];
    for field in new {
        assert!(old.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    let read: Status = serde_json::from_value(old).unwrap();
    assert!(read.sessions.is_empty() && read.rendezvous.is_none());
    assert_eq!(serde_json::to_value(SessionState::HalfOpen).unwrap(), "half-open");
    for state in [SessionState::Finding, SessionState::Connecting, SessionState::HalfOpen, SessionState::Open]
    {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}

#[test]
fn a_data_plane_without_controller_is_pointed_out() {
    let status = Status { pid: None, drops: BTreeMap::new(), ..sample() };
    let warnings = health::warnings(&status, &health::Look::default());
    let lines = shown(Status { warnings, ..status });
    assert!(
        lines[1].starts_with("  warning:       the programs are attached, but no controller"),
        "{}",
        lines[1]
    );
    assert_eq!(lines[3], "  controller:    not running");
    assert_eq!(lines.last().unwrap(), "dropped packets: none");
}

#[test]
fn that_nothing_is_enforced_is_said_aloud() {
    let with = |enforced, confirm_seconds_left, allow: &[&str]| {
        let allow = allow.iter().map(ToString::to_string).collect();
        let guard = Guard { enforced, allow, confirm_seconds_left, ..Guard::default() };
        shown(Status { guard, ..sample() }).join("\n")
    };
    let dark = with(true, None, &["tcp/22", "icmpv6"]);
    assert!(dark.contains("policy:        dark\n  allowed:       tcp/22, icmpv6"), "{dark}");
    assert!(!dark.contains("hint") && !dark.contains("would be dropped"), "{dark}");
    let monitor = with(false, None, &[]);
    assert!(
        monitor.contains("NOT DARK: policy monitor") && monitor.contains("`mtd policy eth0 dark`"),
        "{monitor}"
    );
    assert!(monitor.contains("would be dropped at eth0, passed: none"), "{monitor}");
    let guard =
        Guard { policy: "monitor".to_owned(), enforced: false, unconfirmed: true, ..Guard::default() };
    let refused = shown(Status { guard, ..sample() }).join("\n");
    assert!(
        refused.contains("NOT DARK: nobody confirmed the last") && refused.contains("`mtd confirm eth0`"),
        "{refused}"
    );
    let unconfirmed = with(true, Some(41.6), &[]);
    assert!(unconfirmed.contains("open again in 42 s unless you say `mtd confirm eth0`"), "{unconfirmed}");
    let over = with(false, Some(0.0), &[]);
    assert!(
        over.contains("NOT DARK: nobody confirmed in time") && over.contains("`mtd detach eth0`"),
        "{over}"
    );
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

/// The places of a running server; its socket gets the name that it would have in this network namespace.
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
    // For eth2 there are pins, but nothing can be read from them.
    let offline = |instance: &Instance| {
        assert_ne!(*instance, Instance::of("eth0").unwrap(), "its controller answers");
        let known = *instance == Instance::of("eth1").unwrap();
        known.then(|| Status { pid: None, interface: "eth1".to_owned(), ..sample() })
    };
    let answers = Answers::collect(&Select::default(), &places, offline).await;
    let found: Vec<_> =
        answers.statuses.iter().map(|status| (status.interface.as_str(), status.pid)).collect();
    assert_eq!(found, [("eth0", Some(42)), ("eth1", None)]);
    let error = joined(answers.failures.into_iter().map(Into::into).collect()).unwrap_err();
    assert_eq!(error.to_string(), "no controller is running for eth2; start one with `mtd run -c FILE`");

    let one = Select { interface: Some("eth1".to_owned()), socket: None };
    let answers = Answers::collect(&one, &places, offline).await;
    assert_eq!((answers.statuses.len(), answers.failures.len()), (1, 0));
    assert_eq!(answers.statuses[0].interface, "eth1");

    let socket = Select { interface: None, socket: Some(running.socket()) };
    let nowhere = Places { run: "/nonexistent".into(), pins: "/nonexistent".into() };
    let answers = Answers::collect(&socket, &nowhere, offline).await;
    assert_eq!(answers.statuses[0].interface, "eth0");
}

#[tokio::test]
async fn nothing_to_ask_is_an_error_that_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places { run: folder.path().join("run"), pins: folder.path().join("pins") };
    let answers = Answers::collect(&Select::default(), &places, |_| None).await;
    assert!(answers.statuses.is_empty());
    assert_eq!(
        answers.failures[0].to_string(),
        "no controller is running for any interface of this network namespace; start one with `mtd run -c FILE`"
    );
    let missing = Select { interface: Some("eth7".to_owned()), socket: None };
    let answers = Answers::collect(&missing, &places, |_| None).await;
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
