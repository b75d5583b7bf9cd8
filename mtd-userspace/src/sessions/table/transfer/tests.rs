//! A session that moves from one table to another.

use std::collections::HashSet;

use mtd_common::abi::{DirectionKeys, Session as Element};
use mtd_common::address::{End, Network};
use mtd_common::slot;

use super::*;
use crate::model::{ClientId, SessionIndex, UnixNs};
use crate::proto::session::{Keys, Role};
use crate::sessions::tests::memory::Memory;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const SECRET: u8 = 0xab;

/// A host whose boot time has nothing to do with another's.
fn at(boot: u64, wall: u64) -> Reading {
    Reading { boot: BootNs(boot), wall: UnixNs(1_800_000_000 * SECOND + wall) }
}

fn session() -> Arc<Session> {
    let end = |n| End { network: Network { prefix: [n; 16], length: 64 }, seed: [n; 8] };
    let keys = |n| Keys(DirectionKeys { seal: [n; 32], mask: [n; 16] });
    Arc::new(Session::for_test(end(0x20), end(0x22), keys(SECRET), keys(SECRET + 1), 3 * SECOND, 0))
}

fn new(id: u64, now: Reading) -> NewSession {
    NewSession {
        id: SessionId(id),
        session: session(),
        offset: now.offset().moved(-70_000_000),
        started: now.boot,
        peer: Peer::Negotiated(Role::Client, PublicKey::from_bytes([5; 32])),
        local: [[1; 16], [0; 16]],
        remote: [[2; 16], [0; 16]],
        networks: None,
        state: None,
        translated: false,
        resting: false,
    }
}

fn only(table: &Table<Memory>, key: Key) -> SessionIndex {
    table.get(key).unwrap().index()
}

#[test]
fn it_goes_on_without_a_number_used_twice_or_taken_twice() {
    let (from, to) = ((OriginId::Server, SessionId(1)), (OriginId::Client(ClientId(0)), SessionId(77)));
    let (mut here, mut there) = (Table::new(Memory::new(), MINUTE), Table::new(Memory::new(), MINUTE));
    let now = at(500 * SECOND, 0);
    here.install(from.0, new(1, now), None, now).unwrap();
    let index = only(&here, from);
    let used: HashSet<u64> = (0..500).map(|_| here.maps.send(index).unwrap()).collect();
    let first = sequence_seed(now.wall.0);
    let taken: Vec<u64> = (0..300).map(|n| first + 2 * n).collect();
    assert!(taken.iter().all(|number| here.maps.receive(index, *number, now.boot)));

    assert!(here.export(from, now).is_err(), "it is in use");
    here.rest(from, now).unwrap();
    assert!(here.export(from, now).is_err(), "a program may be at work with it");
    let now = at(501 * SECOND, SECOND);
    let exported = here.export(from, now).unwrap();
    assert!(here.get(from).is_none() && here.maps.send(index).is_none() && here.maps.slots.0.is_empty());
    let shown = format!("{exported:?} {exported:#?}");
    assert!(["171", "172", "ab"].iter().all(|secret| !shown.contains(secret)), "{shown}");

    // Elsewhere, where the host has been up for long.
    let later = at(900_000 * SECOND, 2 * SECOND);
    there.import(to, exported, later).unwrap();
    let index = only(&there, to);
    let element = there.maps.sessions[index.position()];
    assert_eq!((element.tx.seal, element.rx.seal), ([SECRET; 32], [SECRET + 1; 32]));
    assert_eq!(element.clock_offset, later.offset().moved(-70_000_000).0, "the clock is the same");
    let present = slot::number(later.wall.0, 0, 3 * SECOND);
    let slot = there.maps.slots.0[&(index.0, present)];
    assert_eq!(slot.local_port, session().endpoints(present).0.port.to_be_bytes());
    assert!(taken.iter().all(|number| !there.maps.receive(index, *number, later.boot)), "taken before");
    assert!(taken.iter().all(|number| there.maps.receive(index, *number + 1, later.boot)), "new ones");
    let next: HashSet<u64> = (0..500).map(|_| there.maps.send(index).unwrap()).collect();
    assert!(used.is_disjoint(&next) && next.iter().min() > used.iter().max());
    let state = there.maps.states[index.position()];
    assert_eq!((state.tx_packets, state.rx_packets), (1000, 600), "counters go on");
    assert!(there.maps.routes.values().all(|route| route.session == index.0));

    here.wipe(now.boot + GRACE).unwrap();
    assert!(
        here.maps.sessions.iter().all(|element| *element == Element::default()),
        "the keys are gone here"
    );
}

#[test]
fn a_clock_that_goes_back_makes_no_number_come_again() {
    let key = (OriginId::Server, SessionId(1));
    let (mut here, mut there) = (Table::new(Memory::new(), MINUTE), Table::new(Memory::new(), MINUTE));
    let now = at(500 * SECOND, 0);
    here.install(key.0, new(1, now), None, now).unwrap();
    let index = only(&here, key);
    let last = (0..100).map(|_| here.maps.send(index).unwrap()).max();
    here.rest(key, now).unwrap();
    let exported = here.export(key, at(501 * SECOND, SECOND)).unwrap();
    // The other host's wall clock is an hour behind.
    let late = Reading { wall: UnixNs(now.wall.0 - 60 * MINUTE), ..at(7 * SECOND, 0) };
    there.import(key, exported, late).unwrap();
    let index = only(&there, key);
    assert!(there.maps.send(index) > last);
}

#[test]
fn what_is_exported_is_overwritten_when_it_is_dropped() {
    const fn overwritten<T: zeroize::ZeroizeOnDrop>(_: &T) {}
    overwritten(&*session());
}
