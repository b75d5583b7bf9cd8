//! Introductions: anybody who knows the window's key can send a message, which is handed to the controller once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::thread;

use mtd_common::DropReason::{self, *};
use mtd_tests::packet::{Path, udp};

use crate::concurrency::{on_one_cpu, pin, verdict};
use crate::harness::{Bench, Fixture, SEQUENCE, XDP_DROP, boot_time};
use crate::inner::{OWN6, PEER6, Version, ipv4, ipv6};
use crate::message::{self, MAX_MESSAGE};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, Packet, with_right_checksum};

/// Introductions of one CPU in one burst, and ns for one more.
const BURST: u64 = 5_000;
const INTERVAL: u64 = 200_000;

fn bench() -> (Bench, Peering) {
    let mut bench = Bench::new();
    let peering = Peering::introduction(2);
    bench.install(&peering);
    (bench, peering)
}

/// Sequence numbers in introductions are random: any 64 bits, in no order.
fn random(nth: u64) -> u64 {
    nth.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Addresses and ports of ends that the server does not know.
fn stranger(nth: u64) -> SocketAddrV6 {
    let address = Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0001 | u128::from(random(nth)) << 32);
    SocketAddrV6::new(address, random(nth) as u16 | 1, 0, 0)
}

#[test]
fn each_length_and_source_reaches_the_controller_once() {
    let (mut bench, peering) = bench();
    for length in 0..=MAX_MESSAGE {
        let nth = length as u64;
        let slot = CURRENT - 1 + nth % 3;
        let packet = peering.message_from(stranger(nth), slot, random(nth), length);
        bench.check(&Fixture::divert(format!("{length} bytes"), &peering, &packet));
        bench.check(&Fixture::drop(format!("{length} bytes, again"), Replayed, packet.frame()));
    }
}

#[test]
fn no_number_is_too_high_too_low_or_used() {
    let (mut bench, peering) = bench();
    let numbers = [0, 1, u64::MAX, SEQUENCE, u64::MAX - 1, 1 << 63, 2, SEQUENCE - 5_000, SEQUENCE + 5_000];
    let mut list = Vec::new();
    for number in numbers {
        let packet = |length| peering.message(CURRENT, number, length);
        list.push(Fixture::divert(format!("number {number:#x}"), &peering, &packet(100)));
        list.push(Fixture::divert(format!("number {number:#x}, another message"), &peering, &packet(101)));
    }
    bench.run_all(&list);
}

/// A client's end: it knows the server's address and ports, and accepts nothing from elsewhere.
#[test]
fn the_clients_end_takes_what_its_server_sends() {
    let mut bench = Bench::new();
    let peering = Peering { anybody: false, ..Peering::introduction(1) };
    bench.install(&peering);
    let right = peering.message(CURRENT, random(0), 300);
    let mut other_port = peering.remote(CURRENT);
    other_port.set_port(other_port.port() ^ 1);
    let mut other_address = peering.remote(CURRENT);
    other_address.set_ip("2001:db8:c::77".parse().expect("an address"));
    bench.run_all(&[
        Fixture::drop(
            "another port",
            WrongPeer,
            peering.message_from(other_port, CURRENT, random(1), 300).frame(),
        ),
        Fixture::drop(
            "another address",
            WrongPeer,
            peering.message_from(other_address, CURRENT, random(2), 300).frame(),
        ),
        Fixture::drop(
            "another inner source",
            InnerSource,
            peering.packet(CURRENT, random(3), message::inner(PEER6, *right.to.ip(), 300)).frame(),
        ),
        Fixture::divert("the server", &peering, &right),
        Fixture::drop("the server, replayed", Replayed, right.frame()),
    ]);
}

