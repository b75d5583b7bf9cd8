//! Key stream made ahead (`docs/keystream.md`): packets are the same with it as without, and no packet is ever sealed with
//! the key stream of another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mtd::dataplane::Maker;
use mtd::model::Frames;
use mtd_common::DropReason;
use mtd_common::abi::SessionState;
use mtd_common::keystream::{AHEAD, Direction, STEP, Wanted};
use mtd_tests::packet::Outer;

use crate::concurrency::pin;
use crate::harness::{Bench, MTU, SEQUENCE, TC_ACT_REDIRECT, TC_ACT_SHOT, XDP_DROP, boot_time};
use crate::inner::{Version, framed};
use crate::outcome::Outcome;
use crate::peering::{CURRENT, PERIOD, Peering};
use crate::send::sealed;
use crate::wire::{Mode, open};

/// A data plane with a session that has a route, and the maker of key stream.
fn bench() -> (Bench, Peering, Maker) {
    let (mut bench, peering) = Bench::with_session();
    bench.route("fd00:66::2/128", &peering);
    bench.route("10.66.0.2/32", &peering);
    let maker = bench.plane.take_maker().expect("lanes");
    (bench, peering, maker)
}

/// The record by which the programs ask for key stream behind a packet of the session.
fn wanted(peering: &Peering, direction: Direction, slot: u64, sequence: u64) -> Wanted {
    Wanted {
        sequence,
        slot: slot as u32,
        session: peering.index,
        generation: peering.generation,
        direction: direction as u32,
    }
}

fn change_state(bench: &mut Bench, index: u32, change: impl FnOnce(&mut SessionState)) {
    let mut state = bench.plane.session_state(index).expect("a state");
    change(&mut state);
    bench.plane.set_session_state(index, state).expect("a state");
}

/// Sends a packet and opens it with the reference. Returns whether it was sealed with key stream made ahead.
fn send(bench: &mut Bench, peering: &Peering, slot: u64, inner: &[u8]) -> bool {
    let outcome = bench.send(&framed(inner));
    let sealed =
        sealed(peering, slot, &outcome).unwrap_or_else(|error| panic!("{} bytes: {error:#}", inner.len()));
    assert!(sealed.inner == inner, "{} bytes: another inner packet came out", inner.len());
    outcome.frames.sealed_ahead == 1
}

/// Receives a packet. Returns whether it was opened with key stream made ahead.
fn receive(bench: &mut Bench, peering: &Peering, sequence: u64, inner: &[u8]) -> bool {
    let packet = peering.packet(CURRENT, sequence, inner.to_vec());
    let outcome = bench.receive(&packet.frame());
    let accepted = outcome.accepted(0, sequence, inner);
    accepted.unwrap_or_else(|error| panic!("number {sequence}, {} bytes: {error:#}", inner.len()));
    outcome.frames.opened_ahead == 1
}

fn every_length() -> impl Iterator<Item = Vec<u8>> {
    let lengths = |version: Version| (version.header_len()..=MTU as usize).map(move |n| version.sent(0, n));
    Version::BOTH.into_iter().flat_map(lengths)
}

#[test]
fn every_length_is_sealed_as_without() {
    let (mut bench, peering, mut maker) = bench();
    for (sequence, inner) in (0..).zip(every_length()) {
        if sequence % AHEAD == 0 {
            maker.ask(wanted(&peering, Direction::Send, CURRENT, sequence));
        }
        // Key stream is made for the numbers after the one in the record.
        assert_eq!(send(&mut bench, &peering, CURRENT, &inner), sequence > 0, "number {sequence}");
    }
}

#[test]
fn every_length_is_opened_as_without() {
    let (mut bench, peering, mut maker) = bench();
    let lengths = Version::BOTH.into_iter().flat_map(|version| {
        (version.header_len()..=MTU as usize).map(move |length| version.received(0, length))
    });
    for (nth, inner) in (0..).zip(lengths) {
        if nth % AHEAD == 0 {
            maker.ask(wanted(&peering, Direction::Receive, CURRENT, SEQUENCE + nth));
        }
        assert_eq!(receive(&mut bench, &peering, SEQUENCE + nth, &inner), nth > 0, "number {nth}");
    }
}

