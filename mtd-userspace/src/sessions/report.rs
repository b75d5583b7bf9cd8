//! What there is to say of the running state.

use ipnet::Ipv6Net;
use mtd_common::abi::MODE_ENCRYPT;
use mtd_common::address::Endpoint;
use mtd_common::slot;
use tracing::warn;

use super::Sessions;
use super::negotiated::{Connection, Owner};
use super::peer::Peer;
use crate::dataplane::{XdpMode, boot_time};
use crate::keys::PublicKey;
use crate::model::{Counts, Traffic};
use crate::proto::client::{Client, Phase, Trouble};
use crate::proto::clock::{self, Reading};
use crate::proto::exchange::SessionId;
use crate::proto::messages::{Reason, Tunnel};
use crate::proto::server::{Server, View};
use crate::proto::session::Session;
use crate::status::{self, SCHEMA, SessionRole, SessionState, Status};

impl Sessions {
    /// What the control socket tells.
    /// `name_of` tells the names of registered clients.
    pub fn status(&self, name_of: &dyn Fn(&PublicKey) -> Option<String>) -> Status {
        let now = self.clock.read();
        Status {
            peers: self.peers.iter().map(|peer| self.peer(peer, now)).collect(),
            sessions: self.sessions(name_of, now),
            ..self.overview()
        }
    }

    /// The same without the single peers and sessions.
    pub fn overview(&self) -> Status {
        let now = self.clock.read();
        let counts = self.tables.plane.counts().unwrap_or_else(|error| {
            warn!("reading the counters: {error}");
            Counts::default()
        });
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: Some(std::process::id()),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            interface: self.config.interface.clone(),
            device: self.config.device.clone(),
            xdp: self.mode.map_or("none", XdpMode::name).to_owned(),
            link: self.config.link.to_string(),
            prefixes: self.settings.prefixes.iter().map(|prefix| (*prefix).into()).collect(),
            mtu: self.settings.inner_mtu,
            paths: self.path_counts(),
            pins: self.facts.pins.clone(),
            frames: counts.frames,
            drops: status::by_name(&counts.drops),
            would_drop: status::by_name(&counts.would_drop),
            guard: status::Guard::of(&self.settings.guard, boot_time()),
            programs: self.tables.plane.programs(),
            public_key: self.config.identity.as_ref().map(|identity| identity.key.public().to_string()),
            handshakes: self.negotiated.server.as_ref().map(handshakes),
            ..self.summary(now)
        }
    }

    /// Unix time in s.
    pub fn unix_now(&self) -> u64 {
        self.clock.read().wall / 1_000_000_000
    }

    /// Sessions with servers, then with clients by name.
    fn sessions(&self, name_of: &dyn Fn(&PublicKey) -> Option<String>, now: Reading) -> Vec<status::Session> {
        let connections = self.negotiated.connections.iter().enumerate();
        let mut sessions: Vec<_> =
            connections.map(|(n, connection)| self.connection(n, connection, now)).collect();
        let server = self.negotiated.server.iter().flat_map(Server::sessions).filter(|view| !view.closing);
        let mut clients: Vec<_> = server.map(|view| self.client(&view, name_of, now)).collect();
        clients.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        sessions.append(&mut clients);
        sessions
    }

    fn connection(&self, n: usize, connection: &Connection, now: Reading) -> status::Session {
        let machine = &connection.machine;
        let base = status::Session {
            name: connection.config.name.clone(),
            public_key: connection.config.public_key.to_string(),
            role: SessionRole::Client,
            state: client_state(machine),
            tunnel: tunnel(machine.tunnel()),
            hint: hint(machine),
            ..status::Session::unknown()
        };
        match machine.session() {
            Some((id, session, offset, started)) => {
                let live = Live { owner: Owner::Client(n as u32), id, session, offset, started };
                self.describe(base, &live, now)
            }
            None => base,
        }
    }

    fn client(
        &self,
        view: &View<'_>,
        name_of: &dyn Fn(&PublicKey) -> Option<String>,
        now: Reading,
    ) -> status::Session {
        let (id, session) = (view.id, view.session);
        let live = Live { owner: Owner::Server, id, session, offset: view.offset, started: view.started };
        let base = status::Session {
            name: name_of(view.client).unwrap_or_else(|| view.client.to_string()),
            public_key: view.client.to_string(),
            role: SessionRole::Server,
            state: server_state(view),
            tunnel: tunnel(self.negotiated.tunnel_of(Owner::Server, id)),
            ..status::Session::unknown()
        };
        self.describe(base, &live, now)
    }

    fn peer(&self, peer: &Peer, now: Reading) -> status::Peer {
        let state = self.tables.plane.session_state(peer.place.index).unwrap_or_default();
        peer.status(&state, self.path_mtu(peer.number), now)
    }

    fn describe(&self, base: status::Session, live: &Live<'_>, now: Reading) -> status::Session {
        let Live { owner, id, session, offset, started } = *live;
        let state = self.negotiated.state(owner, id, &self.tables.plane);
        let time = now.boot.wrapping_add(offset);
        let number = slot::number(time, session.phase, session.period);
        let (local, remote) = session.endpoints(number);
        let endpoint = |end: Endpoint| status::Endpoint { address: end.address.into(), port: end.port };
        let seconds = |since: u64| now.boot.saturating_sub(since) as f64 / 1e9;
        let network = session.remote.network;
        status::Session {
            mode: Some(if session.mode == MODE_ENCRYPT { "encrypt" } else { "authenticate" }.to_owned()),
            period_seconds: Some(session.period as f64 / 1e9),
            slot: Some(number),
            local: Some(endpoint(local)),
            remote: Some(endpoint(remote)),
            prefix: Ipv6Net::new(network.prefix.into(), network.length).ok().map(Into::into),
            last_valid_seconds: (state.rx_last_valid > 0).then(|| seconds(state.rx_last_valid)),
            clock_offset_seconds: Some(clock::difference(offset, now) as f64 / 1e9),
            rekeyed_seconds: Some(seconds(started)),
            path_mtu: self.negotiated.peer_of(owner, id).and_then(|peer| self.path_mtu(peer)),
            received: Traffic { packets: state.rx_packets, bytes: state.rx_bytes },
            sent: Traffic { packets: state.tx_packets, bytes: state.tx_bytes },
            ..base
        }
    }
}

