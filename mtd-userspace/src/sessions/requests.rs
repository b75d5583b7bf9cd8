//! What the rest of the controller asks of negotiated sessions, and tells them.

use std::collections::HashMap;
use std::sync::Arc;

use mtd_common::control_record::{ControlRecord, KIND_TOO_BIG};

use super::Sessions;
use super::negotiated::Effect;
use super::peer;
use super::report::server_state;
use crate::events::Bus;
use crate::keys::PublicKey;
use crate::model::TunnelAddresses;
use crate::proto::client::Fetched;
use crate::proto::clock::Reading;
use crate::proto::exchange::Publication;
use crate::proto::rendezvous::Rendezvous;
use crate::proto::server::Server;
use crate::state::{State, StateError};
use crate::status::SessionState;

/// What a change of who may come means for the sessions.
#[derive(Debug, Default)]
pub struct Consequences {
    /// To be registered, or given other addresses.
    pub register: Vec<(PublicKey, TunnelAddresses)>,
    /// To be removed.
    pub remove: Vec<PublicKey>,
}

impl Sessions {
    /// What the receive program handed over: a control message, or a router's word about a path.
    pub fn handle_control(&mut self, record: &ControlRecord) {
        let now = self.clock.read();
        if record.kind == KIND_TOO_BIG {
            return self.handle_too_big(record, now);
        }
        self.negotiated.handle_control(record, now, &mut self.tables);
    }

    /// A search for the introduction of a server of the configuration has ended.
    pub fn handle_fetched(&mut self, client: usize, window: u64, fetched: Fetched) {
        let now = self.clock.read();
        if let Some(connection) = self.negotiated.connections.get_mut(client) {
            connection.machine.handle_fetched(window, fetched, now);
        }
        self.negotiated.act(now, &mut self.tables);
    }

    /// Who may come has changed.
    pub fn apply(&mut self, consequences: Consequences) {
        let now = self.clock.read();
        let Some(server) = &mut self.negotiated.server else { return };
        for (client, addresses) in consequences.register {
            // Keys that are of no use do not get into the registry.
            server.register(client, addresses, now);
        }
        for client in &consequences.remove {
            server.remove(client, now);
        }
        self.negotiated.act(now, &mut self.tables);
        for client in consequences.remove {
            self.negotiated.effect(Effect::Withdraw(client));
        }
    }

    /// From now on, tells on this bus what becomes of sessions.
    pub fn tell(&mut self, bus: Arc<Bus>) {
        let names = self.config.servers.iter().map(|server| (server.public_key, server.name.clone()));
        self.negotiated.observer.tell(bus, names.collect());
    }

    /// Tells what has changed in this tick.
    pub(super) fn observe(&mut self, now: Reading) {
        for peer in &self.peers {
            let last_valid = self.tables.plane.session_traffic(peer.place.index).last_valid;
            let state = peer::state(last_valid, peer.session.period, now);
            self.negotiated.observer.seen(peer.number, &peer.config.name, state);
        }
        if let Some(server) = &self.negotiated.server {
            let refused = server.counts().refused.iter().map(|(reason, count)| (reason.name(), *count));
            self.negotiated.observer.refused(refused);
        }
    }

    /// The states of the sessions with clients, by the client's key.
    pub fn client_states(&self) -> HashMap<PublicKey, SessionState> {
        let mut states = HashMap::new();
        for view in self.negotiated.server.iter().flat_map(Server::sessions).filter(|view| !view.closing) {
            let state = server_state(&view);
            // While keys are replaced there are two; the one that carries traffic counts.
            if states.get(view.client) != Some(&SessionState::Open) {
                states.insert(*view.client, state);
            }
        }
        states
    }

    /// Where to look for the introduction of a server of the configuration.
    pub fn rendezvous(&self, client: usize, window: u64) -> Option<Rendezvous> {
        let connection = self.negotiated.connections.get(client)?;
        let public = self.config.identity.as_ref()?.key.public();
        Some(connection.machine.shared().rendezvous(&connection.config.public_key, &public, window))
    }

    /// For whom an introduction is to be published, and where.
    pub fn recipients(&self, publication: &Publication) -> Vec<(PublicKey, Rendezvous)> {
        let Some(server) = &self.negotiated.server else { return Vec::new() };
        let of = |client: &PublicKey| {
            let shared = server.shared(client)?;
            Some((*client, shared.rendezvous(server.public(), client, publication.window)))
        };
        match &publication.client {
            Some(client) => of(client).into_iter().collect(),
            None => server.clients().filter_map(of).collect(),
        }
    }

    /// Notes in the state file what is about to be published: the next controller must publish something newer.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn note_published(&self, published_ms: u64) -> Result<(), StateError> {
        let mut state = State::read(&self.facts.state)?.unwrap_or_default();
        state.published_ms = published_ms.max(state.published_ms);
        state.write(&self.facts.state)
    }
}