/// Packets out of order find their key stream, too.
#[test]
fn packets_may_come_in_any_order() {
    let (mut bench, peering, mut maker) = bench();
    let inner = Version::V6.received(0, 700);
    maker.ask(wanted(&peering, Direction::Receive, CURRENT, SEQUENCE));
    maker.ask(wanted(&peering, Direction::Receive, CURRENT, SEQUENCE + 64));
    // 5 and 384 have no common factor.
    for nth in 0..AHEAD {
        assert!(receive(&mut bench, &peering, SEQUENCE + 1 + nth * 5 % AHEAD, &inner), "number {nth}");
    }
}

#[test]
fn a_changed_packet_is_dropped_as_without() {
    let (mut bench, peering, mut maker) = bench();
    maker.ask(wanted(&peering, Direction::Receive, CURRENT, SEQUENCE));
    let frame = peering.packet(CURRENT, SEQUENCE + 1, Version::V6.received(0, 500)).frame();
    for at in [frame.len() - 1, frame.len() - 450] {
        let mut changed = frame.clone();
        changed[at] ^= 1;
        let outcome = bench.receive(&changed);
        let drops = BTreeMap::from([(DropReason::BadTag, 1)]);
        assert_eq!((outcome.verdict, outcome.frames.opened_ahead, outcome.drops), (XDP_DROP, 1, drops));
        assert_eq!(outcome.states.0, outcome.states.1, "a forgery moved something");
        maker.work();
    }
    assert!(receive(&mut bench, &peering, SEQUENCE + 1, &Version::V6.received(0, 500)));
}

/// For a busy session the programs ask once in 64 packets for key stream of the packets after the last one.
#[test]
fn a_busy_session_gets_key_stream_and_a_quiet_one_none() {
    let inner = Version::V6.sent(0, 1000);
    // With a turn in the future, the session counts as busy however long the test takes.
    let now = boot_time();
    for (turn, busy) in [(now + 60_000_000_000, true), (now - 1_000_000_000, false)] {
        let (mut bench, peering, mut maker) = bench();
        change_state(&mut bench, 0, |state| {
            (state.tx_packets, state.rx_packets, state.tx_turn, state.rx_turn) =
                (STEP - 2, STEP - 2, turn, turn);
        });
        for nth in 0..4 {
            let (sent, received) = (
                send(&mut bench, &peering, CURRENT, &inner),
                receive(&mut bench, &peering, SEQUENCE + nth, &Version::V6.received(0, 1000)),
            );
            // The second packet asks for key stream.
            assert_eq!((sent, received), (busy && nth > 1, busy && nth > 1), "packet {nth}");
            maker.work();
        }
    }
}

