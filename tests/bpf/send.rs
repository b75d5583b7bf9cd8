//! The send program: the reference can open what it seals, the outer addresses are those of the slot, and an observer learns
//! nothing from the packets.

use anyhow::{Context as _, Result, ensure};
use mtd::model::{Frames, SessionIndex};
use mtd::proto::slots::SlotMaps as _;
use mtd_common::abi::{SessionState, Slot};
use mtd_common::bytes::part;
use mtd_tests::packet::Outer;

use crate::harness::{Bench, MTU, Outcome, TC_ACT_REDIRECT};
use crate::inner::{PEER6, Version, framed, ipv6};
use crate::message::NEXT_CONTROL;
use crate::peering::{CURRENT, Peering};
use crate::wire::{INNER_AT, Mode, OVERHEAD, open};

/// Longest inner packet in bytes that every path carries.
const LEAST_PATH: usize = 1208;

/// A packet that was sent and opened again.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) sequence: u64,
    pub(crate) inner: Vec<u8>,
    pub(crate) traffic_class: u8,
}

/// Opens the result of the send program, after checking everything that must be the same in every packet: verdict,
/// counters, session state, header fields, checksum.
pub(crate) fn sealed(peering: &Peering, slot: u64, outcome: &Outcome) -> Result<Sealed> {
    let sealed_ahead = outcome.frames.sealed_ahead.min(1);
    let cut = outcome.frames.cut.min(1);
    outcome.moved(TC_ACT_REDIRECT, Frames { sent: 1, sealed_ahead, cut, ..Frames::default() })?;
    // The link-layer header is written when the kernel has found the next hop, with the protocol of the outer packet.
    let mut frame = outcome.frame.clone();
    frame.get_mut(12..14).context("no frame")?.copy_from_slice(&[0x86, 0xdd]);
    let outer = Outer::parse(&frame).context("not UDP, or lengths that do not agree")?;
    ensure!(frame.len() == 14 + 48 + outer.payload.len(), "bytes behind the packet");
    let (local, remote) = (peering.local(slot), peering.remote(slot));
    ensure!((outer.source, outer.source_port) == (*local.ip(), local.port()), "from {}", outer.source);
    ensure!((outer.destination, outer.destination_port) == (*remote.ip(), remote.port()), "to {outer:?}");
    ensure!(outer.hop_limit == 64 && outer.flow_label == 0, "hop limit or flow label of {outer:?}");
    ensure!(outer.checksum_is_right(), "checksum");
    let (sequence, inner) =
        open(&peering.tx, peering.mode, slot, outer.payload).context("the tag does not verify")?;
    let mut model = outcome.states.0.clone();
    let state = &mut model[peering.index as usize];
    if cut > 0 {
        // The number that the parts are put together by.
        state.tx_sequence += 1;
    }
    let is_control = inner[0] >> 4 == 6 && inner[6] == NEXT_CONTROL;
    state.tx_long += u64::from(cut > 0 || inner.len() > LEAST_PATH && !is_control);
    ensure!(state.tx_sequence == sequence, "number {sequence} instead of {}", state.tx_sequence);
    state.tx_sequence += 1;
    state.tx_packets += 1;
    state.tx_bytes += inner.len() as u64;
    if state.tx_packets.is_multiple_of(64) {
        let turn = outcome.states.1[peering.index as usize].tx_turn;
        ensure!((outcome.time.0..=outcome.time.1).contains(&turn), "time of the last turn");
        state.tx_turn = turn;
    }
    ensure!(model == outcome.states.1, "session state");
    Ok(Sealed { sequence, inner, traffic_class: outer.traffic_class })
}

/// Sends an inner packet and opens it again.
fn check(bench: &mut Bench, peering: &Peering, name: &str, inner: &[u8]) -> Sealed {
    let outcome = bench.send(&framed(inner));
    let sealed = sealed(peering, CURRENT, &outcome).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert!(sealed.inner == inner, "{name}: another inner packet came out");
    sealed
}

fn routed(mode: Mode) -> (Bench, Peering) {
    let mut bench = Bench::new();
    let peering = Peering::new(0, mode);
    bench.install(&peering);
    bench.route("10.66.0.2/32", &peering);
    bench.route("fd00:66::2/128", &peering);
    (bench, peering)
}

#[test]
fn every_length_is_sealed_in_both_modes_and_families() {
    for mode in Mode::BOTH {
        let (mut bench, peering) = routed(mode);
        let mut sequence = 0;
        for version in Version::BOTH {
            for length in version.header_len()..=MTU as usize {
                let name = format!("{mode:?}, {version:?}, {length} bytes");
                let sealed = check(&mut bench, &peering, &name, &version.sent(0, length));
                assert_eq!(sealed.sequence, sequence, "{name}");
                sequence += 1;
            }
        }
    }
}

