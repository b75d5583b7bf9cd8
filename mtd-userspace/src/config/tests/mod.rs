//! Tests of the configuration: what arrives, and one case for each kind of error.

mod load;
mod metrics;
mod networks;
mod random;
mod reference;
mod registered;
mod values;
mod web;

use std::time::Duration;

use ipnet::Ipv6Net;

use super::*;
use crate::keys::SecretKey;
use crate::model::{
    KeyStreamChoice, LinkMode, MiddleboxChoice, Mode, Policy, Reject, SteeringChoice, XdpChoice,
};

const EXAMPLE: &str = include_str!("../../../../packaging/mtd.toml.example");

/// A file without problems; the cases change one place in it.
const BASE: &str = r#"interface = "eth0"
prefix = ["2001:db8:1::/64", "2001:db8:3::/80"]
address = ["fd00:6d74::1/64", "10.66.0.1/24"]

[[peer]]
name = "laptop"
prefix = "2001:db8:2::/64"
key_file = "laptop.key"
seed = "0011:2233:4455:6677"
peer_seed = "8899AABBCCDDEEFF"
allowed_ips = ["fd00:6d74::2/128", "10.66.0.2/32"]

[[peer]]
name = "desk"
prefix = "2001:db8:4::/96"
local_prefix = "2001:db8:3::/80"
key_file = "desk.key"
seed = "0000:0000:0000:0001"
peer_seed = "0000:0000:0000:0002"
period = "1500ms"
mode = "authenticate"
allowed_ips = "fd00:6d74::3/128"
middlebox = "on"
"#;

fn errors(text: &str) -> String {
    Config::parse(text, "mtd.toml").map_or_else(|error| error.to_string(), |_| "no error".to_owned())
}

/// `(text in BASE, its replacement, the whole error without the name of the file)`.
type Case<'a> = (&'a str, &'a str, &'a str);

fn check(cases: &[Case]) {
    for (old, new, expected) in cases {
        assert_eq!(BASE.matches(old).count(), 1, "{old} must be in BASE once");
        let found = errors(&BASE.replace(old, new));
        let expected: Vec<_> =
            expected.lines().map(|line| format!("mtd.toml:{}", line.trim_start())).collect();
        assert_eq!(found, expected.join("\n"), "{old} -> {new}");
    }
}

fn ip<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

