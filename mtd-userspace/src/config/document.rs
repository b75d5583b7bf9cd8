//! From the text of a configuration to its values: every section reads its part and shares facts with the others, each is
//! checked, and the values are put together.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use toml::de::DeTable;

use super::FORMAT;
use super::section::{HOOKS, Hooks, Paths};
use crate::dataplane::section::DataPlane;
use crate::device::section::{Bypass, Tunnel, Underlay};
use crate::keys::SecretKey;
use crate::keys::section::{Identity, OwnKey, key_path};
use crate::metrics::section::{METRICS, Metrics};
use crate::model::{
    Allow, ClockChoice, Fault, FwMark, KeyStreamChoice, LinkMode, Policy, SteeringChoice, XdpChoice,
};
use crate::registry::section::{CLIENT, Clients, LISTEN, Listen, ListenFields};
use crate::rendezvous::section::{RENDEZVOUS, Rendezvous};
use crate::resolver::section::Resolver;
use crate::schema::{Claim, ConfigError, Facts, Part, Problems, Section};
use crate::sessions::section::{PEER, Peer, Peers, SERVER, Server, ServerFields};
use crate::web::section::{self as web, WEB};

/// The settings of one controller. `K` is the type of the secret keys: `()` (none) after [`Config::parse`] and
/// [`Config::read`], the keys after [`Config::load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config<K = SecretKey> {
    /// Name of the underlay interface.
    pub interface: String,
    /// The protected prefixes, 1 to 4, without overlap: 64 to 112 bits each, host bits zero (requirement MT-06), or all of
    /// them single addresses, 128 bits;
    /// empty when `follow_prefix` is set.
    pub prefixes: Vec<Ipv6Net>,
    /// The protected prefix is the /64 of the interface's global address, whichever that is at the time. Only with
    /// [`LinkMode::Shared`], and never with `peers`, whose other end needs to know the prefix.
    pub follow_prefix: bool,
    /// How packets for the prefixes reach this host.
    pub link: LinkMode,
    /// How long a start waits for the interface, and a server for its prefix; `None`: for ever.
    pub interface_wait: Option<Duration>,
    /// How refused packets are handled; `None`: as before, and [`Policy::Dark`] if nothing was attached.
    pub policy: Option<Policy>,
    /// Flows that pass although they are refused; at most [`mtd_common::allow::MAX_ALLOW`], without duplicates.
    pub allow: Vec<Allow>,
    /// How the receive program is attached.
    pub xdp: XdpChoice,
    /// Whether packets of busy sessions are handed to other CPUs.
    pub steering: SteeringChoice,
    /// Whether key stream of busy sessions is made ahead.
    pub keystream: KeyStreamChoice,
    /// Name of the tunnel device, at most 14 bytes; its inside end is [`Config::inside_device`].
    pub device: String,
    /// Own tunnel addresses with the length of their network, without duplicates; at least one unless there are `servers`,
    /// which give tunnel addresses to this host.
    pub addresses: Vec<IpNet>,
    /// Longest inner packet in bytes, [`super::MIN_INNER_MTU`] to [`super::MAX_INNER_MTU`]; `None`: as the underlay allows.
    pub mtu: Option<u16>,
    /// Time for which a router's report on a path is believed, within [`super::MTU_EXPIRES_RANGE`].
    pub mtu_expires: Duration,
    /// The mark of mtd's own packets, and the number of the routing table that they pass by.
    pub fwmark: FwMark,
    /// Whether nothing may leave past the tunnel.
    pub kill_switch: bool,
    /// DNS servers to use while they are reached through the tunnel.
    pub dns: Vec<IpAddr>,
    /// Time for which slots are loaded ahead; at least [`super::MIN_SLOTS_AHEAD`] slots of every peer.
    pub horizon: Duration,
    /// Number of sessions that the maps have room for; at least the number of peers, clients and servers of the file.
    pub max_sessions: u32,
    /// Path of the control socket; `None`: the controller's default.
    pub socket: Option<PathBuf>,
    /// Folder for the files that outlive the controller.
    pub state_dir: PathBuf,
    /// Whether to warn of a wall clock that no time service is known to keep right.
    pub clock: ClockChoice,
    /// The own key (requirement MT-20); required for `listen` and `servers`.
    pub identity: Option<Identity<K>>,
    /// Commands that are run at start and stop.
    pub hooks: Hooks,
    /// Address where metrics are served over HTTP; `None`: only at the control socket.
    pub metrics: Option<SocketAddr>,
    /// Loopback address where the web view is served; `None`: nowhere.
    pub web: Option<SocketAddr>,
    /// How servers and clients find each other.
    pub rendezvous: Rendezvous,
    /// The settings of this host as a server with registered clients; `None`: it is not a server.
    pub listen: Option<Listen>,
    /// The servers that this host connects to.
    pub servers: Vec<Server>,
    /// The statically configured peers (requirement MT-27). Without `listen`, `servers` and `peers`, the prefixes are dark
    /// for everybody.
    pub peers: Vec<Peer<K>>,
}

