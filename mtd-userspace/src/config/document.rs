//! From the text of a configuration to its values.

use std::path::PathBuf;

use ipnet::{IpNet, Ipv6Net};
use toml::de::DeTable;

use super::error::{ConfigError, Problems};
use super::section::Section;
use super::tables::{
    ClientFields, FileFields, ListenFields, PeerFields, ROOT, RendezvousFields, ServerFields, unlocated,
    value,
};
use super::{
    Client, Config, DEFAULT_CLIENTS_DIR, DEFAULT_EXPIRE, DEFAULT_GRACE, DEFAULT_HANDSHAKES,
    DEFAULT_HANDSHAKES_PER_CLIENT, DEFAULT_HORIZON, DEFAULT_HORIZON_OF_MANY, DEFAULT_IDLE,
    DEFAULT_INTRODUCTION_SLOT, DEFAULT_METRICS, DEFAULT_MTU_EXPIRES, DEFAULT_PERIOD,
    DEFAULT_PUBLISH_IN_FLIGHT, DEFAULT_REKEY, DEFAULT_WEB, DEFAULT_WINDOW, Identity, Listen, MANY_SESSIONS,
    MIN_SLOTS_AHEAD, Peer, Rendezvous, Server, check, tables,
};
use crate::keys::PublicKey;
use crate::model::{Fault, Pool, TunnelAddresses};

pub(super) const DEFAULT_DEVICE: &str = "mtd0";
const DEFAULT_MAX_SESSIONS: u32 = 1024;
const DEFAULT_STATE_DIR: &str = "/var/lib/mtd";

/// A configuration without problems.
pub(super) struct Document {
    pub(super) config: Config<()>,
    /// Where the `key_file` of each peer stands in the text.
    pub(super) key_files_at: Vec<usize>,
    /// Where `private_key_file` stands; 0 without one.
    pub(super) identity_at: usize,
    /// The public keys of others: where each stands, the name of its key in messages, and the key.
    pub(super) public_keys: Vec<(usize, &'static str, PublicKey)>,
}

/// Reads the text that `problems` collects for.
pub(super) fn read(text: &str, mut problems: Problems) -> Result<Document, ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let remedy = match error.message() {
            "duplicate key" => "keep one of them",
            _ => "correct the TOML here",
        };
        problems.add(error.span().map_or(0, |span| span.start), "", Fault::new(error.message(), remedy));
    }
    if !errors.is_empty() {
        // What a broken file seems to lack would only lead astray.
        return Err(problems.into_error());
    }
    let root = Section::new((table.get_ref(), 0), &ROOT, &mut problems);
    let fields = tables::read(&root, &mut problems);
    check::file(&fields, &mut problems);
    match build(fields) {
        Some(document) if problems.count() == 0 => Ok(document),
        _ => Err(problems.into_error()),
    }
}

/// `None` when something that must be there is not; then a problem has been reported.
fn build(file: FileFields) -> Option<Document> {
    let FileFields { root, hooks, metrics, web, rendezvous, listen, clients, servers, peers } = file;
    let prefixes: Vec<_> = root.prefixes.into_iter().map(unlocated).collect();
    let default_prefix = prefixes.first().copied();
    if default_prefix.is_none() && root.follow_at.is_none() {
        return None;
    }
    let keys = clients.iter().map(|client| ("client.public_key", &client.public_key));
    let keys = keys.chain(servers.iter().map(|server| ("server.public_key", &server.public_key)));
    let keys = keys.filter_map(|(name, key)| key.as_ref().map(|key| (key.at, name, key.value)));
    let public_keys = keys.collect();

    let addresses: Vec<_> = root.addresses.into_iter().map(unlocated).collect();
    let rendezvous = build_rendezvous(rendezvous);
    let clients: Option<Vec<_>> = clients.into_iter().map(build_client).collect();
    let (clients, has_listen) = (clients?, listen.is_some());
    let listen =
        listen.and_then(|fields| build_listen(fields, clients, &addresses, &rendezvous, default_prefix));
    if has_listen && listen.is_none() {
        return None;
    }
    let servers: Option<Vec<_>> =
        servers.into_iter().map(|server| build_server(server, &rendezvous, default_prefix)).collect();
    let peers: Option<Vec<_>> = peers.into_iter().map(|peer| build_peer(peer, default_prefix)).collect();
    let (peers, key_files_at): (Vec<_>, _) = peers?.into_iter().unzip();
    let periods = peers.iter().map(|peer: &Peer<()>| peer.period).chain(listen.iter().map(|l| l.period));
    let longest = periods.max().unwrap_or_default();
    let max_sessions = value(root.max_sessions).unwrap_or(DEFAULT_MAX_SESSIONS);
    let usual = if max_sessions > MANY_SESSIONS { DEFAULT_HORIZON_OF_MANY } else { DEFAULT_HORIZON };
    let config = Config {
        interface: root.interface?.value,
        prefixes,
        follow_prefix: root.follow_at.is_some(),
        link: root.link,
        policy: root.policy,
        allow: root.allow.into_iter().map(unlocated).collect(),
        xdp: root.xdp,
        steering: root.steering,
        keystream: root.keystream,
        device: value(root.device).unwrap_or_else(|| DEFAULT_DEVICE.to_owned()),
        addresses,
        mtu: root.mtu,
        mtu_expires: root.mtu_expires.unwrap_or(DEFAULT_MTU_EXPIRES),
        horizon: value(root.horizon).unwrap_or(usual.max(longest * MIN_SLOTS_AHEAD)),
        max_sessions,
        socket: root.socket,
        state_dir: root.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR)),
        hooks,
        metrics: metrics.map(|fields| value(fields.listen).unwrap_or(DEFAULT_METRICS)),
        web: web.map(|fields| value(fields.listen).unwrap_or(DEFAULT_WEB)),
        rendezvous,
        listen,
        servers: servers?,
        peers,
        identity: root
            .private_key_file
            .as_ref()
            .map(|file| Identity { key_file: file.value.clone(), key: () }),
    };
    let identity_at = root.private_key_file.map_or(0, |file| file.at);
    Some(Document { config, key_files_at, identity_at, public_keys })
}

