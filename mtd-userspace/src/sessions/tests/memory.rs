//! Maps in memory, with what the programs do to the numbers of a session.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use mtd_common::abi::{self, Route, RouteKey, SessionState, Slot};
use mtd_common::session_note::SessionNote;
use mtd_common::window;

use crate::dataplane::{Capacity, Error, Settings};
use crate::model::{BootNs, Counts, Filter, Program, SessionIndex, SessionTraffic};
use crate::proto::slots::SlotMaps;
use crate::sessions::Maps;

const SESSIONS: usize = 8;

/// Slots by session and number.
#[derive(Default)]
pub(in crate::sessions) struct Slots(pub(in crate::sessions) HashMap<(u32, u64), Slot>);

/// Maps for eight sessions.
pub(in crate::sessions) struct Memory {
    pub(in crate::sessions) sessions: [abi::Session; SESSIONS],
    pub(in crate::sessions) states: [SessionState; SESSIONS],
    pub(in crate::sessions) notes: [SessionNote; SESSIONS],
    pub(in crate::sessions) routes: BTreeMap<(u32, RouteKey), Route>,
    pub(in crate::sessions) slots: Slots,
    pub(in crate::sessions) adopted: bool,
    pub(in crate::sessions) policies: BTreeMap<u32, Filter>,
    pub(in crate::sessions) assigned: HashMap<SessionIndex, u32>,
    last_policy: u32,
}

impl Memory {
    pub(in crate::sessions) fn new() -> Self {
        Self {
            sessions: [abi::Session::default(); SESSIONS],
            states: [SessionState::default(); SESSIONS],
            notes: [SessionNote::default(); SESSIONS],
            routes: BTreeMap::new(),
            slots: Slots::default(),
            adopted: false,
            policies: BTreeMap::new(),
            assigned: HashMap::new(),
            last_policy: 0,
        }
    }

    /// Sends a packet of a session, as the send program does; returns its number.
    pub(in crate::sessions) fn send(&mut self, index: SessionIndex) -> Option<u64> {
        let index = index.position();
        if self.sessions[index].generation == 0 {
            return None;
        }
        let state = &mut self.states[index];
        state.tx_sequence += 1;
        state.tx_packets += 1;
        Some(state.tx_sequence - 1)
    }

    /// Receives a packet of a session with this number, as the receive program does. False: it is refused.
    pub(in crate::sessions) fn receive(&mut self, index: SessionIndex, number: u64, now: BootNs) -> bool {
        let index = index.position();
        if self.sessions[index].generation == 0 {
            return false;
        }
        let state = &mut self.states[index];
        let (words, highest) = (state.window.map(AtomicU64::new), AtomicU64::new(state.rx_highest));
        let place = window::place(number);
        let fresh = place.mark(&words[place.index], &highest).is_ok();
        state.window = words.map(AtomicU64::into_inner);
        state.rx_highest = highest.load(Ordering::Relaxed);
        if fresh {
            state.rx_packets += 1;
            state.rx_last_valid = now.0;
        }
        fresh
    }
}

impl SlotMaps for Slots {
    type Error = Error;

    fn load(&mut self, session: SessionIndex, slot: &Slot) -> Result<(), Error> {
        self.0.insert((session.0, slot.slot), *slot);
        Ok(())
    }

    fn unload(&mut self, session: SessionIndex, generation: u32, slot: u64) {
        if self.0.get(&(session.0, slot)).is_some_and(|found| found.generation == generation) {
            self.0.remove(&(session.0, slot));
        }
    }
}

impl Maps for Memory {
    fn capacity(&self) -> Capacity {
        Capacity { sessions: SESSIONS as u32, slots: 64, lanes: 0 }
    }

    fn adopted(&self) -> bool {
        self.adopted
    }

    fn configure(&mut self, _: &Settings) -> Result<(), Error> {
        Ok(())
    }

    fn attach_send(&mut self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn session(&self, index: SessionIndex) -> Result<abi::Session, Error> {
        Ok(self.sessions[index.position()])
    }

    fn set_session(&mut self, index: SessionIndex, value: abi::Session) -> Result<(), Error> {
        self.sessions[index.position()] = value;
        Ok(())
    }

    fn state(&self, index: SessionIndex) -> Result<SessionState, Error> {
        Ok(self.states[index.position()])
    }

    fn set_state(&mut self, index: SessionIndex, value: SessionState) -> Result<(), Error> {
        assert_eq!(self.sessions[index.position()].generation, 0, "a program may be at work with this state");
        self.states[index.position()] = value;
        Ok(())
    }

    fn note(&self, index: SessionIndex) -> Result<SessionNote, Error> {
        Ok(self.notes[index.position()])
    }

    fn set_note(&mut self, index: SessionIndex, value: &SessionNote) -> Result<(), Error> {
        self.notes[index.position()] = *value;
        Ok(())
    }

    fn traffic(&self, index: SessionIndex) -> SessionTraffic {
        let last_valid = self.states[index.position()].rx_last_valid;
        SessionTraffic { last_valid, ..SessionTraffic::default() }
    }

    fn long_sent(&self, index: SessionIndex) -> u64 {
        self.states[index.position()].tx_long
    }

    fn set_longest(&mut self, index: SessionIndex, bytes: u32) {
        self.states[index.position()].tx_longest = bytes.into();
    }

    fn replace_routes(&mut self, routes: &[(u32, RouteKey, Route)]) -> Result<(), Error> {
        self.routes = routes.iter().map(|(length, key, route)| ((*length, *key), *route)).collect();
        Ok(())
    }

    fn set_route(&mut self, length: u32, key: RouteKey, route: Route) -> Result<(), Error> {
        self.routes.insert((length, key), route);
        Ok(())
    }

    fn remove_route(&mut self, length: u32, key: RouteKey) -> Result<(), Error> {
        self.routes.remove(&(length, key));
        Ok(())
    }

    fn retain_slots(&mut self, keep: impl Fn(SessionIndex, &Slot) -> bool) {
        self.slots.0.retain(|(session, _), slot| keep(SessionIndex(*session), slot));
    }

    fn slots(&mut self) -> &mut impl SlotMaps<Error = Error> {
        &mut self.slots
    }

    fn policies(&mut self) -> Vec<u32> {
        self.policies.keys().copied().collect()
    }

    fn add_policy(&mut self, filter: &Filter) -> Result<u32, Error> {
        self.last_policy += 1;
        self.policies.insert(self.last_policy, filter.clone());
        Ok(self.last_policy)
    }

    fn remove_policy(&mut self, number: u32) -> Result<(), Error> {
        self.policies.remove(&number);
        Ok(())
    }

    fn assign_policy(&mut self, index: SessionIndex, number: u32) -> Result<(), Error> {
        assert!(self.policies.contains_key(&number), "a policy is written before it is assigned");
        self.assigned.insert(index, number);
        Ok(())
    }

    fn counts(&self) -> Result<Counts, Error> {
        Ok(Counts::default())
    }

    fn programs(&self) -> Vec<Program> {
        Vec::new()
    }
}
