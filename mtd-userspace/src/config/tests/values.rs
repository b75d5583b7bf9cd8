//! Tests of the configuration: values of single keys.

use super::*;

#[test]
fn interface_names() {
    let remedy = "write 1 to 15 ASCII characters without spaces and without / : %";
    for name in ["", ".", "..", "a b", "a/b", "a:b", "a%d", "é0", "sixteen-letters-"] {
        let found = errors(&BASE.replace("eth0", name));
        assert_eq!(found, format!("mtd.toml:1:13: interface: \"{name}\" is no interface name; {remedy}"));
    }
    assert!(Config::parse(&BASE.replace("eth0", "fifteen-letters"), "").is_ok());
    check(&[(
        "interface = ",
        "device = \"fifteen-letters\"\ninterface = ",
        "1:10: device: \"fifteen-letters\" is no interface name; write 1 to 14 ASCII characters without spaces and \
         without / : %",
    )]);
    for interface in ["tun", "tunx"] {
        assert_eq!(
            errors(&format!("device = \"tun\"\n{}", BASE.replace("eth0", interface))),
            "mtd.toml:1:10: device: mtd would create tun and tunx, one of which is the underlay interface; write \
             a name that no interface has, such as device = \"mtd1\""
        );
    }
    for interface in ["mtd0", "mtd0x"] {
        assert_eq!(
            errors(&BASE.replace("eth0", interface)),
            "mtd.toml:1:13: device: mtd would create mtd0 and mtd0x, one of which is the underlay interface; write a \
             name that no interface has, such as device = \"mtd1\""
        );
    }
}

#[test]
fn seeds() {
    let remedy = "write all 16 hexadecimal digits, such as 0011:2233:4455:6677";
    for bad in [
        "",
        "0",
        "00112233445566778",
        "0011:2233:4455:667",
        "11:2233:4455:6677",
        "0011:2233:4455:66zz",
        "0011::4455:6677",
        "001122:334455:6677",
        "0011:2233:4455:6677:",
        ":::",
        "0011-2233-4455-6677",
    ] {
        let found = errors(&BASE.replace("0011:2233:4455:6677", bad));
        assert_eq!(found, format!("mtd.toml:9:8: peer.seed: \"{bad}\" is no seed of 64 bits; {remedy}"));
    }
    check(&[(
        "8899AABBCCDDEEFF",
        "0011223344556677",
        "10:13: peer.peer_seed: is the same as seed; give each end 64 random bits of its own; what is seed here is \
         peer_seed there",
    )]);
}

#[test]
fn a_start_waits_for_ever_or_as_long_as_is_said() {
    let wait = |line: &str| Config::parse(&format!("{line}\n{BASE}"), "").map(|config| config.interface_wait);
    assert_eq!(wait("").unwrap(), None);
    assert_eq!(wait("interface_wait = \"forever\"").unwrap(), None);
    assert_eq!(wait("interface_wait = \"0s\"").unwrap(), Some(Duration::ZERO));
    assert_eq!(wait("interface_wait = \"5m\"").unwrap(), Some(Duration::from_mins(5)));
    let error = wait("interface_wait = \"for ever\"").unwrap_err().to_string();
    assert!(error.contains("; or write \"forever\""), "{error}");
}

#[test]
fn durations() {
    let remedy = "write a time from 1s to 1h, such as \"3s\", \"1500ms\" or \"1min\"";
    for (bad, seen) in [("999ms", "999ms"), ("61min", "1h 1m"), ("0s", "0s"), ("1year", "1year")] {
        let found = errors(&BASE.replace("1500ms", bad));
        assert_eq!(found, format!("mtd.toml:20:10: peer.period: {seen} is out of range; {remedy}"));
    }
    for bad in ["", "3", "s", "3 sloths", "-1s", "99999999999999999999s"] {
        let found = errors(&BASE.replace("1500ms", bad));
        assert!(
            found.starts_with(&format!("mtd.toml:20:10: peer.period: \"{bad}\" is no duration (")),
            "{found}"
        );
        assert!(found.ends_with(&format!("); {remedy}")), "{found}");
    }
    for good in ["1s", "1h", "1000ms", "60min"] {
        assert_eq!(errors(&BASE.replace("1500ms", good)), "no error");
    }
    check(&[
        (
            "interface = ",
            "horizon = \"4s\"\ninterface = ",
            "1:11: horizon: 4s is out of range; write a time from 5s to 3h, such as \"3s\", \"1500ms\" or \"1min\"",
        ),
        (
            "interface = ",
            "horizon = \"8s\"\ninterface = ",
            "1:11: horizon: 8s is less than 3 slots of 3s (the peer in line 6); write at least \"9s\"",
        ),
    ]);
    let longer = BASE.replace("1500ms", "30s");
    assert_eq!(
        errors(&format!("horizon = \"89s\"\n{longer}")),
        "mtd.toml:1:11: horizon: 1m 29s is less than 3 slots of 30s (the peer in line 14); write at least \"1m 30s\""
    );
    assert_eq!(errors(&format!("horizon = \"1m 30s\"\n{longer}")), "no error");
}

