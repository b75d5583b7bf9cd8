//! Random courses of starts, stops, crashes and steps of the clock: no number of a static session is ever sent twice, and no
//! packet is ever accepted twice.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mtd_common::slot;
use proptest::prelude::*;

use super::*;
use crate::model::ClockOffset;

/// What happens.
#[derive(Clone, Debug)]
enum Happening {
    /// Time passes, in ms; the controller looks after its sessions meanwhile, if it runs.
    Time(u64),
    /// The wall clock is set by this many ms.
    Step(i64),
    /// The wall clock shows a time at which packets were received before.
    Again(usize),
    /// Packets are sent, and as many are received; what was ever received comes once more.
    Traffic(u64),
    /// The controller starts, if it does not run.
    Start,
    /// The controller stops cleanly.
    Stop,
    /// The controller is killed; the data plane goes on.
    Kill,
    /// The same, and the data plane is taken away.
    Detach,
    /// The host loses its power, and is up again after this many ms.
    PowerLoss(u64),
    /// The disk takes nothing from now on, or takes it again.
    Disk(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let step = prop_oneof![1..5_000_i64, 5_000..100_000_i64, Just(3_600_000), Just(86_400_000)];
    prop_oneof![
        4 => prop_oneof![50..3_000_u64, 3_000..100_000_u64].prop_map(Happening::Time),
        3 => (step, any::<bool>()).prop_map(|(ms, back)| Happening::Step(if back { -ms } else { ms })),
        3 => any::<usize>().prop_map(Happening::Again),
        6 => (1..5_u64).prop_map(Happening::Traffic),
        4 => Just(Happening::Start),
        1 => Just(Happening::Stop),
        1 => Just(Happening::Kill),
        1 => Just(Happening::Detach),
        2 => (1..100_000_u64).prop_map(Happening::PowerLoss),
    ]
}

/// The same with a disk that fails at times.
fn trouble() -> impl Strategy<Value = Happening> {
    prop_oneof![5 => happening(), 2 => any::<bool>().prop_map(Happening::Disk)]
}

/// A host with one static session, and a disk that is read again at each start.
struct Host {
    clock: Hands,
    disk: Arc<Mutex<Vec<u8>>>,
    /// Whether it takes nothing.
    is_full: Arc<AtomicBool>,
    /// Whether the controller that runs may still write.
    writes: Arc<AtomicBool>,
    sessions: Option<Sessions<Memory>>,
    /// What a killed controller has left.
    left: Option<Memory>,
    /// The disk has failed at some time.
    disk_has_failed: bool,
    sent: Vec<Range<u64>>,
    /// Slots and numbers of the peer's packets, and which of them were accepted.
    heard: Vec<(u64, u64)>,
    /// The session's times at which they came.
    times: Vec<u64>,
    accepted: HashSet<(u64, u64)>,
    /// The next number of the peer.
    peer: u64,
}

impl Host {
    fn new() -> Self {
        Self {
            clock: Hands::new(),
            disk: Arc::default(),
            is_full: Arc::default(),
            writes: Arc::default(),
            sessions: None,
            left: None,
            disk_has_failed: false,
            sent: Vec::new(),
            heard: Vec::new(),
            times: Vec::new(),
            accepted: HashSet::new(),
            peer: 0,
        }
    }

    fn start(&mut self) {
        if self.sessions.is_some() {
            return;
        }
        let disk = self.disk.lock().unwrap().clone();
        let state = if disk.is_empty() { State::default() } else { State::decode(&disk).unwrap() };
        let writes = Arc::new(AtomicBool::new(true));
        self.writes = Arc::clone(&writes);
        let (disk, is_full) = (Arc::clone(&self.disk), Arc::clone(&self.is_full));
        let write = move |state: &State| {
            let mut disk = disk.lock().unwrap();
            if is_full.load(Ordering::SeqCst) {
                return Err(StateError::of_a_full_disk());
            }
            if writes.load(Ordering::SeqCst) {
                *disk = serde_json::to_vec(state).unwrap();
            }
            Ok(())
        };
        let mut maps = self.left.take().unwrap_or_else(Memory::new);
        maps.adopted = maps.sessions.iter().any(|session| session.generation != 0);
        let maps = if maps.adopted { maps } else { Memory::new() };
        let (sessions, _) = sessions(maps, None, self.clock.clone(), (state, Box::new(write)));
        self.sessions = Some(sessions);
    }

