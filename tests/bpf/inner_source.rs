//! The inner packet of an authentic packet: it must be IP, have the right length, and come from the peer's inner addresses.

use std::net::Ipv6Addr;

use mtd_common::DropReason::{InnerSource, MalformedInner};

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::{OWN4, OWN6, PEER4, PEER6, Version, ipv4, ipv6, with_ipv4_checksum};
use crate::peering::{CURRENT, Peering};
use crate::wire::Mode;

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// Sends the packets one after the other, each with its own number. Those with `None` must be accepted.
fn run(bench: &mut Bench, peering: &Peering, table: Vec<(&str, Option<mtd_common::DropReason>, Vec<u8>)>) {
    let list: Vec<_> = table
        .into_iter()
        .enumerate()
        .map(|(number, (name, reason, inner))| {
            let packet = peering.packet(CURRENT, SEQUENCE + number as u64, inner);
            match reason {
                Some(reason) => Fixture::drop(name, reason, packet.frame()),
                None => Fixture::accept(name, peering, &packet),
            }
        })
        .collect();
    bench.run_all(&list);
}

#[test]
fn only_the_peers_inner_addresses_may_be_sources() {
    let mut bench = Bench::new();
    let peering = Peering::new(0, Mode::Encrypt);
    let other = Peering { peer_tunnel: [[0; 16]; 2], ..Peering::new(1, Mode::Encrypt) };
    bench.install(&peering);
    bench.install(&other);
    bench.route("10.66.0.2/32", &peering);
    bench.route("fd00:66::2/128", &peering);
    bench.route("10.70.0.0/16", &peering);
    bench.route("10.70.5.0/24", &other);
    bench.route("fd00:70::/32", &peering);
    bench.route("fd00:70:5::/48", &other);
    let from4 = |source: [u8; 4]| ipv4(source.into(), OWN4, 0, 60);
    let from6 = |source: &str| ipv6(v6(source), OWN6, 0, 60);
    let table = vec![
        ("the peer's IPv4 address", None, from4(PEER4.octets())),
        ("the peer's IPv6 address", None, ipv6(PEER6, OWN6, 0, 60)),
        ("an address beside the peer's, IPv4", Some(InnerSource), from4([10, 66, 0, 3])),
        ("an address beside the peer's, IPv6", Some(InnerSource), from6("fd00:66::3")),
        ("our own address, IPv4", Some(InnerSource), from4(OWN4.octets())),
        ("our own address, IPv6", Some(InnerSource), ipv6(OWN6, OWN6, 0, 60)),
        ("a routed network, IPv4", None, from4([10, 70, 200, 9])),
        ("a routed network, IPv6", None, from6("fd00:70:ffff::9")),
        ("a narrower network of another session, IPv4", Some(InnerSource), from4([10, 70, 5, 9])),
        ("a narrower network of another session, IPv6", Some(InnerSource), from6("fd00:70:5::9")),
        ("just outside of the network, IPv4", Some(InnerSource), from4([10, 71, 0, 0])),
        ("just outside of the network, IPv6", Some(InnerSource), from6("fd00:71::")),
        ("unspecified, IPv4", Some(InnerSource), from4([0; 4])),
        ("unspecified, IPv6", Some(InnerSource), from6("::")),
        ("loopback, IPv4", Some(InnerSource), from4([127, 0, 0, 1])),
        ("loopback, IPv6", Some(InnerSource), from6("::1")),
        ("multicast, IPv6", Some(InnerSource), from6("ff02::1")),
    ];
    run(&mut bench, &peering, table);
    // The other session has only the addresses of its routes.
    let table = vec![
        ("its own network, IPv4", None, from4([10, 70, 5, 9])),
        ("its own network, IPv6", None, from6("fd00:70:5::9")),
        ("the first one's address", Some(InnerSource), from4(PEER4.octets())),
        ("the wider network", Some(InnerSource), from6("fd00:70:6::9")),
        ("unspecified, IPv4", Some(InnerSource), from4([0; 4])),
        ("unspecified, IPv6", Some(InnerSource), from6("::")),
    ];
    run(&mut bench, &other, table);
}

#[test]
fn a_default_route_of_one_family_lets_no_source_of_the_other_in() {
    for (network, v4_reason, v6_reason) in
        [("::/0", Some(InnerSource), None), ("0.0.0.0/0", None, Some(InnerSource))]
    {
        let mut bench = Bench::new();
        let peering = Peering { peer_tunnel: [[0; 16]; 2], ..Peering::new(0, Mode::Encrypt) };
        bench.install(&peering);
        bench.route(network, &peering);
        let table = vec![
            ("IPv4", v4_reason, ipv4(PEER4, OWN4, 0, 60)),
            ("IPv6", v6_reason, ipv6(PEER6, OWN6, 0, 60)),
            ("IPv6, unspecified", Some(InnerSource), ipv6(v6("::"), OWN6, 0, 60)),
        ];
        run(&mut bench, &peering, table);
    }
}