/// A router may have translated the source, so a packet counts once from elsewhere too. Whoever saw it does not thereby spend
/// it for the one who sent it; and the controller sees in the record whose it is.
#[test]
fn a_captured_packet_counts_once_from_elsewhere_and_once_as_it_was_sent() {
    let (mut bench, peering) = bench();
    let packet = peering.message(CURRENT, random(0), 200);
    let payload = packet.sealed();
    let from = |source: SocketAddrV6, slot| {
        let path = Path { source: *source.ip(), destination: *peering.local(slot).ip(), ..packet.path() };
        udp(&path, source.port(), peering.local(slot).port(), &payload)
    };
    let mut second_port = packet.from;
    second_port.set_port(packet.from.port() ^ 0x100);
    bench.run_all(&[
        Fixture::divert(
            "first from another address",
            &peering,
            &Packet { from: stranger(1), ..packet.clone() },
        ),
        Fixture::drop("the same", Replayed, from(stranger(1), CURRENT)),
        Fixture::drop("from a third address", Replayed, from(stranger(2), CURRENT)),
        Fixture::drop("first to another slot", BadTag, from(packet.from, CURRENT + 1)),
        Fixture::divert("then as it was sent", &peering, &packet),
        Fixture::drop("again", Replayed, packet.frame()),
        Fixture::drop("again from another port", Replayed, from(second_port, CURRENT)),
        Fixture::drop("again from another address", Replayed, from(stranger(1), CURRENT)),
        Fixture::drop("again to another slot", Replayed, from(packet.from, CURRENT + 1)),
    ]);
}

/// Invalid packets to an introduction: a description of the fault, the drop reason, and the frame.
fn no_introductions(peering: &Peering, right: &Packet) -> Vec<(&'static str, DropReason, Vec<u8>)> {
    let (client, server) = (*right.from.ip(), *right.to.ip());
    let path = right.path();
    let (from, to) = (right.from.port(), right.to.port());
    let payload = right.sealed();
    let with = |change: &dyn Fn(&mut Packet)| {
        let mut changed = right.clone();
        change(&mut changed);
        changed.frame()
    };
    let inner = |inner: Vec<u8>| with(&|p| p.inner.clone_from(&inner));
    let typed = |next: u8| {
        let mut packet = message::inner(client, server, 120);
        packet[6] = next;
        packet
    };
    let mut ipv4_control = ipv4([10, 66, 0, 2].into(), [10, 66, 0, 1].into(), 0, 120);
    ipv4_control[9] = message::NEXT_CONTROL;
    let mut forged = right.frame();
    forged[100] ^= 1;
    let mut damaged = right.frame();
    damaged[61] ^= 0x10;
    let mut short = message::inner(client, server, 120);
    short[5] -= 1;
    vec![
        ("another port", WrongPort, udp(&path, from, to ^ 1, &payload)),
        ("a slot that is over", StaleSlot, peering.message(CURRENT - 2, random(1), 120).frame()),
        ("a slot that has not begun", StaleSlot, peering.message(CURRENT + 2, random(2), 120).frame()),
        ("a flow label", FlowLabel, udp(&Path { flow_label: 1, ..path }, from, to, &payload)),
        ("nothing inside", TooShort, udp(&path, from, to, &payload[..24 + 19])),
        ("a forged message", BadTag, with_right_checksum(&forged)),
        ("another key", BadTag, with(&|p| p.keys.seal[0] ^= 1)),
        ("another mask", BadTag, with(&|p| p.keys.mask[0] ^= 1)),
        ("sealed as in the other mode", BadTag, with(&|p| p.mode = Mode::Authenticate)),
        ("a wrong checksum", BadChecksum, damaged),
        ("UDP inside", MalformedInner, inner(typed(17))),
        ("TCP inside", MalformedInner, inner(typed(6))),
        ("the other number for experiments inside", MalformedInner, inner(typed(253))),
        ("IPv4 inside", MalformedInner, inner(Version::V4.received(0, 120))),
        ("IPv4 of the same protocol inside", MalformedInner, inner(ipv4_control)),
        ("no IP packet inside", MalformedInner, inner(vec![0; 120])),
        ("a wrong inner length", MalformedInner, inner(short)),
        ("another inner destination", InnerSource, inner(message::inner(client, OWN6, 120))),
        ("source and destination swapped", InnerSource, inner(message::inner(server, client, 120))),
        ("congestion that cannot be said", Ecn, with(&|p| p.traffic_class = 3)),
        ("one byte too long", ControlTooLong, inner(message::inner(client, server, MAX_MESSAGE + 1))),
        ("as long as the MTU allows", ControlTooLong, inner(message::inner(client, server, 1428 - 40))),
    ]
}

#[test]
fn what_is_no_introduction_is_dropped_and_not_remembered() {
    let (mut bench, peering) = bench();
    for slot in [CURRENT - 2, CURRENT + 2] {
        bench.load(&peering, slot);
    }
    let right = peering.message(CURRENT, random(0), 120);
    let mut list = Vec::new();
    for (name, reason, frame) in no_introductions(&peering, &right) {
        list.push(Fixture::drop(name, reason, frame.clone()));
        list.push(Fixture::drop(format!("{name}, again"), reason, frame));
    }
    list.push(Fixture::divert("the right one", &peering, &right));
    bench.run_all(&list);
    bench.plane.set_session(peering.index, mtd_common::abi::Session::default()).expect("a session");
    let late = peering.message(CURRENT, random(3), 120).frame();
    bench.check(&Fixture::drop("when the introduction has ended", SessionEnded, late));
}