    /// Ends the controller without a word. Returns what is left in the maps.
    fn kill(&mut self) -> Option<Memory> {
        let Sessions { table, .. } = self.sessions.take()?;
        let _disk = self.disk.lock().unwrap();
        self.writes.store(false, Ordering::SeqCst);
        Some(table.maps)
    }

    fn tick(&mut self, ns: u64) {
        self.clock.pass(ns);
        if let Some(sessions) = &mut self.sessions {
            sessions.tick();
            // The disk is quick, as a rule.
            std::thread::sleep(Duration::from_micros(300));
            sessions.tick();
        }
    }

    fn maps(&mut self) -> Option<&mut Memory> {
        self.sessions.as_mut().map(|sessions| &mut sessions.table.maps).or(self.left.as_mut())
    }

    fn traffic(&mut self, count: u64) -> Result<(), TestCaseError> {
        let (now, runs, peer) = (self.clock.read(), self.sessions.is_some(), self.peer);
        let Some(maps) = self.maps() else { return Ok(()) };
        let Some(index) = maps.sessions.iter().position(|session| session.generation != 0) else {
            return Ok(());
        };
        let (session, time) =
            (maps.sessions[index], ClockOffset(maps.sessions[index].clock_offset).session(now.boot).0);
        // With a controller that looks after it, the data plane may send very fast.
        let state = &mut maps.states[index];
        let from = state.tx_sequence;
        state.tx_sequence += if runs { count * (numbers::RESERVE / 64) } else { count };
        let sent = from..state.tx_sequence;
        let slot = slot::number(time, session.phase, session.period);
        let number = peer.max(slot::sequence_seed(time));
        let packets = (0..count).map(|n| (slot + n % 3 - 1, number + n));
        let all: Vec<_> = packets.chain(self.heard.iter().copied()).collect();
        let mut accepted = Vec::new();
        let Some(maps) = self.maps() else { return Ok(()) };
        for (slot, number) in &all {
            let loaded = maps.slots.0.get(&(index as u32, *slot));
            let possible = loaded.is_some_and(|loaded| loaded.generation == session.generation)
                && slot::is_live(*slot, time, session.phase, session.period, session.until)
                && slot::sequence_possible(*number, time);
            if possible && maps.receive(SessionIndex(index as u32), *number, now.boot) {
                accepted.push((*slot, *number));
            }
        }
        for packet in accepted {
            let first = self.accepted.insert(packet);
            // With a disk that took nothing for a while, a power loss and a clock that is wrong after it, nobody knows more.
            prop_assert!(first || self.disk_has_failed, "accepted twice: {:?}", packet);
        }
        let twice = self.sent.iter().find(|range| range.start < sent.end && sent.start < range.end);
        prop_assert!(twice.is_none(), "{:?} sent, and {:?} before", sent, twice);
        self.sent.push(sent);
        self.peer = number + count;
        self.times.push(time);
        self.heard = all;
        self.heard.sort_unstable();
        self.heard.dedup();
        Ok(())
    }