/// The old session of a peer still receives while routes already name the peer's new session.
#[test]
fn a_route_lets_in_all_sessions_with_its_peer() {
    let mut bench = Bench::new();
    let bare =
        |index, peer| Peering { peer, peer_tunnel: [[0; 16]; 2], ..Peering::new(index, Mode::Encrypt) };
    let (old, new, other) = (bare(0, 9), bare(1, 9), bare(2, 10));
    for peering in [&old, &new, &other] {
        bench.install(peering);
    }
    bench.route("fd00:66::/64", &new);
    bench.route("10.66.0.0/16", &new);
    let table =
        |reason| vec![("IPv6", reason, ipv6(PEER6, OWN6, 0, 60)), ("IPv4", reason, ipv4(PEER4, OWN4, 0, 60))];
    run(&mut bench, &old, table(None));
    run(&mut bench, &new, table(None));
    run(&mut bench, &other, table(Some(InnerSource)));
    // The old session ends: its packets do not pass any more, and the new session continues.
    bench.plane.set_session(old.index, mtd_common::abi::Session::default()).expect("a session");
    let late = old.packet(CURRENT, SEQUENCE + 50, ipv6(PEER6, OWN6, 0, 60));
    bench.run_all(&[
        Fixture::drop("the old session", mtd_common::DropReason::SessionEnded, late.frame()),
        Fixture::accept("the new one", &new, &new.packet(CURRENT, SEQUENCE + 50, ipv6(PEER6, OWN6, 0, 60))),
    ]);
}

#[test]
fn a_session_without_peer_uses_no_route() {
    let mut bench = Bench::new();
    let peering = Peering { peer: 0, ..Peering::new(0, Mode::Encrypt) };
    bench.install(&peering);
    bench.route("fd00:77::/64", &peering);
    let table = vec![
        ("a route of peer 0", Some(InnerSource), ipv6(v6("fd00:77::1"), OWN6, 0, 60)),
        ("an address of its own", None, ipv6(PEER6, OWN6, 0, 60)),
    ];
    run(&mut bench, &peering, table);
}

/// The inner packet with one byte set.
fn set(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    if packet[0] >> 4 == 4 && packet.len() >= 20 {
        with_ipv4_checksum(&mut packet);
    }
    packet
}

#[test]
fn an_inner_packet_must_be_what_it_says() {
    let (mut bench, peering) = Bench::with_session();
    bench.route("0.0.0.0/0", &peering);
    bench.route("::/0", &peering);
    let four = || Version::V4.received(0, 60);
    let six = || Version::V6.received(0, 60);
    let bad = Some(MalformedInner);
    let mapped = "::ffff:10.66.0.2";
    let table = vec![
        ("version 0", bad, set(four(), 0, 0x05)),
        ("version 5", bad, set(four(), 0, 0x55)),
        ("version 15", bad, set(six(), 0, 0xf0)),
        ("IPv4 header of 4 words", bad, set(four(), 0, 0x44)),
        ("IPv4 header longer than the packet", bad, set(ipv4(PEER4, OWN4, 0, 56), 0, 0x4f)),
        ("IPv4 total length one less", bad, set(four(), 3, 59)),
        ("IPv4 total length one more", bad, set(four(), 3, 61)),
        ("IPv4 total length of the header", bad, set(four(), 3, 20)),
        ("IPv4 total length 0", bad, set(four(), 3, 0)),
        ("IPv4 total length with a high byte", bad, set(four(), 2, 1)),
        ("IPv6 payload length one less", bad, set(six(), 5, 19)),
        ("IPv6 payload length one more", bad, set(six(), 5, 21)),
        ("IPv6 payload length 0", bad, set(six(), 5, 0)),
        ("IPv6 payload length that wraps", bad, set(set(six(), 4, 0xff), 5, 0xec)),
        ("IPv6 header cut to 39 bytes", bad, six()[..39].to_vec()),
        ("IPv6 header cut to 20 bytes", bad, six()[..20].to_vec()),
        ("IPv6 from the peer's IPv4 address, mapped", bad, ipv6(v6(mapped), OWN6, 0, 60)),
        ("IPv6 to a mapped address", bad, ipv6(PEER6, v6(mapped), 0, 60)),
        ("IPv6 from the lowest mapped address", bad, ipv6(v6("::ffff:0:0"), OWN6, 0, 60)),
        ("IPv6 from just below the mapped ones", None, ipv6(v6("::fffe:ffff:ffff"), OWN6, 0, 60)),
        ("IPv6 from just above the mapped ones", None, ipv6(v6("::1:0:0:0"), OWN6, 0, 60)),
        ("a bare IPv4 header", None, Version::V4.received(0, 20)),
        ("a bare IPv6 header", None, Version::V6.received(0, 40)),
    ];
    run(&mut bench, &peering, table);
}
