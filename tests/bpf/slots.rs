//! When an address is live, and when a session has ended.

use std::net::SocketAddrV6;
use std::thread::sleep;
use std::time::Duration;

use mtd_common::DropReason;

use crate::concurrency::on_one_cpu;
use crate::harness::{Bench, Fixture, SEQUENCE, boot_time};
use crate::inner::Version;
use crate::peering::{CURRENT, Peering, slot_start};
use crate::wire::Packet;

fn packet(peering: &Peering, slot: u64, number: u64) -> Packet {
    peering.packet(slot, SEQUENCE + number, Version::V6.received(0, 90))
}

#[test]
fn the_previous_the_current_and_the_next_slot_are_live() {
    let (mut bench, peering) = Bench::with_session();
    for slot in [CURRENT - 3, CURRENT - 2, CURRENT + 2, CURRENT + 3] {
        bench.load(&peering, slot);
    }
    let mut list = Vec::new();
    for (number, slot) in (CURRENT - 3..=CURRENT + 3).enumerate() {
        let packet = packet(&peering, slot, number as u64);
        let name = format!("slot {slot} during {CURRENT}");
        list.push(if (CURRENT - 1..=CURRENT + 1).contains(&slot) {
            Fixture::accept(name, &peering, &packet)
        } else {
            Fixture::drop(name, DropReason::StaleSlot, packet.frame())
        });
    }
    list.push(Fixture::drop(
        "a slot that is not loaded",
        DropReason::UnknownAddress,
        packet(&peering, CURRENT + 4, 9).frame(),
    ));
    bench.run_all(&list);
}

#[test]
fn one_window_of_numbers_serves_all_slots() {
    let (mut bench, peering) = Bench::with_session();
    bench.run_all(&[
        Fixture::accept("in the current slot", &peering, &packet(&peering, CURRENT, 0)),
        Fixture::drop(
            "the same number, sealed for the next slot",
            DropReason::Replayed,
            packet(&peering, CURRENT + 1, 0).frame(),
        ),
        Fixture::accept("another number there", &peering, &packet(&peering, CURRENT + 1, 1)),
    ]);
}

/// A captured packet is replayed to the addresses and ports of another live slot.
#[test]
fn a_packet_of_one_slot_does_not_open_in_another() {
    let (mut bench, peering) = Bench::with_session();
    let mut moved = packet(&peering, CURRENT, 0);
    (moved.from, moved.to) = (peering.remote(CURRENT + 1), peering.local(CURRENT + 1));
    bench.run_all(&[
        Fixture::drop("at the next slot's address", DropReason::BadTag, moved.frame()),
        Fixture::accept("at its own address", &peering, &packet(&peering, CURRENT, 0)),
    ]);
}

#[test]
fn an_address_begins_and_ends_at_the_nanosecond_of_its_slot() {
    const SOON: u64 = 1_000_000_000;
    let (mut bench, peering) = Bench::with_session();
    for slot in [CURRENT - 1, CURRENT + 2] {
        bench.load(&peering, slot);
    }
    // Set the clock as if the middle one of the three live slots were about to end.
    let mut session = bench.plane.session(0).expect("a session");
    session.clock_offset = slot_start(CURRENT + 1).wrapping_sub(SOON).wrapping_sub(boot_time());
    bench.plane.set_session(0, session).expect("a session");
    let edge = boot_time() + SOON;
    // These are the numbers that an honest sender uses at that time.
    let first = slot_start(CURRENT + 1) / 64;
    let packets = [CURRENT - 1, CURRENT + 2].map(|slot| {
        [0, 1]
            .map(|n| peering.packet(slot, first + 2 * (slot + 1 - CURRENT) + n, Version::V6.received(0, 90)))
    });
    let stale = DropReason::StaleSlot;
    bench.run_all(&[
        Fixture::accept("before the end of the first", &peering, &packets[0][0]),
        Fixture::drop("before the begin of the last", stale, packets[1][0].frame()),
    ]);
    assert!(boot_time() < edge, "the machine is too slow for this test");
    while boot_time() < edge {
        sleep(Duration::from_millis(5));
    }
    bench.run_all(&[
        Fixture::drop("after the end of the first", stale, packets[0][1].frame()),
        Fixture::accept("after the begin of the last", &peering, &packets[1][0]),
    ]);
}

