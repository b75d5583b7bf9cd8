//! Tests of the configuration: rendezvous, registered clients, servers.

mod load;
mod together;

use super::*;
use crate::model::{Encoding, MiddleboxChoice, Pool, TunnelAddresses};

const KEYS: [&str; 2] =
    ["vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=", "5Uj0lNkzaZnWLgVD2Bd3r9ev2n1HbBFDr7V0yrcqpyY="];

/// A file without problems; the cases change one place in it.
const FILE: &str = r#"interface = "eth0"
prefix = ["2001:db8:1::/64", "2001:db8:3::/80"]
address = ["fd00:6d74::1/64", "10.66.0.1/24"]
private_key_file = "private.key"

[rendezvous]
window = "5m"
encoding = "ports"
bootstrap = ["dht.example.net:6881", "192.0.2.1:1"]
port = 4000
serve = true
publish_in_flight = 256

[listen]
clients_dir = "who"
pool = ["fd00:6d74::/96", "10.66.0.0/16"]
period = "2s"
mode = "authenticate"
introduction_slot = "1h"
introduction_grace = "1s"
idle_timeout = "24h"
rekey_after = "2s"
expire_after = "7s"
local_prefix = "2001:db8:3::/80"
max_handshakes_per_second = 1
handshakes_per_client = 2

[[client]]
name = "tablet"
public_key = "vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY="
address = ["fd11::77/128", "10.66.0.77"]

[[server]]
name = "office"
public_key = "5Uj0lNkzaZnWLgVD2Bd3r9ev2n1HbBFDr7V0yrcqpyY="
local_prefix = "2001:db8:3::/80"
allowed_ips = "10.20.0.0/16"
keepalive = "40s"
middlebox = "off"
window = "1h"
"#;

/// `(what is replaced in FILE, by what, the whole error less the name of the file)`.
fn check(cases: &[Case]) {
    for (old, new, expected) in cases {
        assert_eq!(FILE.matches(old).count(), 1, "{old} must be in FILE once");
        let expected: Vec<_> =
            expected.lines().map(|line| format!("mtd.toml:{}", line.trim_start())).collect();
        let expected = if expected.is_empty() { "no error".to_owned() } else { expected.join("\n") };
        assert_eq!(errors(&FILE.replace(old, new)), expected, "{old} -> {new}");
    }
}

