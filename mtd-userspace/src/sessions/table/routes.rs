//! The routes from inner destinations to sessions.

use std::collections::HashMap;

use mtd_common::abi::{Route, RouteKey};

use super::{Maps, Table};
use crate::dataplane::Error;
use crate::sessions::installed::{Installed, Key};

/// A prefix length in bits and a key.
pub type Destination = (u32, RouteKey);

/// The routes that are set, with the generation and peer of the session that each leads to.
pub(super) type Routes = HashMap<Destination, (u32, u32)>;

impl<M: Maps> Table<M> {
    /// Replaces all routes, including those of an earlier controller: the routes of each peer lead to its newest open
    /// session.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn replace_routes(&mut self) -> Result<(), Error> {
        let mut best: HashMap<_, (_, &Installed)> = HashMap::new();
        for installed in self.iter() {
            let rank = self.rank(installed);
            let found = best.entry((installed.key.0, installed.peer)).or_insert((rank, installed));
            if rank > found.0 {
                *found = (rank, installed);
            }
        }
        let control = self.iter().map(|installed| (installed.control_route(), installed.route()));
        let mut routes: Vec<(Destination, Route)> = control.collect();
        for (_, installed) in best.into_values() {
            let route = installed.route();
            routes.extend(installed.destinations().into_iter().map(|to| (to, route)));
        }
        self.set_only(routes)
    }

    /// Makes these the only routes.
    pub(super) fn set_only(&mut self, routes: Vec<(Destination, Route)>) -> Result<(), Error> {
        let flat: Vec<_> = routes.iter().map(|((length, key), route)| (*length, *key, *route)).collect();
        self.maps.replace_routes(&flat)?;
        self.routes = routes.into_iter().map(|(to, route)| (to, (route.generation, route.peer))).collect();
        Ok(())
    }

    /// Sends the traffic for a session's peer through this session. Failures are tried again at the next tick.
    ///
    /// # Errors
    /// When there are too many routes.
    pub(crate) fn route(&mut self, key: Key) -> Result<(), Error> {
        let Some(installed) = self.get(key) else { return Ok(()) };
        let (route, mut destinations) = (installed.route(), installed.destinations());
        destinations.push(installed.control_route());
        for destination in destinations {
            self.set_route(destination, route).inspect_err(|_| self.unrouted.push(key))?;
        }
        Ok(())
    }

    /// Sets the routes that could not be set before.
    ///
    /// # Errors
    /// As [`Table::route`].
    pub(crate) fn route_again(&mut self) -> Result<(), Error> {
        std::mem::take(&mut self.unrouted).into_iter().try_for_each(|key| self.route(key))
    }

    /// Sets a route, replacing any earlier one.
    pub(super) fn set_route(&mut self, destination: Destination, route: Route) -> Result<(), Error> {
        let leads_to = (route.generation, route.peer);
        if self.routes.get(&destination) != Some(&leads_to) {
            self.maps.set_route(destination.0, destination.1, route)?;
            self.routes.insert(destination, leads_to);
        }
        Ok(())
    }

    /// Removes the routes to this session, which is over; another session with the same peer, if there is one, carries its
    /// traffic from now on.
    pub(super) fn unroute(&mut self, over: &Installed) -> Result<(), Error> {
        let generation = over.place().generation;
        self.remove_routes(&[over.control_route()], generation)?;
        let destinations = over.destinations();
        if destinations.iter().any(|destination| self.leads_to(*destination, generation)) {
            match self.other(over) {
                Some(other) => self.route(other)?,
                None => self.remove_routes(&destinations, generation)?,
            }
        }
        Ok(())
    }

    /// Removes routes, except those that lead to another session by now.
    fn remove_routes(&mut self, destinations: &[Destination], generation: u32) -> Result<(), Error> {
        for destination in destinations {
            if self.leads_to(*destination, generation) {
                self.maps.remove_route(destination.0, destination.1)?;
                self.routes.remove(destination);
            }
        }
        Ok(())
    }

    /// Whether a route leads to this session.
    fn leads_to(&self, destination: Destination, generation: u32) -> bool {
        self.routes.get(&destination).is_some_and(|(known, _)| *known == generation)
    }

    /// Whether a route leads to another peer.
    pub(super) fn leads_elsewhere(&self, destination: Destination, peer: u32) -> bool {
        self.routes.get(&destination).is_some_and(|(_, known)| *known != peer)
    }

    /// The best session with the same peer to carry its traffic.
    fn other(&self, over: &Installed) -> Option<Key> {
        let same = |other: &&Installed| {
            other.key.0 == over.key.0 && other.peer == over.peer && !other.is_introduction()
        };
        self.iter().filter(same).max_by_key(|other| self.rank(other)).map(|other| other.key)
    }

    /// The order in which sessions are chosen for their peer's traffic: open ones first, then the newest.
    fn rank(&self, installed: &Installed) -> (bool, crate::model::BootNs) {
        let open = self.maps.state(installed.index()).is_ok_and(|state| state.rx_last_valid > 0);
        (open, installed.started)
    }
}
