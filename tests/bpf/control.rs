//! Control messages inside sessions: opened like any packet, but handed to the controller instead of the tunnel.

use std::collections::BTreeMap;

use mtd_common::DropReason::{self, *};

use crate::concurrency::{on_one_cpu, verdict};
use crate::harness::{Bench, Fixture, SEQUENCE, XDP_DROP, XDP_REDIRECT, boot_time};
use crate::inner::{IPV6_LEN, OWN4, OWN6, PEER4, PEER6, Version, ipv4, ipv6, with_ipv4_checksum};
use crate::message::{self, MAX_MESSAGE, NEXT_CONTROL, RECORD, RING_BYTES};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, Packet};

/// Messages of one CPU in one burst, and ns for one more.
const BURST: u64 = 4_000;
const INTERVAL: u64 = 500_000;
/// Messages of one session in one burst, and ns for one more.
const SESSION_BURST: u64 = 40;
const SESSION_INTERVAL: u64 = 50_000_000;

#[test]
fn each_length_reaches_the_controller_once_in_both_modes() {
    let mut bench = Bench::new();
    for mode in Mode::BOTH {
        let peering = Peering::new(mode as u32, mode);
        bench.install(&peering);
        for length in 0..=MAX_MESSAGE {
            let slot = CURRENT - 1 + length as u64 % 3;
            let packet = peering.message(slot, SEQUENCE + length as u64, length);
            bench.rest(&peering);
            let name = format!("{mode:?}, {length} bytes");
            bench.check(&Fixture::divert(&name, &peering, &packet));
            bench.check(&Fixture::drop(name + ", again", Replayed, packet.frame()));
        }
    }
}

#[test]
fn messages_and_data_share_one_window() {
    let (mut bench, peering) = Bench::with_session();
    let data = |number| peering.packet(CURRENT, SEQUENCE + number, Version::V6.received(0, 200));
    let control = |number| peering.message(CURRENT, SEQUENCE + number, 160);
    bench.run_all(&[
        Fixture::divert("a message", &peering, &control(0)),
        Fixture::drop("data with its number", Replayed, data(0).frame()),
        Fixture::accept("data", &peering, &data(1)),
        Fixture::drop("a message with its number", Replayed, control(1).frame()),
        Fixture::divert("another message", &peering, &control(2)),
        Fixture::drop("a number of the far future", InvalidSequence, {
            Packet { sequence: u64::MAX, ..control(3) }.frame()
        }),
    ]);
}

#[test]
fn only_ipv6_of_this_next_header_is_diverted() {
    let (mut bench, peering) = Bench::with_session();
    let mut list = Vec::new();
    for next in (0..=255).filter(|&next| next != NEXT_CONTROL) {
        let mut inner = ipv6(PEER6, OWN6, 0, 90);
        inner[6] = next;
        let packet = peering.packet(CURRENT, SEQUENCE + u64::from(next), inner);
        list.push(Fixture::accept(format!("next header {next}"), &peering, &packet));
    }
    let mut inner = ipv4(PEER4, OWN4, 0, 90);
    inner[9] = NEXT_CONTROL;
    with_ipv4_checksum(&mut inner);
    let packet = peering.packet(CURRENT, SEQUENCE + 300, inner);
    list.push(Fixture::accept("the same protocol in IPv4", &peering, &packet));
    bench.run_all(&list);
}