/// A file without problems, before its key files are read.
pub(super) struct Document {
    host: Host,
    facts: Facts,
    interface: String,
    listen: Option<Listen>,
    servers: Vec<Server>,
    /// The statically configured peers.
    pub(super) peers: Vec<Peer<()>>,
    /// The place of each peer's `key_file` in the text.
    pub(super) key_files_at: Vec<usize>,
    /// The own key.
    pub(super) identity: Option<Identity<()>>,
}

impl Document {
    /// Resolves the paths that are relative to the configuration file's `folder`.
    pub(super) fn join_paths(&mut self, folder: &Path) {
        for peer in &mut self.peers {
            peer.key_file = key_path(folder, &peer.key_file);
        }
        if let Some(identity) = &mut self.identity {
            identity.key_file = key_path(folder, &identity.key_file);
        }
        if let Some(listen) = &mut self.listen {
            listen.join_paths(folder);
        }
        self.servers.iter_mut().for_each(|server| server.join_paths(folder));
    }

    /// The place of `private_key_file`; 0 without one.
    pub(super) fn identity_at(&self) -> usize {
        self.host.own_key.at()
    }

    /// The public keys of the other ends.
    pub(super) fn public_keys(&self) -> &[Claim<[u8; 32]>] {
        &self.facts.public_keys
    }

    /// The configuration without keys.
    pub(super) fn without_keys(mut self) -> Config<()> {
        let (identity, peers) = (self.identity.take(), std::mem::take(&mut self.peers));
        self.with_keys(identity, peers)
    }

    /// The configuration with the keys that were read.
    pub(super) fn with_keys<K>(self, identity: Option<Identity<K>>, peers: Vec<Peer<K>>) -> Config<K> {
        let Host { underlay, tunnel, bypass, resolver, data_plane, paths, .. } = self.host;
        let (prefixes, follow_prefix) = underlay.prefixes();
        Config {
            interface: self.interface,
            prefixes,
            follow_prefix,
            link: underlay.link,
            interface_wait: underlay.interface_wait,
            policy: data_plane.policy,
            allow: data_plane.allow(),
            xdp: data_plane.xdp,
            steering: data_plane.steering,
            keystream: data_plane.keystream,
            device: tunnel.device(),
            addresses: tunnel.addresses(),
            mtu: tunnel.mtu,
            mtu_expires: tunnel.mtu_expires(),
            fwmark: bypass.fwmark(),
            kill_switch: bypass.kill_switch(),
            dns: resolver.servers(),
            horizon: data_plane.horizon(&self.facts),
            max_sessions: data_plane.max_sessions(),
            state_dir: paths.state_dir(),
            socket: paths.socket,
            clock: paths.clock,
            identity,
            hooks: self.host.hooks,
            metrics: self.host.metrics.map(|metrics| metrics.address()),
            web: self.host.web,
            rendezvous: self.host.rendezvous,
            listen: self.listen,
            servers: self.servers,
            peers,
        }
    }
}

