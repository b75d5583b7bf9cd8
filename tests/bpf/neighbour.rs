//! The responder to neighbour solicitations (requirement MT-09, RFC 4861).

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use etherparse::icmpv6::{Icmpv6PayloadSlice, NeighborAdvertisementHeader};
use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use mtd_common::DropReason::{self, NeighbourDead, NeighbourLimited, NeighbourMalformed};
use mtd_tests::packet::neighbour_solicitation;

use crate::concurrency::{on_one_cpu, verdict};
use crate::harness::{Bench, Fixture, SEQUENCE, TC_ACT_STOLEN, TC_ACT_UNSPEC, XDP_DROP, XDP_PASS, boot_time};
use crate::inner::{Version, ones_complement_sum};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, ROUTER_MAC, UNDERLAY_MAC};

use mtd::model::{Frames, LinkMode};

pub(crate) const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const NOBODY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 1, 2, 3, 4);
const ETHERNET_LEN: usize = 14;
pub(crate) const ICMP_AT: usize = 54;

fn on_link() -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.configure(|settings| settings.link = LinkMode::OnLink);
    (bench, peering)
}

pub(crate) fn solicit(target: Ipv6Addr) -> Vec<u8> {
    neighbour_solicitation(ROUTER_MAC, ROUTER, target, None)
}

/// A unicast solicitation, by which a router checks that its neighbour is still there.
pub(crate) fn probe(target: Ipv6Addr) -> Vec<u8> {
    neighbour_solicitation(ROUTER_MAC, ROUTER, target, Some(UNDERLAY_MAC))
}

/// The frame with a correct IPv6 payload length and a correct ICMPv6 checksum.
pub(crate) fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    let length = (frame.len() - ICMP_AT) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[ICMP_AT + 2..ICMP_AT + 4].fill(0);
    let mut summed = [&frame[22..54], &length.to_be_bytes(), &[0, 58], &frame[ICMP_AT..]].concat();
    summed.resize(summed.len().next_multiple_of(2), 0);
    let sum = !ones_complement_sum(&summed);
    frame[ICMP_AT + 2..ICMP_AT + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Whether the solicitation for `target` is passed on by the receive program, and answered by the one behind it as RFC 4861
/// section 7.2.4 says, in etherparse's reading. (The answer goes out by the loopback interface, where nobody takes it.)
pub(crate) fn assert_answered(name: &str, bench: &mut Bench, solicitation: &[u8], target: Ipv6Addr) {
    let outcome = bench.receive(solicitation);
    let passed_on = outcome.moved(XDP_PASS, Frames::default());
    passed_on.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert!(outcome.frame == solicitation, "{name}: changed on the way");
    let outcome = bench.advertise(solicitation);
    let moved = outcome.moved(TC_ACT_STOLEN, Frames { neighbour_answered: 1, ..Frames::default() });
    moved.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    outcome.left_sessions_alone().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let packet = SlicedPacket::from_ethernet(&outcome.frame).expect("a well-formed packet");
    let link = packet.link.expect("Ethernet").to_header().and_then(etherparse::LinkHeader::ethernet2);
    let link = link.expect("Ethernet II");
    assert_eq!((link.source, link.destination), (UNDERLAY_MAC, ROUTER_MAC), "{name}");
    let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("{name}: no IPv6") };
    let header = ip.header();
    assert_eq!((header.source_addr(), header.destination_addr()), (target, ROUTER), "{name}");
    assert_eq!(
        (header.hop_limit(), header.traffic_class(), header.flow_label().value()),
        (255, 0, 0),
        "{name}"
    );
    assert_eq!(outcome.frame.len(), ETHERNET_LEN + 40 + usize::from(header.payload_length()), "{name}");
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("{name}: no ICMPv6") };
    assert!(icmp.is_checksum_valid(target.octets(), ROUTER.octets()), "{name}: checksum");
    let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else { panic!("{name}: {icmp:?}") };
    let expected = NeighborAdvertisementHeader { router: false, solicited: true, r#override: true };
    assert_eq!(flags, expected, "{name}");
    assert_eq!(icmp.bytes5to8()[1..], [0; 3], "{name}: reserved bits");
    let Ok(Icmpv6PayloadSlice::NeighborAdvertisement(advertised)) = icmp.payload_slice() else {
        panic!("{name}: {icmp:?}")
    };
    assert_eq!(advertised.target_address(), target, "{name}");
    // Target link-layer address, 8 bytes.
    assert_eq!(advertised.slice()[16..], [[2, 1].as_slice(), &UNDERLAY_MAC].concat(), "{name}");
}

