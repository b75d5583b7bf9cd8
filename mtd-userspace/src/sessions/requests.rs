//! Events and questions of the rest of the controller.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use mtd_common::DropReason;
use mtd_common::address::Endpoint;
use mtd_common::control_record::{ControlRecord, KIND_TOO_BIG};
use mtd_common::event::DropEvent;
use tracing::debug;

use super::effect::{Consequences, Effect};
use super::origin::{OriginId, Seen};
use super::{Maps, Sessions};
use crate::keys::PublicKey;
use crate::model::{BootNs, ClientId, SessionIndex};
use crate::proto::client::Fetched;
use crate::proto::exchange::{Publication, Received};
use crate::proto::rendezvous::{Introduction, Rendezvous, Shared};
use crate::proto::server::Server;

impl<M: Maps> Sessions<M> {
    /// Handles a record of the receive program: a control message, or a router's report on a path.
    pub fn handle_control(&mut self, record: &ControlRecord) {
        let now = self.clock.read();
        if record.kind == KIND_TOO_BIG {
            return self.handle_too_big(record, now);
        }
        let Some(installed) = self.table.at(SessionIndex(record.session), record.generation) else {
            return debug!("control message of a session that is over");
        };
        let ((origin, id), index) = (installed.key, installed.index());
        let introduced = installed.is_introduction();
        let received = Received {
            id,
            slot: record.slot,
            source: Endpoint { address: record.source, port: u16::from_be_bytes(record.source_port) },
            inner_source: record.inner_source,
            message: record.message(),
        };
        if let Some(origin) = self.origins.get(origin) {
            let seen =
                self.table.maps.state(index).map_or_else(|_| Seen::default(), |state| Seen::of(&state));
            origin.handle_valid(id, Seen { last_valid: BootNs(record.time), ..seen }, now);
        }
        // A session may have begun to carry traffic by this message: that comes first.
        self.act(now);
        if (introduced || !self.handle_path_message((origin, id), received.message, now))
            && let Some(origin) = self.origins.get(origin)
        {
            origin.handle_control(received, now);
        }
        self.act(now);
    }

    /// A search for the introduction of a server of the configuration has ended.
    pub fn handle_fetched(&mut self, client: ClientId, window: u64, fetched: Fetched) {
        let now = self.clock.read();
        if let Some(connection) = self.origins.clients.get_mut(client.position()) {
            connection.machine.handle_fetched(window, fetched, now);
        }
        self.act(now);
    }

    /// The introduction of a server has come in another way than by a fetch.
    pub(crate) fn handle_brought(&mut self, client: ClientId, window: u64, introduction: Introduction) {
        let now = self.clock.read();
        if let Some(connection) = self.origins.clients.get_mut(client.position()) {
            connection.machine.handle_brought(window, introduction, now);
        }
        self.act(now);
    }

    /// The secret shared with a registered client, and the own public key.
    pub(crate) fn shared_with(&self, client: &PublicKey) -> Option<(Shared, PublicKey)> {
        let server = self.origins.server.as_ref()?;
        Some((server.shared(client)?.clone(), *server.public()))
    }

    /// The registered clients, each with its name.
    pub(crate) fn named_clients(&self) -> Vec<(PublicKey, String)> {
        let server = self.origins.server.iter().flat_map(Server::clients);
        let named =
            |key: &PublicKey| Some((*key, self.observer.peer_name(OriginId::Server, key)?.to_owned()));
        server.filter_map(named).collect()
    }

    /// What kept clients from finding their servers may be over: they try at once.
    pub(crate) fn hurry(&mut self) {
        let now = self.clock.read();
        for connection in &mut self.origins.clients {
            connection.machine.hurry(now);
        }
        self.act(now);
    }

    /// This host reaches these networks by other ways than the tunnel: servers may claim no address in them.
    pub(crate) fn handle_elsewhere(&mut self, networks: Vec<IpNet>) {
        let (now, networks) = (self.clock.read(), networks.into());
        for connection in &mut self.origins.clients {
            connection.set_elsewhere(&networks, now);
        }
        self.act(now);
    }

    /// This host was copied, or set back to an earlier state, as virtual machines are.
    pub(crate) fn handle_copied(&mut self) {
        let now = self.clock.read();
        self.origins.each(|_, origin| origin.handle_copied(now));
        self.act(now);
    }

    /// The set of registered clients has changed.
    pub(crate) fn apply(&mut self, consequences: Consequences) {
        let now = self.clock.read();
        let Some(server) = &mut self.origins.server else { return };
        for client in consequences.register {
            // The registry contains no weak keys.
            server.register((&client).into(), now);
            self.observer.name(client.public_key, client.name);
        }
        for client in &consequences.remove {
            server.remove_with(client, consequences.tell, now);
        }
        self.act(now);
        for client in consequences.remove {
            self.observer.forget(&client);
            self.effect(Effect::Withdraw(client));
        }
    }

    /// Where to look for the introduction of a server of the configuration.
    pub fn rendezvous(&self, client: ClientId, window: u64) -> Option<Rendezvous> {
        let connection = self.origins.clients.get(client.position())?;
        let public = self.config.identity.as_ref()?.key.public();
        Some(connection.machine.shared().rendezvous(&connection.config.public_key, &public, window))
    }

    /// The clients for whom an introduction is to be published, and where.
    pub fn recipients(&self, publication: &Publication) -> Vec<(PublicKey, Rendezvous)> {
        let Some(server) = &self.origins.server else { return Vec::new() };
        let of = |client: &PublicKey| {
            let shared = server.shared(client)?;
            Some((*client, shared.rendezvous(server.public(), client, publication.window)))
        };
        match &publication.client {
            Some(client) => of(client).into_iter().collect(),
            None => server.clients().filter_map(of).collect(),
        }
    }

    /// Counts a dropped packet for the peer whose prefix it came from.
    pub fn note(&mut self, event: &DropEvent, reason: DropReason) {
        let source = Ipv6Addr::from(event.source);
        debug!("dropped: {} from {source}", reason.name());
        self.origins.configured.note_drop(source, reason);
    }

    /// The wall-clock time in ns of an instant of boot time.
    pub fn wall_time(&self, boot: u64) -> u64 {
        self.clock.read().unix(BootNs(boot)).0
    }

    /// Unix time in s.
    pub fn unix_now(&self) -> u64 {
        self.clock.read().wall.seconds()
    }
}
