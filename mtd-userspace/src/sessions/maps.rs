//! The operations of a data plane that the table of sessions needs, so that it can be tested without one.

use mtd_common::abi::{self, Route, RouteKey, SessionState, Slot};
use mtd_common::session_note::SessionNote;

use crate::dataplane::{Capacity, Error, Plane, Settings};
use crate::model::{Counts, Filter, Program, SessionIndex, SessionTraffic};
use crate::proto::slots::SlotMaps;

/// The maps and programs of a data plane. An operation with an index fails only if the index is not below the capacity.
pub trait Maps: Send {
    /// The capacity of the maps.
    fn capacity(&self) -> Capacity;

    /// Whether the maps are those of an earlier controller.
    fn adopted(&self) -> bool;

    /// Gives the programs their settings.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn configure(&mut self, settings: &Settings) -> Result<(), Error>;

    /// Attaches the send program to the inside end of a tunnel device that was made anew.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn attach_send(&mut self, inside: &str) -> Result<(), Error>;

    /// An element of the session table.
    ///
    /// # Errors
    /// See [`Maps`].
    fn session(&self, index: SessionIndex) -> Result<abi::Session, Error>;

    /// Sets an element of the session table.
    ///
    /// # Errors
    /// See [`Maps`].
    fn set_session(&mut self, index: SessionIndex, value: abi::Session) -> Result<(), Error>;

    /// The state that the programs keep of a session.
    ///
    /// # Errors
    /// See [`Maps`].
    fn state(&self, index: SessionIndex) -> Result<SessionState, Error>;

    /// Sets the state that the programs keep of a session. Only while no program can be at work with it.
    ///
    /// # Errors
    /// See [`Maps`].
    fn set_state(&mut self, index: SessionIndex, value: SessionState) -> Result<(), Error>;

    /// The note of a controller on a session for the next one.
    ///
    /// # Errors
    /// See [`Maps`].
    fn note(&self, index: SessionIndex) -> Result<SessionNote, Error>;

    /// Notes what the next controller needs to go on with a session.
    ///
    /// # Errors
    /// See [`Maps`].
    fn set_note(&mut self, index: SessionIndex, value: &SessionNote) -> Result<(), Error>;

    /// The traffic of a session.
    fn traffic(&self, index: SessionIndex) -> SessionTraffic;

    /// Inner packets that a session has sent and the least path of IPv6 would not carry.
    fn long_sent(&self, index: SessionIndex) -> u64;

    /// Cuts the inner IPv6 packets of a session in two that have more than these bytes; 0: none.
    fn set_longest(&mut self, index: SessionIndex, bytes: u32);

    /// Makes these (prefix length in bits of the key, key, session) the only routes.
    ///
    /// # Errors
    /// When there are too many.
    fn replace_routes(&mut self, routes: &[(u32, RouteKey, Route)]) -> Result<(), Error>;

    /// Sets one route, replacing any earlier one.
    ///
    /// # Errors
    /// When there are too many.
    fn set_route(&mut self, length: u32, key: RouteKey, route: Route) -> Result<(), Error>;

    /// Removes one route. A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_route(&mut self, length: u32, key: RouteKey) -> Result<(), Error>;

    /// Removes the addresses of slots for which `keep` is false.
    fn retain_slots(&mut self, keep: impl Fn(SessionIndex, &Slot) -> bool);

    /// The places where slots are loaded.
    fn slots(&mut self) -> &mut impl SlotMaps<Error = Error>;

    /// The numbers of all policies.
    fn policies(&mut self) -> Vec<u32>;

    /// Writes the policy of a filter. Returns its number, which no other one had.
    ///
    /// # Errors
    /// When there is no room.
    fn add_policy(&mut self, filter: &Filter) -> Result<u32, Error>;

    /// Removes a policy that no session has, and that no program can be at work with.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_policy(&mut self, number: u32) -> Result<(), Error>;

    /// Gives a session a policy.
    ///
    /// # Errors
    /// See [`Maps`].
    fn assign_policy(&mut self, index: SessionIndex, number: u32) -> Result<(), Error>;

    /// The counters of the programs.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn counts(&self) -> Result<Counts, Error>;

    /// The programs, as the kernel knows them.
    fn programs(&self) -> Vec<Program>;
}

impl Maps for Plane {
    fn capacity(&self) -> Capacity {
        self.capacity()
    }

    fn adopted(&self) -> bool {
        self.adopted()
    }

    fn configure(&mut self, settings: &Settings) -> Result<(), Error> {
        self.configure(settings)
    }

    fn attach_send(&mut self, inside: &str) -> Result<(), Error> {
        self.attach_send(inside)
    }

    fn session(&self, index: SessionIndex) -> Result<abi::Session, Error> {
        self.session(index.0)
    }

    fn set_session(&mut self, index: SessionIndex, value: abi::Session) -> Result<(), Error> {
        self.set_session(index.0, value)
    }

    fn state(&self, index: SessionIndex) -> Result<SessionState, Error> {
        self.session_state(index.0)
    }

    fn set_state(&mut self, index: SessionIndex, value: SessionState) -> Result<(), Error> {
        self.set_session_state(index.0, value)
    }

    fn note(&self, index: SessionIndex) -> Result<SessionNote, Error> {
        self.session_note(index.0)
    }

    fn set_note(&mut self, index: SessionIndex, value: &SessionNote) -> Result<(), Error> {
        self.set_session_note(index.0, value)
    }

    fn traffic(&self, index: SessionIndex) -> SessionTraffic {
        self.session_traffic(index.0)
    }

    fn long_sent(&self, index: SessionIndex) -> u64 {
        self.long_sent(index.0)
    }

    fn set_longest(&mut self, index: SessionIndex, bytes: u32) {
        self.set_longest(index.0, bytes);
    }

    fn replace_routes(&mut self, routes: &[(u32, RouteKey, Route)]) -> Result<(), Error> {
        self.replace_routes(routes)
    }

    fn set_route(&mut self, length: u32, key: RouteKey, route: Route) -> Result<(), Error> {
        self.set_route(length, key, route)
    }

    fn remove_route(&mut self, length: u32, key: RouteKey) -> Result<(), Error> {
        self.remove_route(length, key)
    }

    fn retain_slots(&mut self, keep: impl Fn(SessionIndex, &Slot) -> bool) {
        self.retain_slots(|index, slot| keep(SessionIndex(index), slot));
    }

    fn slots(&mut self) -> &mut impl SlotMaps<Error = Error> {
        self.slots()
    }

    fn policies(&mut self) -> Vec<u32> {
        self.policies().numbers()
    }

    fn add_policy(&mut self, filter: &Filter) -> Result<u32, Error> {
        self.policies().add(filter)
    }

    fn remove_policy(&mut self, number: u32) -> Result<(), Error> {
        self.policies().remove(number)
    }

    fn assign_policy(&mut self, index: SessionIndex, number: u32) -> Result<(), Error> {
        self.policies().assign(index.0, number)
    }

    fn counts(&self) -> Result<Counts, Error> {
        self.counts()
    }

    fn programs(&self) -> Vec<Program> {
        self.programs()
    }
}
