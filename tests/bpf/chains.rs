//! Sessions that derived the same address (requirement MT-07), which are distinguished by the peer's address and the ports.

use std::net::Ipv6Addr;

use mtd::dataplane::Error;
use mtd::model::SessionIndex;
use mtd::proto::slots::SlotMaps as _;
use mtd_common::DropReason;

use crate::harness::{Bench, Fixture, SEQUENCE};
use crate::inner::Version;
use crate::peering::{CURRENT, Peering};
use crate::wire::{Mode, Packet};

const SHARED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0x1234, 0x5678, 0x9abc, 0xdef0);

/// `count` sessions with one address in the current slot.
fn crowd(count: u32) -> (Bench, Vec<Peering>) {
    let mut bench = Bench::new();
    let crowd: Vec<_> = (0..count)
        .map(|index| Peering { pinned: Some(SHARED), ..Peering::new(index, Mode::BOTH[index as usize % 2]) })
        .collect();
    for peering in &crowd {
        bench.install_bare(peering);
        bench.load(peering, CURRENT);
    }
    (bench, crowd)
}

fn packet(peering: &Peering, number: u64) -> Packet {
    peering.packet(CURRENT, SEQUENCE + number, Version::V4.received(0, 77))
}

fn unload(bench: &mut Bench, peering: &Peering) {
    bench.plane.slots().unload(SessionIndex(peering.index), peering.generation, CURRENT);
}

#[test]
fn each_reaches_its_own_session() {
    for count in 1..=4 {
        let (mut bench, crowd) = crowd(count);
        let list: Vec<_> = crowd
            .iter()
            .map(|peering| {
                Fixture::accept(format!("{} of {count}", peering.index), peering, &packet(peering, 0))
            })
            .collect();
        bench.run_all(&list);
    }
}

#[test]
fn a_fifth_is_refused_and_disturbs_nobody() {
    let (mut bench, crowd) = crowd(4);
    let fifth = Peering { pinned: Some(SHARED), ..Peering::new(4, Mode::Encrypt) };
    bench.install_bare(&fifth);
    let refused = bench.plane.slots().load(SessionIndex(fifth.index), &fifth.slot(CURRENT));
    assert!(matches!(refused, Err(Error::Crowded)), "{refused:?}");
    for peering in &crowd {
        let name = format!("session {}", peering.index);
        bench.check(&Fixture::accept(name, peering, &packet(peering, 0)));
    }
}

#[test]
fn whichever_goes_the_others_stay() {
    for gone in 0..4 {
        let (mut bench, crowd) = crowd(4);
        unload(&mut bench, &crowd[gone]);
        let mut list: Vec<_> = crowd
            .iter()
            .map(|peering| {
                let name = format!("{} without {gone}", peering.index);
                let packet = packet(peering, 0);
                if peering.index as usize == gone {
                    // Other sessions still have the address, but with other ports.
                    Fixture::drop(name, DropReason::WrongPort, packet.frame())
                } else {
                    Fixture::accept(name, peering, &packet)
                }
            })
            .collect();
        bench.run_all(&list);
        // The slot is loaded again, and all sessions can be reached again.
        bench.load(&crowd[gone], CURRENT);
        list = crowd
            .iter()
            .map(|peering| {
                Fixture::accept(format!("{} with {gone} again", peering.index), peering, &packet(peering, 1))
            })
            .collect();
        bench.run_all(&list);
    }
}

#[test]
fn all_may_go_in_any_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let (mut bench, crowd) = crowd(4);
        for (turn, &gone) in order.iter().enumerate() {
            unload(&mut bench, &crowd[gone]);
            for &left in &order[turn + 1..] {
                let fixture =
                    Fixture::accept(format!("{left} left"), &crowd[left], &packet(&crowd[left], turn as u64));
                bench.check(&fixture);
            }
        }
        let last = packet(&crowd[order[3]], 9).frame();
        bench.check(&Fixture::drop("all gone", DropReason::UnknownAddress, last));
    }
}

#[test]
fn a_slot_loaded_twice_is_loaded_once() {
    let (mut bench, crowd) = crowd(2);
    for _ in 0..5 {
        bench.load(&crowd[0], CURRENT);
        bench.load(&crowd[1], CURRENT);
    }
    unload(&mut bench, &crowd[0]);
    bench.run_all(&[
        Fixture::drop("unloaded once", DropReason::WrongPort, packet(&crowd[0], 0).frame()),
        Fixture::accept("the other one", &crowd[1], &packet(&crowd[1], 0)),
    ]);
}

/// If no session matches, the reason of the one that came closest is counted, wherever it is in the chain.
#[test]
fn the_closest_session_gives_the_reason() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Ended,
        Stale,
        OtherPort,
        OtherPeer,
    }
    use Kind::*;
    let table = [
        (&[Ended][..], DropReason::SessionEnded),
        (&[Stale], DropReason::StaleSlot),
        (&[OtherPort], DropReason::WrongPort),
        (&[OtherPeer], DropReason::WrongPeer),
        (&[Stale, OtherPort], DropReason::WrongPort),
        (&[OtherPort, Stale], DropReason::WrongPort),
        (&[OtherPeer, OtherPort, Stale], DropReason::WrongPeer),
        (&[Stale, OtherPort, OtherPeer], DropReason::WrongPeer),
        // A live session with another port is closer than one that has ended.
        (&[Ended, OtherPort], DropReason::WrongPort),
        (&[OtherPort, Ended], DropReason::WrongPort),
        (&[Ended, OtherPeer], DropReason::WrongPeer),
        (&[OtherPeer, Ended], DropReason::WrongPeer),
        (&[Ended, Stale], DropReason::StaleSlot),
        (&[Stale, Ended], DropReason::StaleSlot),
    ];
    let mut failures = Vec::new();
    for (kinds, reason) in table {
        let mut bench = Bench::new();
        let stranger = Peering { pinned: Some(SHARED), ..Peering::new(7, Mode::Encrypt) };
        let probe = packet(&stranger, 0);
        for (index, kind) in kinds.iter().enumerate() {
            let peering = Peering { pinned: Some(SHARED), ..Peering::new(index as u32, Mode::Encrypt) };
            if *kind != Ended {
                bench.install_bare(&peering);
            }
            let mut slot = peering.slot(CURRENT);
            match kind {
                Stale => slot.slot -= 2,
                OtherPeer => slot.local_port = probe.to.port().to_be_bytes(),
                Ended | OtherPort => {}
            }
            bench.plane.slots().load(SessionIndex(peering.index), &slot).expect("room");
        }
        let fixture = Fixture::drop(format!("{kinds:?}"), reason, probe.frame());
        if let Err(error) = bench.try_fixture(&fixture) {
            failures.push(format!("{kinds:?} should give {reason:?}: {error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
