//! The sessions and introductions that are in the maps: putting them there, routing, taking them away.

use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use mtd_common::abi::{self, Route, SessionState};
use mtd_common::address::{End, Network};
use mtd_common::session_note::{ROLE_CLIENT, ROLE_SERVER, SessionNote};
use mtd_common::slot;
use tracing::{debug, warn};

use super::{Effect, Negotiated, Owner};
use crate::dataplane::Plane;
use crate::keys::PublicKey;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Install, SessionId};
use crate::proto::messages::Tunnel;
use crate::proto::packet;
use crate::proto::session::{Ends, Keys, Parts, Role, Session, Terms};
use crate::proto::slots::{Loader, Place};
use crate::sessions::generation;
use crate::sessions::peer::route_key;
use crate::sessions::tables::{Destination, Tables};

/// A session or introduction in the maps.
pub(crate) struct Entry {
    pub(crate) session: Arc<Session>,
    pub(crate) loader: Loader,
    pub(crate) offset: u64,
    pub(super) started: u64,
    pub(super) peer: u32,
    pub(super) local: Tunnel,
    pub(super) remote: Tunnel,
    pub(super) role: Role,
}

impl Entry {
    pub(crate) fn place(&self) -> Place {
        self.loader.place()
    }

    pub(super) fn element(&self) -> abi::Session {
        self.session.element(self.place().generation, self.offset, self.peer, self.remote.to_map())
    }

    /// Own and the peer's inner address of control messages: they are the session's alone, so that a message goes through
    /// this session whichever one traffic goes through.
    pub(super) fn inside(&self) -> [[u8; 16]; 2] {
        let [client, server] = self.session.control_addresses();
        if self.role == Role::Client { [client, server] } else { [server, client] }
    }

    pub(super) fn route(&self) -> Route {
        let Place { index, generation } = self.place();
        Route { session: index, generation, peer: self.peer, reserved: 0 }
    }
}

impl Negotiated {
    pub(super) fn install(
        &mut self,
        owner: Owner,
        install: Install,
        now: Reading,
        tables: &mut Tables,
    ) -> anyhow::Result<()> {
        let Install { id, session, offset, started, role, peer, local, remote } = install;
        let peer_number = *self.peers.entry(peer).or_insert_with(|| {
            self.last_peer += 1;
            self.last_peer
        });
        if let Owner::Client(n) = owner {
            self.require_free(n as usize, &remote, peer_number, tables)?;
        }
        let index = tables.indexes.take().context("no room; raise max_sessions in the configuration")?;
        let place = Place { index, generation: generation()? };
        let loader = Loader::new(place, 0);
        let note = to_note(&session, &peer, role, place.generation, started, (local, remote));
        let mut entry =
            Box::new(Entry { session, loader, offset, started, peer: peer_number, local, remote, role });
        let time = now.boot.wrapping_add(offset);
        let state = SessionState { tx_sequence: slot::sequence_seed(time), ..SessionState::default() };
        let done = (|| {
            tables.plane.set_session_state(index, state)?;
            tables.plane.set_session_note(index, &note)?;
            tables.plane.set_session(index, entry.element())?;
            tables.set_route(control_route(&entry.inside()[1]), entry.route())?;
            load(&mut entry, now, tables)
        })();
        let tunnel = (local, remote);
        self.insert(owner, id, entry);
        if let Err(error) = done {
            self.remove(owner, id, tables);
            return Err(error);
        }
        if let Owner::Client(n) = owner
            && tunnel.0 != Tunnel::default()
            && let Some(connection) = self.connections.get_mut(n as usize)
            && connection.tunnel != Some(tunnel)
        {
            connection.tunnel = Some(tunnel);
            self.effect(Effect::Device);
        }
        Ok(())
    }

