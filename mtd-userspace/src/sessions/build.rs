//! The machines that a configuration asks for.

use ipnet::Ipv6Net;
use tokio::sync::mpsc;
use tracing::warn;

use super::negotiated::{Connection, Effect, Negotiated};
use super::wire::Wire;
use crate::config::{self, Config};
use crate::controller::host::{Host, protected_prefixes};
use crate::device::TunnelInfo;
use crate::keys::PublicKey;
use crate::model::TunnelAddresses;
use crate::proto::client::{self, Client};
use crate::proto::clock::Reading;
use crate::proto::exchange::Random;
use crate::proto::messages::Tunnel;
use crate::proto::server::{self, Server};
use crate::proto::session::{self, nanoseconds, network};
use crate::state::State;

/// Makes the machines; nothing begins before the first tick.
///
/// # Errors
/// When there are no sockets, or a server's key is a weak one.
pub(crate) fn build(
    config: &Config,
    host: &Host,
    tunnel: &TunnelInfo,
    clients: Vec<(PublicKey, TunnelAddresses)>,
    effects: mpsc::UnboundedSender<Effect>,
    now: Reading,
) -> anyhow::Result<Negotiated> {
    let wire = Wire::open(&config.interface, tunnel)?;
    let prefixes = protected_prefixes(config, &host.underlay, &[]);
    let mut server = None;
    if let (Some(listen), Some(identity)) = (&config.listen, &config.identity) {
        let Some(prefix) = choose(&prefixes, listen.local_prefix) else {
            anyhow::bail!(
                "{} has no global IPv6 address with a prefix of 64 bits to listen in",
                config.interface
            )
        };
        let mut machine = Server::new(
            server_settings(config, listen, identity, prefix, host.mtu),
            random(),
            State::read(&host.state)?.unwrap_or_default().published_ms,
        );
        for (client, addresses) in clients {
            if !machine.register(client, addresses, now) {
                warn!("a registered client's key is of no use: {client}");
            }
        }
        server = Some(machine);
    }
    let mut connections = Vec::new();
    if let Some(identity) = &config.identity {
        for server in &config.servers {
            let settings = client::Settings {
                identity: identity.key.clone(),
                server: server.public_key,
                window: server.window.as_secs(),
                keepalive: nanoseconds(server.keepalive),
                allowed: server.allowed_ips.clone(),
            };
            let machine = Client::new(settings, random());
            let mut machine = machine
                .ok_or_else(|| anyhow::anyhow!("the public key of server {} is of no use", server.name))?;
            machine.begin_in(choose(&prefixes, server.local_prefix).map(network));
            connections.push(Connection { config: server.clone(), machine, tunnel: None });
        }
    }
    let own = config.addresses.iter().map(|net| net.addr().into());
    let fixed = config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    let reserved = own.chain(fixed).collect();
    Ok(Negotiated::new(server, connections, reserved, wire, effects))
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
        period: nanoseconds(listen.period),
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

/// The own prefix to use: the wanted one, or else the first.
fn choose(prefixes: &[Ipv6Net], wanted: Option<Ipv6Net>) -> Option<Ipv6Net> {
    prefixes.iter().find(|prefix| wanted.is_none_or(|wanted| **prefix == wanted)).copied()
}

/// Random numbers of the kernel.
fn random() -> Random {
    Box::new(|bytes| {
        // The call cannot fail once the kernel has gathered enough at boot, and blocks before. What is at stake are
        // keys: without randomness there is no going on.
        if let Err(error) = getrandom::fill(bytes) {
            panic!("no randomness from the kernel: {error}");
        }
    })
}
