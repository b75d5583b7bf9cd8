//! Tests of the configuration: rendezvous, registered clients, servers.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::{Encoding, Pool, TunnelAddresses};

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
    };
    let listen = Listen {
        clients_dir: "who".into(),
        clients: vec![tablet],
        pool: Pool { v6: Some(ip("fd00:6d74::/96")), v4: Some(ip("10.66.0.0/16")) },
        period: Duration::from_secs(2),
        mode: Mode::Authenticate,
        introduction_slot: Duration::from_hours(1),
        introduction_grace: Duration::from_secs(1),
        idle_timeout: Duration::from_hours(24),
        rekey_after: Duration::from_secs(2),
        expire_after: Duration::from_secs(7),
        local_prefix: Some(ip("2001:db8:3::/80")),
        max_handshakes_per_second: 1,
        handshakes_per_client: 2,
    };
    assert_eq!(config.listen, Some(listen));
    let office = Server {
        name: "office".to_owned(),
        public_key: ip(KEYS[1]),
        local_prefix: Some(ip("2001:db8:3::/80")),
        allowed_ips: vec![ip("10.20.0.0/16")],
        keepalive: Duration::from_secs(40),
        window: Duration::from_hours(1),
    };
    assert_eq!(config.servers, [office]);
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
    let public_key = "write the 44 characters that mtd pubkey prints at the other end";
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
    for bad in ["", "topsecret", "AAAA", &KEYS[0].replace('=', "")] {
        let found = errors(&FILE.replace(KEYS[0], bad));
        assert_eq!(found, format!("mtd.toml:30:14: client.public_key: is no public key; {public_key}"));
    }
    let zeros = format!("{}=", "A".repeat(43));
    assert_eq!(
        errors(&FILE.replace(KEYS[0], &zeros)),
        format!(
            "mtd.toml:30:14: client.public_key: is no public key that anybody can have the private key of; {public_key}"
        )
    );
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
fn pools() {
    let pool = "[\"fd00:6d74::/96\", \"10.66.0.0/16\"]";
    check(&[
        (pool, "\"fd00:6d74::/64\"", ""),
        (
            "\"10.66.0.0/16\"",
            "\"10.66.1.0/16\"",
            "16:27: listen.pool: host bits are set in 10.66.1.0/16; write 10.66.0.0/16",
        ),
        (
            "\"10.66.0.0/16\"",
            "\"10.66.0.0\"",
            "16:27: listen.pool: 10.66.0.0 has no prefix length; write 10.66.0.0/24",
        ),
        (
            "\"10.66.0.0/16\"",
            "\"10.66.0.0/31\"",
            "16:27: listen.pool: 10.66.0.0/31 has 31 bits; a pool of this family has 8 to 30; write a smaller or larger network, such as fd00:6d74::/64 or 10.66.0.0/24",
        ),
        (
            "\"10.66.0.0/16\"",
            "\"fd01::/64\"",
            "16:27: listen.pool: fd01::/64 is a second IPv6 network; keep one network of each family",
        ),
        (
            pool,
            "[]",
            "16:8: listen.pool: is an empty list; put in at least one: pool = [\"fd00:6d74::/64\", \"10.66.0.0/24\"]",
        ),
        (
            "\"fd00:6d74::/96\"",
            "\"2001:db8::/32\"",
            "16:9: listen.pool: 2001:db8::/32 overlaps the protected prefix 2001:db8:1::/64; write a network of the tunnel's own, such as fd00:6d74::/64",
        ),
        (
            ", \"10.66.0.1/24\"",
            "",
            "16:27: listen.pool: 10.66.0.0/16: this host has no IPv4 address that such clients could reach; add one to address, or take 10.66.0.0/16 out",
        ),
    ]);
    let single = FILE
        .replace(&format!("pool = {pool}\n"), "")
        .replace("fd00:6d74::1/64", "fd00:6d74::1/128")
        .replace("10.66.0.1/24", "10.66.0.1/32");
    assert_eq!(
        errors(&single),
        "mtd.toml:14:1: listen.pool: is missing, and no network of address has room for clients; add a line such as pool = \
         [\"fd00:6d74::/64\", \"10.66.0.0/24\"]"
    );
}

