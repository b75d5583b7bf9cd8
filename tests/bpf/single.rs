//! A host with a single address: its ports alone move, and what does not come from a live peer to a live port is left to the
//! kernel.

use std::net::Ipv6Addr;

use mtd::model::{LinkMode, SessionIndex};
use mtd::proto::slots::SlotMaps as _;
use mtd_common::DropReason::*;
use mtd_tests::packet::{ETHERNET_LEN, Path, echo_request, icmpv6_error, tcp_syn, udp, with_vlan_tag};

use crate::harness::{Bench, Fixture, MTU, SEQUENCE};
use crate::inner::{PEER6, Version, framed};
use crate::neighbour::{probe, solicit};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, OVERHEAD, ROUTER_MAC, UNDERLAY_MAC};

const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 5);
const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1);

/// More sessions than can have the same address, and an introduction, at one address.
fn bench() -> (Bench, Vec<Peering>, Peering) {
    let mut bench = Bench::new();
    bench.configure(|settings| {
        settings.prefixes = vec![format!("{OWN}/128").parse().expect("a prefix")];
        settings.link = LinkMode::Shared;
    });
    let at_own = |peering: Peering| Peering { pinned: Some(OWN), ..peering };
    let sessions: Vec<_> = (0..6).map(|index| at_own(Peering::new(index, Mode::Encrypt))).collect();
    let introduction = at_own(Peering::introduction(6));
    for peering in sessions.iter().chain([&introduction]) {
        bench.install(peering);
    }
    (bench, sessions, introduction)
}

#[test]
fn every_session_is_found_by_its_port() {
    let (mut bench, sessions, introduction) = bench();
    let mut list = Vec::new();
    for (nth, session) in sessions.iter().enumerate() {
        for slot in CURRENT - 1..=CURRENT + 1 {
            let packet = session.packet(slot, SEQUENCE + slot, Version::V6.received(0, 80));
            list.push(Fixture::accept(format!("session {nth}, slot {slot}"), session, &packet));
            list.push(Fixture::drop(format!("session {nth}, slot {slot}, again"), Replayed, packet.frame()));
            let mut forged = packet.frame();
            forged[100] ^= 1;
            let forged = crate::wire::with_right_checksum(&forged);
            list.push(Fixture::drop(format!("session {nth}, slot {slot}, forged"), Replayed, forged));
        }
    }
    list.push(Fixture::divert("an introduction", &introduction, &introduction.message(CURRENT, 3, 90)));
    bench.run_all(&list);
}

#[test]
fn everything_else_is_left_to_the_kernel() {
    let (mut bench, sessions, _) = bench();
    let session = &sessions[0];
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(session, slot);
    }
    let packet = session.packet(CURRENT, SEQUENCE, Version::V6.received(0, 120));
    let (path, payload) = (packet.path(), packet.sealed());
    let (from, to) = (packet.from.port(), packet.to.port());
    let stranger = Path::new(ROUTER_MAC, UNDERLAY_MAC, STRANGER, OWN);
    let mut list = vec![
        Fixture::pass("TCP", tcp_syn(&path, from, to, 1)),
        Fixture::pass("TCP from a stranger", tcp_syn(&stranger, 40_000, 22, 1)),
        Fixture::pass("echo", echo_request(&stranger, 1, 1, b"ping")),
        Fixture::pass("a solicitation", solicit(OWN)),
        Fixture::pass("a unicast solicitation", probe(OWN)),
        Fixture::pass("another port", udp(&path, from, to ^ 1, &payload)),
        Fixture::pass("another port of the peer", udp(&path, from ^ 1, to, &payload)),
        Fixture::pass("a stranger at a live port", udp(&stranger, from, to, &payload)),
        Fixture::pass("a UDP header cut short", packet.frame()[..61].to_vec()),
        Fixture::pass("a VLAN-tagged packet", with_vlan_tag(&packet.frame(), 5)),
    ];
    for slot in [CURRENT - 2, CURRENT + 2] {
        let packet = session.packet(slot, SEQUENCE, Version::V6.received(0, 80));
        list.push(Fixture::pass(format!("slot {slot}"), packet.frame()));
    }
    bench.run_all(&list);
    // What has got as far as the cipher is not fit for the kernel any more.
    let mut forged = packet.frame();
    forged[100] ^= 1;
    bench.check(&Fixture::drop("a forged packet", BadTag, crate::wire::with_right_checksum(&forged)));
    bench.check(&Fixture::accept("the packet as it was", session, &packet));
    bench.plane.slots().unload(SessionIndex(session.index), session.generation, CURRENT);
    let later = session.packet(CURRENT, SEQUENCE + 1, Version::V6.received(0, 120));
    bench.check(&Fixture::pass("a slot that is over", later.frame()));
}

#[test]
fn routers_reports_are_found_by_the_port_that_they_quote() {
    let (mut bench, sessions, _) = bench();
    let session = &sessions[3];
    bench.route(&format!("{PEER6}/128"), session);
    let sent = bench.send(&framed(&Version::V6.sent(0, MTU as usize)));
    assert_eq!(sent.frames.sent, 1, "{sent:?}");
    assert_eq!(sent.frame.len(), ETHERNET_LEN + MTU as usize + OVERHEAD);
    let path = Path::new(ROUTER_MAC, UNDERLAY_MAC, STRANGER, OWN);
    let quote = &sent.frame[..ETHERNET_LEN + 1000];
    let told = bench.receive(&icmpv6_error(&path, 2, 1400, quote));
    assert_eq!((told.frames.too_big, told.records.len()), (1, 1), "{told:?}");
    // About another packet of this host, which is the kernel's.
    let mut other = quote.to_vec();
    other[54] ^= 1;
    bench.check(&Fixture::pass("about another port", icmpv6_error(&path, 2, 1400, &other)));
    let mut elsewhere = quote.to_vec();
    elsewhere[40] ^= 1;
    bench.check(&Fixture::pass("about another peer", icmpv6_error(&path, 2, 1400, &elsewhere)));
}
