//! The state machines that a configuration asks for.

use std::path::Path;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use tokio::sync::mpsc;
use tracing::warn;

use super::configured::Configured;
use super::origin::{Connection, Origins};
use super::surroundings::first_prefixes;
use super::wire::Sockets;
use super::{Effect, Machines, RegisteredClient};
use crate::config::{self, Config};
use crate::device::{TunnelInfo, Underlay};
use crate::model::ClientId;
use crate::proto::client::{self, Client};
use crate::proto::clock::Reading;
use crate::proto::exchange::Random;
use crate::proto::messages::Tunnel;
use crate::proto::rendezvous::carried::MAX_INTRODUCTIONS;
use crate::proto::server::{self, Server};
use crate::proto::session::{self, nanoseconds, network};
use crate::remedy::{Doing, clause};
use crate::state::State;

/// Makes the state machines; nothing begins before the first tick.
///
/// # Errors
/// When there are no sockets, or a server's public key is weak.
pub(crate) fn build(
    config: &Config,
    ground: &Ground<'_>,
    clients: Vec<RegisteredClient>,
    effects: mpsc::UnboundedSender<Effect>,
    now: Reading,
) -> anyhow::Result<Machines> {
    let wire = Sockets::open(&config.interface, ground.tunnel, ground.mark).map_err(|error| {
        let way = clause(Doing::RawSocket, &error);
        anyhow::anyhow!("cannot open the sockets of control messages: {error}{way}")
    })?;
    let prefixes = first_prefixes(config, ground.underlay);
    let origins = Origins {
        configured: Configured::new(&config.peers, nanoseconds(config.horizon)),
        server: server(config, ground, &prefixes, &clients, now)?,
        clients: connections(config, ground, &prefixes, now)?,
    };
    let servers = config.servers.iter().map(|server| (server.public_key, server.name.clone()));
    let names = clients.into_iter().map(|client| (client.public_key, client.name)).chain(servers).collect();
    Ok(Machines { origins, wire: Box::new(wire), effects, names })
}

/// What the sessions are built on.
pub(crate) struct Ground<'a> {
    /// The underlay.
    pub(crate) underlay: &'a Underlay,
    /// The tunnel device.
    pub(crate) tunnel: &'a TunnelInfo,
    /// Its MTU, in bytes.
    pub(crate) mtu: u32,
    /// The mark of mtd's own packets; 0: none.
    pub(crate) mark: u32,
    /// The state file.
    pub(crate) state: &'a Path,
    /// The networks that this host reaches by other ways than the tunnel.
    pub(crate) elsewhere: Arc<[IpNet]>,
}

fn server(
    config: &Config,
    ground: &Ground<'_>,
    prefixes: &[Ipv6Net],
    clients: &[RegisteredClient],
    now: Reading,
) -> anyhow::Result<Option<Server>> {
    let (Some(listen), Some(identity)) = (&config.listen, &config.identity) else { return Ok(None) };
    let Some(prefix) = choose(prefixes, listen.local_prefix) else {
        anyhow::bail!("{} has no global IPv6 address with a prefix of 64 bits to listen in", config.interface)
    };
    let published_ms = State::read(ground.state)?.unwrap_or_default().published_ms;
    let settings = server_settings(config, listen, identity, prefix, ground.mtu);
    let mut machine = Server::new(settings, random(), published_ms);
    for client in clients {
        if !machine.register(client.into(), now) {
            warn!("the public key of client {} is a weak one", client.name);
        }
    }
    Ok(Some(machine))
}

fn connections(
    config: &Config,
    ground: &Ground<'_>,
    prefixes: &[Ipv6Net],
    now: Reading,
) -> anyhow::Result<Vec<Connection>> {
    let Some(identity) = &config.identity else { return Ok(Vec::new()) };
    let own = config.addresses.iter().map(|net| net.addr().into());
    let behind_peers = config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    let reserved: Vec<IpNet> = own.chain(behind_peers).collect();
    let mut connections = Vec::new();
    for (n, server) in config.servers.iter().enumerate() {
        let settings = client::Settings {
            identity: identity.key.clone(),
            server: server.public_key,
            window: server.window.as_secs(),
            keepalive: nanoseconds(server.keepalive),
            period_ms: server.slot.map_or(0, |slot| slot.as_millis() as u32),
            allowed: server.allowed_ips.clone(),
            middlebox: server.middlebox,
        };
        let machine = Client::new(settings, random());
        let mut machine = machine
            .ok_or_else(|| anyhow::anyhow!("the public key of server {} is a weak one", server.name))?;
        machine.begin_in(choose(prefixes, server.local_prefix).map(network));
        machine.set_elsewhere(&ground.elsewhere, now);
        let others = config.servers.iter().enumerate().filter(|(other, _)| *other != n);
        let behind_others = others.flat_map(|(_, other)| other.allowed_ips.iter().copied());
        let reserved = reserved.iter().copied().chain(behind_others).collect();
        connections.push(Connection::new(ClientId(n as u32), server.clone(), machine, reserved));
    }
    Ok(connections)
}

fn server_settings(
    config: &Config,
    listen: &config::Listen,
    identity: &config::Identity,
    prefix: Ipv6Net,
    mtu: u32,
) -> server::Settings {
    let seconds = |duration: std::time::Duration| duration.as_secs() as u32;
    let mut tunnel = Tunnel::default();
    for address in &config.addresses {
        match address.addr() {
            std::net::IpAddr::V6(address) => _ = tunnel.v6.get_or_insert(address),
            std::net::IpAddr::V4(address) => _ = tunnel.v4.get_or_insert(address),
        }
    }
    server::Settings {
        identity: identity.key.clone(),
        network: network(prefix),
        window: config.rendezvous.window.as_secs(),
        introduction_slot: nanoseconds(listen.introduction_slot),
        grace: nanoseconds(listen.introduction_grace),
        ahead: (listen.introductions_ahead.as_secs() / config.rendezvous.window.as_secs().max(1))
            .min(MAX_INTRODUCTIONS as u64 - 4),
        period: nanoseconds(listen.period),
        longest_period: nanoseconds(listen.longest_slot),
        mode: session::mode(listen.mode),
        idle: nanoseconds(listen.idle_timeout),
        rekey_after: seconds(listen.rekey_after),
        expire_after: seconds(listen.expire_after),
        inner_mtu: mtu as u16,
        tunnel,
        handshakes: listen.max_handshakes_per_second,
        handshakes_per_client: listen.handshakes_per_client,
    }
}

/// The own prefix to use: the requested one, or else the first.
fn choose(prefixes: &[Ipv6Net], wanted: Option<Ipv6Net>) -> Option<Ipv6Net> {
    prefixes.iter().find(|prefix| wanted.is_none_or(|wanted| **prefix == wanted)).copied()
}

/// Random numbers of the kernel.
pub(super) fn random() -> Random {
    Box::new(|bytes| {
        // The call cannot fail once the kernel has gathered enough entropy at boot, and blocks until then. Keys depend on
        // it: without randomness the controller cannot go on.
        if let Err(error) = getrandom::fill(bytes) {
            panic!("no randomness from the kernel: {error}");
        }
    })
}
