//! Sessions that are negotiated: what the machines of [`crate::proto`] ask for, done to the maps and on the wire.

mod entries;

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use mtd_common::abi::{self, Route, SessionState};
use mtd_common::address::Network;
use mtd_common::session_note::{ROLE_CLIENT, ROLE_SERVER};
use tokio::sync::mpsc;
use tracing::{debug, warn};

pub(super) use self::entries::horizon;
use self::entries::{Entry, control_route, from_note, load, rank};
use super::observer::Observer;
use super::tables::{Destination, Tables};
use super::wire::Wire;
use crate::config;
use crate::dataplane::Plane;
use crate::keys::PublicKey;
use crate::proto::client::Client;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, Adopted, Publication, Received, SessionId};
use crate::proto::messages::Tunnel;
use crate::proto::server::Server;
use crate::proto::session::Role;
use crate::proto::slots::{Loader, Place, is_of};

/// Numbers of negotiated peers are above this one: those of statically configured peers are below, whatever an earlier
/// controller's configuration said.
const FIRST_PEER: u32 = 1 << 24;

/// In how many ticks a server looks at all its sessions: a second.
const TURNS: u32 = 10;

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The one that listens.
    Server,
    /// The one that connects to this server of the configuration.
    Client(u32),
}

/// What has to be done outside of the maps, and takes time.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Look for a server's introduction.
    Fetch {
        /// Position of the server in the configuration.
        client: usize,
        /// Start of the window, Unix time in s.
        window: u64,
    },
    /// Publish an introduction.
    Publish(Publication),
    /// Publish nothing any more for a client that is no longer registered.
    Withdraw(PublicKey),
    /// Give the tunnel device other addresses and routes.
    Device,
}

/// A server of the configuration, and the machine that connects to it.
pub(super) struct Connection {
    pub(super) config: config::Server,
    pub(super) machine: Client,
    /// Own and the server's tunnel addresses, as the device has them.
    pub(super) tunnel: Option<(Tunnel, Tunnel)>,
}

/// Negotiated sessions, and the machines that negotiate them.
pub(crate) struct Negotiated {
    pub(super) server: Option<Server>,
    pub(super) connections: Vec<Connection>,
    /// Boxed: a table of many has room for twice as many at times.
    entries: HashMap<(Owner, SessionId), Box<Entry>>,
    /// By element of the session table, as far as any was taken.
    places: Vec<Option<(Owner, SessionId)>>,
    /// Own inner addresses, and networks of statically configured peers: no server can have an address there.
    reserved: Vec<IpNet>,
    /// Numbers of peers.
    peers: HashMap<PublicKey, u32>,
    /// The last number that was given to a peer.
    last_peer: u32,
    wire: Wire,
    effects: mpsc::UnboundedSender<Effect>,
    pub(super) observer: Observer,
    /// Which of the server's sessions are looked at in this tick: see [`Negotiated::note_valid`].
    turn: u32,
}

impl Negotiated {
    pub(super) fn new(
        server: Option<Server>,
        connections: Vec<Connection>,
        reserved: Vec<IpNet>,
        wire: Wire,
        effects: mpsc::UnboundedSender<Effect>,
    ) -> Self {
        Self {
            server,
            connections,
            reserved,
            entries: HashMap::new(),
            places: Vec::new(),
            peers: HashMap::new(),
            last_peer: FIRST_PEER,
            wire,
            effects,
            observer: Observer::default(),
            turn: 0,
        }
    }

    /// Goes on with a session that an earlier controller left at `index`, if it is one of ours. False: it is not.
    pub(super) fn adopt(
        &mut self,
        index: u32,
        element: &abi::Session,
        now: Reading,
        tables: &mut Tables,
    ) -> anyhow::Result<bool> {
        let note = tables.plane.session_note(index)?;
        let known = note.generation == element.generation && element.mode != abi::MODE_INTRODUCTION;
        let time = now.boot.wrapping_add(element.clock_offset);
        if !known || time >= note.expires {
            return Ok(false);
        }
        let last_valid = tables.plane.session_state(index)?.rx_last_valid;
        let session = Arc::new(from_note(&note, element));
        let (offset, started) = (element.clock_offset, note.started);
        let adopted = Adopted { session: Arc::clone(&session), offset, started, last_valid };
        let peer = PublicKey::from_bytes(note.peer_key);
        let (local, remote) = (Tunnel::from_map(note.local_tunnel), Tunnel::from_map(note.remote_tunnel));
        let owner = match note.role {
            ROLE_SERVER => {
                let id = self.server.as_mut().and_then(|server| server.adopt(peer, remote, adopted));
                id.map(|id| (Owner::Server, id))
            }
            ROLE_CLIENT => {
                let found = self.connections.iter_mut().enumerate();
                let mut found = found.filter(|(_, connection)| connection.config.public_key == peer);
                found.next().map(|(number, connection)| {
                    let id = connection.machine.adopt(adopted, (local, remote));
                    connection.tunnel = Some((local, remote));
                    (Owner::Client(number as u32), id)
                })
            }
            _ => None,
        };
        let Some((owner, id)) = owner else { return Ok(false) };
        let place = Place { index, generation: element.generation };
        self.peers.insert(peer, element.peer);
        self.last_peer = self.last_peer.max(element.peer);
        let loader = Loader::new(place, 0);
        let role = if note.role == ROLE_CLIENT { Role::Client } else { Role::Server };
        let entry =
            Box::new(Entry { session, loader, offset, started, peer: element.peer, local, remote, role });
        self.insert(owner, id, entry);
        self.observer.adopted((owner, id), peer);
        Ok(true)
    }