#[test]
fn every_value_arrives() {
    let head = "link = \"on-link\"\nxdp = \"generic\"\nsteering = \"off\"\nkeystream = \"off\"\ndevice = \"tun\"\nmtu = 1_300\nmtu_expires = \"5min\"\nhorizon = \"2min\"\n\
                max_sessions = 0x10\nsocket = \"/run/s\"\nstate_dir = \"/srv/mtd\"\n\
                clock = \"trusted\"\n";
    let config = Config::parse(&format!("{head}{BASE}"), "mtd.toml").unwrap();
    assert_eq!(config.interface, "eth0");
    assert_eq!(config.prefixes, [ip("2001:db8:1::/64"), ip("2001:db8:3::/80")]);
    assert_eq!((config.link, config.xdp), (LinkMode::OnLink, XdpChoice::Generic));
    assert_eq!(config.steering, SteeringChoice::Off);
    assert_eq!(config.keystream, KeyStreamChoice::Off);
    assert_eq!((config.device.as_str(), config.inside_device().as_str()), ("tun", "tunx"));
    assert_eq!(config.addresses, [ip("fd00:6d74::1/64"), ip("10.66.0.1/24")]);
    assert_eq!((config.mtu, config.horizon), (Some(1300), Duration::from_mins(2)));
    assert_eq!(config.mtu_expires, Duration::from_mins(5));
    assert_eq!(config.max_sessions, 16);
    assert_eq!((config.socket, config.state_dir), (Some("/run/s".into()), "/srv/mtd".into()));
    assert_eq!(config.clock, crate::model::ClockChoice::Trusted);
    let expected = Peer {
        name: "desk".to_owned(),
        prefix: ip("2001:db8:4::/96"),
        local_prefix: ip("2001:db8:3::/80"),
        key_file: "desk.key".into(),
        key: (),
        seed: [0, 0, 0, 0, 0, 0, 0, 1],
        peer_seed: [0, 0, 0, 0, 0, 0, 0, 2],
        period: Duration::from_millis(1500),
        mode: Mode::Authenticate,
        allowed_ips: vec![ip("fd00:6d74::3/128")],
        middlebox: MiddleboxChoice::On,
        filter: None,
    };
    assert_eq!(config.peers[1], expected);
    assert_eq!(config.peers[0].seed, [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);
    assert_eq!(config.peers[0].peer_seed, [0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
}

#[test]
fn the_policy_and_what_is_allowed() {
    let text = format!("policy = \"monitor\"\nallow = [\"2001:db8:f::/48 tcp/22\", \"icmpv6\"]\n{BASE}");
    let config = Config::parse(&text, "mtd.toml").unwrap();
    assert_eq!(config.policy, Some(Policy::Monitor));
    let allow: Vec<_> = config.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["2001:db8:f::/48 tcp/22", "icmpv6"]);
    let refused =
        |lines: &str| Config::parse(&format!("{lines}\n{BASE}"), "mtd.toml").unwrap_err().to_string();
    assert!(refused("policy = \"open\"").contains("1:10: policy: \"open\" is not one of"));
    assert!(
        refused("allow = [\"tcp/22\", \"tcp\", \"tcp/22\"]")
            .contains("1:27: allow: tcp/22 is in line 1 already")
    );
    assert!(refused("allow = \"ssh\"").contains("1:9: allow: \"ssh\" is no protocol"));
    let many: Vec<_> = (1..=17).map(|port| format!("\"tcp/{port}\"")).collect();
    assert!(refused(&format!("allow = [{}]", many.join(", "))).contains("allow: more than 16 rules"));
}

#[test]
fn filters_are_read_and_their_mistakes_have_a_place() {
    let peer = |line: &str| BASE.replacen("[[peer]]", &format!("[[peer]]\n{line}"), 1);
    let config = Config::parse(&peer("filter = [\"allow in tcp/22\", \"deny out\"]"), "mtd.toml").unwrap();
    let rules: Vec<_> = config.peers[0].filter.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(
        (rules, config.filter_reject),
        (vec!["allow in tcp/22".into(), "deny out".into()], Reject::Prohibited)
    );
    let line = 1 + BASE[..BASE.find("[[peer]]").unwrap()].lines().count() + 1;
    for (written, expected) in [
        ("filter = []", format!("{line}:10: peer.filter: is an empty list")),
        (
            "filter = [\"allow\", \"allow in tcp/0\"]",
            format!("{line}:20: peer.filter: \"tcp/0\" has no port"),
        ),
        ("filter = \"tcp/22\"", format!("{line}:10: peer.filter: \"tcp/22\" begins with neither")),
    ] {
        let found = errors(&peer(written));
        assert!(found.contains(&expected), "{written}: {found}");
    }
    let many = vec!["\"allow tcp/22\""; 129].join(", ");
    let found = errors(&peer(&format!("filter = [{many}]")));
    assert!(found.contains("peer.filter: has 258 rules of at most 256"), "{found}");
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = Config::parse(BASE, "mtd.toml").unwrap();
    assert_eq!((config.link, config.xdp), (LinkMode::Routed, XdpChoice::Auto));
    assert_eq!(config.steering, SteeringChoice::Auto);
    assert_eq!(config.keystream, KeyStreamChoice::Auto);
    assert_eq!((config.policy, config.allow.len()), (None, 0));
    assert_eq!((config.device.as_str(), config.mtu), ("mtd0", None));
    assert_eq!((config.horizon, config.max_sessions), (DEFAULT_HORIZON, 1024));
    assert_eq!((config.socket, config.state_dir), (None, "/var/lib/mtd".into()));
    let laptop = &config.peers[0];
    assert_eq!(laptop.local_prefix, config.prefixes[0]);
    assert_eq!((laptop.period, laptop.mode), (Duration::from_secs(3), Mode::Encrypt));
}

#[test]
fn with_room_for_many_sessions_the_default_horizon_is_shorter() {
    for (most, horizon) in [(4096, DEFAULT_HORIZON), (4097, DEFAULT_HORIZON_OF_MANY)] {
        let config = Config::parse(&format!("max_sessions = {most}\n{BASE}"), "mtd.toml").unwrap();
        assert_eq!(config.horizon, horizon);
    }
}

#[test]
fn a_file_without_peers_is_all_dark() {
    let text = &BASE[..BASE.find("[[peer]]").unwrap()];
    assert!(Config::parse(text, "mtd.toml").unwrap().peers.is_empty());
    assert!(Config::parse(&format!("peer = []\n{text}"), "mtd.toml").unwrap().peers.is_empty());
}

#[test]
fn the_default_horizon_covers_three_slots_of_the_longest_period() {
    let config = Config::parse(&BASE.replace("1500ms", "1h"), "mtd.toml").unwrap();
    assert_eq!(config.horizon, Duration::from_hours(3));
}

#[test]
fn the_example_parses_and_states_the_true_defaults() {
    let example = Config::parse(EXAMPLE, "mtd.toml.example").unwrap_or_else(|error| panic!("{error}"));
    let spelt_out: Vec<_> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(char::is_alphabetic) => rest,
            _ => line,
        })
        .collect();
    let spelt_out = spelt_out.join("\n");
    let mut explicit =
        Config::parse(&spelt_out, "mtd.toml.example").unwrap_or_else(|error| panic!("{error}"));
    // The default of these depends on the host.
    assert_eq!(
        (explicit.mtu.take(), explicit.socket.take().as_deref(), explicit.rendezvous.port.take()),
        (Some(1428), Some(Path::new("/run/mtd/eth0.sock")), Some(6881))
    );
    assert_eq!(explicit.policy.take(), Some(Policy::Dark));
    // There is no name server without one.
    assert_eq!(std::mem::take(&mut explicit.dns).len(), 2);
    // These have none: files are read and written only on request.
    for server in &mut explicit.servers {
        assert_eq!(server.introduction_file.take().as_deref(), Some(Path::new("home.introduction")));
    }
    let folder = explicit.listen.as_mut().and_then(|listen| listen.introductions_dir.take());
    assert_eq!(folder.as_deref(), Some(Path::new("/var/lib/mtd/introductions")));
    assert_eq!(explicit, example);
    for schema in FORMAT.schemas() {
        let header = format!("\n{}", schema.header);
        let table = &spelt_out[spelt_out.find(&header).expect(schema.header)..];
        for key in FORMAT.names(schema) {
            let assigned = [format!("\n{key} = "), format!("\n[{key}]"), format!("\n[[{key}]]")];
            assert!(assigned.iter().any(|text| table.contains(text)), "{}{key} is missing", schema.path);
        }
    }
}