    /// A server has no say over where the traffic of others goes.
    fn require_free(&self, n: usize, remote: &Tunnel, peer: u32, tables: &Tables) -> anyhow::Result<()> {
        let others = self.connections.iter().enumerate().filter(|(other, _)| *other != n);
        let behind: Vec<_> =
            others.flat_map(|(_, other)| &other.config.allowed_ips).chain(&self.reserved).collect();
        for address in remote.iter() {
            let taken = behind.iter().any(|net| net.prefix_len() > 0 && net.contains(&address));
            if taken || tables.leads_elsewhere(route_key(address.into()), peer) {
                anyhow::bail!("the server's tunnel address {address} is another peer's, or this host's own");
            }
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, owner: Owner, id: SessionId, entry: Box<Entry>) {
        let Place { index, .. } = entry.place();
        let index = index as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, None);
        }
        self.places[index] = Some((owner, id));
        self.entries.insert((owner, id), entry);
    }

    pub(super) fn route(&mut self, owner: Owner, id: SessionId, tables: &mut Tables) -> anyhow::Result<()> {
        let Some(entry) = self.entries.get(&(owner, id)) else { return Ok(()) };
        let route = entry.route();
        for destination in self.destinations(owner, entry) {
            tables.set_route(destination, route)?;
        }
        Ok(())
    }

    /// The session with a peer that is fittest to carry its traffic.
    fn other(&self, owner: Owner, peer: u32, plane: &Plane) -> Option<SessionId> {
        let mut others: Vec<_> = self
            .entries
            .iter()
            .filter(|((other, _), entry)| {
                *other == owner && entry.peer == peer && entry.session.mode != abi::MODE_INTRODUCTION
            })
            .collect();
        others.sort_by_key(|(_, entry)| rank(entry, plane));
        others.last().map(|((_, id), _)| *id)
    }

    /// The inner destinations of a session's peer.
    pub(super) fn destinations(&self, owner: Owner, entry: &Entry) -> Vec<Destination> {
        self.inner_networks(owner, entry).into_iter().map(route_key).collect()
    }

    /// The inner networks of a session's peer.
    pub(super) fn inner_networks(&self, owner: Owner, entry: &Entry) -> Vec<IpNet> {
        let mut networks: Vec<_> = entry.remote.iter().map(IpNet::from).collect();
        if let Owner::Client(n) = owner
            && let Some(connection) = self.connections.get(n as usize)
        {
            networks.extend(&connection.config.allowed_ips);
        }
        networks
    }

    pub(super) fn remove(&mut self, owner: Owner, id: SessionId, tables: &mut Tables) {
        let Some(mut entry) = self.entries.remove(&(owner, id)) else { return };
        let Place { index, generation } = entry.place();
        if let Some(place) = self.places.get_mut(index as usize) {
            *place = None;
        }
        let done: anyhow::Result<()> = (|| {
            tables.revoke(index, entry.element())?;
            tables.remove_routes(&[control_route(&entry.inside()[1])], generation)?;
            let destinations = self.destinations(owner, &entry);
            if destinations.iter().any(|destination| tables.leads_to(*destination, generation)) {
                // Another session with the same peer, if there is one, carries on.
                match self.other(owner, entry.peer, &tables.plane) {
                    Some(other) => self.route(owner, other, tables)?,
                    None => tables.remove_routes(&destinations, generation)?,
                }
            }
            entry.loader.unload(tables.plane.slots());
            Ok(())
        })();
        if let Err(error) = done {
            warn!("ending a session: {error:#}");
        }
    }

    pub(super) fn send_control(&self, owner: Owner, id: SessionId, message: &[u8]) {
        let Some(entry) = self.entries.get(&(owner, id)) else { return };
        let [source, destination] = entry.inside();
        if let Err(error) = self.wire.inject(&packet::control(source, destination, message)) {
            debug!("sending a control message: {error}");
        }
    }
}

/// How fit a session is to carry its peer's traffic: one that is open rather than one that is not, then the newest.
pub(super) fn rank(entry: &Entry, plane: &Plane) -> (bool, u64) {
    let open = plane.session_state(entry.place().index).is_ok_and(|state| state.rx_last_valid > 0);
    (open, entry.started)
}

pub(super) fn control_route(address: &[u8; 16]) -> Destination {
    (abi::ROUTE_KEY_FAMILY_BITS + 128, abi::route_key(6, address))
}

/// How far ahead slots are loaded, in ns: the next two at least, whatever the configuration knows of this session; no
/// further than there is room for.
pub(crate) fn horizon(entry: &Entry, tables: &Tables) -> u64 {
    let period = entry.session.period;
    let room = u64::from(tables.plane.capacity().slots.saturating_sub(4)) * period;
    tables.horizon.max(2 * period).min(room)
}

pub(super) fn load(entry: &mut Entry, now: Reading, tables: &mut Tables) -> anyhow::Result<()> {
    let time = now.boot.wrapping_add(entry.offset);
    let horizon = horizon(entry, tables);
    Ok(entry.loader.advance(&entry.session, time, horizon, tables.plane.slots())?)
}

fn to_note(
    session: &Session,
    peer: &PublicKey,
    role: Role,
    generation: u32,
    started: u64,
    (local, remote): (Tunnel, Tunnel),
) -> SessionNote {
    SessionNote {
        generation,
        role: if role == Role::Client { ROLE_CLIENT } else { ROLE_SERVER },
        address_key: *session.address_key(),
        peer_key: *peer.as_bytes(),
        local_prefix: session.local.network.prefix,
        remote_prefix: session.remote.network.prefix,
        local_seed: session.local.seed,
        remote_seed: session.remote.seed,
        local_length: session.local.network.length,
        remote_length: session.remote.network.length,
        reserved: [0; 6],
        started,
        expires: session.until,
        local_tunnel: local.to_map(),
        remote_tunnel: remote.to_map(),
    }
}

pub(super) fn from_note(note: &SessionNote, element: &abi::Session) -> Session {
    let end = |prefix, length, seed| End { network: Network { prefix, length }, seed };
    Session::adopted(Parts {
        tx: Keys(element.tx),
        rx: Keys(element.rx),
        address_key: note.address_key,
        ends: Ends {
            local: end(note.local_prefix, note.local_length, note.local_seed),
            remote: end(note.remote_prefix, note.remote_length, note.remote_seed),
        },
        terms: Terms { period: element.period, mode: element.mode, until: note.expires },
        phase: element.phase,
    })
}
