//! Tests of the configuration: what does not go together.

use super::*;

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
    ]);
}

#[test]
fn names_keys_and_addresses_that_collide() {
    check(&[
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
}

#[test]
fn clients_without_a_server_and_beside_a_peer() {
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
         mtd.toml:47:53: peer.allowed_ips: 10.20.0.0/16 is in line 37 already; leave it with the one whose packets may come \
         from there"
    );
}