#[test]
fn a_message_that_fails_a_check_uses_up_no_number() {
    let mut bench = Bench::new();
    let peering = Peering::new(0, Mode::Encrypt);
    let other = Peering { peer_tunnel: [[0; 16]; 2], ..Peering::new(1, Mode::Authenticate) };
    bench.install(&peering);
    bench.install(&other);
    bench.route("fd00:70::/32", &peering);
    bench.route("fd00:70:5::/48", &other);
    let address = |text: &str| text.parse().expect("an address");
    let right = peering.message(CURRENT, SEQUENCE, 120);
    let inner = |inner: Vec<u8>| Packet { inner, ..right.clone() }.frame();
    let mut forged = right.frame();
    forged[90] ^= 1;
    let mut damaged = right.frame();
    damaged[61] ^= 0x10;
    let mut short = message::inner(PEER6, OWN6, 120);
    short[5] -= 1;
    let stranger = |source: &str| inner(message::inner(address(source), OWN6, 120));
    let table: Vec<(&str, DropReason, Vec<u8>)> = vec![
        ("a stranger's source", InnerSource, stranger("fd00:66::3")),
        ("our own source", InnerSource, inner(message::inner(OWN6, OWN6, 120))),
        ("another peer's source", InnerSource, stranger("fd00:70:5::9")),
        ("an unspecified source", InnerSource, stranger("::")),
        ("a wrong inner length", MalformedInner, inner(short)),
        ("one byte too long", ControlTooLong, inner(message::inner(PEER6, OWN6, MAX_MESSAGE + 1))),
        ("as long as the MTU allows", ControlTooLong, inner(message::inner(PEER6, OWN6, 1428 - IPV6_LEN))),
        ("congestion that cannot be said", Ecn, Packet { traffic_class: 3, ..right.clone() }.frame()),
        ("a forged message", BadTag, forged),
        ("a wrong checksum", BadChecksum, damaged),
    ];
    let mut list: Vec<_> =
        table.into_iter().map(|(name, reason, frame)| Fixture::drop(name, reason, frame)).collect();
    list.push(Fixture::divert("the right one", &peering, &right));
    let routed = |peering: &Peering, source: &str, number| {
        let inner = message::inner(address(source), OWN6, 120);
        peering.packet(CURRENT, SEQUENCE + number, inner)
    };
    list.push(Fixture::divert("from a routed network", &peering, &routed(&peering, "fd00:70::9", 1)));
    list.push(Fixture::divert("from the other peer's", &other, &routed(&other, "fd00:70:5::9", 0)));
    bench.run_all(&list);
}

/// A packet with a congestion mark is accepted if its inner packet can carry the mark. The message is the same.
#[test]
fn a_congestion_mark_does_not_harm_a_message_that_can_carry_it() {
    let (mut bench, peering) = Bench::with_session();
    let mut packet = peering.message(CURRENT, SEQUENCE, 120);
    packet.inner[1] |= 0x20;
    packet.traffic_class = 3;
    bench.check(&Fixture::divert("marked", &peering, &packet));
}

#[test]
fn a_full_ring_buffer_costs_messages_only() {
    const ROOM: u64 = (RING_BYTES / (RECORD + 8)) as u64;
    let (mut bench, peering) = Bench::with_session();
    let packet = |number| peering.message(CURRENT, SEQUENCE + number, 50);
    for number in 0..ROOM {
        if number % SESSION_BURST == 0 {
            bench.rest(&peering);
        }
        let program = bench.plane.receive_program().expect("a program");
        assert_eq!(verdict(program, &packet(number).frame()), XDP_DROP);
    }
    bench.rest(&peering);
    let program = bench.plane.receive_program().expect("a program");
    let data = peering.packet(CURRENT, SEQUENCE + ROOM + 1, Version::V6.received(0, 90));
    assert_eq!(verdict(program, &data.frame()), XDP_REDIRECT, "data gets through all the same");
    // The harness reads the ring buffer after its first run.
    bench.run_all(&[
        Fixture::lose("one more", ControlFull, &peering, &packet(ROOM)),
        Fixture::drop("the lost one again", Replayed, packet(ROOM).frame()),
        Fixture::divert("a message when there is room again", &peering, &packet(ROOM + 2)),
    ]);
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.frames.control, ROOM + 1);
    assert_eq!(counts.drops, BTreeMap::from([(ControlFull, 1), (Replayed, 1)]));
}