fn parse(text: &str) -> Config<()> {
    Config::parse(text, "mtd.toml").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_value_arrives() {
    let config = parse(FILE);
    assert_eq!(config.identity, Some(Identity { key_file: "private.key".into(), key: () }));
    let rendezvous = Rendezvous {
        window: Duration::from_mins(5),
        encoding: Encoding::Ports,
        bootstrap: vec!["dht.example.net:6881".to_owned(), "192.0.2.1:1".to_owned()],
        port: Some(4000),
        serve: true,
        publish_in_flight: 256,
    };
    assert_eq!(config.rendezvous, rendezvous);
    let tablet = Client {
        name: "tablet".to_owned(),
        public_key: ip(KEYS[0]),
        addresses: TunnelAddresses { v6: Some(ip("fd11::77")), v4: Some(ip("10.66.0.77")) },
        slot: None,
    };
    let listen = Listen {
        clients_dir: "who".into(),
        clients: vec![tablet],
        pool: Pool { v6: Some(ip("fd00:6d74::/96")), v4: Some(ip("10.66.0.0/16")) },
        period: Duration::from_secs(2),
        longest_slot: Duration::from_secs(30),
        mode: Mode::Authenticate,
        introduction_slot: Duration::from_hours(1),
        introduction_grace: Duration::from_secs(1),
        introductions_ahead: Duration::from_hours(24),
        introductions_dir: None,
        idle_timeout: Duration::from_hours(24),
        rekey_after: Duration::from_secs(2),
        expire_after: Duration::from_secs(7),
        local_prefix: Some(ip("2001:db8:3::/80")),
        max_handshakes_per_second: 1,
        handshakes_per_client: 2,
    };
    assert_eq!(config.listen, Some(listen));
    let office = Server {
        introduction_file: None,
        name: "office".to_owned(),
        public_key: ip(KEYS[1]),
        local_prefix: Some(ip("2001:db8:3::/80")),
        allowed_ips: vec![ip("10.20.0.0/16")],
        keepalive: Duration::from_secs(40),
        slot: None,
        window: Duration::from_hours(1),
        middlebox: MiddleboxChoice::Off,
    };
    assert_eq!(config.servers, [office]);
}

#[test]
fn slots_of_single_clients_and_of_a_server() {
    let with = |slot: &str| {
        let file = FILE.replace("[[client]]", "longest_slot = \"20s\"\n[[client]]");
        let file = file.replace("[[server]]", &format!("slot = \"{slot}\"\n[[server]]"));
        format!("{file}slot = \"1h\"\n")
    };
    let config = parse(&with("8s"));
    let listen = config.listen.unwrap();
    assert_eq!(listen.longest_slot, Duration::from_secs(20));
    assert_eq!(listen.clients[0].slot, Some(Duration::from_secs(8)));
    assert_eq!(config.servers[0].slot, Some(Duration::from_hours(1)));
    let shorter = errors(&with("1s"));
    let expected = "client.slot: 1s is shorter than period of [listen] (2s); write at least \"2s\"";
    assert!(shorter.contains(expected), "{shorter}");
}

#[test]
fn introductions_in_files_are_named_at_both_ends() {
    let file = FILE
        .replace("idle_timeout", "introductions_ahead = \"6h\"\nintroductions_dir = \"out\"\nidle_timeout");
    let file = file.replace("keepalive", "introduction_file = \"office.introduction\"\nkeepalive");
    let config = parse(&file);
    let listen = config.listen.unwrap();
    assert_eq!(listen.introductions_ahead, Duration::from_hours(6));
    assert_eq!(listen.introductions_dir.as_deref(), Some(Path::new("out")));
    assert_eq!(config.servers[0].introduction_file.as_deref(), Some(Path::new("office.introduction")));
    let long = errors(&file.replace("6h", "31d"));
    assert!(long.contains("introductions_ahead"), "{long}");
    assert!(errors(&file.replace("\"office.introduction\"", "\"\"")).contains("is no path"));
}

#[test]
fn what_is_left_out_has_its_default() {
    let head = &FILE[..FILE.find("[rendezvous]").unwrap()];
    let config = parse(&format!("{head}[rendezvous]\n[listen]\n"));
    assert_eq!(config.rendezvous, Rendezvous::default());
    assert_eq!(
        (config.rendezvous.window, config.rendezvous.publish_in_flight),
        (Duration::from_mins(15), 64)
    );
    let listen = config.listen.unwrap();
    assert_eq!(listen.clients_dir, Path::new("clients"));
    assert_eq!(listen.pool, Pool { v6: Some(ip("fd00:6d74::/64")), v4: Some(ip("10.66.0.0/24")) });
    assert_eq!((listen.period, listen.introduction_slot), (Duration::from_secs(3), Duration::from_secs(30)));
    assert_eq!((listen.rekey_after, listen.expire_after), (Duration::from_mins(2), Duration::from_mins(3)));
    assert_eq!(
        (listen.idle_timeout, listen.introduction_grace),
        (Duration::from_mins(1), Duration::from_mins(5))
    );
    assert_eq!((listen.max_handshakes_per_second, listen.handshakes_per_client), (1000, 30));
    assert_eq!(listen.local_prefix, Some(ip("2001:db8:1::/64")));

    let config = parse(&format!("{head}[rendezvous]\nwindow = \"1m\"\n[listen]\n"));
    assert_eq!(
        config.listen.unwrap().introduction_grace,
        Duration::from_mins(1),
        "not longer than the window"
    );
    // Without [listen] and [[server]], nothing of it is needed.
    let config = parse(
        &BASE.replace("[[peer]]\nname = \"desk\"", "[rendezvous]\nbootstrap = []\n[[peer]]\nname = \"desk\""),
    );
    assert_eq!((config.identity, config.listen, config.servers), (None, None, Vec::new()));
}

#[test]
fn a_client_needs_a_server_and_a_key_and_no_address() {
    let text = format!(
        "interface = \"wlan0\"\nprefix = \"interface\"\nlink = \"shared\"\nprivate_key_file = \"k\"\n\
         [rendezvous]\nwindow = \"2m\"\n[[server]]\nname = \"office\"\npublic_key = \"{}\"\n",
        KEYS[1]
    );
    let config = parse(&text);
    assert!(config.follow_prefix && config.prefixes.is_empty() && config.addresses.is_empty());
    assert_eq!(config.link, LinkMode::Shared);
    let server = &config.servers[0];
    assert_eq!((server.local_prefix, server.keepalive), (None, Duration::from_secs(10)));
    assert_eq!(server.window, Duration::from_mins(2), "that of [rendezvous]");
    assert_eq!(
        errors(&text.replace("private_key_file = \"k\"\n", "")),
        "mtd.toml:1:1: private_key_file: is missing; [[server]] needs the own key; add a line such as private_key_file = \
         \"private.key\" at the top, and make the key: (umask 077; mtd genkey > private.key)"
    );
    assert_eq!(
        errors(&text.replace("link = \"shared\"\n", "")),
        "mtd.toml:2:10: prefix: the prefix of the interface is shared with other hosts, and link is \"routed\"; add a line \
         link = \"shared\", or write the protected prefix itself, such as 2001:db8:1::/64"
    );
    assert_eq!(
        errors(&format!("{text}local_prefix = \"2001:db8:1::/64\"\n")),
        "mtd.toml:10:16: server.local_prefix: 2001:db8:1::/64 cannot be chosen: prefix is that of the interface; leave the \
         line out"
    );
    let peer = &BASE[BASE.find("[[peer]]").unwrap()..BASE.rfind("[[peer]]").unwrap()];
    assert_eq!(
        errors(&format!("{text}{peer}")),
        "mtd.toml:2:10: prefix: the prefix of the interface may change, and the peer in line 10 needs to know it; write the \
         prefix itself, or leave the [[peer]] out"
    );
    let fixed = text.replace("\"interface\"", "\"2001:db8:1::/64\"");
    assert!(!parse(&fixed).follow_prefix, "a shared link may have a prefix written down");
    let listed = text.replace("\"interface\"", "[\"interface\"]");
    assert!(
        errors(&listed).contains("\"interface\" is not an address with a prefix length"),
        "{}",
        errors(&listed)
    );
}

#[test]
fn values_that_are_none() {
    check(&[
        (
            "\"5m\"",
            "\"59s\"",
            "7:10: rendezvous.window: 59s is out of range; write a time from 1m to 1day, such as \"3s\", \"1500ms\" or \"1min\"",
        ),
        (
            "\"5m\"",
            "\"61500ms\"",
            "7:10: rendezvous.window: 1m 1s 500ms is not a whole number of seconds; write \"61s\"",
        ),
        (
            "\"ports\"",
            "\"port\"",
            "8:12: rendezvous.encoding: \"port\" is not one of \"mutable\", \"ports\"; did you mean \"ports\"?",
        ),
        ("4000", "0", "10:8: rendezvous.port: 0 is out of range; write a whole number from 1 to 65535"),
        (
            "true",
            "1",
            "11:9: rendezvous.serve: is an integer, not true or false; write it like serve = false",
        ),
        (
            "= 256",
            "= 257",
            "12:21: rendezvous.publish_in_flight: 257 is out of range; write a whole number from 1 to 256",
        ),
        ("\"who\"", "\"\"", "15:15: listen.clients_dir: \"\" is no path; write a path such as clients"),
    ]);
}

#[test]
fn values_of_servers_and_clients_that_are_none() {
    check(&[
        (
            "\"24h\"",
            "\"4s\"",
            "21:16: listen.idle_timeout: 4s is out of range; write a time from 5s to 1day, such as \"3s\", \"1500ms\" or \"1min\"",
        ),
        (
            "= 1\n",
            "= 0\n",
            "25:29: listen.max_handshakes_per_second: 0 is out of range; write a whole number from 1 to 1000000",
        ),
        (
            "\"40s\"",
            "\"never\"",
            "38:13: server.keepalive: \"never\" is no duration (expected number at 0); write a time from 1s to 1h, such as \"3s\", \"1500ms\" or \"1min\"",
        ),
        (
            "\"tablet\"",
            "\"a/b\"",
            "29:8: client.name: \"a/b\" is no name for a peer; write 1 to 32 letters, digits, dots, underscores or hyphens, in ASCII",
        ),
        (
            "\"fd11::77/128\"",
            "\"fd11::77/64\"",
            "31:12: client.address: fd11::77/64 is a network; a client gets single addresses; write fd11::77",
        ),
        (
            "\"fd11::77/128\"",
            "\"ten\"",
            "31:12: client.address: \"ten\" is not an address; write it like fd00:6d74::77 or 10.66.0.77",
        ),
        (
            "\"fd11::77/128\"",
            "\"ff02::1\"",
            "31:12: client.address: ff02::1 is not an address that a host can have in a network; write a unicast address, such as fd00:6d74::77 or 10.66.0.77",
        ),
        ("name = \"office\"\n", "", "33:1: server.name: is missing; add a line such as name = \"office\""),
    ]);
}

#[test]
fn public_keys() {
    let public_key = "write the 44 characters that mtd pubkey prints at the other end";
    for bad in ["", "topsecret", "AAAA", &KEYS[0].replace('=', "")] {
        let found = errors(&FILE.replace(KEYS[0], bad));
        assert_eq!(found, format!("mtd.toml:30:14: client.public_key: is no public key; {public_key}"));
    }
    let zeros = format!("{}=", "A".repeat(43));
    assert_eq!(
        errors(&FILE.replace(KEYS[0], &zeros)),
        format!(
            "mtd.toml:30:14: client.public_key: is a public key to which no private key can belong; {public_key}"
        )
    );
}

#[test]
fn nodes_of_the_dht() {
    let remedy = "write a host and a port, such as dht.example.net:6881 or 192.0.2.1:6881";
    for (bad, what) in [
        ("dht.example.net", "has no port"),
        ("dht.example.net:", "has no port that is a number from 1 to 65535"),
        ("dht.example.net:0", "has no port that is a number from 1 to 65535"),
        ("[2001:db8::1]:6881", "is an IPv6 address; the DHT has only IPv4"),
        (":6881", "names no host"),
        ("a b:6881", "names no host"),
        ("192.0.2:6881", "names no host"),
    ] {
        let found = errors(&FILE.replace("dht.example.net:6881", bad));
        assert_eq!(found, format!("mtd.toml:9:14: rendezvous.bootstrap: \"{bad}\" {what}; {remedy}"));
    }
}

#[test]
fn tables_and_keys_in_the_wrong_place() {
    check(&[
        ("[[client]]", "[client]", "28:1: client: is a table, not a list of tables; begin each one with a line [[client]], in double brackets"),
        ("[listen]", "[[listen]]", "14:1: listen: is an array, not a table; begin it with one line [listen], in single brackets
            28:1: client: this host does not listen for clients; add a line [listen], or leave the clients out"),
        ("port = 4000", "pool = 1", "10:1: rendezvous.pool: unknown key here; move it below a line [listen], where it belongs"),
        ("port = 4000", "mtu = 1", "10:1: rendezvous.mtu: unknown key here; move it above the first line in brackets: lines below [rendezvous] belong to it"),
        ("interface = ", "window = \"1m\"\ninterface = ", "1:1: window: unknown key here; move it below a line [rendezvous] or [[server]], where it belongs"),
        ("idle_timeout", "idle_timout", "21:1: listen.idle_timout: unknown key; did you mean idle_timeout?"),
    ]);
}
