//! Packet Too Big for live addresses (RFC 4443 section 3.2, RFC 8201): believed if it quotes a packet that a session has
//! sent; otherwise counted and dropped.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use mtd::model::{Frames, LinkMode, SessionIndex};
use mtd::proto::slots::SlotMaps as _;
use mtd_common::DropReason::{self, Icmpv6, TooBigInvalid, TooBigLimited};
use mtd_common::control_record::ControlRecord;
use mtd_tests::packet::{ETHERNET_LEN, Path, icmpv6_error};

use crate::concurrency::{on_one_cpu, verdict};
use crate::harness::{Bench, Fixture, MTU, Outcome, SEQUENCE, XDP_DROP, boot_time};
use crate::inner::{PEER6, Version, framed};
use crate::neighbour::{ICMP_AT, mended};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, OVERHEAD, ROUTER_MAC, UNDERLAY_MAC};

/// A router on the path that is not a neighbour.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1);
const TOO_BIG: u8 = 2;
/// Length of the longest quote, since the whole message has at most 1,280 bytes.
const QUOTE: usize = 1280 - 48;
/// Offset of the quote in the frame.
const QUOTED_AT: usize = ICMP_AT + 8;

fn bench() -> (Bench, Peering) {
    let (mut bench, peering) = Bench::with_session();
    bench.route(&format!("{PEER6}/128"), &peering);
    (bench, peering)
}

/// A packet of the greatest length, sealed by the send program, as it is on the wire.
fn sent(bench: &mut Bench) -> Vec<u8> {
    let outcome = bench.send(&framed(&Version::V6.sent(0, MTU as usize)));
    assert_eq!(outcome.frames.sent, 1, "{outcome:?}");
    outcome.frame
}

/// A router's Packet Too Big about `packet`, which quotes `quoted` bytes of it.
fn answer(to: Ipv6Addr, mtu: u32, packet: &[u8], quoted: usize) -> Vec<u8> {
    let path = Path::new(ROUTER_MAC, UNDERLAY_MAC, ROUTER, to);
    icmpv6_error(&path, TOO_BIG, mtu, &packet[..ETHERNET_LEN + quoted])
}