#[test]
fn broken_toml() {
    check(&[
        ("name = \"laptop\"", "name = \"laptop\"\nname = \"again\"", "7:1: duplicate key; keep one of them"),
        (
            "interface = \"eth0\"",
            "interface \"eth0\"",
            "1:11: key with no value, expected `=`; correct the TOML here",
        ),
    ]);
}

#[test]
fn unknown_keys() {
    check(&[
        (
            "interface = ",
            "interfce = \"eth1\"\nhorizn = \"60s\"\nxyz = 1\ninterface = ",
            "1:1: interfce: unknown key; did you mean interface?
             2:1: horizn: unknown key; did you mean horizon?
             3:1: xyz: unknown key; remove it; the keys known here are interface, prefix, link, interface_wait, policy, allow, filter_reject, xdp, steering, keystream, device, \
             address, mtu, mtu_expires, fwmark, kill_switch, dns, horizon, max_sessions, socket, state_dir, clock, private_key_file, hooks, metrics, web, rendezvous, listen, client, \
             server, peer",
        ),
        ("mode = ", "modus = 1\nmode = ", "21:1: peer.modus: unknown key; did you mean mode?"),
        ("mode = ", "Mode = 1\nmode = ", "21:1: peer.Mode: unknown key; did you mean mode?"),
        ("mode = ", "mtu = 1400\nmode = ", "21:1: peer.mtu: unknown key here; move it above the first line in brackets: lines below [[peer]] belong to it"),
        ("prefix = [", "seed = 1\nprefix = [", "2:1: seed: unknown key here; move it below a line [[peer]], where it belongs"),
    ]);
}

