//! The report on the sessions in the status document.

use ipnet::Ipv6Net;
use mtd_common::DropReason;
use mtd_common::abi::{MODE_ENCRYPT, SessionState as Kept};
use mtd_common::address::Endpoint;
use mtd_common::heard::{self, Source};
use mtd_common::slot;
use tracing::warn;

use super::configured::ConfiguredPeer;
use super::installed::Installed;
use super::origin::Connection;
use super::{Maps, OriginId, Sessions, hints, summary};
use crate::dataplane::XdpMode;
use crate::keys::PublicKey;
use crate::model::{BootNs, ClockChoice, Counts, Traffic, TunnelAddresses};
use crate::proto::client::{Client, Phase};
use crate::proto::clock::{self, Reading};
use crate::proto::exchange::SessionId;
use crate::proto::messages::{Capabilities, VERSION};
use crate::proto::server::{Remark, Server, View};
use crate::proto::session::Session;
use crate::status::{self, Middlebox, PeerState, SCHEMA, SessionRole, SessionState, Status};

impl<M: Maps> Sessions<M> {
    /// The document of the control socket.
    pub fn status(&self) -> Status {
        let now = self.clock.read();
        Status {
            peers: self
                .origins
                .configured
                .peers()
                .filter_map(|(id, peer)| self.peer(id, peer, now))
                .collect(),
            sessions: self.sessions(now),
            ..self.overview_at(now)
        }
    }

    /// The same without the single peers and sessions.
    pub fn overview(&self) -> Status {
        self.overview_at(self.clock.read())
    }