/// Checks that the controller was told this MTU for this session, and that nothing else happened.
fn require_told(outcome: &Outcome, peering: &Peering, mtu: u32) -> Result<()> {
    ensure!(outcome.verdict == XDP_DROP, "verdict {}", outcome.verdict);
    ensure!(outcome.frames == Frames { too_big: 1, ..Frames::default() }, "{:?}", outcome.frames);
    ensure!(outcome.drops.is_empty() && outcome.events.is_empty(), "{:?}", outcome.drops);
    outcome.left_sessions_alone()?;
    ensure!(outcome.records.len() == 1, "{} records", outcome.records.len());
    let record = ControlRecord::decode(&outcome.records[0]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    ensure!((record.session, record.generation) == (peering.index, peering.generation), "{record:?}");
    ensure!((outcome.time.0..=outcome.time.1).contains(&record.time), "time");
    ensure!(record.too_big() == Some(mtu), "{:?}", record.too_big());
    Ok(())
}

#[test]
fn what_quotes_a_packet_of_ours_reaches_the_controller() {
    let (mut bench, peering) = bench();
    let packet = sent(&mut bench);
    let live = *peering.local(CURRENT).ip();
    assert_eq!(packet.len(), ETHERNET_LEN + MTU as usize + OVERHEAD);
    // Odd lengths of the quote too, since routers may quote any length. There are fewer than the rate limit lets through.
    for quoted in (48..=120).chain(QUOTE - 40..=QUOTE) {
        let outcome = bench.receive(&answer(live, 1400, &packet, quoted));
        require_told(&outcome, &peering, 1400).unwrap_or_else(|error| panic!("{quoted} bytes: {error:#}"));
    }
    for mtu in [1280, 1352, 1499] {
        let outcome = bench.receive(&answer(live, mtu, &packet, QUOTE));
        require_told(&outcome, &peering, mtu).unwrap_or_else(|error| panic!("MTU {mtu}: {error:#}"));
    }
}

#[test]
fn what_is_not_about_a_packet_of_ours_is_not_believed() {
    let (mut bench, peering) = bench();
    let other = Peering::new(1, Mode::Encrypt);
    bench.install(&other);
    let packet = sent(&mut bench);
    let live = *peering.local(CURRENT).ip();
    let right = answer(live, 1400, &packet, QUOTE);
    let mut list = vec![
        Fixture::drop(
            "another address of the session",
            TooBigInvalid,
            answer(*peering.local(CURRENT + 1).ip(), 1400, &packet, QUOTE),
        ),
        Fixture::drop(
            "another session's address",
            TooBigInvalid,
            answer(*other.local(CURRENT).ip(), 1400, &packet, QUOTE),
        ),
        Fixture::drop(
            "an address that nobody has",
            Icmpv6,
            answer("2001:db8:a::7".parse().expect("an address"), 1400, &packet, QUOTE),
        ),
        Fixture::drop("less than IPv6 needs", TooBigInvalid, answer(live, 1279, &packet, QUOTE)),
        Fixture::drop("no MTU at all", TooBigInvalid, answer(live, 0, &packet, QUOTE)),
        Fixture::drop("no less than was sent", TooBigInvalid, answer(live, 1500, &packet, QUOTE)),
        Fixture::drop("a huge MTU", TooBigInvalid, answer(live, u32::MAX, &packet, QUOTE)),
        Fixture::drop("a quote without ports", TooBigInvalid, answer(live, 1400, &packet, 40)),
        Fixture::drop(
            "a message that is too long itself",
            TooBigInvalid,
            answer(live, 1400, &packet, QUOTE + 1),
        ),
        Fixture::drop(
            "unreachable",
            Icmpv6,
            icmpv6_error(&Path::new(ROUTER_MAC, UNDERLAY_MAC, ROUTER, live), 1, 1400, &packet[..600]),
        ),
    ];
    // Addresses, ports, protocol and version of the quote; every bit.
    let identity = (QUOTED_AT + 8..QUOTED_AT + 44).chain([QUOTED_AT + 6]);
    for at in identity {
        for bit in 0..8 {
            let mut frame = right.clone();
            frame[at] ^= 1 << bit;
            list.push(Fixture::drop(format!("byte {at}, bit {bit}"), TooBigInvalid, mended(frame)));
        }
    }
    let mut other_version = right.clone();
    other_version[QUOTED_AT] ^= 0x20;
    list.push(Fixture::drop("a quote of IPv4", TooBigInvalid, mended(other_version)));
    // The message itself, damaged.
    for at in (ICMP_AT + 1..ICMP_AT + 8).chain([QUOTED_AT + 48, right.len() - 1]) {
        let mut frame = right.clone();
        frame[at] ^= 1;
        list.push(Fixture::drop(format!("a damaged byte {at}"), TooBigInvalid, frame));
    }
    list.push(Fixture::drop("cut short", TooBigInvalid, right[..right.len() - 1].to_vec()));
    list.push(Fixture::drop("bytes behind it", TooBigInvalid, [right.as_slice(), &[0]].concat()));
    bench.run_all(&list);
    require_told(&bench.receive(&right), &peering, 1400).expect("the message as it was");
}

#[test]
fn introductions_and_ended_slots_have_no_path() {
    let (mut bench, peering) = bench();
    let packet = sent(&mut bench);
    let introduction = Peering::introduction(1);
    bench.install(&introduction);
    // Packets through an introduction are never that long.
    let mut about = packet.clone();
    about[22..38].copy_from_slice(&introduction.local(CURRENT).ip().octets());
    about[38..54].copy_from_slice(&introduction.remote(CURRENT).ip().octets());
    about[54..56].copy_from_slice(&introduction.local(CURRENT).port().to_be_bytes());
    about[56..58].copy_from_slice(&introduction.remote(CURRENT).port().to_be_bytes());
    let to_introduction = answer(*introduction.local(CURRENT).ip(), 1400, &about, QUOTE);
    bench.check(&Fixture::drop("an introduction", TooBigInvalid, to_introduction));

    let right = answer(*peering.local(CURRENT).ip(), 1400, &packet, QUOTE);
    bench.plane.slots().unload(SessionIndex(peering.index), peering.generation, CURRENT);
    bench.check(&Fixture::drop("a slot that is over", Icmpv6, right));
}

#[test]
fn in_a_shared_prefix_only_live_addresses_are_mtds() {
    let (mut bench, peering) = bench();
    bench.configure(|settings| settings.link = LinkMode::Shared);
    let packet = sent(&mut bench);
    let ordinary = answer("2001:db8:a::7".parse().expect("an address"), 1400, &packet, QUOTE);
    bench.check(&Fixture::pass("an ordinary host's", ordinary));
    let right = answer(*peering.local(CURRENT).ip(), 1400, &packet, QUOTE);
    require_told(&bench.receive(&right), &peering, 1400).expect("a live address's");
    let mut wrong = right;
    wrong[QUOTED_AT + 41] ^= 1;
    bench.check(&Fixture::drop("a live address's, wrong", TooBigInvalid, mended(wrong)));
}

#[test]
fn messages_are_rate_limited() {
    const MESSAGES: u64 = 1_000;
    const BURST: u64 = 200;
    let (mut bench, peering) = bench();
    let frame = answer(*peering.local(CURRENT).ip(), 1400, &sent(&mut bench), QUOTE);
    let began = boot_time();
    on_one_cpu(|| {
        let program = bench.plane.receive_program().expect("a program");
        for _ in 0..MESSAGES {
            assert_eq!(verdict(program, &frame), XDP_DROP);
        }
    });
    let elapsed = boot_time() - began;
    let counts = bench.plane.counts().expect("the counters");
    let limited = counts.drops.get(&TooBigLimited).copied().unwrap_or_default();
    assert_eq!(counts.frames.too_big + limited, MESSAGES);
    let most = BURST + elapsed / 10_000_000 + 1;
    assert!((BURST..=most).contains(&counts.frames.too_big), "{} of {most}", counts.frames.too_big);
    assert_eq!(bench.records().len() as u64, counts.frames.too_big);
    bench.events();
    let others: Vec<DropReason> =
        counts.drops.into_keys().filter(|reason| *reason != TooBigLimited).collect();
    assert!(others.is_empty(), "{others:?}");
    // The limit does not apply to packets.
    let packet = peering.packet(CURRENT, SEQUENCE, Version::V6.received(0, 60));
    bench.check(&Fixture::accept("a packet afterwards", &peering, &packet));
}