#[test]
fn numbers_go_on_from_where_the_controller_set_them() {
    let (mut bench, peering) = routed(Mode::Encrypt);
    for first in [crate::harness::SEQUENCE, u64::from(u32::MAX), 1 << 60] {
        let state = SessionState { tx_sequence: first, ..SessionState::default() };
        bench.plane.set_session_state(0, state).expect("a state");
        for n in 0..3 {
            let sealed = check(&mut bench, &peering, "seeded", &Version::V6.sent(0, 40));
            assert_eq!(sealed.sequence, first + n);
        }
    }
}

/// In encrypt mode nobody can read a packet, in authenticate mode everybody can. Nothing else differs.
#[test]
fn modes_differ_in_what_can_be_read() {
    for (mode, readable) in [(Mode::Encrypt, false), (Mode::Authenticate, true)] {
        let (mut bench, peering) = routed(mode);
        let mut inner = Version::V6.sent(0, 500);
        inner[60..76].copy_from_slice(b"a known sentence");
        let outcome = bench.send(&framed(&inner));
        sealed(&peering, CURRENT, &outcome).expect("a sealed packet");
        let seen = outcome.frame.windows(16).any(|window| window == b"a known sentence");
        assert_eq!(seen, readable, "{mode:?}");
        assert_eq!(outcome.frame.len(), 14 + OVERHEAD + 500);
    }
}

/// The same packet is sent a thousand times: every bit of number, tag and (encrypted) text changes at random.
#[test]
fn nothing_in_the_sealed_part_is_constant() {
    let (mut bench, _) = routed(Mode::Encrypt);
    let inner = Version::V6.sent(0, 64);
    let mut ones = vec![0_u32; (INNER_AT + 64 - 62) * 8];
    for _ in 0..1000 {
        let outcome = bench.send(&framed(&inner));
        for (at, count) in ones.iter_mut().enumerate() {
            *count += u32::from(outcome.frame[62 + at / 8] >> (at % 8) & 1);
        }
    }
    // Eight standard deviations of a fair coin: 500 ± 126.
    let unfair: Vec<_> = ones.iter().enumerate().filter(|(_, ones)| !(374..=626).contains(*ones)).collect();
    assert!(unfair.is_empty(), "bits and how often they were set in 1,000 packets: {unfair:?}");
}

#[test]
fn the_longest_route_chooses_the_session() {
    let mut bench = Bench::new();
    let [wide, narrow] = [0, 1].map(|index| Peering::new(index, Mode::BOTH[index as usize]));
    for peering in [&wide, &narrow] {
        bench.install(peering);
    }
    bench.route("fd00:66::/32", &wide);
    bench.route("fd00:66::2/128", &narrow);
    bench.route("0.0.0.0/0", &wide);
    bench.route("10.66.0.0/24", &narrow);
    let beside = "fd00:66::3".parse().expect("an address");
    for (name, peering, inner) in [
        ("the host's route", &narrow, Version::V6.sent(0, 80)),
        ("the network's route", &wide, ipv6(PEER6, beside, 0, 80)),
        ("the /24", &narrow, Version::V4.sent(0, 80)),
        ("the default route", &wide, crate::inner::ipv4([10, 66, 0, 1].into(), [8, 8, 8, 8].into(), 0, 80)),
    ] {
        check(&mut bench, peering, name, &inner);
    }
}

/// Each end can open what the other one seals: the frames go from the send program of one data plane to the receive program
/// of another.
#[test]
fn the_receive_program_opens_what_the_send_program_sealed() {
    for mode in Mode::BOTH {
        let (mut sender, here) = routed(mode);
        let mut receiver = Bench::new();
        let mut there = Peering::new(0, mode);
        there.rx = here.tx;
        receiver.install_bare(&there);
        // The peer's address from the sender's view must be in the receiver's prefix.
        let (at_sender, at_receiver) = (here.slot(CURRENT), there.slot(CURRENT));
        let slot = Slot { peer_low: at_sender.local_low, peer_port: at_sender.local_port, ..at_receiver };
        receiver.plane.slots().load(SessionIndex(0), &slot).expect("room");
        let slot = Slot { peer_low: at_receiver.local_low, peer_port: at_receiver.local_port, ..at_sender };
        sender.plane.slots().load(SessionIndex(0), &slot).expect("room");
        for (bench, peer) in [(&mut receiver, &here), (&mut sender, &there)] {
            let mut session = bench.plane.session(0).expect("a session");
            session.peer_high = *part::<0, 8, 16>(&peer.local(CURRENT).ip().octets());
            bench.plane.set_session(0, session).expect("a session");
        }
        for (n, length) in [40, 41, 63, 64, 65, 1000, 1427, 1428].into_iter().enumerate() {
            let inner = Version::V6.received(0, length);
            // From the receiver's view the inner packet comes from its peer; the sender routes by its destination.
            sender.route("fd00:66::1/128", &here);
            let mut outcome = sender.send(&framed(&inner));
            assert_eq!(outcome.verdict, TC_ACT_REDIRECT);
            outcome.frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let opened = receiver.receive(&outcome.frame);
            opened
                .accepted(0, n as u64, &inner)
                .unwrap_or_else(|error| panic!("{mode:?}, {length} bytes: {error:#}"));
        }
    }
}
