//! Answering where the peer was heard: what the receive program notes, and the slot and destination that the send program
//! takes then.

use std::net::{Ipv6Addr, SocketAddrV6};

use mtd_common::DropReason;
use mtd_common::abi::{FLAG_HEARD, SessionState};
use mtd_common::heard::{self, Ring, Source};
use mtd_common::packet::inner::{CONTROL_MARK, NEXT_CONTROL, OPENER_MARK, PROBE_MARK};
use mtd_tests::packet::Outer;

use crate::harness::{Bench, Fixture, SEQUENCE, XDP_DROP, XDP_REDIRECT};
use crate::inner::{Version, framed};
use crate::peering::{CURRENT, Peering};
use crate::send::sealed;
use crate::send_drops::marked;
use crate::wire::{Mode, Packet};

/// A session whose peer asks to be answered where it was heard, or does not.
fn bench(asks: bool) -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.route("fd00:66::2/128", &peering);
    if asks {
        let mut element = bench.plane.session(0).expect("a session");
        element.flags |= FLAG_HEARD;
        bench.plane.set_session(0, element).expect("a session");
    }
    (bench, peering)
}

/// What the ring holds of a slot.
fn entry(state: &SessionState, slot: u64) -> Option<Source> {
    let words = state.heard[heard::index(slot)].map(std::sync::atomic::AtomicU64::new);
    heard::read(&words, slot)
}

fn source(from: SocketAddrV6) -> Source {
    let octets = from.ip().octets();
    let half = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().expect("eight bytes"));
    Source { address: [half(0), half(8)], port: u16::from_ne_bytes(from.port().to_be_bytes()) }
}

fn set_ring(bench: &mut Bench, ring: Ring) {
    let state = bench.plane.session_state(0).expect("a state");
    bench.plane.set_session_state(0, SessionState { heard: ring, ..state }).expect("a state");
}

/// Lets the peer be heard in these slots, in this order.
fn hear(bench: &mut Bench, peering: &Peering, slots: &[u64]) {
    for (number, slot) in slots.iter().enumerate() {
        let packet = peering.packet(*slot, SEQUENCE + number as u64, Version::V6.received(0, 60));
        bench.check(&Fixture::accept(format!("slot {slot}"), peering, &packet));
    }
}

#[test]
fn every_accepted_packet_is_noted_with_slot_address_and_port() {
    for mode in Mode::BOTH {
        let mut bench = Bench::new();
        let peering = Peering::new(0, mode);
        bench.install(&peering);
        for (number, slot) in
            [CURRENT, CURRENT - 1, CURRENT + 1, CURRENT, CURRENT - 1].into_iter().enumerate()
        {
            let sequence = SEQUENCE + number as u64;
            let packet = if number % 2 == 0 {
                peering.packet(slot, sequence, Version::V4.received(0, 90))
            } else {
                peering.message(slot, sequence, 20)
            };
            let verdict = if number % 2 == 0 { XDP_REDIRECT } else { XDP_DROP };
            let outcome = bench.receive(&packet.frame());
            assert_eq!(outcome.verdict, verdict);
            assert_eq!(entry(&outcome.states.1[0], slot), Some(source(peering.remote(slot))), "{slot}");
        }
        let state = bench.plane.session_state(0).expect("a state");
        assert_eq!(heard::newest(&state.heard), Some(CURRENT + 1));
        assert_eq!(state.heard[heard::index(CURRENT + 2)], [0; 4], "nobody was heard there");
    }
}

#[test]
fn what_is_refused_is_not_noted() {
    let (mut bench, peering) = bench(true);
    let good = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 60));
    let mut forged = good.frame();
    *forged.last_mut().expect("a byte") ^= 1;
    let elsewhere = SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 1, 2, 3, 4), 4000, 0, 0);
    bench.run_all(&[
        Fixture::drop("a forged packet", DropReason::BadTag, forged),
        Fixture::drop(
            "from elsewhere",
            DropReason::WrongPeer,
            Packet { from: elsewhere, ..good.clone() }.frame(),
        ),
    ]);
    assert_eq!(bench.plane.session_state(0).expect("a state").heard, Ring::default());
    bench.check(&Fixture::accept("the good one", &peering, &good));
    bench.check(&Fixture::drop("again", DropReason::Replayed, good.frame()));
}

