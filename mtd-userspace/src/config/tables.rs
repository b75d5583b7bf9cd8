//! The tables of the file: which keys each has, and their values, less those that have a problem of their own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;

use super::error::Problems;
use super::section::{Key, Located, Schema, Section};
use super::{
    DEFAULT_KEEPALIVE, GRACE_RANGE, HORIZON_RANGE, Hooks, IDLE_RANGE, INTRODUCTION_SLOT_RANGE,
    KEEPALIVE_RANGE, KEY_LIFE_RANGE, MAX_HANDSHAKES, MAX_HANDSHAKES_PER_CLIENT, MAX_INNER_MTU,
    MAX_PUBLISH_IN_FLIGHT, MAX_SESSIONS, MIN_INNER_MTU, MTU_EXPIRES_RANGE, PERIOD_RANGE, fields,
};
use crate::keys::PublicKey;
use crate::model::{Allow, Encoding, KeyStreamChoice, LinkMode, Mode, Policy, SteeringChoice, XdpChoice};

pub(super) const ROOT_KEYS: &[Key] = &[
    ("interface", r#""eth0""#),
    ("prefix", r#""2001:db8:1::/64""#),
    ("link", r#""routed""#),
    ("policy", r#""dark""#),
    ("allow", r#"["tcp/22"]"#),
    ("xdp", r#""auto""#),
    ("steering", r#""auto""#),
    ("keystream", r#""auto""#),
    ("device", r#""mtd0""#),
    ("address", r#"["fd00:6d74::1/64", "10.66.0.1/24"]"#),
    ("mtu", "1428"),
    ("mtu_expires", r#""10m""#),
    ("horizon", r#""60s""#),
    ("max_sessions", "1024"),
    ("socket", r#""/run/mtd/eth0.sock""#),
    ("state_dir", r#""/var/lib/mtd""#),
    ("private_key_file", r#""private.key""#),
    ("hooks", "{}"),
    ("metrics", "{}"),
    ("web", "{}"),
    ("rendezvous", "{}"),
    ("listen", "{}"),
    ("client", "[]"),
    ("server", "[]"),
    ("peer", "[]"),
];

const PUBLIC_KEY_EXAMPLE: &str = r#""vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=""#;

pub(super) const HOOKS_KEYS: &[Key] = &[
    ("pre_up", r#"["logger mtd starts"]"#),
    ("post_up", r#"["nft -f /etc/mtd/tunnel.nft"]"#),
    ("pre_down", r#"["nft delete table inet tunnel"]"#),
    ("post_down", r#"["logger mtd has stopped"]"#),
];
pub(super) const METRICS_KEYS: &[Key] = &[("listen", r#""[::1]:24633""#)];

pub(super) const WEB_KEYS: &[Key] = &[("listen", r#""[::1]:8674""#)];

pub(super) const RENDEZVOUS_KEYS: &[Key] = &[
    ("window", r#""15m""#),
    ("encoding", r#""mutable""#),
    ("bootstrap", r#"["dht.example.net:6881"]"#),
    ("port", "6881"),
    ("serve", "false"),
    ("publish_in_flight", "64"),
];

pub(super) const LISTEN_KEYS: &[Key] = &[
    ("clients_dir", r#""clients""#),
    ("pool", r#"["fd00:6d74::/64", "10.66.0.0/24"]"#),
    ("period", r#""3s""#),
    ("mode", r#""encrypt""#),
    ("introduction_slot", r#""30s""#),
    ("introduction_grace", r#""5m""#),
    ("idle_timeout", r#""60s""#),
    ("rekey_after", r#""120s""#),
    ("expire_after", r#""180s""#),
    ("local_prefix", r#""2001:db8:1::/64""#),
    ("max_handshakes_per_second", "1000"),
    ("handshakes_per_client", "30"),
];

pub(super) const CLIENT_KEYS: &[Key] = &[
    ("name", r#""tablet""#),
    ("public_key", PUBLIC_KEY_EXAMPLE),
    ("address", r#"["fd00:6d74::77", "10.66.0.77"]"#),
];

pub(super) const SERVER_KEYS: &[Key] = &[
    ("name", r#""office""#),
    ("public_key", PUBLIC_KEY_EXAMPLE),
    ("local_prefix", r#""2001:db8:1::/64""#),
    ("allowed_ips", r#"["fd00:abcd::/48", "10.20.0.0/16"]"#),
    ("keepalive", r#""10s""#),
    ("window", r#""15m""#),
];

pub(super) const PEER_KEYS: &[Key] = &[
    ("name", r#""laptop""#),
    ("prefix", r#""2001:db8:2::/64""#),
    ("local_prefix", r#""2001:db8:1::/64""#),
    ("key_file", r#""keys/laptop.key""#),
    ("seed", r#""0011:2233:4455:6677""#),
    ("peer_seed", r#""8899:aabb:ccdd:eeff""#),
    ("period", r#""3s""#),
    ("mode", r#""encrypt""#),
    ("allowed_ips", r#"["fd00:6d74::2/128", "10.66.0.2/32"]"#),
];

pub(super) const ROOT: Schema = Schema { header: "", path: "", keys: ROOT_KEYS };
pub(super) const HOOKS: Schema = Schema { header: "[hooks]", path: "hooks.", keys: HOOKS_KEYS };
pub(super) const METRICS: Schema = Schema { header: "[metrics]", path: "metrics.", keys: METRICS_KEYS };
pub(super) const WEB: Schema = Schema { header: "[web]", path: "web.", keys: WEB_KEYS };
pub(super) const RENDEZVOUS: Schema =
    Schema { header: "[rendezvous]", path: "rendezvous.", keys: RENDEZVOUS_KEYS };
pub(super) const LISTEN: Schema = Schema { header: "[listen]", path: "listen.", keys: LISTEN_KEYS };
pub(super) const CLIENT: Schema = Schema { header: "[[client]]", path: "client.", keys: CLIENT_KEYS };
pub(super) const SERVER: Schema = Schema { header: "[[server]]", path: "server.", keys: SERVER_KEYS };
pub(super) const PEER: Schema = Schema { header: "[[peer]]", path: "peer.", keys: PEER_KEYS };

/// The tables of the file, the root first.
pub(super) const SCHEMAS: [&Schema; 9] =
    [&ROOT, &HOOKS, &METRICS, &WEB, &RENDEZVOUS, &LISTEN, &CLIENT, &SERVER, &PEER];

/// The word that stands for the prefix of the interface.
pub(super) const FOLLOW_INTERFACE: &str = "interface";

/// What stands above the first table.
pub(super) struct RootFields {
    pub(super) interface: Option<Located<String>>,
    pub(super) prefixes: Vec<Located<Ipv6Net>>,
    /// Whether `prefixes` is all that the file lists, and not too many.
    pub(super) prefixes_complete: bool,
    /// Where the prefix is said to be that of the interface.
    pub(super) follow_at: Option<usize>,
    pub(super) link: LinkMode,
    pub(super) policy: Option<Policy>,
    pub(super) allow: Vec<Located<Allow>>,
    pub(super) xdp: XdpChoice,
    pub(super) steering: SteeringChoice,
    pub(super) keystream: KeyStreamChoice,
    pub(super) device: Option<Located<String>>,
    pub(super) addresses: Vec<Located<IpNet>>,
    /// Whether `addresses` is all that the file lists.
    pub(super) addresses_complete: bool,
    pub(super) mtu: Option<u16>,
    pub(super) mtu_expires: Option<Duration>,
    pub(super) horizon: Option<Located<Duration>>,
    pub(super) max_sessions: Option<Located<u32>>,
    pub(super) socket: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) private_key_file: Option<Located<PathBuf>>,
    /// Whether the file has a `private_key_file`, good or bad.
    pub(super) has_private_key_file: bool,
}

/// `[metrics]`.
pub(super) struct MetricsFields {
    pub(super) listen: Option<Located<SocketAddr>>,
}

/// `[web]`.
pub(super) struct WebFields {
    pub(super) listen: Option<Located<SocketAddr>>,
}

/// `[rendezvous]`, which may be missing.
#[derive(Default)]
pub(super) struct RendezvousFields {
    pub(super) window: Option<Located<Duration>>,
    pub(super) encoding: Encoding,
    pub(super) bootstrap: Vec<String>,
    pub(super) port: Option<u16>,
    pub(super) serve: bool,
    pub(super) publish_in_flight: Option<u32>,
}

/// `[listen]`.
pub(super) struct ListenFields {
    pub(super) at: usize,
    pub(super) clients_dir: Option<PathBuf>,
    /// `None`: not in the file.
    pub(super) pool: Option<Vec<Located<IpNet>>>,
    pub(super) period: Option<Located<Duration>>,
    pub(super) mode: Mode,
    pub(super) introduction_slot: Option<Duration>,
    pub(super) introduction_grace: Option<Located<Duration>>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) rekey_after: Option<Located<Duration>>,
    pub(super) expire_after: Option<Located<Duration>>,
    pub(super) local_prefix: Option<Located<Ipv6Net>>,
    pub(super) max_handshakes_per_second: Option<u32>,
    pub(super) handshakes_per_client: Option<u32>,
}

/// One `[[client]]`.
pub(super) struct ClientFields {
    pub(super) at: usize,
    pub(super) name: Option<Located<String>>,
    pub(super) public_key: Option<Located<PublicKey>>,
    pub(super) addresses: Vec<Located<IpAddr>>,
}

/// One `[[server]]`.
pub(super) struct ServerFields {
    pub(super) at: usize,
    pub(super) name: Option<Located<String>>,
    pub(super) public_key: Option<Located<PublicKey>>,
    pub(super) local_prefix: Option<Located<Ipv6Net>>,
    pub(super) allowed_ips: Vec<Located<IpNet>>,
    pub(super) keepalive: Duration,
    pub(super) window: Option<Duration>,
}

/// One `[[peer]]`.
pub(super) struct PeerFields {
    pub(super) at: usize,
    pub(super) name: Option<Located<String>>,
    pub(super) prefix: Option<Located<Ipv6Net>>,
    pub(super) local_prefix: Option<Located<Ipv6Net>>,
    pub(super) key_file: Option<Located<PathBuf>>,
    pub(super) seed: Option<Located<[u8; 8]>>,
    pub(super) peer_seed: Option<Located<[u8; 8]>>,
    pub(super) period: Option<Located<Duration>>,
    pub(super) mode: Mode,
    pub(super) allowed_ips: Vec<Located<IpNet>>,
}

/// Everything that the file says.
pub(super) struct FileFields {
    pub(super) root: RootFields,
    pub(super) hooks: Hooks,
    pub(super) metrics: Option<MetricsFields>,
    pub(super) web: Option<WebFields>,
    pub(super) rendezvous: RendezvousFields,
    pub(super) listen: Option<ListenFields>,
    pub(super) clients: Vec<ClientFields>,
    pub(super) servers: Vec<ServerFields>,
    pub(super) peers: Vec<PeerFields>,
}

/// Reads the whole file.
pub(super) fn read(root: &Section, problems: &mut Problems) -> FileFields {
    let hooks = root.table("hooks", &HOOKS, problems);
    let metrics = root.table("metrics", &METRICS, problems);
    let web = root.table("web", &WEB, problems);
    let rendezvous = root.table("rendezvous", &RENDEZVOUS, problems);
    let listen = root.table("listen", &LISTEN, problems);
    let clients = root.tables("client", &CLIENT, problems);
    let servers = root.tables("server", &SERVER, problems);
    let peers = root.tables("peer", &PEER, problems);
    FileFields {
        root: read_root(root, !servers.is_empty(), problems),
        hooks: hooks.map(|table| read_hooks(&table, problems)).unwrap_or_default(),
        metrics: metrics.map(|table| MetricsFields {
            listen: table.optional("listen", problems, fields::metrics_address),
        }),
        web: web.map(|table| WebFields { listen: table.optional("listen", problems, fields::web_address) }),
        rendezvous: rendezvous.map(|table| read_rendezvous(&table, problems)).unwrap_or_default(),
        listen: listen.map(|table| read_listen(&table, problems)),
        clients: clients.iter().map(|table| read_client(table, problems)).collect(),
        servers: servers.iter().map(|table| read_server(table, problems)).collect(),
        peers: peers.iter().map(|table| read_peer(table, problems)).collect(),
    }
}

fn read_root(root: &Section, has_servers: bool, problems: &mut Problems) -> RootFields {
    let interface = root.required("interface", problems, fields::interface);
    let follow_at = root.word("prefix", FOLLOW_INTERFACE);
    let before = problems.count();
    let prefixes = match follow_at {
        None => root.list("prefix", problems, fields::prefix),
        Some(_) => Vec::new(),
    };
    let prefixes_complete = problems.count() == before && prefixes.len() <= MAX_PREFIXES;
    let before = problems.count();
    let addresses = if has_servers {
        root.optional_list("address", problems, fields::tunnel_address)
    } else {
        root.list("address", problems, fields::tunnel_address)
    };
    let addresses_complete = problems.count() == before;
    let mtu_range = (u32::from(MIN_INNER_MTU), u32::from(MAX_INNER_MTU));
    RootFields {
        interface,
        prefixes,
        prefixes_complete,
        follow_at,
        link: value_or_default(
            root.optional("link", problems, |text| fields::choice(text, LinkMode::CHOICES)),
        ),
        policy: value(root.optional("policy", problems, |text| fields::choice(text, Policy::CHOICES))),
        allow: root.strings("allow", problems, str::parse),
        xdp: value_or_default(
            root.optional("xdp", problems, |text| fields::choice(text, XdpChoice::CHOICES)),
        ),
        steering: value_or_default(
            root.optional("steering", problems, |text| fields::choice(text, SteeringChoice::CHOICES)),
        ),
        keystream: value_or_default(
            root.optional("keystream", problems, |text| fields::choice(text, KeyStreamChoice::CHOICES)),
        ),
        device: root.optional("device", problems, fields::device),
        addresses,
        addresses_complete,
        mtu: root.integer("mtu", problems, mtu_range).map(|mtu| mtu.value as u16),
        mtu_expires: value(
            root.optional("mtu_expires", problems, |text| fields::duration(text, MTU_EXPIRES_RANGE)),
        ),
        horizon: root.optional("horizon", problems, |text| fields::duration(text, HORIZON_RANGE)),
        max_sessions: root.integer("max_sessions", problems, (1, MAX_SESSIONS)),
        socket: value(root.optional("socket", problems, fields::socket_path)),
        state_dir: value(root.optional("state_dir", problems, fields::absolute_path)),
        private_key_file: root.optional("private_key_file", problems, fields::private_key_file),
        has_private_key_file: root.contains("private_key_file"),
    }
}

fn read_hooks(table: &Section, problems: &mut Problems) -> Hooks {
    let mut commands =
        |key| table.strings(key, problems, fields::command).into_iter().map(unlocated).collect();
    Hooks {
        pre_up: commands("pre_up"),
        post_up: commands("post_up"),
        pre_down: commands("pre_down"),
        post_down: commands("post_down"),
    }
}

fn read_rendezvous(table: &Section, problems: &mut Problems) -> RendezvousFields {
    RendezvousFields {
        window: table.optional("window", problems, fields::window),
        encoding: value_or_default(
            table.optional("encoding", problems, |text| fields::choice(text, Encoding::CHOICES)),
        ),
        bootstrap: table
            .strings("bootstrap", problems, fields::bootstrap)
            .into_iter()
            .map(unlocated)
            .collect(),
        port: value(table.integer("port", problems, (1, u32::from(u16::MAX)))).map(|port| port as u16),
        serve: value_or_default(table.boolean("serve", problems)),
        publish_in_flight: value(table.integer("publish_in_flight", problems, (1, MAX_PUBLISH_IN_FLIGHT))),
    }
}

fn read_listen(table: &Section, problems: &mut Problems) -> ListenFields {
    let duration = |key, range, problems: &mut Problems| {
        table.optional(key, problems, |text| fields::duration(text, range))
    };
    ListenFields {
        at: table.at(),
        clients_dir: value(table.optional("clients_dir", problems, fields::folder)),
        pool: table.contains("pool").then(|| table.optional_list("pool", problems, fields::pool)),
        period: duration("period", PERIOD_RANGE, problems),
        mode: value_or_default(table.optional("mode", problems, |text| fields::choice(text, Mode::CHOICES))),
        introduction_slot: value(duration("introduction_slot", INTRODUCTION_SLOT_RANGE, problems)),
        introduction_grace: duration("introduction_grace", GRACE_RANGE, problems),
        idle_timeout: value(duration("idle_timeout", IDLE_RANGE, problems)),
        rekey_after: duration("rekey_after", KEY_LIFE_RANGE, problems),
        expire_after: duration("expire_after", KEY_LIFE_RANGE, problems),
        local_prefix: table.optional("local_prefix", problems, fields::prefix),
        max_handshakes_per_second: value(table.integer(
            "max_handshakes_per_second",
            problems,
            (1, MAX_HANDSHAKES),
        )),
        handshakes_per_client: value(table.integer(
            "handshakes_per_client",
            problems,
            (1, MAX_HANDSHAKES_PER_CLIENT),
        )),
    }
}

fn read_client(table: &Section, problems: &mut Problems) -> ClientFields {
    ClientFields {
        at: table.at(),
        name: table.required("name", problems, fields::peer_name),
        public_key: table.required("public_key", problems, fields::public_key),
        addresses: table.optional_list("address", problems, fields::host_address),
    }
}

fn read_server(table: &Section, problems: &mut Problems) -> ServerFields {
    let keepalive = |text: &str| fields::duration(text, KEEPALIVE_RANGE);
    ServerFields {
        at: table.at(),
        name: table.required("name", problems, fields::peer_name),
        public_key: table.required("public_key", problems, fields::public_key),
        local_prefix: table.optional("local_prefix", problems, fields::prefix),
        allowed_ips: table.optional_list("allowed_ips", problems, fields::inner_network),
        keepalive: value(table.optional("keepalive", problems, keepalive)).unwrap_or(DEFAULT_KEEPALIVE),
        window: value(table.optional("window", problems, fields::window)),
    }
}

fn read_peer(table: &Section, problems: &mut Problems) -> PeerFields {
    PeerFields {
        at: table.at(),
        name: table.required("name", problems, fields::peer_name),
        prefix: table.required("prefix", problems, fields::prefix),
        local_prefix: table.optional("local_prefix", problems, fields::prefix),
        key_file: table.required("key_file", problems, fields::key_file),
        seed: table.required("seed", problems, fields::seed),
        peer_seed: table.required("peer_seed", problems, fields::seed),
        period: table.optional("period", problems, |text| fields::duration(text, PERIOD_RANGE)),
        mode: value_or_default(table.optional("mode", problems, |text| fields::choice(text, Mode::CHOICES))),
        allowed_ips: table.list("allowed_ips", problems, fields::inner_network),
    }
}

pub(super) fn unlocated<T>(located: Located<T>) -> T {
    located.value
}

pub(super) fn value<T>(located: Option<Located<T>>) -> Option<T> {
    located.map(unlocated)
}

fn value_or_default<T: Default>(located: Option<Located<T>>) -> T {
    value(located).unwrap_or_default()
}