/// A session and an introduction may have the same address (requirement MT-07).
#[test]
fn an_introduction_shares_an_address_with_sessions() {
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::new();
        let pinned = Some("2001:db8:a:0:1234::1".parse().expect("an address"));
        let both = [
            Peering { pinned, ..Peering::introduction(0) },
            Peering { pinned, ..Peering::new(1, Mode::Encrypt) },
        ];
        for index in order {
            bench.install_bare(&both[index]);
            bench.load(&both[index], CURRENT);
        }
        let [introduction, session] = &both;
        let data = session.packet(CURRENT, SEQUENCE, ipv6(PEER6, OWN6, 0, 90));
        bench.run_all(&[
            Fixture::divert("to the introduction", introduction, &introduction.message(CURRENT, 5, 90)),
            Fixture::divert("to the session", session, &session.message(CURRENT, SEQUENCE + 1, 90)),
            Fixture::accept("data", session, &data),
        ]);
    }
}

#[test]
fn they_are_rate_limited() {
    const INTRODUCTIONS: u64 = 9_000;
    const AGAIN: usize = 1_000;
    let (mut bench, peering) = bench();
    let packets: Vec<_> =
        (0..INTRODUCTIONS).map(|nth| peering.message_from(stranger(nth), CURRENT, random(nth), 32)).collect();
    let frames: Vec<_> = packets.iter().map(Packet::frame).collect();
    let began = boot_time();
    let records = on_one_cpu(|| {
        let mut records = 0;
        // At most as many at a time as fit into the ring buffer.
        for batch in frames.chunks(1_000) {
            let program = bench.plane.receive_program().expect("a program");
            assert!(batch.iter().all(|frame| verdict(program, frame) == XDP_DROP));
            records += bench.records().len() as u64;
        }
        let drops = bench.plane.counts().expect("the counters").drops;
        assert!(drops.contains_key(&IntroductionLimited), "{drops:?}");
        // All valid ones are remembered, including those over the limit, as most of the last ones were.
        let program = bench.plane.receive_program().expect("a program");
        assert!(frames.iter().rev().take(AGAIN).all(|frame| verdict(program, frame) == XDP_DROP));
        assert!(bench.records().is_empty(), "a replay");
        records
    });
    let elapsed = boot_time() - began;
    let counts = bench.plane.counts().expect("the counters");
    let most = BURST + elapsed / INTERVAL + 1;
    assert!((BURST..=most).contains(&records), "{records} in {elapsed} ns, {most} allowed");
    assert_eq!(counts.frames.control, records);
    let limited = INTRODUCTIONS - records;
    assert_eq!(counts.drops, BTreeMap::from([(IntroductionLimited, limited), (Replayed, AGAIN as u64)]));
    let state = bench.plane.session_state(peering.index).expect("a state");
    assert_eq!((state.rx_packets, state.rx_bytes), (INTRODUCTIONS, INTRODUCTIONS * 72));
}

#[test]
fn two_cpus_take_each_introduction_exactly_once() {
    const PACKETS: u64 = 1_000;
    let (mut bench, peering) = bench();
    let packets: Vec<_> = (0..PACKETS)
        .map(|nth| peering.message_from(stranger(nth), CURRENT, random(nth), nth as usize % 500).frame())
        .collect();
    let program = bench.plane.receive_program().expect("a program");
    thread::scope(|scope| {
        for cpu in 0..2 {
            let (program, packets) = (&*program, &packets);
            scope.spawn(move || {
                pin(cpu);
                assert!(packets.iter().all(|frame| verdict(program, frame) == XDP_DROP));
            });
        }
    });
    let records = bench.records();
    // After the time: session, slot, ends and message, which differ for each.
    let different: BTreeSet<_> = records.iter().map(|record| &record[8..]).collect();
    assert_eq!((records.len() as u64, different.len() as u64), (PACKETS, PACKETS));
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.frames.control, PACKETS);
    assert_eq!(counts.drops, BTreeMap::from([(Replayed, PACKETS)]));
}
