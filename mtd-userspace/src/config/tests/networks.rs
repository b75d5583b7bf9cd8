//! Tests of the configuration: prefixes, addresses and networks.

use ipnet::IpNet;

use super::*;

/// With this in the place of the first protected prefix, the configuration has this one error in this column.
fn own(new: &str, column: usize, text: &str) {
    let found = errors(&BASE.replace("2001:db8:1::/64", new));
    assert_eq!(found, format!("mtd.toml:2:{column}: prefix: {text}"), "{new}");
}

#[test]
fn a_prefix_is_an_ipv6_network_of_this_deployment() {
    own("2001:db8:1::1/64", 11, "host bits are set in 2001:db8:1::1/64; write 2001:db8:1::/64");
    own("2001:db8:1::", 11, "2001:db8:1:: has no prefix length; write 2001:db8:1::/64");
    own("2001:db8:1::7", 11, "2001:db8:1::7 has no prefix length; write 2001:db8:1::/64");
    own(
        "10.0.0.0/24",
        11,
        "10.0.0.0/24 is IPv4; protected prefixes are IPv6; write an IPv6 prefix, such as 2001:db8:1::/64",
    );
    for bad in ["", "lan", "2001:db8:1::/129", "fe80::%eth0/64"] {
        own(
            bad,
            11,
            &format!("\"{bad}\" is not an address with a prefix length; write it like 2001:db8:1::/64"),
        );
    }
    own(
        "2001:db8:1::/63",
        11,
        "2001:db8:1::/63 has 63 bits; a protected prefix has 64 to 112, or 128 where ports alone move; write a prefix of 64 to 112 bits, such as 2001:db8:1::/64",
    );
    own(
        "2001:db8:1::9:0/113",
        11,
        "2001:db8:1::9:0/113 has 113 bits; a protected prefix has 64 to 112, or 128 where ports alone move; write a prefix of 64 to 112 bits, such as 2001:db8:1::9:0/112",
    );
    for (bad, kind) in [
        ("fe80::/64", "link-local"),
        ("ff02::/64", "multicast"),
        ("::1/64", "loopback"),
        ("::/64", "around the unspecified address"),
        ("::/112", "around the unspecified address"),
        ("::ffff:10.0.0.0/112", "for IPv4-mapped addresses, which are never on the wire"),
    ] {
        let net: Ipv6Net = ip(bad);
        let remedy = "write a unicast prefix that belongs to this deployment, such as 2001:db8:1::/64";
        own(bad, 11, &format!("{net} is {kind}; {remedy}"));
    }
    for length in [64, 80, 112] {
        assert!(
            Config::parse(&BASE.replace("2001:db8:1::/64", &format!("2001:db8:1::/{length}")), "").is_ok()
        );
    }
}

