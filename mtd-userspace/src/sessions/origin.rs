//! The origins of sessions. An origin is a state machine: it is given the time and incoming messages, and returns requests;
//! it has no access to maps, files or sockets. Installed sessions belong to the table.
//!
//! To add an origin: implement [`Origin`], give it an [`OriginId`] and a field of [`Origins`].

use std::sync::Arc;

use ipnet::IpNet;
use mtd_common::abi::{FLAG_HEARD, SessionState};
use mtd_common::address::Network;
use mtd_common::heard;

use super::configured::Configured;
use super::effect::Effect;
use super::installed::{Adoption, Left, NewSession, Peer};
use crate::config;
use crate::model::{BootNs, ClientId, ClockOffset, TunnelAddresses};
use crate::proto::client::Client;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, Adopted, Install, Publication, Received, SendSlot, SessionId};
use crate::proto::server::Server;
use crate::proto::session::Role;
use crate::state::Marks;

/// The origin of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginId {
    /// The peers of the configuration.
    Configured,
    /// This host's server: its registered clients.
    Server,
    /// This host as a client of this server.
    Client(ClientId),
}

/// What the programs have seen of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// When the last valid packet came.
    pub(super) last_valid: BootNs,
    /// The next number to send.
    pub(super) sequence: u64,
    /// The newest slot in which the peer was heard.
    pub(super) heard: Option<u64>,
}

impl Seen {
    pub(super) fn of(state: &SessionState) -> Self {
        Self {
            last_valid: BootNs(state.rx_last_valid),
            sequence: state.tx_sequence,
            heard: heard::newest(&state.heard),
        }
    }
}

/// A request of an origin. They are carried out in order: a later one may depend on an earlier one.
pub(super) enum Request {
    /// Install this session; [`Origin::handle_installed`] or [`Origin::handle_not_installed`] reports the outcome.
    Install(Box<NewSession>),
    /// Send the peer's traffic through this session.
    Route(SessionId),
    /// Give the clock of this session another offset.
    Clock(SessionId, ClockOffset),
    /// Take packets of this session from the peer's own addresses only.
    Untranslated(SessionId),
    /// End this session.
    Remove(SessionId),
    /// Send this packet on the underlay, if the session is installed.
    Transmit(SessionId, Vec<u8>),
    /// Send this control message through a session, if the session that the message is about is installed.
    Control { id: SessionId, about: SessionId, message: Vec<u8> },
    /// Send this control message through a session, in this slot wherever the peer was heard.
    ControlIn { id: SessionId, slot: SendSlot, message: Vec<u8> },
    /// Send in a session where its peer was heard (`where_heard`), or in the present slot.
    Answer { id: SessionId, where_heard: bool },
    /// Publish this introduction, once that is noted in the state file.
    Publish(Publication),
    /// Work outside of the table.
    Effect(Effect),
    /// Take this session out of use; [`Origin::handle_rested`] reports when no program works with it any more.
    Rest(SessionId),
    /// Resume a session that was taken out of use.
    Resume {
        id: SessionId,
        /// The offset of its clock from now on.
        offset: ClockOffset,
        /// The first number to send.
        sequence: u64,
        /// Slots before this one are not used.
        not_before: u64,
    },
    /// Note in the state file that these numbers and slots may be used, by fingerprint of the session;
    /// [`Origin::handle_reserved`] reports the outcome.
    Reserve(Vec<(String, Marks)>),
}

/// A state machine that sessions come from. After each call, its requests are carried out until [`Origin::next_request`]
/// returns none.
pub(super) trait Origin {
    /// Does the work that is due.
    fn poll(&mut self, now: Reading);