/// Reads the text for which `problems` are collected.
pub(super) fn read(text: &str, mut problems: Problems<'_>) -> Result<Document, ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let remedy = match error.message() {
            "duplicate key" => "keep one of them",
            _ => "correct the TOML here",
        };
        problems.add(error.span().map_or(0, |span| span.start), "", Fault::new(error.message(), remedy));
    }
    if !errors.is_empty() {
        // Reports of missing keys would be misleading for a broken file.
        return Err(problems.into_error());
    }
    let root = Section::new((table.get_ref(), 0), FORMAT.root, &FORMAT, &mut problems);
    let (host, ends) = read_sections(&root, &mut problems);
    let facts = check(&host, &ends, &mut problems);
    match build(host, ends, facts) {
        Some(document) if problems.count() == 0 => Ok(document),
        _ => Err(problems.into_error()),
    }
}

/// The part of the file about this host.
struct Host {
    underlay: Underlay,
    tunnel: Tunnel,
    bypass: Bypass,
    resolver: Resolver,
    data_plane: DataPlane,
    paths: Paths,
    own_key: OwnKey,
    hooks: Hooks,
    metrics: Option<Metrics>,
    web: Option<SocketAddr>,
    rendezvous: Rendezvous,
}

/// The part of the file about the other ends.
struct Ends {
    peers: Peers,
    servers: Vec<ServerFields>,
    listen: Option<ListenFields>,
    clients: Clients,
}

fn read_sections(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> (Host, Ends) {
    let hooks = root.table("hooks", &HOOKS, problems);
    let metrics = root.table("metrics", &METRICS, problems);
    let web = root.table("web", &WEB, problems);
    let rendezvous = root.table("rendezvous", &RENDEZVOUS, problems);
    let listen = root.table("listen", &LISTEN, problems);
    let clients = root.tables("client", &CLIENT, problems);
    let servers = root.tables("server", &SERVER, problems);
    let peers = root.tables("peer", &PEER, problems);
    let host = Host {
        underlay: Underlay::read(root, problems),
        tunnel: Tunnel::read(root, servers.is_empty(), problems),
        bypass: Bypass::read(root, problems),
        resolver: Resolver::read(root, problems),
        data_plane: DataPlane::read(root, problems),
        paths: Paths::read(root, problems),
        own_key: OwnKey::read(root, problems),
        hooks: hooks.map(|table| Hooks::read(&table, problems)).unwrap_or_default(),
        metrics: metrics.map(|table| Metrics::read(&table, problems)),
        web: web.map(|table| web::read(&table, problems)),
        rendezvous: rendezvous.map(|table| Rendezvous::read(&table, problems)).unwrap_or_default(),
    };
    let ends = Ends {
        clients: Clients::read(&clients, listen.is_some(), problems),
        listen: listen.map(|table| ListenFields::read(&table, problems)),
        servers: servers.iter().map(|table| ServerFields::read(table, problems)).collect(),
        peers: Peers::read(&peers, problems),
    };
    (host, ends)
}

/// Lets the sections share their facts, and checks each against them. Of equally long slots, the first are named.
fn check(host: &Host, ends: &Ends, problems: &mut Problems<'_>) -> Facts {
    let Host { underlay, tunnel, bypass, resolver, data_plane, own_key, rendezvous, .. } = host;
    let mut parts: Vec<&dyn Part> =
        vec![underlay, tunnel, bypass, resolver, data_plane, own_key, rendezvous, &ends.clients, &ends.peers];
    parts.extend(ends.listen.iter().map(|part| part as &dyn Part));
    parts.extend(host.metrics.iter().map(|part| part as &dyn Part));
    parts.extend(ends.servers.iter().map(|part| part as &dyn Part));
    let mut facts = Facts::default();
    for part in &parts {
        part.tell(&mut facts);
    }
    for part in &parts {
        part.check(&facts, problems);
    }
    facts.check(problems);
    facts
}

/// `None` when something required is missing; a problem has been reported then.
fn build(host: Host, ends: Ends, facts: Facts) -> Option<Document> {
    let interface = host.underlay.interface.clone()?.value;
    let clients = ends.clients.build()?;
    let listen = match ends.listen {
        Some(listen) => Some(listen.build(clients, &facts)?),
        None => None,
    };
    let servers: Option<Vec<_>> = ends.servers.into_iter().map(|server| server.build(&facts)).collect();
    let (peers, key_files_at) = ends.peers.build(&facts)?;
    let identity = host.own_key.identity();
    Some(Document { host, facts, interface, listen, servers: servers?, peers, key_files_at, identity })
}
