//! The table of all sessions, whatever their origin: installing them, loading their slots, adopting those of an earlier
//! controller, their routes and their ends. It has no notion of handshakes.

mod ends;
mod filters;
mod indexes;
mod routes;
mod transfer;

use std::collections::HashMap;

use anyhow::Context as _;
use ipnet::IpNet;
use mtd_common::abi::{self, SessionState};
use mtd_common::slot;

use self::filters::Filters;
pub use self::filters::Whose;
use self::indexes::Indexes;
pub use self::routes::Destination;
use self::routes::Routes;
pub use self::transfer::Exported;
use super::generation;
use super::installed::{Adoption, Installed, Key, Left, NewSession, Peer, route_key};
use super::maps::Maps;
use crate::dataplane::{Capacity, Error, MAX_ROUTES};
use crate::keys::PublicKey;
use crate::model::{
    BootNs, ClockOffset, MapFill, PeerNumber, SessionIndex, SessionTraffic, Totals, TunnelAddresses,
};
use crate::proto::clock::Reading;
use crate::proto::slots::{Loader, Place, is_of};

/// How long in ns a program may still be at work with data that it found in the maps: in practice, microseconds.
pub(super) const GRACE: u64 = 10_000_000;

/// Numbers of peers with negotiated sessions are above this one: those of configured peers are below, whatever the
/// configuration of an earlier controller said.
const FIRST_NEGOTIATED: u32 = 1 << 24;

/// All sessions, and the maps that hold them.
pub struct Table<M> {
    pub(super) maps: M,
    indexes: Indexes,
    /// Time in ns for which slots are loaded ahead.
    pub(super) horizon: u64,
    routes: Routes,
    /// Sessions whose routes could not be set.
    unrouted: Vec<Key>,
    /// By element of the session table, up to the last one ever taken. Boxed: most elements are free.
    installed: Vec<Option<Box<Installed>>>,
    by_key: HashMap<Key, SessionIndex>,
    peers: HashMap<PublicKey, PeerNumber>,
    /// The last number that was given to a peer.
    last_peer: u32,
    /// Ended sessions whose keys are still in the maps, and when they ended.
    ended: Vec<(SessionIndex, BootNs)>,
    /// Sessions that are out of use, and since when.
    resting: Vec<(Key, BootNs)>,
    /// The traffic of sessions whose elements are wiped.
    wiped: Totals,
    filters: Filters,
}

impl<M: Maps> Table<M> {
    /// A table without sessions, which loads slots `horizon` ns ahead.
    pub fn new(maps: M, horizon: u64) -> Self {
        let indexes = Indexes::new(maps.capacity().sessions);
        Self {
            maps,
            indexes,
            horizon,
            routes: HashMap::new(),
            unrouted: Vec::new(),
            installed: Vec::new(),
            by_key: HashMap::new(),
            peers: HashMap::new(),
            last_peer: FIRST_NEGOTIATED,
            ended: Vec::new(),
            resting: Vec::new(),
            wiped: Totals::default(),
            filters: Filters::default(),
        }
    }