    fn overview_at(&self, now: Reading) -> Status {
        let counts = self.table.maps.counts().unwrap_or_else(|error| {
            warn!("reading the counters: {error}");
            Counts::default()
        });
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: Some(std::process::id()),
            uptime_seconds: now.boot.since(self.started) as f64 / 1e9,
            interface: self.config.interface.clone(),
            device: self.config.device.clone(),
            xdp: self.mode.map_or("none", XdpMode::name).to_owned(),
            link: self.config.link.to_string(),
            prefixes: self.told.prefixes.iter().map(|prefix| (*prefix).into()).collect(),
            mtu: self.told.inner_mtu,
            paths: self.path_counts(),
            pins: self.pins.clone(),
            frames: counts.frames,
            drops: status::by_name(&counts.drops),
            would_drop: status::by_name(&counts.would_drop),
            guard: status::Guard::of(&self.told.guard, now.boot.0),
            programs: self.table.maps.programs(),
            public_key: self.config.identity.as_ref().map(|identity| identity.key.public().to_string()),
            handshakes: self.origins.server.as_ref().map(|server| self.handshakes(server, now)),
            clock: (self.config.clock == ClockChoice::Trusted).then_some(status::WallClock {
                source: Some(status::ClockSource::Operator),
                ..status::WallClock::default()
            }),
            saved: Some(status::Saved {
                folder: self.config.state_dir.clone(),
                failures: self.unsaved.why().map(str::to_owned).into_iter().collect(),
            }),
            ..self.summary(now)
        }
    }

    /// Sessions with servers, then those with clients by name.
    fn sessions(&self, now: Reading) -> Vec<status::Session> {
        let connections = self.origins.clients.iter();
        let mut sessions: Vec<_> = connections.map(|connection| self.connection(connection, now)).collect();
        let server = self.origins.server.iter().flat_map(Server::sessions);
        // If another session has replaced one that is closing, the new one is shown.
        let shown = server.filter(|view| !view.closing || !view.replaced);
        let mut clients: Vec<_> = shown.map(|view| self.client(&view, now)).collect();
        clients.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        sessions.append(&mut clients);
        sessions
    }

    fn connection(&self, connection: &Connection, now: Reading) -> status::Session {
        let machine = &connection.machine;
        let base = status::Session {
            name: connection.config.name.clone(),
            public_key: connection.config.public_key.to_string(),
            role: SessionRole::Client,
            state: client_state(machine),
            tunnel: tunnel(machine.tunnel()),
            translated: machine.is_translated(),
            hint: self.no_prefix(machine).or_else(|| hints::of(machine)),
            trouble: machine.trouble().map(|trouble| trouble.name().to_owned()),
            capabilities: machine.capabilities().map(Capabilities::names),
            middlebox: {
                let (choice, finding) = machine.middlebox();
                Some(Middlebox::of(choice, finding))
            },
            ..status::Session::unknown()
        };
        match machine.session() {
            Some((id, ..)) => self.describe(base, (OriginId::Client(connection.id), id), now),
            None => base,
        }
    }

    /// Why a client has no prefix to take addresses from.
    fn no_prefix(&self, machine: &Client) -> Option<String> {
        let name = &self.config.interface;
        let comes_and_goes = || {
            format!("the prefix of {name} comes and goes: it is used when it has been there for some seconds")
        };
        (machine.phase() == Phase::NoPrefix)
            .then(|| self.lack.map_or_else(comes_and_goes, |lack| lack.of(name).to_string()))
    }

    fn client(&self, view: &View<'_>, now: Reading) -> status::Session {
        let key = (OriginId::Server, view.id);
        let name = self.observer.peer_name(key.0, view.client);
        let ends = self.table.get(key).map(|installed| {
            (TunnelAddresses::from_map(installed.local), TunnelAddresses::from_map(installed.remote))
        });
        let base = status::Session {
            name: name.map_or_else(|| view.client.to_string(), str::to_owned),
            public_key: view.client.to_string(),
            role: SessionRole::Server,
            state: server_state(view),
            translated: view.translated,
            capabilities: view.capabilities.map(Capabilities::names),
            tunnel: tunnel(ends),
            ..status::Session::unknown()
        };
        self.describe(base, key, now)
    }

    /// The handshakes of this host's server, and with which clients something is wrong.
    fn handshakes(&self, server: &Server, now: Reading) -> status::Handshakes {
        let counts = server.counts();
        let mut remarks: Vec<_> =
            server.remarks(now.boot).map(|(client, remark)| self.remark(client, remark)).collect();
        remarks.sort_unstable_by(|a, b| (&a.name, &a.code).cmp(&(&b.name, &b.code)));
        status::Handshakes {
            version: VERSION,
            received: counts.received,
            answered: counts.answered,
            refused: counts.refused.iter().map(|(reason, n)| (reason.name().to_owned(), *n)).collect(),
            half_open: server.half_open() as u64,
            remarks,
        }
    }

    pub(super) fn remark(&self, client: &PublicKey, remark: Remark) -> status::Remark {
        let name = self.observer.peer_name(OriginId::Server, client);
        let name = name.map_or_else(|| client.to_string(), str::to_owned);
        let (code, text) = hints::on(&name, remark);
        status::Remark { code: code.as_str().to_owned(), public_key: client.to_string(), name, text }
    }

    /// Adds the data of an installed session.
    fn describe(&self, base: status::Session, key: super::Key, now: Reading) -> status::Session {
        let Some(installed) = self.table.get(key) else { return base };
        let Installed { session, offset, started, .. } = installed;
        let state = self.table.state(key);
        let (number, local, remote) = ends(session, installed, now);
        let network = session.remote.network;
        status::Session {
            mode: Some(if session.mode == MODE_ENCRYPT { "encrypt" } else { "authenticate" }.to_owned()),
            period_seconds: Some(session.period as f64 / 1e9),
            slot: Some(number),
            local: Some(local),
            remote: Some(outside(&state).filter(|_| installed.translated).unwrap_or(remote)),
            prefix: Ipv6Net::new(network.prefix.into(), network.length).ok().map(Into::into),
            last_valid_seconds: last_valid(&state, now),
            clock_offset_seconds: Some(clock::difference(*offset, now) as f64 / 1e9),
            rekeyed_seconds: Some(now.boot.since(*started) as f64 / 1e9),
            path_mtu: self.path_mtu(installed.peer),
            path_source: self.path_source(installed.peer),
            answered_where_heard: installed.where_heard,
            received: Traffic { packets: state.rx_packets, bytes: state.rx_bytes },
            sent: Traffic { packets: state.tx_packets, bytes: state.tx_bytes },
            ..base
        }
    }

    /// The session with a configured peer; `None`: this controller stops.
    fn peer(&self, id: SessionId, peer: &ConfiguredPeer, now: Reading) -> Option<status::Peer> {
        let key = (OriginId::Configured, id);
        let (state, installed) = (self.table.state(key), self.table.get(key)?);
        let seen = summary::peer_state(BootNs(state.rx_last_valid), peer.session.period, now);
        let (number, local, remote) = ends(&peer.session, installed, now);
        let loaded = installed.loader.loaded();
        Some(status::Peer {
            name: peer.config.name.clone(),
            state: seen,
            mode: peer.config.mode.to_string(),
            period_seconds: peer.config.period.as_secs_f64(),
            slot: number,
            local,
            remote,
            slots_ahead: loaded.end.saturating_sub(number + 1),
            last_valid_seconds: last_valid(&state, now),
            clock_offset_seconds: clock::difference(installed.offset, now) as f64 / 1e9,
            received: Traffic { packets: state.rx_packets, bytes: state.rx_bytes },
            sent: Traffic { packets: state.tx_packets, bytes: state.tx_bytes },
            path_mtu: self.path_mtu(installed.peer),
            path_source: self.path_source(installed.peer),
            middlebox: Some(Middlebox::of(peer.middlebox.choice(), peer.middlebox.finding())),
            answered_where_heard: installed.where_heard,
            dropped_from_prefix: peer.dropped.iter().map(|(r, n)| (r.name().to_owned(), *n)).collect(),
            hint: peer_hint(peer, seen, wait(&peer.session, installed, now)),
        })
    }
}