#[test]
fn a_single_address_is_shared_and_no_prefix_is_beside_it() {
    let single = |text: &str| text.replace("2001:db8:3::/80", "2001:db8:1::6/128");
    let found = errors(&single(&BASE.replace("2001:db8:1::/64", "2001:db8:1::5/128")));
    let wanted = "mtd.toml:2:11: prefix: 2001:db8:1::5/128 is a single address, which this host uses for everything else too, \
                  and link is \"routed\"; add a line link = \"shared\"";
    assert_eq!(found, wanted);
    let both = single(&BASE.replace("2001:db8:1::/64", "2001:db8:1::5/128"));
    let config = Config::parse(&format!("link = \"shared\"\n{both}"), "").unwrap();
    assert_eq!(config.prefixes, [ip::<Ipv6Net>("2001:db8:1::5/128"), ip("2001:db8:1::6/128")]);
    let beside = BASE.replace("2001:db8:1::/64", "2001:db8:1::5/128");
    let error = Config::parse(&format!("link = \"shared\"\n{beside}"), "").unwrap_err().to_string();
    let wanted = "prefix: 2001:db8:1::5/128 is a single address and 2001:db8:3::/80 is not; keep the prefix, from which";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn prefixes_do_not_overlap_and_are_few() {
    own(
        "2001:db8:3::/64",
        30,
        "2001:db8:3::/80 overlaps 2001:db8:3::/64; keep the one that is routed to this host",
    );
    own(
        "2001:db8:3:0:0:1::/96",
        36,
        "2001:db8:3::/80 overlaps 2001:db8:3::1:0:0/96; keep the one that is routed to this host",
    );
    own(
        "2001:db8:1::/64\", \"2001:db8:5::/64\", \"2001:db8:6::/64\", \"2001:db8:7::/64",
        87,
        "more than 4 prefixes; keep at most 4",
    );
}

#[test]
fn peers_prefixes() {
    check(&[
        (
            "\"2001:db8:2::/64\"",
            "\"2001:db8:2::1/64\"",
            "7:10: peer.prefix: host bits are set in 2001:db8:2::1/64; write 2001:db8:2::/64",
        ),
        (
            "\"2001:db8:2::/64\"",
            "\"2001:db8:1::/64\"",
            "7:10: peer.prefix: 2001:db8:1::/64 is routed to this host, so the peer cannot have it; write the peer's own \
             prefix, or set link = \"on-link\" if both hosts are on that link",
        ),
        (
            "local_prefix = \"2001:db8:3::/80\"",
            "local_prefix = \"2001:db8:4::/80\"",
            "16:16: peer.local_prefix: 2001:db8:4::/80 is not a protected prefix of this host; write one of prefix: \
             2001:db8:1::/64, 2001:db8:3::/80",
        ),
    ]);
    let shared = BASE.replace("2001:db8:2::/64", "2001:db8:1::/64");
    assert!(Config::parse(&format!("link = \"on-link\"\n{shared}"), "").is_ok());
}

#[test]
fn tunnel_addresses() {
    check(&[
        (
            "fd00:6d74::1/64",
            "fd00:6d74::1",
            "3:12: address: fd00:6d74::1 has no prefix length; write fd00:6d74::1/64",
        ),
        ("10.66.0.1/24", "10.66.0.1", "3:31: address: 10.66.0.1 has no prefix length; write 10.66.0.1/24"),
        (
            "10.66.0.1/24",
            "10.66.0.1/33",
            "3:31: address: \"10.66.0.1/33\" is not an address with a prefix length; write it like fd00:6d74::1/64 or \
             10.66.0.1/24",
        ),
        (
            "10.66.0.1/24",
            "fd00:6d74::1/128",
            "3:31: address: fd00:6d74::1 is in line 3 already; keep one of them",
        ),
        (
            "10.66.0.1/24",
            "2001:db8:1::5/128",
            "3:31: address: 2001:db8:1::5 lies in the protected prefix 2001:db8:1::/64; write an address of the tunnel's \
             own inner network, such as fd00:6d74::1/64",
        ),
    ]);
    for bad in
        ["0.0.0.0/8", "127.0.0.1/8", "224.0.0.1/4", "255.255.255.255/32", "::/64", "::1/128", "ff02::1/64"]
    {
        let found = errors(&BASE.replace("10.66.0.1/24", bad));
        let address = ip::<IpNet>(bad).addr();
        assert_eq!(
            found,
            format!(
                "mtd.toml:3:31: address: {address} is not an address that a host can have in a network; write a unicast \
                 address, such as fd00:6d74::1/64 or 10.66.0.1/24"
            )
        );
    }
}

#[test]
fn inner_networks_of_peers() {
    check(&[
        (
            "10.66.0.2/32",
            "10.66.0.2",
            "11:36: peer.allowed_ips: 10.66.0.2 has no prefix length; write 10.66.0.2/32",
        ),
        (
            "fd00:6d74::2/128",
            "fd00:6d74::2",
            "11:16: peer.allowed_ips: fd00:6d74::2 has no prefix length; write fd00:6d74::2/128",
        ),
        (
            "10.66.0.2/32",
            "10.66.0.2/24",
            "11:36: peer.allowed_ips: host bits are set in 10.66.0.2/24; write 10.66.0.0/24",
        ),
        (
            "10.66.0.2/32",
            "::ffff:10.66.0.2/128",
            "11:36: peer.allowed_ips: ::ffff:10.66.0.2/128 is an IPv4 network in IPv6 form; write 10.66.0.2/32",
        ),
        (
            "10.66.0.2/32",
            "ten",
            "11:36: peer.allowed_ips: \"ten\" is not an address with a prefix length; write it like fd00:6d74::2/128 or \
             10.66.0.2/32",
        ),
        (
            "10.66.0.2/32",
            "10.66.0.1/32",
            "11:36: peer.allowed_ips: 10.66.0.1/32 is this host's own tunnel address; write the peer's inner addresses",
        ),
        (
            "fd00:6d74::3/128",
            "fd00:6d74::2/128",
            "22:15: peer.allowed_ips: fd00:6d74::2/128 is in line 11 already; leave it with the one whose packets may \
             come from there",
        ),
    ]);
    for good in ["0.0.0.0/0", "::/0", "10.66.0.0/24"] {
        assert_eq!(errors(&BASE.replace("10.66.0.2/32", good)), "no error");
    }
    let point_to_point = BASE.replace("10.66.0.1/24", "10.66.0.2/31").replace("10.66.0.2/32", "10.66.0.2/31");
    assert_eq!(errors(&point_to_point), "no error", "both ends' addresses are in the network");
}