/// The state of the session with a server.
pub(super) fn client_state(machine: &Client) -> SessionState {
    match machine.phase() {
        Phase::NoPrefix | Phase::Waiting | Phase::Finding => SessionState::Finding,
        Phase::Connecting => SessionState::Connecting,
        Phase::HalfOpen => SessionState::HalfOpen,
        Phase::Open => SessionState::Open,
        Phase::Silent => SessionState::Silent,
    }
}

/// The state of the session with a client.
pub(super) const fn server_state(view: &View<'_>) -> SessionState {
    if view.last_valid == 0 { SessionState::HalfOpen } else { SessionState::Open }
}

/// A session to be described.
#[derive(Clone, Copy)]
struct Live<'a> {
    owner: Owner,
    id: SessionId,
    session: &'a Session,
    offset: u64,
    started: u64,
}

fn tunnel(ends: Option<(Tunnel, Tunnel)>) -> status::Tunnel {
    let (local, remote) = ends.unwrap_or_default();
    status::Tunnel { local: local.iter().collect(), remote: remote.iter().collect() }
}

fn handshakes(server: &Server) -> status::Handshakes {
    let counts = server.counts();
    status::Handshakes {
        received: counts.received,
        answered: counts.answered,
        refused: counts.refused.iter().map(|(reason, n)| (reason.name().to_owned(), *n)).collect(),
        half_open: server.half_open() as u64,
    }
}

fn hint(machine: &Client) -> Option<String> {
    let text = match (machine.phase(), machine.trouble()) {
        (Phase::NoPrefix, _) => "the interface has no global IPv6 prefix of 64 bits to take addresses from",
        (Phase::Open, _) | (_, None) => return None,
        (_, Some(Trouble::NetworkUnreachable)) => {
            "the DHT is out of reach: does UDP over IPv4 get out of this host, and are the bootstrap nodes up?"
        }
        (_, Some(Trouble::NothingPublished)) => {
            "the server has published nothing for this client: does it run, is this client's public key registered \
             there, is the server's public key right here, and do both use the same window?"
        }
        (_, Some(Trouble::NoAnswer)) => {
            "the server's introduction was found, but nobody answers there: does the network deliver the server's \
             prefix to it, and this host's prefix to this host, and is the clock right to a quarter of an hour?"
        }
        (_, Some(Trouble::TornDown(Reason::Removed))) => {
            "the server has removed this client from its registry"
        }
        (_, Some(Trouble::TornDown(_))) => "the server has ended the session; it is tried again",
        (_, Some(Trouble::AddressesRefused)) => {
            "the server has or gives tunnel addresses that are not private; if that is right, name their networks in \
             allowed_ips of this [[server]]"
        }
        (_, Some(Trouble::NotOpened)) => {
            "keys were agreed on, but nothing came through the session: does a firewall drop UDP to or from changing \
             addresses?"
        }
    };
    Some(text.to_owned())
}
