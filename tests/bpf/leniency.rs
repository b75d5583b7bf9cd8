//! Packets that are refused but pass nevertheless: because nothing is enforced, or because they are allowed.

use std::net::Ipv6Addr;

use mtd_common::DropReason::{self, *};
use mtd_tests::packet::{
    HOP_BY_HOP, Path, echo_request, icmpv6_error, neighbour_solicitation, tcp_syn, udp,
    with_extension_header, with_vlan_tag,
};

use crate::drops;
use crate::harness::{Bench, Expect, Fixture, SEQUENCE, TC_ACT_SHOT, boot_time};
use crate::inner::{OWN6, Version, ipv6};
use crate::neighbour::{probe, solicit};
use crate::peering::{CURRENT, Peering};
use crate::wire::{ROUTER_MAC, UNDERLAY_MAC};

use mtd::model::{Allow, Guard, LinkMode, Policy};

const HOUR: u64 = 3_600_000_000_000;

/// The administrator's address, and that of the administered host.
const DESK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 7);
const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 9);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 22);

/// Reasons for which packets are dropped even if nothing is enforced: by addresses, ports and sequence number, the packet
/// belonged to a session.
const DROPPED_ALWAYS: [DropReason; 9] = [
    InvalidSequence,
    Replayed,
    BadTag,
    BadChecksum,
    MalformedInner,
    InnerSource,
    Ecn,
    ControlTooLong,
    SteeringFull,
];

fn guard(bench: &mut Bench, guard: Guard) {
    bench.configure(|settings| settings.guard = guard);
}

fn allow(bench: &mut Bench, rules: &[&str]) {
    let allow = rules.iter().map(|rule| rule.parse::<Allow>().expect("a rule")).collect();
    guard(bench, Guard { allow, ..Guard::default() });
}

fn from(source: Ipv6Addr) -> Path {
    Path::new(ROUTER_MAC, UNDERLAY_MAC, source, HOST)
}

fn assert_allowed(bench: &mut Bench, name: &str, frame: &[u8]) {
    bench.receive(frame).allowed(frame).unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

/// Runs the fixtures of all drop reasons while nothing is enforced.
fn assert_monitored(bench: &mut Bench, peering: &Peering) {
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(peering, slot);
    }
    let mut passed = 0;
    for fixture in drops::fixtures(peering) {
        match fixture.expect {
            Expect::Drop(reason) if !DROPPED_ALWAYS.contains(&reason) => {
                let outcome = bench.receive(&fixture.frame);
                let monitored = outcome.monitored(&fixture.frame, reason);
                monitored.unwrap_or_else(|error| panic!("{} ({reason:?}): {error:#}", fixture.name));
                passed += 1;
            }
            _ => bench.check(&fixture),
        }
    }
    assert!(passed > 20, "{passed} fixtures passed");
}

#[test]
fn monitoring_counts_what_would_be_dropped_and_opens_what_is_valid() {
    let (mut bench, peering) = drops::bench();
    guard(&mut bench, Guard { policy: Policy::Monitor, ..Guard::default() });
    assert_monitored(&mut bench, &peering);
    // The policy does not affect sent packets.
    let frame = ipv6(OWN6, STRANGER, 0, 60);
    let outcome = bench.send(&[&[0; 12][..], &[0x86, 0xdd], &frame].concat());
    assert_eq!((outcome.verdict, outcome.drops.get(&SendNoPeer)), (TC_ACT_SHOT, Some(&1)), "{outcome:?}");
    // The policy changes back without an interruption or a reload.
    guard(&mut bench, Guard::default());
    bench.check(&Fixture::drop("dark again", Tcp, tcp_syn(&from(STRANGER), 4000, 22, 1)));
    let packet = peering.packet(CURRENT, SEQUENCE + 5_000, Version::V6.received(0, 120));
    bench.check(&Fixture::accept("a valid packet", &peering, &packet));
}

#[test]
fn in_a_shared_prefix_too() {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.link = LinkMode::Shared);
    guard(&mut bench, Guard { policy: Policy::Monitor, ..Guard::default() });
    let path = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120)).path();
    let frame = tcp_syn(&path, 40_000, 22, 1);
    bench.receive(&frame).monitored(&frame, Tcp).expect("to a live address");
    bench.check(&Fixture::pass("to another one", tcp_syn(&from(STRANGER), 4000, 22, 1)));
}

#[test]
fn what_nobody_confirms_opens_by_itself() {
    let (mut bench, peering) = drops::bench();
    let frame = tcp_syn(&from(STRANGER), 4000, 22, 1);
    guard(&mut bench, Guard { confirm_until: boot_time() + HOUR, ..Guard::default() });
    bench.check(&Fixture::drop("in time", Tcp, frame.clone()));
    guard(&mut bench, Guard { confirm_until: boot_time(), ..Guard::default() });
    assert_monitored(&mut bench, &peering);
    guard(&mut bench, Guard::default());
    bench.check(&Fixture::drop("confirmed", Tcp, frame));
}

