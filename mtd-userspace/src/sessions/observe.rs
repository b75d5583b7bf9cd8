//! Feeding the observer of the sessions.

use std::collections::HashMap;
use std::sync::Arc;

use super::report::server_state;
use super::summary::peer_state;
use super::{Maps, OriginId, Sessions};
use crate::events::Bus;
use crate::keys::PublicKey;
use crate::model::BootNs;
use crate::proto::clock::Reading;
use crate::proto::server::Server;
use crate::status::SessionState;

impl<M: Maps> Sessions<M> {
    /// From now on, publishes changes of sessions on this bus. Adopted sessions count as going on.
    pub fn tell(&mut self, bus: Arc<Bus>) {
        self.observer.tell(bus);
        for installed in self.table.iter().filter(|installed| !installed.is_introduction()) {
            let key = match installed.key.0 {
                OriginId::Configured => None,
                OriginId::Client(id) => {
                    self.origins.clients.get(id.position()).map(|client| client.config.public_key)
                }
                OriginId::Server => {
                    let mut views = self.origins.server.iter().flat_map(Server::sessions);
                    views.find(|view| view.id == installed.key.1).map(|view| *view.client)
                }
            };
            if let Some(key) = key {
                self.observer.adopted(installed.key, key);
            }
        }
    }

    /// Reports the changes of this tick.
    pub(super) fn observe(&mut self, now: Reading) {
        for (id, peer) in self.origins.configured.peers() {
            let Some(installed) = self.table.get((OriginId::Configured, id)) else { continue };
            let last_valid = BootNs(self.table.maps.traffic(installed.index()).last_valid);
            let state = peer_state(last_valid, peer.session.period, now);
            self.observer.seen(installed.peer, &peer.config.name, state);
        }
        if let Some(server) = &self.origins.server {
            let refused = server.counts().refused.iter().map(|(reason, count)| (reason.name(), *count));
            self.observer.refused(refused);
        }
        for connection in &self.origins.clients {
            self.observer.claimed(connection.config.public_key, connection.machine.refused());
        }
    }

    /// The states of the sessions with clients, by the client's key.
    pub fn client_states(&self) -> HashMap<PublicKey, SessionState> {
        let mut states = HashMap::new();
        for view in self.origins.server.iter().flat_map(Server::sessions).filter(|view| !view.closing) {
            // While keys are replaced there are two sessions; the one that carries traffic counts.
            if states.get(view.client) != Some(&SessionState::Open) {
                states.insert(*view.client, server_state(&view));
            }
        }
        states
    }
}