#[test]
fn numbers() {
    for (key, bad, remedy) in [
        ("mtu", "1279", "write a whole number from 1280 to 1428"),
        ("mtu", "1429", "write a whole number from 1280 to 1428"),
        ("mtu", "-1", "write a whole number from 1280 to 1428"),
        ("max_sessions", "0", "write a whole number from 1 to 1000000"),
        ("max_sessions", "1000001", "write a whole number from 1 to 1000000"),
        ("max_sessions", "99999999999999999999999", "write a whole number from 1 to 1000000"),
        ("max_sessions", "0xffffffffff", "write a whole number from 1 to 1000000"),
    ] {
        let found = errors(&format!("{key} = {bad}\n{BASE}"));
        let column = key.len() + 4;
        assert_eq!(found, format!("mtd.toml:1:{column}: {key}: {bad} is out of range; {remedy}"));
    }
    check(&[(
        "interface = ",
        "max_sessions = 1\ninterface = ",
        "1:16: max_sessions: 1 sessions are fewer than the 2 peers, servers and clients of this file; write at least 2",
    )]);
    assert_eq!(errors(&format!("max_sessions = 2\n{BASE}")), "no error");
}

#[test]
fn choices() {
    check(&[
        (
            "interface = ",
            "link = \"onlink\"\nxdp = \"offload\"\ninterface = ",
            "1:8: link: \"onlink\" is not one of \"routed\", \"on-link\", \"shared\"; did you mean \"on-link\"?
             2:7: xdp: \"offload\" is not one of \"auto\", \"native\", \"generic\"; write \"auto\" or \"native\" or \"generic\"",
        ),
        (
            "\"authenticate\"",
            "\"Encrypt\"",
            "21:8: peer.mode: \"Encrypt\" is not one of \"encrypt\", \"authenticate\"; did you mean \"encrypt\"?",
        ),
    ]);
}

#[test]
fn names_of_peers() {
    let long = "n".repeat(33);
    let remedy = "write 1 to 32 letters, digits, dots, underscores or hyphens, in ASCII";
    for bad in ["", "two words", "a/b", "é", &long] {
        let found = errors(&BASE.replace("\"laptop\"", &format!("\"{bad}\"")));
        assert_eq!(found, format!("mtd.toml:6:8: peer.name: \"{bad}\" is no name for a peer; {remedy}"));
    }
    check(&[(
        "\"desk\"",
        "\"laptop\"",
        "14:8: peer.name: laptop is a name in line 6 already; write another name",
    )]);
}

#[test]
fn paths() {
    let long = format!("/{}", "s".repeat(107));
    let socket = |path: &str| errors(&format!("socket = \"{path}\"\n{BASE}"));
    assert_eq!(
        socket(&long),
        "mtd.toml:1:10: socket: is 108 bytes long; the path of a socket has at most 107; write a shorter path, such as \
         /run/mtd/eth0.sock"
    );
    assert_eq!(socket(&long[..107]), "no error");
    assert_eq!(
        socket("mtd.sock"),
        "mtd.toml:1:10: socket: \"mtd.sock\" is a relative path; write an absolute path, which begins with /"
    );
    check(&[
        (
            "interface = ",
            "state_dir = \"\"\ninterface = ",
            "1:13: state_dir: \"\" is no path; write a path such as /var/lib/mtd",
        ),
        (
            "interface = ",
            "state_dir = \"/a\\u0000b\"\ninterface = ",
            "1:13: state_dir: \"/a\\0b\" is no path; write a path such as /var/lib/mtd",
        ),
        (
            "\"desk.key\"",
            "\"laptop.key\"",
            "17:12: peer.key_file: laptop.key is the key file of the peer in line 8 already; give each peer a key of its \
             own, from mtd genpsk",
        ),
    ]);
}

#[test]
fn a_key_in_place_of_its_file_is_not_repeated_in_the_error() {
    let key = SecretKey::generate_psk().unwrap().to_base64();
    let found = errors(&BASE.replace("laptop.key", &key));
    assert_eq!(
        found,
        "mtd.toml:8:12: peer.key_file: is a key, not the name of a file that holds one; put the key in a file that only \
         its owner can read, and write the name of that file here"
    );
    let found = errors(&BASE.replace("key_file = \"laptop.key\"", &format!("key = \"{}\"", *key)));
    assert!(found.contains("peer.key: unknown key") && !found.contains(&key[..8]), "{found}");
}
