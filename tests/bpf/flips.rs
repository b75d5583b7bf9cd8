//! Every bit of every header, flipped on the way.

use mtd_common::DropReason;
use mtd_common::abi::SessionState;

use crate::harness::{Bench, Expect, Fixture, SEQUENCE};
use crate::inner::Version;
use crate::peering::{BEGIN, CURRENT, Peering};
use crate::wire::{INNER_AT, Mode, Packet};

/// A sequence number a minute behind the clock, so that no flipped bit comes near the limit of possible numbers.
const NUMBER: u64 = SEQUENCE - (1 << 30);

/// The result that the wire format requires for a packet with bit `bit` (0: the lowest) of byte `at` flipped.
#[expect(clippy::match_same_arms, reason = "a table in the order of the bytes")]
fn verdict(peering: &Peering, packet: &Packet, at: usize, bit: u8) -> Expect {
    use DropReason::*;
    let untouched = Expect::Accept(peering.index, packet.sequence, packet.inner.clone());
    match at {
        // The programs do not check link-layer addresses.
        0..12 => untouched,
        // With another EtherType, the packet is not IPv6 any more.
        12..14 => Expect::Pass,
        // Version, then the traffic class, which routers may change.
        14 if bit >= 4 => Expect::Drop(LengthMismatch),
        14 => untouched,
        15 if bit >= 4 => untouched,
        15..18 => Expect::Drop(FlowLabel),
        18..20 => Expect::Drop(LengthMismatch),
        20 => Expect::Drop(OtherProtocol),
        // The hop limit, which routers change.
        21 => untouched,
        22..38 => Expect::Drop(WrongPeer),
        38..46 => Expect::Pass,
        46..54 => Expect::Drop(UnknownAddress),
        54..56 => Expect::Drop(WrongPeer),
        56..58 => Expect::Drop(WrongPort),
        58..60 => Expect::Drop(LengthMismatch),
        60..62 => Expect::Drop(BadChecksum),
        62..INNER_AT => {
            // Another tag makes another mask, and therefore another number. A number more than 2^34 ahead of the clock is
            // impossible; any other is unused, so the tag decides.
            let sequence = peering.rx.sequence(&flipped(packet, at, bit));
            let possible = sequence <= BEGIN / 64 + (1 << 34);
            Expect::Drop(if possible { BadTag } else { InvalidSequence })
        }
        _ => Expect::Drop(BadTag),
    }
}

fn flipped(packet: &Packet, at: usize, bit: u8) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[at] ^= 1 << bit;
    frame
}

/// Flips each bit in the bytes `range` of a packet, then sends the packet unchanged, which must be accepted unless the
/// changed one was.
fn flip_all(range: &(impl Iterator<Item = usize> + Clone)) {
    for mode in Mode::BOTH {
        for version in Version::BOTH {
            let mut bench = Bench::new();
            let peering = Peering::new(0, mode);
            bench.install(&peering);
            let packet = peering.packet(CURRENT, NUMBER, version.received(0, 131));
            for (at, bit) in range.clone().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                bench.plane.set_session_state(0, SessionState::default()).expect("a state");
                let name = format!("{mode:?}, {version:?}, byte {at}, bit {bit}");
                let expect = verdict(&peering, &packet, at, bit);
                let accepted = matches!(expect, Expect::Accept(..));
                bench.check(&Fixture { name: name.clone(), frame: flipped(&packet, at, bit), expect });
                bench.check(&if accepted {
                    Fixture::drop(name + ", then unchanged", DropReason::Replayed, packet.frame())
                } else {
                    Fixture::accept(name + ", then unchanged", &peering, &packet)
                });
            }
        }
    }
}

#[test]
fn no_bit_of_ethernet_and_ipv6_burns_a_number() {
    flip_all(&(0..54));
}

#[test]
fn no_bit_of_udp_ports_and_length_burns_a_number() {
    flip_all(&(54..60));
}

/// Anybody on the way can send a copy with another checksum ahead of the packet. The copy must not use up the packet's
/// number.
#[test]
fn no_bit_of_the_udp_checksum_burns_a_number() {
    flip_all(&(60..62));
}

#[test]
fn no_bit_of_number_and_tag_burns_a_number() {
    flip_all(&(62..INNER_AT));
}

#[test]
fn no_bit_of_the_inner_packet_burns_a_number() {
    flip_all(&((INNER_AT..INNER_AT + 131).step_by(7).chain([INNER_AT + 130])));
}