/// The newest slot up to the present one, at most one back; without the flag, the present one.
#[test]
fn packets_go_to_where_the_peer_was_heard() {
    let (before, after) = (CURRENT - 1, CURRENT + 1);
    for (asks, slots, expected) in [
        (true, vec![], CURRENT),
        (true, vec![before], before),
        (true, vec![before, CURRENT], CURRENT),
        (true, vec![CURRENT, before], CURRENT),
        (true, vec![before, after], before),
        (true, vec![after], CURRENT),
        (true, vec![before, CURRENT, after], CURRENT),
        (false, vec![before], CURRENT),
        (false, vec![before, after], CURRENT),
    ] {
        let (mut bench, peering) = bench(asks);
        hear(&mut bench, &peering, &slots);
        let outcome = bench.send(&framed(&Version::V6.sent(0, 200)));
        sealed(&peering, expected, &outcome)
            .unwrap_or_else(|error| panic!("asks: {asks}, heard in {slots:?}: {error:#}"));
    }
}

#[test]
fn a_slot_that_is_longer_ago_does_not_count() {
    let (mut bench, peering) = bench(true);
    for slot in [CURRENT - 2, CURRENT - 4, CURRENT - 5] {
        let mut ring = Ring::default();
        // An entry of another slot at the place of the right one, and a torn one.
        let words: [std::sync::atomic::AtomicU64; 4] = std::array::from_fn(|_| 0.into());
        heard::note(&words, slot, source(peering.remote(slot)), || true);
        ring[heard::index(slot)] = words.map(std::sync::atomic::AtomicU64::into_inner);
        set_ring(&mut bench, ring);
        sealed(&peering, CURRENT, &bench.send(&framed(&Version::V6.sent(0, 60)))).expect("the present slot");
        ring[heard::index(slot)][0] = CURRENT;
        ring.swap(heard::index(slot), heard::index(CURRENT));
        set_ring(&mut bench, ring);
        sealed(&peering, CURRENT, &bench.send(&framed(&Version::V6.sent(0, 60)))).expect("the derived peer");
    }
}

/// A translated peer: the address and port on the outside are those that were noted, the rest is the slot's.
#[test]
fn the_noted_address_and_port_are_the_destination() {
    let (mut bench, peering) = bench(true);
    let outside = SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 5, 1, 2, 3, 4), 40_001, 0, 0);
    for slot in [CURRENT - 1, CURRENT] {
        let words: [std::sync::atomic::AtomicU64; 4] = std::array::from_fn(|_| 0.into());
        heard::note(&words, slot, source(outside), || true);
        let mut ring = Ring::default();
        ring[heard::index(slot)] = words.map(std::sync::atomic::AtomicU64::into_inner);
        set_ring(&mut bench, ring);
        for length in [60, 1_428] {
            let mut frame = bench.send(&framed(&Version::V6.sent(0, length))).frame;
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let outer = Outer::parse(&frame).expect("a packet");
            assert_eq!((outer.destination, outer.destination_port), (*outside.ip(), outside.port()));
            let local = peering.local(slot);
            assert_eq!((outer.source, outer.source_port), (*local.ip(), local.port()));
            assert!(outer.checksum_is_right());
            let opened = crate::wire::open(&peering.tx, peering.mode, slot, outer.payload);
            assert!(opened.is_some_and(|(_, inner)| inner == Version::V6.sent(0, length)));
        }
    }
}

/// The controller chooses the slot of its messages: openers the present one, probes the next one. On other packets the same
/// marks mean nothing.
#[test]
fn the_mark_of_a_control_message_chooses_the_slot() {
    for (mark, expected) in [(CONTROL_MARK, CURRENT - 1), (OPENER_MARK, CURRENT), (PROBE_MARK, CURRENT + 1)] {
        let (mut bench, peering) = bench(true);
        hear(&mut bench, &peering, &[CURRENT - 1]);
        let mut control = Version::V6.sent(0, 60);
        control[6] = NEXT_CONTROL;
        let outcome = bench.send_with(&framed(&control), Some(&marked(mark)));
        sealed(&peering, expected, &outcome).unwrap_or_else(|error| panic!("{mark:x}: {error:#}"));
        let outcome = bench.send_with(&framed(&Version::V6.sent(0, 60)), Some(&marked(mark)));
        sealed(&peering, CURRENT - 1, &outcome).unwrap_or_else(|error| panic!("data, {mark:x}: {error:#}"));
    }
}

#[test]
fn a_probe_needs_the_next_slot() {
    let mut bench = Bench::new();
    let peering = Peering::new(0, Mode::Encrypt);
    bench.install_bare(&peering);
    bench.load(&peering, CURRENT);
    bench.route("fd00:66::2/128", &peering);
    let mut control = framed(&Version::V6.sent(0, 60));
    control[14 + 6] = NEXT_CONTROL;
    let outcome = bench.send_with(&control, Some(&marked(PROBE_MARK)));
    outcome.dropped(crate::harness::TC_ACT_SHOT, &control, DropReason::SendNoSlot).expect("a drop");
}
