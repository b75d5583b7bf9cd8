//! Congestion marks through the tunnel (RFC 6040 sections 4.1 and 4.2).

use mtd_common::DropReason;

use crate::harness::{Bench, Expect, Fixture, SEQUENCE};
use crate::inner::{Version, framed, ones_complement_sum, with_traffic_class};
use crate::peering::{CURRENT, Peering};
use crate::send::sealed;
use crate::wire::{Mode, Packet};

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// RFC 6040, figure 4: the codepoint of the inner packet, that of the outer header, and the result (`None`: dropped).
const DECAPSULATION: [(u8, u8, Option<u8>); 16] = [
    (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
    (NOT_ECT, ECT_0, Some(NOT_ECT)),
    (NOT_ECT, ECT_1, Some(NOT_ECT)),
    (NOT_ECT, CE, None),
    (ECT_0, NOT_ECT, Some(ECT_0)),
    (ECT_0, ECT_0, Some(ECT_0)),
    (ECT_0, ECT_1, Some(ECT_1)),
    (ECT_0, CE, Some(CE)),
    (ECT_1, NOT_ECT, Some(ECT_1)),
    (ECT_1, ECT_0, Some(ECT_1)),
    (ECT_1, ECT_1, Some(ECT_1)),
    (ECT_1, CE, Some(CE)),
    (CE, NOT_ECT, Some(CE)),
    (CE, ECT_0, Some(CE)),
    (CE, ECT_1, Some(CE)),
    (CE, CE, Some(CE)),
];

/// Inner packet and outer header each have a DSCP of their own; that of the inner packet must be kept.
#[test]
fn marks_are_carried_into_the_inner_packet() {
    const DSCP_INSIDE: u8 = 46 << 2;
    const DSCP_OUTSIDE: u8 = 10 << 2;
    for mode in Mode::BOTH {
        for version in Version::BOTH {
            let mut bench = Bench::new();
            let peering = Peering::new(0, mode);
            bench.install(&peering);
            for (number, (inside, outside, out)) in DECAPSULATION.into_iter().enumerate() {
                let inner = version.received(DSCP_INSIDE | inside, 61);
                let packet = Packet {
                    traffic_class: DSCP_OUTSIDE | outside,
                    ..peering.packet(CURRENT, SEQUENCE + number as u64, inner)
                };
                let expect = match out {
                    None => Expect::Drop(DropReason::Ecn),
                    Some(out) => {
                        let inner = with_traffic_class(&packet.inner, DSCP_INSIDE | out);
                        Expect::Accept(0, packet.sequence, inner)
                    }
                };
                let name = format!("{mode:?}, {version:?}, {inside:02b} inside, {outside:02b} outside");
                bench.check(&Fixture { name, frame: packet.frame(), expect });
            }
        }
    }
}

/// The updated checksum must be correct for every earlier value, even if it was or becomes 0 or 0xffff.
#[test]
fn the_ipv4_checksum_stays_right() {
    let (mut bench, peering) = Bench::with_session();
    let mut seen = Vec::new();
    for identification in 0..=u16::MAX {
        let mut inner = Version::V4.received(ECT_0, 28);
        inner[4..6].copy_from_slice(&identification.to_be_bytes());
        crate::inner::with_ipv4_checksum(&mut inner);
        let edge = matches!(u16::from_be_bytes([inner[10], inner[11]]), 0..=3 | 0xfffc..);
        if !edge && identification % 997 != 0 {
            continue;
        }
        let number = SEQUENCE + u64::from(identification);
        let packet = Packet { traffic_class: CE, ..peering.packet(CURRENT, number, inner) };
        let outcome = bench.receive(&packet.frame());
        let header = outcome.frame.get(14..34).unwrap_or_default();
        assert_eq!(header.get(1), Some(&CE), "identification {identification}: {outcome:?}");
        assert_eq!(ones_complement_sum(header), 0xffff, "identification {identification}");
        seen.push(identification);
    }
    assert!(seen.len() > 65, "{} checked", seen.len());
}

/// Normal mode: the mark is copied to the outer header. The DSCP is not, because it would distinguish flows.
#[test]
fn marks_are_copied_to_the_outer_header() {
    let (mut bench, peering) = Bench::with_session();
    bench.route("10.66.0.2/32", &peering);
    bench.route("fd00:66::2/128", &peering);
    for version in Version::BOTH {
        for traffic_class in 0..=u8::MAX {
            let inner = version.sent(traffic_class, 50);
            let outcome = bench.send(&framed(&inner));
            let sealed = sealed(&peering, CURRENT, &outcome).unwrap_or_else(|error| {
                panic!("{version:?}, traffic class {traffic_class:#x}: {error:#}");
            });
            assert_eq!(sealed.traffic_class, traffic_class & 3, "{version:?}, {traffic_class:#x}");
            assert_eq!(sealed.inner, inner, "the inner packet stays as it is");
        }
    }
}