/// While one session floods, another's messages, data and introductions still pass, and the CPU's limit is untouched.
#[test]
fn a_flood_of_one_session_takes_nothing_from_another() {
    /// More messages than one CPU lets through for all sessions together, but no more than fit into the window.
    const FLOOD: u64 = 2 * BURST;
    let (mut bench, peering) = Bench::with_session();
    let other = Peering::new(1, Mode::Encrypt);
    let introduction = Peering::introduction(2);
    bench.install(&other);
    bench.install(&introduction);
    let frames: Vec<_> =
        (0..FLOOD).map(|number| peering.message(CURRENT, SEQUENCE + number, 20).frame()).collect();
    let data = peering.packet(CURRENT, SEQUENCE + FLOOD, Version::V6.received(0, 90));
    let late = peering.message(CURRENT, SEQUENCE + FLOOD + 1, 20);
    let began = boot_time();
    let records = on_one_cpu(|| {
        let program = bench.plane.receive_program().expect("a program");
        assert!(frames.iter().all(|frame| verdict(program, frame) == XDP_DROP));
        let records = bench.records().len() as u64;
        bench.events();
        let others = (0..SESSION_BURST).map(|number| other.message(CURRENT, SEQUENCE + number, 20));
        let mut list: Vec<_> =
            others.map(|packet| Fixture::divert("another session", &other, &packet)).collect();
        list.push(Fixture::accept("data of the one that floods", &peering, &data));
        list.push(Fixture::divert("an introduction", &introduction, &introduction.message(CURRENT, 7, 20)));
        bench.run_all(&list);
        bench.rest(&peering);
        bench.check(&Fixture::divert("the one that flooded, after a rest", &peering, &late));
        records
    });
    let elapsed = boot_time() - began;
    let most = SESSION_BURST + elapsed / SESSION_INTERVAL + 1;
    assert!((SESSION_BURST..=most).contains(&records), "{records} in {elapsed} ns, {most} allowed");
    let counts = bench.plane.counts().expect("the counters");
    assert_eq!(counts.drops, BTreeMap::from([(ControlLimited, FLOOD - records)]));
    let state = bench.plane.session_state(0).expect("a state");
    // Messages over the limit use up their numbers too, since the packets were valid.
    assert_eq!(state.rx_packets, FLOOD + 2);
}

/// Many sessions at once meet the limit of the CPU that they share.
#[test]
fn messages_of_all_sessions_together_are_limited() {
    const MESSAGES: u64 = 7_000;
    /// No more than fit into the window.
    const AGAIN: usize = 1_000;
    let (mut bench, peering) = Bench::with_session();
    let introduction = Peering::introduction(1);
    bench.install(&introduction);
    let packet = |number| peering.message(CURRENT, SEQUENCE + number, 20).frame();
    let frames: Vec<_> = (0..MESSAGES).map(packet).collect();
    let data = peering.packet(CURRENT, SEQUENCE + MESSAGES, Version::V6.received(0, 90));
    let began = boot_time();
    let records = on_one_cpu(|| {
        let mut records = 0;
        // One session stands for many, because its own limit is reset each time.
        for batch in frames.chunks(SESSION_BURST as usize) {
            bench.rest(&peering);
            let program = bench.plane.receive_program().expect("a program");
            assert!(batch.iter().all(|frame| verdict(program, frame) == XDP_DROP));
            records += bench.records().len() as u64;
        }
        let drops = bench.plane.counts().expect("the counters").drops;
        assert!(drops.contains_key(&ControlLimited), "{drops:?}");
        // All of them have used up their numbers, including those over the limit, as most of the last ones were.
        let program = bench.plane.receive_program().expect("a program");
        assert!(frames.iter().rev().take(AGAIN).all(|frame| verdict(program, frame) == XDP_DROP));
        bench.events();
        bench.run_all(&[
            Fixture::accept("data", &peering, &data),
            Fixture::divert("an introduction", &introduction, &introduction.message(CURRENT, 7, 20)),
        ]);
        records
    });
    let elapsed = boot_time() - began;
    let counts = bench.plane.counts().expect("the counters");
    let most = BURST + elapsed / INTERVAL + 1;
    assert!((BURST..=most).contains(&records), "{records} in {elapsed} ns, {most} allowed");
    assert_eq!((counts.frames.control, counts.frames.accepted), (records + 1, 1));
    let limited = MESSAGES - records;
    assert_eq!(counts.drops, BTreeMap::from([(ControlLimited, limited), (Replayed, AGAIN as u64)]));
    let state = bench.plane.session_state(0).expect("a state");
    assert_eq!((state.rx_packets, state.rx_bytes), (MESSAGES + 1, MESSAGES * 60 + 90));
}