#[test]
fn what_is_allowed_passes_and_nothing_else() {
    let (mut bench, _) = drops::bench();
    allow(&mut bench, &["2001:db8:f::/48 tcp/22", "udp/51820"]);
    let (desk, stranger) = (from(DESK), from(STRANGER));
    assert_allowed(&mut bench, "ssh from the desk", &tcp_syn(&desk, 40_000, 22, 1));
    assert_allowed(&mut bench, "UDP from anywhere", &udp(&stranger, 7, 51_820, &[1; 100]));
    assert_allowed(&mut bench, "UDP without payload", &udp(&stranger, 7, 51_820, b""));
    bench.run_all(&[
        Fixture::drop("another port", Tcp, tcp_syn(&desk, 22, 2222, 1)),
        Fixture::drop("another source", Tcp, tcp_syn(&stranger, 40_000, 22, 1)),
        Fixture::drop("another protocol", UnknownAddress, udp(&desk, 40_000, 22, &[1; 100])),
        Fixture::drop("echo", Icmpv6, echo_request(&desk, 1, 22, b"ping")),
        Fixture::drop("behind a VLAN tag", Vlan, with_vlan_tag(&tcp_syn(&desk, 40_000, 22, 1), 5)),
        Fixture::drop("a header cut short", Truncated, tcp_syn(&desk, 40_000, 22, 1)[..53].to_vec()),
        Fixture::drop(
            "hop-by-hop options, behind which no ports are looked for",
            ExtensionHeader,
            with_extension_header(&tcp_syn(&desk, 40_000, 22, 1), HOP_BY_HOP),
        ),
    ]);
    allow(&mut bench, &["2001:db8:f::/48"]);
    for (name, frame) in [
        ("TCP", tcp_syn(&desk, 1, 2, 3)),
        ("UDP", udp(&desk, 1, 2, b"x")),
        ("echo", echo_request(&desk, 1, 1, b"ping")),
        ("hop-by-hop options", with_extension_header(&udp(&desk, 1, 2, b"x"), HOP_BY_HOP)),
    ] {
        assert_allowed(&mut bench, name, &frame);
    }
    bench.check(&Fixture::drop("a stranger's", Tcp, tcp_syn(&stranger, 1, 2, 3)));
    allow(&mut bench, &["icmpv6"]);
    assert_allowed(&mut bench, "echo from anywhere", &echo_request(&stranger, 1, 1, b"ping"));
    bench.check(&Fixture::drop("no echo", Tcp, tcp_syn(&stranger, 1, 2, 3)));
    allow(&mut bench, &[]);
    bench.check(&Fixture::drop("echo when nothing is allowed", Icmpv6, echo_request(&desk, 1, 1, b"ping")));
}

#[test]
fn sixteen_rules_are_heeded() {
    let (mut bench, _) = drops::bench();
    let rules: Vec<String> = (1..=16).map(|port| format!("tcp/{port}")).collect();
    allow(&mut bench, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    for port in 1..=16 {
        assert_allowed(&mut bench, &format!("port {port}"), &tcp_syn(&from(STRANGER), 99, port, 1));
    }
    bench.check(&Fixture::drop("port 17", Tcp, tcp_syn(&from(STRANGER), 1, 17, 1)));
}

#[test]
fn errors_about_what_is_allowed_and_neighbour_discovery_pass_with_it() {
    let (mut bench, peering) = drops::bench();
    allow(&mut bench, &["2001:db8:f::/48 tcp/22"]);
    let back =
        |destination, port| tcp_syn(&Path::new(UNDERLAY_MAC, ROUTER_MAC, HOST, destination), port, 40_000, 1);
    let error = |kind, about: &[u8]| icmpv6_error(&from(ROUTER), kind, 1280, about);
    for kind in 1..=4 {
        assert_allowed(&mut bench, &format!("type {kind}"), &error(kind, &back(DESK, 22)));
    }
    let foreign = tcp_syn(&Path::new(UNDERLAY_MAC, ROUTER_MAC, ROUTER, DESK), 22, 40_000, 1);
    bench.run_all(&[
        Fixture::drop("about a stranger's", Icmpv6, error(2, &back(STRANGER, 22))),
        Fixture::drop("about another port", Icmpv6, error(2, &back(DESK, 23))),
        Fixture::drop("about another host's packet", Icmpv6, error(2, &foreign)),
        Fixture::drop("cut short", Icmpv6, error(2, &back(DESK, 22)[..14 + 43])),
        Fixture::drop("no error", Icmpv6, error(128, &back(DESK, 22))),
    ]);
    let neighbour = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    assert_allowed(&mut bench, "a solicitation", &solicit(HOST));
    assert_allowed(&mut bench, "a unicast one", &probe(HOST));
    let mut advertisement = neighbour_solicitation(ROUTER_MAC, neighbour, HOST, Some(UNDERLAY_MAC));
    advertisement[54] = 136;
    assert_allowed(&mut bench, "an advertisement", &advertisement);
    let mut far = advertisement;
    far[21] = 254;
    bench.check(&Fixture::drop("one that went through a router", Icmpv6, far));
    // For live addresses mtd itself answers, as always.
    let live = *peering.local(CURRENT).ip();
    crate::neighbour::assert_answered("a live address", &mut bench, &solicit(live), live);
}

#[test]
fn a_valid_packet_is_opened_whoever_is_allowed() {
    let (mut bench, peering) = drops::bench();
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120));
    allow(&mut bench, &[&packet.from.ip().to_string(), "udp"]);
    bench.check(&Fixture::accept("from an allowed address", &peering, &packet));
    bench.check(&Fixture::drop("and its replay is dropped", Replayed, packet.frame()));
}

#[test]
fn a_flood_of_strangers_does_not_close_the_door() {
    let (mut bench, _) = drops::bench();
    allow(&mut bench, &["2001:db8:f::7 tcp/22"]);
    for nth in 0..5_000_u32 {
        let source = Ipv6Addr::from(u128::from(STRANGER) + u128::from(nth));
        let outcome = bench.receive(&tcp_syn(&from(source), 40_000, 22, nth));
        assert_eq!(outcome.drops.get(&Tcp), Some(&1), "{outcome:?}");
        if nth % 500 == 0 {
            assert_allowed(&mut bench, "ssh from the desk", &tcp_syn(&from(DESK), 40_000, 22, nth));
        }
    }
}