/// The present slot of a session, and the addresses and ports of both ends in it.
fn ends(session: &Session, installed: &Installed, now: Reading) -> (u64, status::Endpoint, status::Endpoint) {
    let time = installed.offset.session(now.boot);
    let number = slot::number(time.0, session.phase, session.period);
    let (local, remote) = session.endpoints(number);
    let endpoint = |end: Endpoint| status::Endpoint { address: end.address.into(), port: end.port };
    (number, endpoint(local), endpoint(remote))
}

/// Where a translated peer was last heard.
fn outside(state: &Kept) -> Option<status::Endpoint> {
    let (_, Source { address: [high, low], port }) = heard::newest_source(&state.heard)?;
    let mut address = [0; 16];
    address[..8].copy_from_slice(&high.to_ne_bytes());
    address[8..].copy_from_slice(&low.to_ne_bytes());
    Some(status::Endpoint { address: address.into(), port: u16::from_be_bytes(port.to_ne_bytes()) })
}

/// Seconds since the last valid packet.
fn last_valid(state: &Kept, now: Reading) -> Option<f64> {
    let last = BootNs(state.rx_last_valid);
    last.happened().then(|| now.boot.since(last) as f64 / 1e9)
}

/// Seconds until the first slot that may be used is live; `None`: it is.
fn wait(session: &Session, installed: &Installed, now: Reading) -> Option<f64> {
    let (first, time) = (installed.loader.not_before(), installed.offset.session(now.boot).0);
    let (live, _) = slot::live(first, session.phase, session.period);
    (live > time).then(|| (live - time) as f64 / 1e9)
}

/// `wait`: seconds until it receives at all.
fn peer_hint(peer: &ConfiguredPeer, state: PeerState, wait: Option<f64>) -> Option<String> {
    if peer.waits_for_a_note() {
        return Some(
            "dark until the state file can be written: no number may be used that is not noted there"
                .to_owned(),
        );
    }
    if let Some(seconds) = wait {
        return Some(format!(
            "the last stop was not a clean one, or this machine was copied: to be safe from replays, receiving starts with a \
             slot that had not begun then, in {seconds:.0} s"
        ));
    }
    if state == PeerState::Open {
        return None;
    }
    let most = peer.dropped.iter().max_by_key(|(_, count)| **count).map(|(reason, _)| *reason);
    Some(match most {
        None => format!(
            "nothing has come from {}: is the peer running, is its prefix configured here as it is there, and does the \
             network deliver our prefix {}?",
            peer.config.prefix, peer.config.local_prefix
        ),
        Some(DropReason::UnknownAddress) => {
            "packets come from the peer's prefix, but to addresses that this session \
             never has: compare key, seeds, period, mode and prefixes on both ends, then both clocks"
                .to_owned()
        }
        Some(DropReason::StaleSlot) => {
            "packets come from the peer, but for other slots: the clocks of the two ends disagree".to_owned()
        }
        Some(reason) => format!("packets come from the peer's prefix, but are dropped: {}", reason.help()),
    })
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
    if view.closing {
        SessionState::Closing
    } else if view.last_valid.happened() {
        SessionState::Open
    } else {
        SessionState::HalfOpen
    }
}

fn tunnel(ends: Option<(TunnelAddresses, TunnelAddresses)>) -> status::Tunnel {
    let (local, remote) = ends.unwrap_or_default();
    status::Tunnel { local: local.iter().collect(), remote: remote.iter().collect() }
}