    /// A control message was received.
    fn handle_control(&mut self, _received: Received<'_>, _now: Reading) {}

    /// The programs have seen this of a session.
    fn handle_valid(&mut self, id: SessionId, seen: Seen, now: Reading);

    /// Whether it must be given the programs' observations at each tick; otherwise about once a second.
    fn watches_closely(&self) -> bool {
        true
    }

    /// A session is installed.
    fn handle_installed(&mut self, _local: TunnelAddresses, _remote: TunnelAddresses) {}

    /// A session could not be installed.
    fn handle_not_installed(&mut self, id: SessionId, now: Reading);

    /// No program works any more with a session that was taken out of use.
    fn handle_rested(&mut self, _id: SessionId, _seen: Seen, _now: Reading) {}

    /// The marks of [`Request::Reserve`] are noted (`done`), or could not be.
    fn handle_reserved(&mut self, _reserved: &[(String, Marks)], _done: bool) {}

    /// The protected prefix has changed or is gone. Sessions in the `usable` ones go on.
    fn set_network(&mut self, _network: Option<Network>, _usable: &[Network], _now: Reading) {}

    /// Goes on with a session that an earlier controller left, if it belongs to this origin.
    fn adopt(&mut self, left: &Left, now: Reading) -> Option<Adoption>;

    /// Networks in which its peers must have no inner address; `None`: the peers do not choose their inner addresses
    /// themselves.
    fn reserved(&self) -> Option<&[IpNet]> {
        None
    }

    /// This host was copied, or set back to an earlier state: another copy may have used the keys since.
    fn handle_copied(&mut self, now: Reading);

    /// This host has slept.
    fn handle_woken(&mut self, _now: Reading) {}

    /// Informs the peers that this host stops.
    fn stop(&mut self) {}

    /// The next request.
    fn next_request(&mut self) -> Option<Request>;
}

impl NewSession {
    /// A session that resulted from a handshake.
    fn negotiated(install: Install, networks: Option<Arc<[IpNet]>>) -> Self {
        let Install { id, session, offset, started, role, peer, local, remote, translated } = install;
        Self {
            id,
            session,
            offset,
            started,
            peer: Peer::Negotiated(role, peer),
            local: local.to_map(),
            remote: remote.to_map(),
            networks,
            state: None,
            translated,
            resting: false,
        }
    }
}

impl Request {
    /// A request of a state machine of [`crate::proto`]; `networks` are behind its peer, and `fetch` makes an effect of a
    /// search.
    fn of(
        action: Action,
        networks: Option<&Arc<[IpNet]>>,
        fetch: impl FnOnce(u64) -> Option<Effect>,
    ) -> Option<Self> {
        Some(match action {
            Action::Install(install) => {
                Self::Install(Box::new(NewSession::negotiated(*install, networks.cloned())))
            }
            Action::Route(id) => Self::Route(id),
            Action::Clock { id, offset } => Self::Clock(id, offset),
            Action::Untranslated(id) => Self::Untranslated(id),
            Action::Remove(id) => Self::Remove(id),
            Action::Transmit { id, packet } => Self::Transmit(id, packet),
            Action::Control { id, about, message } => Self::Control { id, about, message },
            Action::ControlIn { id, slot, message } => Self::ControlIn { id, slot, message },
            Action::Answer { id, where_heard } => Self::Answer { id, where_heard },
            Action::Fetch { window } => Self::Effect(fetch(window)?),
            Action::Publish(publication) => Self::Publish(publication),
        })
    }
}

impl Origin for Server {
    fn poll(&mut self, now: Reading) {
        self.poll(now);
    }

    fn handle_control(&mut self, received: Received<'_>, now: Reading) {
        self.handle_control(received, now);
    }

    fn handle_valid(&mut self, id: SessionId, seen: Seen, now: Reading) {
        self.handle_valid(id, seen.last_valid, now);
    }

    /// A session's first packet is a control message, which is reported by itself; idle time is counted in seconds.
    fn watches_closely(&self) -> bool {
        false
    }

    fn handle_not_installed(&mut self, id: SessionId, now: Reading) {
        self.handle_not_installed(id, now);
    }

    fn set_network(&mut self, network: Option<Network>, _usable: &[Network], now: Reading) {
        if let Some(network) = network {
            self.set_network(network, now);
        }
    }

    fn adopt(&mut self, left: &Left, now: Reading) -> Option<Adoption> {
        let (client, session) = left.negotiated(Role::Server, now)?;
        let (session, (local, remote)) = (Arc::new(session), left.tunnel());
        let adopted = adopted(left, &session);
        let started = adopted.started;
        let id = self.adopt(client, remote, adopted, now)?;
        let (local, remote) = (local.to_map(), remote.to_map());
        let peer = Peer::Negotiated(Role::Server, client);
        Some(Adoption { id, session, peer, started, local, remote, networks: None })
    }

    fn handle_copied(&mut self, _now: Reading) {
        self.handle_copied();
    }

    fn handle_woken(&mut self, now: Reading) {
        self.handle_woken(now);
    }

    fn stop(&mut self) {
        self.stop();
    }

    fn next_request(&mut self) -> Option<Request> {
        // A server does not search for anybody.
        Request::of(self.next_action()?, None, |_| None)
    }
}

/// A server of the configuration, and the state machine that connects to it.
pub(super) struct Connection {
    pub(super) id: ClientId,
    pub(super) config: config::Server,
    pub(super) machine: Client,
    /// Tunnel addresses of this host and of the server, as the device has them.
    pub(super) tunnel: Option<(TunnelAddresses, TunnelAddresses)>,
    /// The device does not have them yet.
    device_due: bool,
    /// Networks behind the server.
    networks: Option<Arc<[IpNet]>>,
    /// Networks that belong to others.
    reserved: Vec<IpNet>,
}

impl Connection {
    /// The server must have no inner address in the `reserved` networks.
    pub(super) fn new(id: ClientId, config: config::Server, machine: Client, reserved: Vec<IpNet>) -> Self {
        let networks = (!config.allowed_ips.is_empty()).then(|| config.allowed_ips.as_slice().into());
        Self { id, config, machine, tunnel: None, device_due: false, networks, reserved }
    }
}

impl Connection {
    /// This host reaches these networks by other ways than the tunnel.
    pub(super) fn set_elsewhere(&mut self, networks: &Arc<[IpNet]>, now: Reading) {
        if self.machine.set_elsewhere(networks, now) {
            self.tunnel = None;
            self.device_due = true;
        }
    }
}

impl Origin for Connection {
    fn poll(&mut self, now: Reading) {
        self.machine.poll(now);
    }