#[test]
fn live_addresses_are_answered_for() {
    let (mut bench, peering) = on_link();
    for slot in CURRENT - 1..=CURRENT + 1 {
        let target = *peering.local(slot).ip();
        assert_answered(&format!("slot {slot}"), &mut bench, &solicit(target), target);
        assert_answered(&format!("slot {slot}, unicast"), &mut bench, &probe(target), target);
    }
    // The answer does not affect packets, which are accepted as before.
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 60));
    bench.check(&Fixture::accept("a packet afterwards", &peering, &packet));
}

#[test]
fn an_address_that_several_sessions_have_is_answered_for() {
    let (mut bench, first) = on_link();
    let shared = *first.local(CURRENT).ip();
    for index in 1..4 {
        let other = Peering { pinned: Some(shared), ..Peering::new(index, Mode::Encrypt) };
        bench.install_bare(&other);
        bench.load(&other, CURRENT);
    }
    // The first session ends, but the others still have the address.
    bench.plane.set_session(0, mtd_common::abi::Session::default()).expect("a session");
    assert_answered("three are left", &mut bench, &solicit(shared), shared);
}

#[test]
fn other_addresses_are_not_answered_for() {
    let (mut bench, peering) = on_link();
    let ended = Peering::new(1, Mode::Encrypt);
    bench.install(&ended);
    bench.install_bare(&Peering { generation: 99, ..ended.clone() });
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(&peering, slot);
    }
    let mut list = Vec::new();
    for (name, target) in [
        ("an address that nobody has", NOBODY),
        ("the prefix itself", "2001:db8:a::".parse().expect("an address")),
        ("an address of the second prefix", "2001:db8:b0:0:77::5".parse().expect("an address")),
        ("a slot that is over", *peering.local(CURRENT - 2).ip()),
        ("a slot that has not begun", *peering.local(CURRENT + 2).ip()),
        ("an ended session", *ended.local(CURRENT).ip()),
    ] {
        list.push(Fixture::drop(name, NeighbourDead, solicit(target)));
        list.push(Fixture::drop(format!("{name}, unicast"), NeighbourDead, probe(target)));
    }
    bench.run_all(&list);
}

#[test]
fn in_routed_mode_nothing_is_answered() {
    let (mut bench, peering) = Bench::with_session();
    let target = *peering.local(CURRENT).ip();
    bench.run_all(&[
        Fixture::drop("a live address", NeighbourDead, solicit(target)),
        Fixture::drop("a live address, unicast", NeighbourDead, probe(target)),
        Fixture::drop("an address that nobody has", NeighbourDead, solicit(NOBODY)),
    ]);
}

#[test]
fn solicitations_that_break_the_rules_are_dropped() {
    let (mut bench, peering) = on_link();
    let target = *peering.local(CURRENT).ip();
    let right = solicit(target);
    let with = |at: usize, value: u8| {
        let mut frame = right.clone();
        frame[at] = value;
        mended(frame)
    };
    let mut wrong_sum = right.clone();
    wrong_sum[ICMP_AT + 3] ^= 1;
    let mut unspecified = right.clone();
    unspecified[22..38].fill(0);
    let mut multicast = right.clone();
    multicast[22] = 0xff;
    let mut short = right.clone();
    short[19] = 24;
    let detection = mended(unspecified[..ICMP_AT + 24].to_vec());
    let table = [
        ("hop limit 254", with(21, 254)),
        ("hop limit 0", with(21, 0)),
        ("code 1", with(ICMP_AT + 1, 1)),
        ("a wrong checksum", wrong_sum),
        ("no option", mended(right[..ICMP_AT + 24].to_vec())),
        ("an option of length 0", with(ICMP_AT + 25, 0)),
        ("an option of length 2", with(ICMP_AT + 25, 2)),
        ("a target link-layer address option", with(ICMP_AT + 24, 2)),
        ("two options", mended([right.as_slice(), &[1, 1, 2, 0, 0, 0, 0, 9]].concat())),
        ("an option cut short", mended(right[..ICMP_AT + 31].to_vec())),
        ("bytes behind the packet", [right.as_slice(), &[0; 4]].concat()),
        ("an IPv6 length that ends before the option", short),
        ("version 5", with(14, 0x50)),
        ("from a multicast address", mended(multicast)),
        ("duplicate address detection", detection),
        ("duplicate address detection with a link-layer address", mended(unspecified)),
    ];
    let list = table.map(|(name, frame)| Fixture::drop(name, NeighbourMalformed, frame));
    bench.run_all(&list);
    assert_answered("the right one", &mut bench, &right, target);
}