#[test]
fn missing_keys() {
    check(&[
        ("interface = \"eth0\"\n", "", "1:1: interface: is missing; add a line such as interface = \"eth0\""),
        (
            "prefix = [\"2001:db8:1::/64\", \"2001:db8:3::/80\"]\n",
            "",
            "1:1: prefix: is missing; add a line such as prefix = \"2001:db8:1::/64\"",
        ),
        (
            "address = [\"fd00:6d74::1/64\", \"10.66.0.1/24\"]\n",
            "",
            "1:1: address: is missing; add a line such as address = [\"fd00:6d74::1/64\", \"10.66.0.1/24\"]",
        ),
        ("name = \"desk\"\n", "", "13:1: peer.name: is missing; add a line such as name = \"laptop\""),
    ]);
    let found = errors(&format!("{BASE}[[peer]]\n"));
    for key in ["name", "prefix", "key_file", "seed", "peer_seed", "allowed_ips"] {
        let start = format!("mtd.toml:24:1: peer.{key}: is missing; add a line such as {key} = ");
        assert_eq!(found.lines().filter(|line| line.starts_with(&start)).count(), 1, "{key}: {found}");
    }
    assert_eq!(found.lines().count(), 6, "{found}");
}

#[test]
fn wrong_types() {
    check(&[
        ("\"eth0\"", "7", "1:13: interface: is an integer, not a string; write it like interface = \"eth0\""),
        ("\"1500ms\"", "3", "20:10: peer.period: is an integer, not a string; write it like period = \"3s\""),
        (
            "interface = ",
            "mtu = \"1400\"\nmax_sessions = 1.5\ninterface = ",
            "1:7: mtu: is a string, not a whole number; write it like mtu = 1428
             2:16: max_sessions: is a float, not a whole number; write it like max_sessions = 1024",
        ),
        (
            "\"10.66.0.1/24\"",
            "true, {}",
            "3:31: address: is a boolean, not a string; write it like address = [\"fd00:6d74::1/64\", \"10.66.0.1/24\"]
             3:37: address: is a table, not a string; write it like address = [\"fd00:6d74::1/64\", \"10.66.0.1/24\"]",
        ),
        (
            "\"fd00:6d74::3/128\"",
            "[]",
            "22:15: peer.allowed_ips: is an empty list; put in at least one: allowed_ips = [\"fd00:6d74::2/128\", \"10.66.0.2/32\"]",
        ),
    ]);
    let head = &BASE[..BASE.find("[[peer]]").unwrap()];
    assert_eq!(
        errors(&format!("peer = [1]\n{head}")),
        "mtd.toml:1:9: peer: is an integer, not a list of tables; begin each one with a line [[peer]], in double brackets"
    );
    assert_eq!(
        errors(&format!("{head}[peer]\nname = \"a\"\n")),
        "mtd.toml:5:1: peer: is a table, not a list of tables; begin each one with a line [[peer]], in double brackets"
    );
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = BASE
        .replace("eth0", "")
        .replace("10.66.0.1/24", "10.66.0.1")
        .replace("0011:2233:4455:6677", "zz")
        .replace("authenticate", "hide");
    let error = Config::parse(&text, "mtd.toml").unwrap_err();
    let places: Vec<_> =
        error.problems().iter().map(|problem| (problem.position.unwrap(), problem.key.as_str())).collect();
    assert_eq!(
        places,
        [((1, 13), "interface"), ((3, 31), "address"), ((9, 8), "peer.seed"), ((21, 8), "peer.mode")]
    );
}

#[test]
fn columns_count_characters_and_values_are_shown_harmlessly() {
    let found =
        errors(&BASE.replace("[\"fd00:6d74::1/64\", \"10.66.0.1/24\"]", "[\"ééé\", \"\\u001b[31m\"]"));
    let remedy = "is not an address with a prefix length; write it like fd00:6d74::1/64 or 10.66.0.1/24";
    assert_eq!(
        found,
        format!(
            "mtd.toml:3:12: address: \"ééé\" {remedy}\nmtd.toml:3:19: address: \"\\u{{1b}}[31m\" {remedy}"
        )
    );
    let found = errors(&BASE.replace("eth0", &"e".repeat(1000)));
    assert!(found.contains(&format!("\"{}…\"", "e".repeat(64))), "{found}");
}

#[test]
fn of_very_many_problems_some_are_shown_and_the_rest_counted() {
    let text = format!("{BASE}{}", "[[peer]]\n".repeat(100_000));
    let error = Config::parse(&text, "mtd.toml").unwrap_err();
    assert_eq!(error.problems().len(), 100);
    let last = error.to_string().lines().last().unwrap().to_owned();
    // Six keys are missing in each, and max_sessions is not given.
    assert_eq!(last, format!("mtd.toml: and {} more problems; correct these first", 6 * 100_000 - 100));
}