fn build_rendezvous(fields: RendezvousFields) -> Rendezvous {
    Rendezvous {
        window: value(fields.window).unwrap_or(DEFAULT_WINDOW),
        encoding: fields.encoding,
        bootstrap: fields.bootstrap,
        port: fields.port,
        serve: fields.serve,
        publish_in_flight: fields.publish_in_flight.unwrap_or(DEFAULT_PUBLISH_IN_FLIGHT),
    }
}

fn build_listen(
    fields: ListenFields,
    clients: Vec<Client>,
    addresses: &[IpNet],
    rendezvous: &Rendezvous,
    default_prefix: Option<Ipv6Net>,
) -> Option<Listen> {
    let pool = match fields.pool {
        Some(networks) => pool_of(networks.into_iter().map(unlocated)),
        None => default_pool(addresses),
    };
    pool.networks().next()?;
    Some(Listen {
        clients_dir: fields.clients_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_CLIENTS_DIR)),
        clients,
        pool,
        period: value(fields.period).unwrap_or(DEFAULT_PERIOD),
        mode: fields.mode,
        introduction_slot: fields.introduction_slot.unwrap_or(DEFAULT_INTRODUCTION_SLOT),
        introduction_grace: value(fields.introduction_grace).unwrap_or(DEFAULT_GRACE.min(rendezvous.window)),
        idle_timeout: fields.idle_timeout.unwrap_or(DEFAULT_IDLE),
        rekey_after: value(fields.rekey_after).unwrap_or(DEFAULT_REKEY),
        expire_after: value(fields.expire_after).unwrap_or(DEFAULT_EXPIRE),
        local_prefix: value(fields.local_prefix).or(default_prefix),
        max_handshakes_per_second: fields.max_handshakes_per_second.unwrap_or(DEFAULT_HANDSHAKES),
        handshakes_per_client: fields.handshakes_per_client.unwrap_or(DEFAULT_HANDSHAKES_PER_CLIENT),
    })
}

/// The pool of a file that names none: the networks of the own addresses, as far as they are fit for it.
pub(super) fn default_pool(addresses: &[IpNet]) -> Pool {
    pool_of(addresses.iter().map(IpNet::trunc).filter(|net| super::fields::is_pool_length(*net)))
}

/// The first network of each family.
fn pool_of(networks: impl Iterator<Item = IpNet>) -> Pool {
    let mut pool = Pool::default();
    for network in networks {
        match network {
            IpNet::V6(net) => pool.v6 = pool.v6.or(Some(net)),
            IpNet::V4(net) => pool.v4 = pool.v4.or(Some(net)),
        }
    }
    pool
}

fn build_client(fields: ClientFields) -> Option<Client> {
    let mut addresses = TunnelAddresses::default();
    for address in fields.addresses.into_iter().map(unlocated) {
        match address {
            std::net::IpAddr::V6(v6) => addresses.v6 = Some(v6),
            std::net::IpAddr::V4(v4) => addresses.v4 = Some(v4),
        }
    }
    Some(Client { name: fields.name?.value, public_key: fields.public_key?.value, addresses })
}

fn build_server(
    fields: ServerFields,
    rendezvous: &Rendezvous,
    default_prefix: Option<Ipv6Net>,
) -> Option<Server> {
    Some(Server {
        name: fields.name?.value,
        public_key: fields.public_key?.value,
        local_prefix: value(fields.local_prefix).or(default_prefix),
        allowed_ips: fields.allowed_ips.into_iter().map(unlocated).collect(),
        keepalive: fields.keepalive,
        window: fields.window.unwrap_or(rendezvous.window),
    })
}

fn build_peer(peer: PeerFields, default_prefix: Option<Ipv6Net>) -> Option<(Peer<()>, usize)> {
    let key_file = peer.key_file?;
    let built = Peer {
        name: peer.name?.value,
        prefix: peer.prefix?.value,
        local_prefix: value(peer.local_prefix).or(default_prefix)?,
        key_file: key_file.value,
        key: (),
        seed: peer.seed?.value,
        peer_seed: peer.peer_seed?.value,
        period: value(peer.period).unwrap_or(DEFAULT_PERIOD),
        mode: peer.mode,
        allowed_ips: peer.allowed_ips.into_iter().map(unlocated).collect(),
    };
    Some((built, key_file.at))
}