/// If there is only key stream for another slot, session, generation, direction or number, the cipher seals.
#[test]
fn what_was_made_for_another_packet_is_not_used() {
    let inner = Version::V6.sent(0, 300);
    let asked = |direction: Direction, slot| {
        let (bench, peering, mut maker) = bench();
        maker.ask(wanted(&peering, direction, slot, SEQUENCE - 1));
        (bench, peering, maker)
    };
    let (mut bench, peering, _maker) = asked(Direction::Send, CURRENT);
    change_state(&mut bench, 0, |state| state.tx_sequence = SEQUENCE);
    assert!(send(&mut bench, &peering, CURRENT, &inner), "what follows differs in one thing each");

    let (mut bench, peering, _maker) = asked(Direction::Send, CURRENT + 1);
    change_state(&mut bench, 0, |state| state.tx_sequence = SEQUENCE);
    assert!(!send(&mut bench, &peering, CURRENT, &inner), "another slot");

    let (mut bench, peering, _maker) = asked(Direction::Send, CURRENT);
    change_state(&mut bench, 0, |state| state.tx_sequence = SEQUENCE + 512);
    assert!(!send(&mut bench, &peering, CURRENT, &inner), "a number one ring further on");

    let (mut bench, peering, _maker) = asked(Direction::Send, CURRENT);
    let next = Peering { generation: 99, tx: Peering::new(5, Mode::Encrypt).tx, ..peering.clone() };
    let lane = bench.plane.session_state(0).expect("a state").tx_lane;
    bench.install(&next);
    bench.route("fd00:66::2/128", &next);
    change_state(&mut bench, 0, |state| (state.tx_sequence, state.tx_lane) = (SEQUENCE, lane));
    assert!(!send(&mut bench, &next, CURRENT, &inner), "another generation");

    let (mut bench, _, _maker) = asked(Direction::Send, CURRENT);
    let other = Peering { generation: 7, ..Peering::new(1, Mode::Encrypt) };
    bench.install(&other);
    bench.route("fd00:66::2/128", &other);
    change_state(&mut bench, 1, |state| (state.tx_sequence, state.tx_lane) = (SEQUENCE, 1));
    assert!(!send(&mut bench, &other, CURRENT, &inner), "another session");

    let (mut bench, peering, _maker) = asked(Direction::Send, CURRENT);
    change_state(&mut bench, 0, |state| state.rx_lane = state.tx_lane);
    assert!(!receive(&mut bench, &peering, SEQUENCE, &Version::V6.received(0, 300)), "another direction");

    let (mut bench, peering, _maker) = asked(Direction::Send, CURRENT);
    change_state(&mut bench, 0, |state| (state.tx_sequence, state.tx_lane) = (SEQUENCE, u64::from(u32::MAX)));
    assert!(!send(&mut bench, &peering, CURRENT, &inner), "no such lane");

    let (mut bench, peering, maker) = asked(Direction::Send, CURRENT);
    let lane = bench.plane.session_state(0).expect("a state").tx_lane;
    drop(maker);
    assert_eq!(bench.plane.session_state(0).expect("a state").tx_lane, 0, "the lane was given back");
    change_state(&mut bench, 0, |state| (state.tx_sequence, state.tx_lane) = (SEQUENCE, lane));
    assert!(!send(&mut bench, &peering, CURRENT, &inner), "zeroed");
}

/// No key stream is made for a session that only authenticates, for an introduction, or for a session that has ended.
#[test]
fn nothing_is_made_for_a_session_that_needs_none() {
    for (mode, generation) in [(Mode::Authenticate, 7), (Mode::Encrypt, 8)] {
        let mut bench = Bench::new();
        let peering = Peering::new(0, mode);
        bench.install(&peering);
        let mut maker = bench.plane.take_maker().expect("lanes");
        maker.ask(Wanted { generation, ..wanted(&peering, Direction::Send, CURRENT, 0) });
        assert_eq!(
            bench.plane.session_state(0).expect("a state").tx_lane,
            0,
            "{mode:?}, generation {generation}"
        );
    }
}

/// At a slot edge the first packets find no key stream. After one of them has asked, later ones do.
#[test]
fn a_new_slot_gets_new_key_stream() {
    let (mut bench, peering, mut maker) = bench();
    let inner = Version::V6.sent(0, 300);
    maker.ask(wanted(&peering, Direction::Send, CURRENT, 0));
    send(&mut bench, &peering, CURRENT, &inner);
    assert!(send(&mut bench, &peering, CURRENT, &inner));
    let mut session = bench.plane.session(0).expect("a session");
    session.clock_offset += PERIOD;
    bench.plane.set_session(0, session).expect("a session");
    assert!(!send(&mut bench, &peering, CURRENT + 1, &inner));
    maker.ask(wanted(&peering, Direction::Send, CURRENT + 1, 2));
    assert!(send(&mut bench, &peering, CURRENT + 1, &inner));
}