    fn happen(&mut self, happening: &Happening) -> Result<(), TestCaseError> {
        const MS: u64 = 1_000_000;
        match happening {
            Happening::Time(ms) => {
                let steps = ms.div_ceil(1_000).min(20);
                (0..steps).for_each(|_| self.tick(ms * MS / steps));
            }
            Happening::Step(ms) => {
                let mut now = self.clock.0.lock().unwrap();
                now.wall.0 = now.wall.0.wrapping_add_signed(ms * MS.cast_signed());
            }
            Happening::Again(which) => {
                if let Some(time) = self.times.get(which % self.times.len().max(1)) {
                    self.clock.0.lock().unwrap().wall.0 = *time;
                }
            }
            Happening::Traffic(count) => {
                self.traffic(*count)?;
                self.tick(100 * MS);
            }
            Happening::Start => self.start(),
            Happening::Stop => {
                if let Some(mut sessions) = self.sessions.take() {
                    sessions.table.maps.adopted = false;
                    sessions.abandon();
                }
            }
            Happening::Kill => self.left = self.kill().or(self.left.take()),
            Happening::Detach => (_, self.left) = (self.kill(), None),
            Happening::Disk(takes) => {
                self.disk_has_failed |= !takes;
                self.is_full.store(!takes, Ordering::SeqCst);
            }
            Happening::PowerLoss(ms) => {
                (_, self.left) = (self.kill(), None);
                self.clock.boot_again(ms * MS);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_number_is_sent_twice_and_no_packet_is_accepted_twice(course in prop::collection::vec(happening(), 1..60)) {
        let mut host = Host::new();
        host.start();
        for happening in &course {
            host.happen(happening)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_number_is_sent_twice_whatever_the_disk_does(course in prop::collection::vec(trouble(), 1..60)) {
        let mut host = Host::new();
        host.start();
        for happening in &course {
            host.happen(happening)?;
        }
    }
}

#[test]
fn a_disk_that_takes_nothing_keeps_a_new_session_dark_and_no_running_one() {
    use Happening::{Disk, Kill, PowerLoss, Start, Stop, Time, Traffic};
    let full = Disk(false);
    require_passage(&[Traffic(3), full.clone(), Time(20_000)], true);
    // A clean stop that is not saved is as a crash, after which nothing may be used that cannot be noted.
    let stopped = [Traffic(3), full.clone(), Stop, Start];
    require_passage(&[&stopped[..], &[Time(100_000)]].concat(), false);
    require_passage(&[&stopped[..], &[Time(100_000), Disk(true), Time(3_000)]].concat(), true);
    // What goes on in the data plane was noted before.
    require_passage(&[Traffic(3), full.clone(), Kill, Start], true);
    let lost = [Traffic(3), full, PowerLoss(1_000), Start, Time(100_000)];
    require_passage(&lost, false);
    require_passage(&[&lost[..], &[Disk(true), Time(3_000)]].concat(), true);
}

/// The course of this many happenings, after which traffic must pass again.
fn require_passage(course: &[Happening], passes: bool) {
    let mut host = Host::new();
    host.start();
    for happening in course {
        host.happen(happening).unwrap();
    }
    let before = host.accepted.len();
    host.happen(&Happening::Traffic(4)).unwrap();
    assert_eq!(host.accepted.len() > before, passes, "{course:?}");
}

#[test]
fn what_was_lost_with_the_power_costs_what_was_loaded_ahead_and_what_was_not_lost_costs_nothing() {
    use Happening::{Detach, Kill, PowerLoss, Start, Step, Stop, Time, Traffic};
    require_passage(&[], true);
    require_passage(&[Traffic(3), Stop, Start], true);
    require_passage(&[Traffic(3), Kill, Start], true);
    // In the same boot it is known what was live.
    require_passage(&[Traffic(3), Detach, Start], false);
    require_passage(&[Traffic(3), Detach, Start, Time(7_000)], true);
    require_passage(&[Traffic(3), PowerLoss(1_000), Start, Time(7_000)], false);
    require_passage(&[Traffic(3), PowerLoss(1_000), Start, Time(100_000)], true);
    // A clock that was a minute ahead, and is right after the loss.
    let ahead = [Step(60_000), Time(20_000), Traffic(3), Step(-60_000), Traffic(1), PowerLoss(1_000), Start];
    require_passage(&[&ahead[..], &[Time(100_000)]].concat(), false);
    require_passage(&[&ahead[..], &[Time(100_000), Time(100_000)]].concat(), true);
    // A clock that was a day ahead for a while does not shut the session for a day.
    let day = [Step(86_400_000), Time(20_000), Traffic(3), Step(-86_400_000), Time(20_000), Stop, Start];
    require_passage(&[&day[..], &[Time(1_000)]].concat(), false);
}