    /// The routes of adopted sessions: of each peer to the newest that is open.
    pub(super) fn adopted_routes(&self, plane: &Plane) -> Vec<(Destination, Route)> {
        let mut best: HashMap<_, (_, &Entry)> = HashMap::new();
        for ((owner, _), entry) in &self.entries {
            let rank = rank(entry, plane);
            let found = best.entry((*owner, entry.peer)).or_insert((rank, entry));
            if rank > found.0 {
                *found = (rank, entry);
            }
        }
        let mut routes: Vec<_> =
            self.entries.values().map(|entry| (control_route(&entry.inside()[1]), entry.route())).collect();
        for ((owner, _), (_, entry)) in best {
            let route = entry.route();
            routes.extend(self.destinations(owner, entry).into_iter().map(|to| (to, route)));
        }
        routes
    }

    /// Whether one of these sessions has this slot at a place in the maps.
    pub(super) fn has(&self, place: Place, slot: &abi::Slot, now: Reading) -> bool {
        self.at(place.index, place.generation)
            .is_some_and(|(_, entry)| is_of(place, &entry.session, slot, now.boot.wrapping_add(entry.offset)))
    }

    /// The session at an element of the session table, if it is the one of this generation.
    fn at(&self, index: u32, generation: u32) -> Option<((Owner, SessionId), &Entry)> {
        let key = self.places.get(index as usize)?.as_ref()?;
        let entry = self.entries.get(key).filter(|entry| entry.place().generation == generation)?;
        Some((*key, entry))
    }

    /// Tells every machine the time, loads slots, does what they ask for.
    pub(super) fn tick(&mut self, now: Reading, tables: &mut Tables) {
        self.note_valid(now, &tables.plane);
        if let Some(server) = &mut self.server {
            server.poll(now);
        }
        for connection in &mut self.connections {
            connection.machine.poll(now);
        }
        self.act(now, tables);
        for entry in self.entries.values_mut() {
            if let Err(error) = load(entry, now, tables) {
                warn!("loading slots: {error:#}");
            }
        }
    }

    /// A record of the receive program.
    pub(super) fn handle_control(
        &mut self,
        record: &mtd_common::control_record::ControlRecord,
        now: Reading,
        tables: &mut Tables,
    ) {
        let Some(((owner, id), _)) = self.at(record.session, record.generation) else {
            return debug!("control message of a session that is over");
        };
        let received = Received {
            id,
            slot: record.slot,
            source: (record.source, u16::from_be_bytes(record.source_port)),
            message: record.message(),
        };
        match owner {
            Owner::Server => {
                if let Some(server) = &mut self.server {
                    server.handle_valid(id, record.time, now);
                    server.handle_control(received, now);
                }
            }
            Owner::Client(n) => {
                if let Some(connection) = self.connections.get_mut(n as usize) {
                    connection.machine.handle_valid(id, record.time, now);
                    connection.machine.handle_control(received, now);
                }
            }
        }
        self.act(now, tables);
    }

    /// Ends all sessions and tells the peers.
    pub(super) fn stop(&mut self, now: Reading, tables: &mut Tables) {
        if let Some(server) = &mut self.server {
            server.stop();
        }
        for connection in &mut self.connections {
            connection.machine.stop();
        }
        self.act(now, tables);
    }

    /// Does what the machines ask for, until they ask for nothing.
    pub(super) fn act(&mut self, now: Reading, tables: &mut Tables) {
        while let Some(action) = self.server.as_mut().and_then(Server::next_action) {
            self.carry_out(Owner::Server, action, now, tables);
        }
        for n in 0..self.connections.len() {
            while let Some(action) = self.connections[n].machine.next_action() {
                self.carry_out(Owner::Client(n as u32), action, now, tables);
            }
        }
    }