/// Packets are sealed (or opened) one after the other while their key stream is replaced without a pause. Each comes out
/// right, or is dropped and counted.
#[test]
fn what_changes_while_it_is_used_is_never_sent() {
    for direction in [Direction::Send, Direction::Receive] {
        let (mut bench, peering, maker) = bench();
        let over = AtomicBool::new(false);
        let changed = thread::scope(|scope| {
            scope.spawn(|| {
                let mut maker = maker;
                pin(1);
                while !over.load(Ordering::Relaxed) {
                    // Alternately for one slot and for another, so that every element changes each time.
                    maker.ask(wanted(&peering, direction, CURRENT, SEQUENCE));
                    maker.ask(wanted(&peering, direction, CURRENT + 1, SEQUENCE));
                }
            });
            let changed = thread::scope(|inner| {
                let race = || {
                    pin(0);
                    match direction {
                        Direction::Send => race_to_send(&mut bench, &peering),
                        Direction::Receive => race_to_receive(&mut bench, &peering),
                    }
                };
                inner.spawn(race).join()
            });
            over.store(true, Ordering::Relaxed);
            changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        println!("{direction:?}: {changed:?}");
    }
}

/// The counts of a race.
#[derive(Debug, Default)]
struct Race {
    ahead: u64,
    plain: u64,
    changed: u64,
}

impl Race {
    /// Whether packets took both ways, and some key stream changed while it was being used.
    fn is_over(&self, deadline: Instant) -> bool {
        assert!(Instant::now() < deadline, "{self:?}");
        self.ahead > 100 && self.plain > 100 && self.changed > 5
    }

    fn count(&mut self, outcome: &Outcome, dropped: bool, reason: DropReason) {
        let ahead = outcome.frames.sealed_ahead + outcome.frames.opened_ahead;
        if dropped {
            assert_eq!(outcome.drops, BTreeMap::from([(reason, 1)]), "{:?}", outcome.frames);
            assert_eq!(ahead, 0);
            self.changed += 1;
        } else if ahead == 1 {
            self.ahead += 1;
        } else {
            self.plain += 1;
        }
    }
}

const PATIENCE: Duration = Duration::from_mins(1);

fn race_to_send(bench: &mut Bench, peering: &Peering) -> Race {
    let (mut race, deadline) = (Race::default(), Instant::now() + PATIENCE);
    let inner = Version::V6.sent(0, MTU as usize);
    while !race.is_over(deadline) {
        // The same numbers are used again and again, so that the other thread always works on their key stream.
        let state = bench.plane.session_state(0).expect("a state");
        if state.tx_sequence >= SEQUENCE + AHEAD || state.tx_sequence == 0 {
            change_state(bench, 0, |state| state.tx_sequence = SEQUENCE + 1);
        }
        let outcome = bench.send(&framed(&inner));
        let dropped = outcome.verdict == TC_ACT_SHOT;
        race.count(&outcome, dropped, DropReason::SendStreamChanged);
        if !dropped {
            assert_eq!(outcome.verdict, TC_ACT_REDIRECT);
            let mut frame = outcome.frame;
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let outer = Outer::parse(&frame).expect("a UDP packet");
            let opened = open(&peering.tx, peering.mode, CURRENT, outer.payload);
            assert!(opened.is_some_and(|(_, opened)| opened == inner), "sealed with something else");
        }
    }
    race
}

fn race_to_receive(bench: &mut Bench, peering: &Peering) -> Race {
    let (mut race, deadline) = (Race::default(), Instant::now() + PATIENCE);
    let inner = Version::V6.received(0, MTU as usize);
    let frames: Vec<_> =
        (1..=AHEAD).map(|nth| peering.packet(CURRENT, SEQUENCE + nth, inner.clone()).frame()).collect();
    loop {
        for frame in &frames {
            if race.is_over(deadline) {
                return race;
            }
            let outcome = bench.receive(frame);
            let dropped = outcome.verdict == XDP_DROP;
            race.count(&outcome, dropped, DropReason::StreamChanged);
            assert!(dropped || outcome.frame[14..] == inner, "another packet came out");
        }
        change_state(bench, 0, |state| state.window = SessionState::default().window);
    }
}

/// Packets are counted in the same way with and without key stream made ahead.
#[test]
fn a_packet_sealed_ahead_counts_as_one_sent() {
    let (mut bench, peering, mut maker) = bench();
    maker.ask(wanted(&peering, Direction::Send, CURRENT, 0));
    change_state(&mut bench, 0, |state| state.tx_sequence = 1);
    let outcome = bench.send(&framed(&Version::V4.sent(0, 99)));
    outcome.moved(TC_ACT_REDIRECT, Frames { sent: 1, sealed_ahead: 1, ..Frames::default() }).expect("sent");
}
