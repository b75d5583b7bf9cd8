//! Feeding the observer of the sessions.

use std::collections::HashMap;
use std::sync::Arc;

use super::observer::Troubled;
use super::report::server_state;
use super::summary::peer_state;
use super::{Maps, OriginId, Sessions, hints};
use crate::events::{Bus, SessionChange};
use crate::keys::PublicKey;
use crate::model::BootNs;
use crate::proto::client::Trouble;
use crate::proto::clock::Reading;
use crate::proto::messages::Reason;
use crate::proto::rendezvous::OpenError;
use crate::proto::server::{Remark, Server};
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
        self.observe_troubles(now);
    }

    /// Reports what keeps peers from a session, if people have to mend it.
    fn observe_troubles(&mut self, now: Reading) {
        let mut troubles = Vec::new();
        for (client, remark) in self.origins.server.iter().flat_map(|server| server.remarks(now.boot)) {
            let change = match remark {
                Remark::KeyInUse => SessionChange::KeyInUse,
                Remark::OtherVersion(_) | Remark::UnknownOption(_) => SessionChange::OtherVersion,
            };
            let text = self.remark(client, remark).text;
            troubles.push(Troubled { origin: OriginId::Server, peer: *client, change, text });
        }
        for connection in &self.origins.clients {
            let change = match connection.machine.trouble() {
                Some(Trouble::Denied(Reason::InUse)) => SessionChange::KeyInUse,
                Some(
                    Trouble::OtherVersion(..)
                    | Trouble::Unreadable(OpenError::Version(_))
                    | Trouble::UnknownOption(_)
                    | Trouble::Denied(Reason::UnknownOption),
                ) => SessionChange::OtherVersion,
                _ => continue,
            };
            let hint = hints::of(&connection.machine).unwrap_or_default();
            let text = format!("{}: {hint}", connection.config.name);
            let (origin, peer) = (OriginId::Client(connection.id), connection.config.public_key);
            troubles.push(Troubled { origin, peer, change, text });
        }
        self.observer.troubled(troubles);
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
