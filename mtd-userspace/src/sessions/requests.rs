//! What the rest of the controller asks of negotiated sessions, and tells them.

use mtd_common::control_record::{ControlRecord, KIND_TOO_BIG};

use super::Sessions;
use super::negotiated::Effect;
use crate::controller::registrar::Consequences;
use crate::keys::PublicKey;
use crate::proto::client::Fetched;
use crate::proto::exchange::Publication;
use crate::proto::rendezvous::Rendezvous;
use crate::state::{State, StateError};

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
    pub(crate) fn apply(&mut self, consequences: Consequences) {
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