    fn handle_control(&mut self, received: Received<'_>, now: Reading) {
        self.machine.handle_control(received, now);
    }

    fn handle_valid(&mut self, id: SessionId, seen: Seen, now: Reading) {
        self.machine.handle_valid(id, seen.last_valid, now);
        if let Some(slot) = seen.heard {
            self.machine.handle_heard(id, slot);
        }
    }

    fn handle_installed(&mut self, local: TunnelAddresses, remote: TunnelAddresses) {
        // An introduction has none.
        if local != TunnelAddresses::default() && self.tunnel != Some((local, remote)) {
            self.tunnel = Some((local, remote));
            self.device_due = true;
        }
    }

    fn handle_not_installed(&mut self, id: SessionId, now: Reading) {
        self.machine.handle_not_installed(id, now);
    }

    fn set_network(&mut self, network: Option<Network>, usable: &[Network], now: Reading) {
        self.machine.set_network(network, usable, now);
    }

    fn adopt(&mut self, left: &Left, now: Reading) -> Option<Adoption> {
        let (server, session) = left.negotiated(Role::Client, now)?;
        if server != self.config.public_key {
            return None;
        }
        let (session, (local, remote)) = (Arc::new(session), left.tunnel());
        let adopted = adopted(left, &session);
        let started = adopted.started;
        let id = self.machine.adopt(adopted, (local, remote), now);
        self.tunnel = Some((local, remote));
        let peer = Peer::Negotiated(Role::Client, server);
        let (local, remote, networks) = (local.to_map(), remote.to_map(), self.networks.clone());
        Some(Adoption { id, session, peer, started, local, remote, networks })
    }

    fn reserved(&self) -> Option<&[IpNet]> {
        Some(&self.reserved)
    }

    fn handle_copied(&mut self, now: Reading) {
        self.machine.handle_copied(now);
    }

    fn handle_woken(&mut self, now: Reading) {
        self.machine.handle_woken(now);
    }

    fn stop(&mut self) {
        self.machine.stop();
    }

    fn next_request(&mut self) -> Option<Request> {
        if std::mem::take(&mut self.device_due) {
            return Some(Request::Effect(Effect::Device));
        }
        let client = self.id;
        let fetch = |window| Some(Effect::Fetch { client, window });
        Request::of(self.machine.next_action()?, self.networks.as_ref(), fetch)
    }
}

fn adopted(left: &Left, session: &Arc<crate::proto::session::Session>) -> Adopted {
    Adopted {
        session: Arc::clone(session),
        offset: ClockOffset(left.element.clock_offset),
        started: BootNs(left.note.started),
        last_valid: BootNs(left.state.rx_last_valid),
        translated: left.is_translated(),
        where_heard: left.element.flags & FLAG_HEARD != 0,
    }
}

/// All origins of this host.
pub(super) struct Origins {
    pub(super) configured: Configured,
    pub(super) server: Option<Server>,
    pub(super) clients: Vec<Connection>,
}

impl Origins {
    /// The identifiers of all origins.
    pub(super) fn ids(&self) -> impl Iterator<Item = OriginId> + use<> {
        let server = self.server.as_ref().map(|_| OriginId::Server);
        let clients = (0..self.clients.len()).map(|n| OriginId::Client(ClientId(n as u32)));
        [OriginId::Configured].into_iter().chain(server).chain(clients)
    }

    /// The origin with this identifier.
    pub(super) fn get(&mut self, id: OriginId) -> Option<&mut dyn Origin> {
        match id {
            OriginId::Configured => Some(&mut self.configured),
            OriginId::Server => self.server.as_mut().map(|server| server as &mut dyn Origin),
            OriginId::Client(id) => {
                self.clients.get_mut(id.position()).map(|connection| connection as &mut dyn Origin)
            }
        }
    }

    /// Calls `work` with each origin.
    pub(super) fn each(&mut self, mut work: impl FnMut(OriginId, &mut dyn Origin)) {
        for id in self.ids() {
            if let Some(origin) = self.get(id) {
                work(id, origin);
            }
        }
    }
}