/// Whatever the receive program lets pass: only what is to be answered is taken.
#[test]
fn behind_the_receive_program_all_but_answerable_solicitations_are_left_alone() {
    let (mut bench, peering) = on_link();
    bench.load(&peering, CURRENT + 2);
    let target = *peering.local(CURRENT).ip();
    let right = solicit(target);
    let changed = |at: usize, value: u8| {
        let mut frame = right.clone();
        frame[at] = value;
        mended(frame)
    };
    let mut unsound = right.clone();
    unsound[ICMP_AT + 3] ^= 1;
    let list = [
        ("for nobody's address", solicit(NOBODY)),
        ("for another prefix", solicit(ROUTER)),
        ("for a slot that has not begun", solicit(*peering.local(CURRENT + 2).ip())),
        ("hop limit 254", changed(21, 254)),
        ("code 1", changed(ICMP_AT + 1, 1)),
        ("a wrong checksum", unsound),
        ("an advertisement", changed(ICMP_AT, 136)),
        ("from a multicast address", changed(22, 0xff)),
        ("another EtherType", [&right[..12], &[0x08, 0x00], &right[14..]].concat()),
        ("longer", [right.as_slice(), &[0; 4]].concat()),
        ("shorter", right[..ICMP_AT + 24].to_vec()),
    ];
    for (name, frame) in &list {
        let outcome = bench.advertise(frame);
        let moved = outcome.moved(TC_ACT_UNSPEC, Frames::default());
        moved.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(outcome.frame == *frame, "{name}: changed");
    }
    bench.configure(|settings| settings.link = LinkMode::Routed);
    let outcome = bench.advertise(&right);
    outcome.moved(TC_ACT_UNSPEC, Frames::default()).expect("in routed mode, nothing is answered");
}

/// Malformed solicitations for dead addresses: nothing distinguishes dead addresses from live ones.
#[test]
fn what_is_cut_short_or_another_message_is_no_solicitation() {
    let (mut bench, peering) = on_link();
    let target = *peering.local(CURRENT).ip();
    let right = probe(target);
    let mut list = Vec::new();
    // Sent to the live address itself. If the target cannot be read, the reason is just ICMPv6.
    for length in ICMP_AT..ICMP_AT + 24 {
        list.push(Fixture::drop(format!("{length} bytes"), DropReason::Icmpv6, right[..length].to_vec()));
    }
    for kind in [1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 136, 137, 143, 255] {
        let mut other = right.clone();
        other[ICMP_AT] = kind;
        // Packet Too Big is examined, and does not quote any packet.
        let reason = if kind == 2 { DropReason::TooBigInvalid } else { DropReason::Icmpv6 };
        list.push(Fixture::drop(format!("ICMPv6 type {kind}"), reason, mended(other)));
    }
    let mut foreign = right.clone();
    foreign[ICMP_AT + 8..ICMP_AT + 24].copy_from_slice(&ROUTER.octets());
    list.push(Fixture::drop("to a live address, about another one", DropReason::Icmpv6, mended(foreign)));
    bench.run_all(&list);
}

#[test]
fn solicitations_for_others_pass() {
    let (mut bench, peering) = on_link();
    let live = *peering.local(CURRENT).ip();
    let list = ["2001:db8:f::1", "fe80::2", "2001:db8:a:1::1", "2001:db8:b0:0:78::1"]
        .map(|target| Fixture::pass(format!("for {target}"), solicit(target.parse().expect("an address"))));
    bench.run_all(&list);
    let from_protected = neighbour_solicitation(ROUTER_MAC, live, ROUTER, None);
    let mut advertisement = solicit(live);
    advertisement[ICMP_AT] = 136;
    bench.run_all(&[
        Fixture::pass("from a protected address, for another one", from_protected),
        Fixture::pass("an advertisement to all", mended(advertisement)),
    ]);
}

#[test]
fn answers_are_rate_limited() {
    const SOLICITATIONS: u64 = 5_000;
    const BURST: u64 = 500;
    let (mut bench, peering) = on_link();
    let frame = solicit(*peering.local(CURRENT).ip());
    let began = boot_time();
    let verdicts = on_one_cpu(|| {
        let program = bench.plane.receive_program().expect("a program");
        let verdicts: Vec<u32> = (0..SOLICITATIONS).map(|_| verdict(program, &frame)).collect();
        bench.events();
        // The limit is used up now. Solicitations for dead addresses, or malformed ones, do not count for it.
        bench.check(&Fixture::drop("a dead address when limited", NeighbourDead, solicit(NOBODY)));
        verdicts
    });
    let elapsed = boot_time() - began;
    let count = |verdict| verdicts.iter().filter(|&&v| v == verdict).count() as u64;
    let (answered, limited) = (count(XDP_PASS), count(XDP_DROP));
    assert_eq!(answered + limited, SOLICITATIONS);
    assert!(verdicts[..BURST as usize].iter().all(|&v| v == XDP_PASS), "limited inside the burst");
    // One every millisecond after the burst.
    let most = BURST + elapsed / 1_000_000 + 1;
    assert!(answered <= most && limited > 0, "{answered} answered in {elapsed} ns, {most} allowed");
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.frames.passed, 0, "none is for the kernel");
    assert_eq!(counts.drops, BTreeMap::from([(NeighbourLimited, limited), (NeighbourDead, 1)]));
}