#[test]
fn what_does_not_go_together() {
    check(&[
        (
            "\"7s\"",
            "\"6s\"",
            "23:16: listen.expire_after: 6s is less than rekey_after (2s) and 5s for the new keys to be agreed on; write at least expire_after = \"7s\"",
        ),
        ("expire_after = \"7s\"\n", "", ""),
        (
            "rekey_after = \"2s\"\n",
            "",
            "22:16: listen.expire_after: 7s is less than rekey_after (2m) and 5s for the new keys to be agreed on; write at least expire_after = \"2m 5s\"",
        ),
        (
            "\"1s\"",
            "\"301s\"",
            "20:22: listen.introduction_grace: 5m 1s is longer than a window of the rendezvous (5m); write at most \"5m\"",
        ),
        (
            "interface = ",
            "horizon = \"5s\"\ninterface = ",
            "1:11: horizon: 5s is less than 3 slots of 2s ([listen] in line 15); write at least \"6s\"",
        ),
        (
            "interface = ",
            "max_sessions = 1\ninterface = ",
            "1:16: max_sessions: 1 sessions are fewer than the 2 peers, servers and clients of this file; write at least 2",
        ),
        (
            "\"office\"",
            "\"tablet\"",
            "34:8: server.name: tablet is a name in line 29 already; write another name",
        ),
        (
            KEYS[1],
            KEYS[0],
            "35:14: server.public_key: is in line 30 already; write the other end's own public key",
        ),
        (
            "\"10.66.0.77\"",
            "\"10.66.0.1\"",
            "31:28: client.address: 10.66.0.1 is this host's own tunnel address; write another address",
        ),
        (
            "\"10.66.0.77\"",
            "\"fd11::78\"",
            "31:28: client.address: fd11::78 is a second IPv6 address; keep one address of each family",
        ),
        (
            "\"fd11::77/128\"",
            "\"2001:db8:1::7\"",
            "31:12: client.address: 2001:db8:1::7 lies in the protected prefix 2001:db8:1::/64; write an address of the tunnel's own inner network, such as fd00:6d74::77",
        ),
        (
            "\nlocal_prefix = \"2001:db8:3::/80\"\nmax",
            "\nlocal_prefix = \"2001:db8:4::/80\"\nmax",
            "24:16: listen.local_prefix: 2001:db8:4::/80 is not a protected prefix of this host; write one of prefix: 2001:db8:1::/64, 2001:db8:3::/80",
        ),
        (
            "[[client]]",
            "[[client]]\nname = \"other\"\npublic_key = \"EWdn5E+6XsYzhWpG28+icwpu8kjByL3ya6CB7EuXrEQ=\"\naddress = \"10.66.0.77\"\n[[client]]",
            "35:28: client.address: 10.66.0.77 is in line 31 already; leave it with one client",
        ),
    ]);
    let without_listen =
        format!("{}{}", &FILE[..FILE.find("[listen]").unwrap()], &FILE[FILE.find("[[client]]").unwrap()..]);
    assert_eq!(
        errors(&without_listen),
        "mtd.toml:14:1: client: this host does not listen for clients; add a line [listen], or leave the clients out"
    );
    let peer = &BASE[BASE.find("[[peer]]").unwrap()..BASE.rfind("[[peer]]").unwrap()];
    let with_peer = format!("{FILE}{}", peer.replace("10.66.0.2/32", "10.66.0.77/32\", \"10.20.0.0/16"));
    assert_eq!(
        errors(&with_peer),
        "mtd.toml:31:28: client.address: 10.66.0.77 is an address of a peer; write another address\n\
         mtd.toml:46:53: peer.allowed_ips: 10.20.0.0/16 is in line 37 already; leave it with the one whose packets may come \
         from there"
    );
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

/// A folder with FILE and a good key for it.
fn folder() -> (tempfile::TempDir, SecretKey) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("mtd.toml"), FILE).unwrap();
    let key = SecretKey::generate().unwrap();
    write_key(&folder, "private.key", &key);
    (folder, key)
}

fn write_key(folder: &tempfile::TempDir, name: &str, key: &SecretKey) {
    let path = folder.path().join(name);
    write(&path, key.to_base64().as_bytes()).unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

fn load_errors(folder: &tempfile::TempDir) -> String {
    let error = Config::load(&folder.path().join("mtd.toml")).map(|_| ()).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn load_reads_the_own_key_and_joins_the_paths() {
    let (folder, key) = folder();
    let path = folder.path().join("mtd.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(
        config.identity,
        Some(Identity { key_file: folder.path().join("private.key"), key: key.clone() })
    );
    assert_eq!(config.listen.as_ref().unwrap().clients_dir, folder.path().join("who"));
    assert!(!format!("{config:?}").contains(&*key.to_base64()));
    // What needs no secrets can be read without them.
    std::fs::remove_file(folder.path().join("private.key")).unwrap();
    let read = Config::read(&path).unwrap();
    assert_eq!((&read.listen, &read.servers), (&config.listen, &config.servers));
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:4:20: private_key_file: cannot read private.key: No such file or directory (os error 2); make one: (umask \
         077; mtd genkey > private.key)"
    );
}

#[test]
fn load_refuses_keys_that_are_zero_or_somebody_elses() {
    let (folder, key) = folder();
    write_key(&folder, "private.key", &SecretKey::from_bytes([0; 32]));
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:4:20: private_key_file: private.key holds a key of zeros; make one: (umask 077; mtd genkey > private.key)"
    );
    write_key(&folder, "private.key", &key);
    let text = FILE.replace(KEYS[0], &key.public().to_string());
    write(folder.path().join("mtd.toml"), &text).unwrap();
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:30:14: client.public_key: is this host's own public key; write the public key of the other end, which mtd \
         pubkey prints there"
    );
    let peer = &BASE[BASE.find("[[peer]]").unwrap()..BASE.rfind("[[peer]]").unwrap()];
    write(folder.path().join("mtd.toml"), format!("{FILE}{peer}")).unwrap();
    write_key(&folder, "laptop.key", &key);
    assert_eq!(
        load_errors(&folder),
        "mtd.toml:4:20: private_key_file: private.key holds the pre-shared key of peer laptop; make one: (umask 077; mtd \
         genkey > private.key)"
    );
    write(
        folder.path().join("mtd.toml"),
        FILE.replace("\"private.key\"", &format!("\"{}\"", *key.to_base64())),
    )
    .unwrap();
    let found = load_errors(&folder);
    assert!(
        found.starts_with("mtd.toml:4:20: private_key_file: is a key, not the name")
            && !found.contains(&key.to_base64()[..8]),
        "{found}"
    );
}
