//! The order of the stages of the receive program: for a packet with several faults, the first stage that finds one
//! determines the reason, and no later stage has changed anything.

use mtd_common::DropReason;
use mtd_tests::packet::{Path, udp};

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::{OWN6, Version, ipv6};
use crate::peering::{CURRENT, Peering};
use crate::wire::{Keys, Mode, Packet};

/// Faults of a packet, in the order of the stages that find them.
const FAULTS: [DropReason; 7] = [
    DropReason::WrongPort,
    DropReason::FlowLabel,
    DropReason::InvalidSequence,
    DropReason::Replayed,
    DropReason::BadTag,
    DropReason::BadChecksum,
    DropReason::InnerSource,
];

/// A packet with the fault number `from` and all later ones. Its number is `fresh` unless the number is one of the faults.
fn faulty(peering: &Peering, from: usize, used: u64, fresh: u64) -> Vec<u8> {
    let has = |reason| FAULTS[from..].contains(&reason);
    let sequence = match (has(DropReason::InvalidSequence), has(DropReason::Replayed)) {
        (true, _) => u64::MAX,
        (false, true) => used,
        (false, false) => fresh,
    };
    let source = "fd00:66::3".parse().expect("an address");
    let valid = peering.packet(CURRENT, sequence, ipv6(source, OWN6, 0, 120));
    let keys = if has(DropReason::BadTag) { Keys { seal: [7; 32], ..valid.keys } } else { valid.keys };
    let packet = Packet { keys, ..valid };
    let path = Path { flow_label: has(DropReason::FlowLabel).into(), ..packet.path() };
    let port = packet.to.port() ^ u16::from(has(DropReason::WrongPort));
    let mut frame = udp(&path, packet.from.port(), port, &packet.sealed());
    if has(DropReason::BadChecksum) {
        frame[61] ^= 0x10;
    }
    frame
}

#[test]
fn the_first_stage_that_sees_a_fault_gives_the_reason() {
    for mode in Mode::BOTH {
        let mut bench = Bench::new();
        let peering = Peering::new(0, mode);
        bench.install(&peering);
        let (used, fresh) = (SEQUENCE, SEQUENCE + 1);
        let number = |sequence| peering.packet(CURRENT, sequence, Version::V6.received(0, 120));
        bench.check(&Fixture::accept("the number that is used", &peering, &number(used)));
        for (from, &reason) in FAULTS.iter().enumerate() {
            let frame = faulty(&peering, from, used, fresh);
            bench.check(&Fixture::drop(format!("{mode:?}, faults from {from} on"), reason, frame));
        }
        bench.check(&Fixture::accept("the number that no fault has used up", &peering, &number(fresh)));
    }
}