    fn carry_out(&mut self, owner: Owner, action: Action, now: Reading, tables: &mut Tables) {
        match action {
            Action::Install(install) => {
                let id = install.id;
                if install.session.mode != abi::MODE_INTRODUCTION {
                    self.observer.installed((owner, id), install.peer);
                }
                if let Err(error) = self.install(owner, *install, now, tables) {
                    warn!("a session cannot begin: {error:#}");
                    self.not_installed(owner, id, now);
                }
            }
            Action::Route(id) => match self.route(owner, id, tables) {
                Ok(()) => self.observer.routed((owner, id)),
                Err(error) => warn!("routing a session's traffic: {error:#}"),
            },
            Action::Clock { id, offset } => {
                if let Some(entry) = self.entries.get_mut(&(owner, id)) {
                    entry.offset = offset;
                    let (index, element) = (entry.place().index, entry.element());
                    if let Err(error) = tables.plane.set_session(index, element) {
                        warn!("following the server's clock: {error}");
                    }
                }
            }
            Action::Remove(id) => {
                self.remove(owner, id, tables);
                self.observer.removed((owner, id));
            }
            Action::Transmit { id, packet } => {
                let exists = self.entries.contains_key(&(owner, id));
                if exists && let Err(error) = self.wire.transmit(&packet) {
                    debug!("sending a handshake message: {error}");
                }
            }
            Action::Control { id, about, message } => {
                if self.entries.contains_key(&(owner, about)) {
                    self.send_control(owner, id, &message);
                }
            }
            Action::Fetch { window } => {
                if let Owner::Client(client) = owner {
                    self.effect(Effect::Fetch { client: client as usize, window });
                }
            }
            Action::Publish(publication) => self.effect(Effect::Publish(publication)),
        }
    }

    pub(super) fn effect(&self, effect: Effect) {
        // The receiver goes when the controller stops.
        let _ = self.effects.send(effect);
    }

    fn not_installed(&mut self, owner: Owner, id: SessionId, now: Reading) {
        match owner {
            Owner::Server => {
                if let Some(server) = &mut self.server {
                    server.handle_not_installed(id, now);
                }
            }
            Owner::Client(n) => {
                if let Some(connection) = self.connections.get_mut(n as usize) {
                    connection.machine.handle_not_installed(id, now);
                }
            }
        }
    }

    /// Tells the machines which sessions have received something. Clients hang on it: how long a server has been silent
    /// decides what they do. A server needs to know of a session's first packet, which is a control message and says so
    /// itself, and of idleness, which is counted in seconds: it looks at a tenth of its sessions at a time.
    fn note_valid(&mut self, now: Reading, plane: &Plane) {
        self.turn = (self.turn + 1) % TURNS;
        for ((owner, id), entry) in &self.entries {
            let index = entry.place().index;
            let due = *owner != Owner::Server || index % TURNS == self.turn;
            if !due || entry.session.mode == abi::MODE_INTRODUCTION {
                continue;
            }
            let Ok(state) = plane.session_state(index) else { continue };
            match owner {
                Owner::Server => {
                    if let Some(server) = &mut self.server {
                        server.handle_valid(*id, state.rx_last_valid, now);
                    }
                }
                Owner::Client(n) => {
                    if let Some(connection) = self.connections.get_mut(*n as usize) {
                        connection.machine.handle_valid(*id, state.rx_last_valid, now);
                    }
                }
            }
        }
    }

    /// What the programs keep of a session.
    pub(super) fn state(&self, owner: Owner, id: SessionId, plane: &Plane) -> SessionState {
        let place = self.entries.get(&(owner, id)).map(|entry| entry.place());
        place.and_then(|place| plane.session_state(place.index).ok()).unwrap_or_default()
    }

    /// The sessions and introductions that are in the maps.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(AsRef::as_ref)
    }

    /// Number of the peer of a session.
    pub(super) fn peer_of(&self, owner: Owner, id: SessionId) -> Option<u32> {
        self.entries.get(&(owner, id)).map(|entry| entry.peer)
    }

    /// Number of the peer of the session at an element of the session table, if it is the one of this generation.
    pub(super) fn peer_at(&self, index: u32, generation: u32) -> Option<u32> {
        self.at(index, generation).map(|(_, entry)| entry.peer)
    }

    /// The inner networks of the peers with these numbers, once for each session.
    pub(super) fn networks(&self, wanted: impl Fn(u32) -> bool) -> Vec<(u32, Vec<IpNet>)> {
        let found = self.entries.iter().filter(|(_, entry)| wanted(entry.peer));
        found.map(|((owner, _), entry)| (entry.peer, self.inner_networks(*owner, entry))).collect()
    }

    /// Own and the peer's tunnel addresses.
    pub(super) fn tunnel_of(&self, owner: Owner, id: SessionId) -> Option<(Tunnel, Tunnel)> {
        self.entries.get(&(owner, id)).map(|entry| (entry.local, entry.remote))
    }

    /// The interface has another prefix, or none.
    pub(super) fn set_network(&mut self, network: Option<Network>, now: Reading, tables: &mut Tables) {
        for connection in &mut self.connections {
            connection.machine.set_network(network, now);
        }
        if let (Some(server), Some(network)) = (&mut self.server, network) {
            server.set_network(network, now);
        }
        self.act(now, tables);
    }
}