/// Packets are refused by the time of the last tick, and accepted by the exact one.
#[test]
fn nothing_is_accepted_after_its_time_within_the_same_tick() {
    /// Much less than a tick of any kernel.
    const SOON: u64 = 300_000;
    const ROUNDS: u64 = 8;
    let (mut bench, peering) = Bench::with_session();
    for round in 0..ROUNDS {
        let (early, late) = (packet(&peering, CURRENT, 2 * round), packet(&peering, CURRENT, 2 * round + 1));
        on_one_cpu(|| {
            let mut session = bench.plane.session(0).expect("a session");
            let end = boot_time() + SOON;
            session.until = end.wrapping_add(session.clock_offset);
            bench.plane.set_session(0, session).expect("a session");
            // From here on, the last tick that this CPU knows is before the end of the session, unless this takes too long.
            bench.receive(&early.frame());
            while boot_time() < end {
                std::hint::spin_loop();
            }
            bench.check(&Fixture::drop("too late", DropReason::StaleSlot, late.frame()));
        });
    }
}

/// A session may end before its slots do.
#[test]
fn no_slot_outlives_its_session() {
    let (mut bench, peering) = Bench::with_session();
    let mut session = bench.plane.session(0).expect("a session");
    session.until = bench.session_time();
    bench.plane.set_session(0, session).expect("a session");
    bench.check(&Fixture::drop("too late", DropReason::StaleSlot, packet(&peering, CURRENT, 0).frame()));
}

#[test]
fn a_session_ends_with_its_generation() {
    let (mut bench, peering) = Bench::with_session();
    bench.check(&Fixture::accept("while it lasts", &peering, &packet(&peering, CURRENT, 0)));
    let ended = |number| packet(&peering, CURRENT, number).frame();
    let successor = Peering { generation: peering.generation + 1, ..peering.clone() };
    for (number, (name, change)) in [
        ("another generation", successor.element(0)),
        ("nothing at this index", mtd_common::abi::Session::default()),
        (
            "keys zeroed, generation as before",
            mtd_common::abi::Session { generation: peering.generation, ..Default::default() },
        ),
    ]
    .into_iter()
    .enumerate()
    {
        bench.plane.set_session(0, change).expect("a session");
        let outcome = bench.receive(&ended(1 + number as u64));
        // A session that is all zero has no address any more. In both cases nothing is accepted.
        let reason = if change.generation == peering.generation {
            DropReason::UnknownAddress
        } else {
            DropReason::SessionEnded
        };
        outcome
            .dropped(1, &ended(1 + number as u64), reason)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn no_packet_opens_with_keys_of_zero() {
    let (mut bench, peering) = Bench::with_session();
    let mut element = peering.element(0);
    element.clock_offset = bench.plane.session(0).expect("a session").clock_offset;
    (element.rx, element.mode) = (mtd_common::abi::DirectionKeys::default(), 0);
    bench.plane.set_session(0, element).expect("a session");
    let mut forged = packet(&peering, CURRENT, 0);
    forged.keys = crate::wire::Keys { seal: [0; 32], mask: [0; 16] };
    bench.check(&Fixture::drop("mode and keys zeroed", DropReason::SessionEnded, forged.frame()));
}

fn at_port(end: SocketAddrV6, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(*end.ip(), port, 0, 0)
}

#[test]
fn ports_and_peer_are_those_of_the_slot() {
    let (mut bench, peering) = Bench::with_session();
    let valid = packet(&peering, CURRENT, 0);
    let with = |change: &dyn Fn(&mut Packet)| {
        let mut changed = valid.clone();
        change(&mut changed);
        changed.frame()
    };
    let next = CURRENT + 1;
    bench.run_all(&[
        Fixture::drop("the next slot's own port", DropReason::WrongPort, {
            with(&|p| p.to.set_port(peering.local(next).port()))
        }),
        Fixture::drop("the next slot's port of the peer", DropReason::WrongPeer, {
            with(&|p| p.from.set_port(peering.remote(next).port()))
        }),
        Fixture::drop("the next slot's address of the peer", DropReason::WrongPeer, {
            with(&|p| p.from.set_ip(*peering.remote(next).ip()))
        }),
        Fixture::drop("both ports and the peer of the next slot", DropReason::WrongPort, {
            with(&|p| (p.from, p.to) = (peering.remote(next), at_port(p.to, peering.local(next).port())))
        }),
        Fixture::drop("sent back from where it was received", DropReason::UnknownAddress, {
            let mut back = with(&|p| (p.from, p.to) = (p.to, p.from));
            back[38..46].copy_from_slice(&valid.to.ip().octets()[..8]);
            back
        }),
        Fixture::accept("as it should be", &peering, &valid),
    ]);
}