    /// The sessions that an earlier controller left in the maps. Their elements count as taken.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn left(&mut self) -> Result<Vec<Left>, Error> {
        let mut found = Vec::new();
        if !self.maps.adopted() {
            return Ok(found);
        }
        for index in (0..self.maps.capacity().sessions).map(SessionIndex) {
            let element = self.maps.session(index)?;
            if element.generation != 0 {
                self.indexes.mark(index);
                let (state, note) = (self.maps.state(index)?, self.maps.note(index)?);
                found.push(Left { index, element, state, note });
            }
        }
        Ok(found)
    }

    /// Goes on with a session that an earlier controller left and an origin has recognised.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn adopt(
        &mut self,
        origin: super::OriginId,
        left: &Left,
        adoption: Adoption,
    ) -> Result<(), Error> {
        let Adoption { id, session, peer, started, local, remote, networks } = adoption;
        let place = Place { index: left.index, generation: left.element.generation };
        let whose = Whose::from(&peer);
        let (peer, role) = match peer {
            Peer::Configured(number) => (number, None),
            Peer::Negotiated(role, key) => {
                let number = PeerNumber(left.element.peer);
                self.peers.insert(key, number);
                self.last_peer = self.last_peer.max(number.0);
                (number, Some(role))
            }
        };
        let installed = Installed {
            key: (origin, id),
            session,
            // Slots that the earlier controller loaded are loaded again, which changes nothing.
            loader: Loader::new(place, left.state.rx_not_before),
            offset: ClockOffset(left.element.clock_offset),
            started,
            peer,
            role,
            local,
            remote,
            networks,
            resting: false,
            translated: left.is_translated(),
            where_heard: left.element.flags & abi::FLAG_HEARD != 0,
            policy: self.filters.policy(whose, left.element.mode),
            whose,
        };
        if let Some(policy) = installed.policy {
            self.maps.assign_policy(left.index, policy)?;
        }
        if installed.element() != left.element {
            self.maps.set_session(left.index, installed.element())?;
        }
        self.insert(installed);
        Ok(())
    }

    /// Ends a session that an earlier controller left and no origin has recognised.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn reject(&mut self, left: &Left, now: Reading) -> Result<(), Error> {
        self.revoke(left.index, left.element, now.boot)
    }

    /// Removes addresses of unknown sessions, of past slots, and of ends that a session no longer has.
    pub(super) fn drop_strangers(&mut self, now: Reading) {
        let installed = &self.installed;
        self.maps.retain_slots(|index, slot| {
            let found = installed.get(index.position()).and_then(Option::as_ref);
            found.filter(|found| found.place().generation == slot.generation).is_some_and(|found| {
                is_of(found.place(), &found.session, slot, found.offset.session(now.boot))
            })
        });
    }

    /// Puts a session into the maps: it receives from now on, unless it rests. Its peer must have no inner address in one of the `reserved`
    /// networks. A peer that chooses its own inner addresses must not have one that leads to another peer.
    ///
    /// # Errors
    /// When there is no room, or an address belongs to another peer. Nothing is installed then.
    pub fn install(
        &mut self,
        origin: super::OriginId,
        new: NewSession,
        reserved: Option<&[IpNet]>,
        now: Reading,
    ) -> anyhow::Result<()> {
        let NewSession {
            id,
            session,
            offset,
            started,
            peer,
            local,
            remote,
            networks,
            state,
            translated,
            resting,
        } = new;
        let whose = Whose::from(&peer);
        let (number, role) = match peer {
            Peer::Configured(number) => (number, None),
            Peer::Negotiated(role, key) => (self.peer_number(key), Some(role)),
        };
        if let Some(reserved) = reserved {
            self.require_free(&TunnelAddresses::from_map(remote), number, reserved)?;
        }
        let full = "no room for another session; raise max_sessions in the configuration";
        let index = self.indexes.take().context(full)?;
        let new_state = || SessionState {
            tx_sequence: slot::sequence_seed(offset.session(now.boot).0),
            ..SessionState::default()
        };
        let state = state.map_or_else(new_state, |state| *state);
        let place = Place { index, generation: generation()? };
        let loader = Loader::new(place, state.rx_not_before);
        let key = (origin, id);
        let policy = self.filters.policy(whose, session.mode);
        let installed = Installed {
            key,
            session,
            loader,
            offset,
            started,
            peer: number,
            role,
            local,
            remote,
            networks,
            resting,
            translated,
            where_heard: false,
            policy,
            whose,
        };
        let note =
            if let Peer::Negotiated(role, key) = peer { Some(installed.note(role, &key)) } else { None };
        let (element, control, route) = (installed.element(), installed.control_route(), installed.route());
        self.insert(installed);
        let done = (|| {
            self.maps.set_state(index, state)?;
            note.map_or(Ok(()), |note| self.maps.set_note(index, &note))?;
            policy.map_or(Ok(()), |policy| self.maps.assign_policy(index, policy))?;
            self.maps.set_session(index, element)?;
            self.set_route(control, route)?;
            self.load(index, now)
        })();
        done.inspect_err(|_| self.remove(key, now))?;
        Ok(())
    }

    /// The number of the peer with this key: the same in all sessions with it.
    fn peer_number(&mut self, key: PublicKey) -> PeerNumber {
        *self.peers.entry(key).or_insert_with(|| {
            self.last_peer += 1;
            PeerNumber(self.last_peer)
        })
    }

    /// A peer that chooses its own inner addresses must not attract the traffic of others.
    fn require_free(
        &self,
        remote: &TunnelAddresses,
        peer: PeerNumber,
        reserved: &[IpNet],
    ) -> anyhow::Result<()> {
        for address in remote.iter() {
            let taken = reserved.iter().any(|net| net.prefix_len() > 0 && net.contains(&address));
            if taken || self.leads_elsewhere(route_key(address.into()), peer.0) {
                anyhow::bail!("the server's tunnel address {address} is another peer's, or this host's own");
            }
        }
        Ok(())
    }

    fn insert(&mut self, installed: Installed) {
        let index = installed.index();
        if index.position() >= self.installed.len() {
            self.installed.resize_with(index.position() + 1, || None);
        }
        self.by_key.insert(installed.key, index);
        self.installed[index.position()] = Some(Box::new(installed));
    }

    fn forget(&mut self, key: Key) -> Option<Box<Installed>> {
        let index = self.by_key.remove(&key)?;
        self.installed.get_mut(index.position())?.take()
    }

    fn index(&self, key: Key) -> Option<SessionIndex> {
        self.by_key.get(&key).copied()
    }

    /// The session with this key.
    pub(super) fn get(&self, key: Key) -> Option<&Installed> {
        self.installed.get(self.index(key)?.position())?.as_deref()
    }

    /// The session in an element of the session table, if it has this generation.
    pub(super) fn at(&self, index: SessionIndex, generation: u32) -> Option<&Installed> {
        let found = self.installed.get(index.position())?.as_deref()?;
        (found.place().generation == generation).then_some(found)
    }

    /// All sessions and introductions.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Installed> {
        self.installed.iter().filter_map(Option::as_deref)
    }

    /// Changes the offset of a session's clock.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn set_clock(&mut self, key: Key, offset: ClockOffset) -> Result<(), Error> {
        let Some(index) = self.index(key) else { return Ok(()) };
        let Some(installed) = self.installed[index.position()].as_mut() else { return Ok(()) };
        installed.offset = offset;
        self.maps.set_session(index, installed.element())
    }

    /// Sets whether a session takes packets from any address, since a router translates those of its peer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn set_translated(&mut self, key: Key, translated: bool) -> Result<(), Error> {
        let Some(index) = self.index(key) else { return Ok(()) };
        let Some(installed) = self.installed[index.position()].as_mut() else { return Ok(()) };
        installed.translated = translated;
        self.maps.set_session(index, installed.element())
    }

    /// Lets a session's packets go to where its peer was heard, or to where the peer is in the present slot.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn answer(&mut self, key: Key, where_heard: bool) -> Result<(), Error> {
        let Some(index) = self.index(key) else { return Ok(()) };
        let Some(installed) = self.installed[index.position()].as_mut() else { return Ok(()) };
        // Peers say it again in each slot.
        if std::mem::replace(&mut installed.where_heard, where_heard) == where_heard {
            return Ok(());
        }
        self.maps.set_session(index, installed.element())
    }

    /// Loads the due slots of all sessions. Calls `failed` with every session whose slots could not all be loaded: they are
    /// tried again the next time.
    pub(super) fn load_all(&mut self, now: Reading, mut failed: impl FnMut(Key, Error)) {
        for index in (0..self.installed.len()).map(|index| SessionIndex(index as u32)) {
            if let Err(error) = self.load(index, now)
                && let Some(installed) = &self.installed[index.position()]
            {
                failed(installed.key, error);
            }
        }
    }

    fn load(&mut self, index: SessionIndex, now: Reading) -> Result<(), Error> {
        let (horizon, slots) = (self.horizon, self.maps.capacity().slots);
        let Some(installed) = self.installed.get_mut(index.position()).and_then(Option::as_deref_mut) else {
            return Ok(());
        };
        if installed.resting {
            return Ok(());
        }
        let horizon = bounded(horizon, installed, slots);
        let time = installed.offset.session(now.boot);
        installed.loader.advance(&installed.session, time, horizon, self.maps.slots())
    }

    /// How far ahead the slots of a session are loaded, in ns.
    pub(super) fn horizon(&self, installed: &Installed) -> u64 {
        bounded(self.horizon, installed, self.maps.capacity().slots)
    }

    /// The state that the programs keep of a session.
    pub(super) fn state(&self, key: Key) -> SessionState {
        self.index(key).and_then(|index| self.maps.state(index).ok()).unwrap_or_default()
    }

    /// The traffic of all sessions that this controller has known, including what earlier controllers counted of them.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.wiped;
        for index in self.indexes.taken() {
            add(&mut totals, &self.maps.traffic(index));
        }
        totals
    }

    /// How full the maps are, `loaded` being the number of addresses.
    pub(super) fn fill(&self, loaded: u64) -> Vec<MapFill> {
        let Capacity { sessions, slots, .. } = self.maps.capacity();
        let fill = |name: &str, used, capacity| MapFill { name: name.to_owned(), used, capacity };
        vec![
            fill("addresses", loaded, u64::from(sessions) * u64::from(slots)),
            fill("sessions", self.indexes.taken().count() as u64, u64::from(sessions)),
            fill("routes", self.routes.len() as u64, u64::from(MAX_ROUTES)),
        ]
    }
}

/// How far ahead slots are loaded, in ns: at least the next two slots of a negotiated session, whatever the configured
/// horizon, and no further than there is room for `slots`.
fn bounded(horizon: u64, installed: &Installed, slots: u32) -> u64 {
    if installed.role.is_none() {
        return horizon;
    }
    let period = installed.session.period;
    let room = u64::from(slots.saturating_sub(4)) * period;
    horizon.max(2 * period).min(room)
}

fn add(totals: &mut Totals, session: &SessionTraffic) {
    for (sum, part) in [(&mut totals.received, session.received), (&mut totals.sent, session.sent)] {
        sum.packets += part.packets;
        sum.bytes += part.bytes;
    }
}
