//! The maps, with what a controller keeps in mind of them: which elements of the session table are taken, which routes
//! are set, and whose keys are still to be wiped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mtd_common::abi::{Route, RouteKey, Session, SessionState};
use mtd_common::session_note::SessionNote;

use super::revoked;
use crate::dataplane::{Capacity, Error, MAX_ROUTES, Plane};
use crate::model::{MapFill, SessionTraffic, Totals};

/// How long a program may still be at work with what it found in the maps: it takes microseconds.
pub(super) const GRACE: Duration = Duration::from_millis(10);

/// See the module's documentation.
pub(super) struct Tables {
    pub(super) plane: Plane,
    pub(super) indexes: Indexes,
    /// Time in ns for which slots are loaded ahead.
    pub(super) horizon: u64,
    /// What is set: generation and peer say which session it leads to.
    routes: HashMap<Destination, (u32, u32)>,
    /// Sessions that are over, since when, and whose keys are still in the maps.
    revoked: Vec<(u32, Instant)>,
    /// What went through sessions whose elements are wiped.
    wiped: Totals,
}

impl Tables {
    pub(super) fn new(plane: Plane, horizon: u64) -> Self {
        let indexes = Indexes::new(plane.capacity().sessions);
        Self {
            plane,
            indexes,
            horizon,
            routes: HashMap::new(),
            revoked: Vec::new(),
            wiped: Totals::default(),
        }
    }

    /// Makes these the only routes, whatever an earlier controller has left.
    pub(super) fn replace_routes(&mut self, routes: Vec<(Destination, Route)>) -> Result<(), Error> {
        let flat: Vec<_> = routes.iter().map(|((length, key), route)| (*length, *key, *route)).collect();
        self.plane.replace_routes(&flat)?;
        self.routes = routes.into_iter().map(|(to, route)| (to, (route.generation, route.peer))).collect();
        Ok(())
    }

    /// Sets a route, whatever was there.
    pub(super) fn set_route(&mut self, destination: Destination, route: Route) -> Result<(), Error> {
        let leads_to = (route.generation, route.peer);
        if self.routes.get(&destination) != Some(&leads_to) {
            self.plane.set_route(destination.0, destination.1, route)?;
            self.routes.insert(destination, leads_to);
        }
        Ok(())
    }

    /// Removes routes, but those that lead to another session by now.
    pub(super) fn remove_routes(
        &mut self,
        destinations: &[Destination],
        generation: u32,
    ) -> Result<(), Error> {
        for destination in destinations {
            if self.leads_to(*destination, generation) {
                self.plane.remove_route(destination.0, destination.1)?;
                self.routes.remove(destination);
            }
        }
        Ok(())
    }

    /// Whether a route leads to this session.
    pub(super) fn leads_to(&self, destination: Destination, generation: u32) -> bool {
        self.routes.get(&destination).is_some_and(|(known, _)| *known == generation)
    }

    /// Whether a route leads to another peer.
    pub(super) fn leads_elsewhere(&self, destination: Destination, peer: u32) -> bool {
        self.routes.get(&destination).is_some_and(|(_, known)| *known != peer)
    }

    /// Ends a session: no new packet passes. Its keys are wiped when no program can be at work with them any more,
    /// and then its element can be taken again.
    pub(super) fn revoke(&mut self, index: u32, element: Session) -> Result<(), Error> {
        self.plane.set_session(index, revoked(element))?;
        self.revoked.push((index, Instant::now()));
        Ok(())
    }

    /// Wipes the keys of all ended sessions; waits until that may be done.
    pub(super) fn wipe_revoked(&mut self) -> Result<(), Error> {
        if !self.revoked.is_empty() {
            std::thread::sleep(GRACE);
        }
        self.wipe_rested()
    }

    /// What went through all sessions that this controller has known, with what earlier ones had counted of them.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.wiped;
        for index in self.indexes.taken() {
            add(&mut totals, &self.plane.session_traffic(index));
        }
        totals
    }

    /// How full the maps are, `loaded` being the number of addresses.
    pub(super) fn fill(&self, loaded: u64) -> Vec<MapFill> {
        let Capacity { sessions, slots, .. } = self.plane.capacity();
        let fill = |name: &str, used, capacity| MapFill { name: name.to_owned(), used, capacity };
        vec![
            fill("addresses", loaded, u64::from(sessions) * u64::from(slots)),
            fill("sessions", self.indexes.taken().count() as u64, u64::from(sessions)),
            fill("routes", self.routes.len() as u64, u64::from(MAX_ROUTES)),
        ]
    }

    /// Wipes the keys of those sessions that no program can be at work with any more.
    pub(super) fn wipe_rested(&mut self) -> Result<(), Error> {
        for (index, _) in self.revoked.extract_if(.., |(_, since)| since.elapsed() >= GRACE) {
            self.plane.set_session(index, Session::default())?;
            add(&mut self.wiped, &self.plane.session_traffic(index));
            self.plane.set_session_state(index, SessionState::default())?;
            self.plane.set_session_note(index, &SessionNote::default())?;
            self.indexes.free(index);
        }
        Ok(())
    }
}

fn add(totals: &mut Totals, session: &SessionTraffic) {
    for (sum, part) in [(&mut totals.received, session.received), (&mut totals.sent, session.sent)] {
        sum.packets += part.packets;
        sum.bytes += part.bytes;
    }
}

/// Which elements of the session table are taken.
#[derive(Debug)]
pub(super) struct Indexes {
    taken: Vec<bool>,
    /// Where the next search begins.
    next: usize,
}

impl Indexes {
    /// None taken, of so many.
    pub(super) fn new(capacity: u32) -> Self {
        Self { taken: vec![false; capacity as usize], next: 0 }
    }

    /// Takes one that is free. In turn, so that one that has just become free rests for a while.
    pub(super) fn take(&mut self) -> Option<u32> {
        let length = self.taken.len();
        let index = (self.next..length).chain(0..self.next).find(|index| !self.taken[*index])?;
        self.taken[index] = true;
        self.next = (index + 1) % length;
        Some(index as u32)
    }

    /// Those that are taken.
    fn taken(&self) -> impl Iterator<Item = u32> {
        self.taken.iter().enumerate().filter(|(_, taken)| **taken).map(|(index, _)| index as u32)
    }

    /// Takes this one.
    pub(super) fn mark(&mut self, index: u32) {
        if let Some(taken) = self.taken.get_mut(index as usize) {
            *taken = true;
        }
    }

    /// Gives one back.
    pub(super) fn free(&mut self, index: u32) {
        if let Some(taken) = self.taken.get_mut(index as usize) {
            *taken = false;
        }
    }
}

/// A prefix length in bits and a key.
pub(super) type Destination = (u32, RouteKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_taken_once_and_rest_before_they_are_taken_again() {
        let mut indexes = Indexes::new(3);
        indexes.mark(0);
        assert_eq!([indexes.take(), indexes.take(), indexes.take()], [Some(1), Some(2), None]);
        indexes.free(1);
        indexes.free(0);
        assert_eq!([indexes.take(), indexes.take(), indexes.take()], [Some(0), Some(1), None]);
    }
}
