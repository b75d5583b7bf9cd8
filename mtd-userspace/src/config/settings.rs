//! Settings of the rendezvous, of servers with registered clients, and of the clients' side.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::keys::{PublicKey, SecretKey};
use crate::model::{Encoding, Mode, Pool, TunnelAddresses};

/// Commands that are run when the data plane comes and goes, each by `/bin/sh -c`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before anything of the host is changed. One that fails ends the start.
    pub pre_up: Vec<String>,
    /// When the programs are attached. One that fails ends the start.
    pub post_up: Vec<String>,
    /// Before anything is taken back.
    pub pre_down: Vec<String>,
    /// When everything is taken back.
    pub post_down: Vec<String>,
}

/// Where metrics are served when `[metrics]` says nothing. Exporters of others crowd around 9100; this is well away from them.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 24_633);

/// Where the web view is served when `[web]` says nothing.
pub const DEFAULT_WEB: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 8674);

/// Shortest and longest rendezvous window; whole seconds.
pub const WINDOW_RANGE: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(24));

/// Rendezvous window when the file says nothing (requirement MT-21).
pub const DEFAULT_WINDOW: Duration = Duration::from_mins(15);

/// Largest value of `publish_in_flight`: it takes a socket and a thread for every six.
pub const MAX_PUBLISH_IN_FLIGHT: u32 = 256;

/// Publications under way at a time when the file says nothing.
pub const DEFAULT_PUBLISH_IN_FLIGHT: u32 = 64;

/// Folder of the clients' public keys when the file says nothing.
pub const DEFAULT_CLIENTS_DIR: &str = "clients";

/// Shortest and longest slot of an introduction.
pub const INTRODUCTION_SLOT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// Slot of an introduction when the file says nothing.
pub const DEFAULT_INTRODUCTION_SLOT: Duration = Duration::from_secs(30);

/// Shortest and longest time for which the introduction of the window before is still served.
pub const GRACE_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));

/// That time when the file says nothing, or the window if that is shorter.
pub const DEFAULT_GRACE: Duration = Duration::from_mins(5);

/// Shortest and longest time after which a session without packets ends.
pub const IDLE_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(24));

/// That time when the file says nothing.
pub const DEFAULT_IDLE: Duration = Duration::from_mins(1);

/// Shortest and longest life of a session's keys, to their renewal and to their end.
pub const KEY_LIFE_RANGE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_hours(24));

/// Age at which keys are renewed when the file says nothing.
pub const DEFAULT_REKEY: Duration = Duration::from_mins(2);

/// Age at which keys are not used any more when the file says nothing.
pub const DEFAULT_EXPIRE: Duration = Duration::from_mins(3);

/// Least time between renewal and end: a handshake that is lost must have room to be repeated.
pub const MIN_REKEY_MARGIN: Duration = Duration::from_secs(5);

/// Largest value of `max_handshakes_per_second`.
pub const MAX_HANDSHAKES: u32 = 1_000_000;

/// Handshakes a second with all clients together when the file says nothing.
pub const DEFAULT_HANDSHAKES: u32 = 1000;

/// Largest value of `handshakes_per_client`.
pub const MAX_HANDSHAKES_PER_CLIENT: u32 = 10_000;

/// Handshakes a minute with one client when the file says nothing.
pub const DEFAULT_HANDSHAKES_PER_CLIENT: u32 = 30;

/// Shortest and longest time between packets of a client that has nothing to send.
pub const KEEPALIVE_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// That time when the file says nothing.
pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(10);

/// Lengths of an IPv6 network from which clients get tunnel addresses.
pub const POOL_V6_LENGTHS: (u8, u8) = (32, 120);

/// Lengths of an IPv4 network from which clients get tunnel addresses.
pub const POOL_V4_LENGTHS: (u8, u8) = (8, 30);

/// The own X25519 key (requirement MT-20). `K` as for [`super::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity<K = SecretKey> {
    /// The file of the private key: as written after parsing, joined to the folder of the configuration file after
    /// loading.
    pub key_file: PathBuf,
    /// The private key.
    pub key: K,
}

/// How servers and clients find each other (requirements MT-21 … MT-24).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Length of a window, whole seconds within [`WINDOW_RANGE`].
    pub window: Duration,
    /// How introductions are published.
    pub encoding: Encoding,
    /// Nodes of the DHT to begin with, `host:port`; none: those of the public network.
    pub bootstrap: Vec<String>,
    /// Local UDP port of the DHT node; `None`: any.
    pub port: Option<u16>,
    /// Whether the node answers strangers and stores for them.
    pub serve: bool,
    /// Publications under way at a time, 1 to [`MAX_PUBLISH_IN_FLIGHT`].
    pub publish_in_flight: u32,
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self {
            window: DEFAULT_WINDOW,
            encoding: Encoding::default(),
            bootstrap: Vec::new(),
            port: None,
            serve: false,
            publish_in_flight: DEFAULT_PUBLISH_IN_FLIGHT,
        }
    }
}

/// What a server with registered clients does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Folder of the clients' public keys; as written after parsing, joined to the folder of the configuration file
    /// after loading. It need not exist.
    pub clients_dir: PathBuf,
    /// The clients that the configuration file itself registers.
    pub clients: Vec<Client>,
    /// Where the clients' tunnel addresses come from.
    pub pool: Pool,
    /// Slot length of the sessions, within [`super::PERIOD_RANGE`].
    pub period: Duration,
    /// What is done to inner packets.
    pub mode: Mode,
    /// Slot length of the introductions, within [`INTRODUCTION_SLOT_RANGE`].
    pub introduction_slot: Duration,
    /// For how long the introduction of the window before is still served; at most the window.
    pub introduction_grace: Duration,
    /// A session ends when nothing valid came for so long.
    pub idle_timeout: Duration,
    /// Age at which a session's keys are renewed.
    pub rekey_after: Duration,
    /// Age at which a session's keys are not used any more; at least `rekey_after` and [`MIN_REKEY_MARGIN`].
    pub expire_after: Duration,
    /// The own prefix for introductions and sessions: one of [`super::Config::prefixes`]. `None` when the prefix is
    /// that of the interface.
    pub local_prefix: Option<Ipv6Net>,
    /// Handshakes a second with all clients together.
    pub max_handshakes_per_second: u32,
    /// Handshakes a minute with one client.
    pub handshakes_per_client: u32,
}

/// A client that the configuration file registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name, `[A-Za-z0-9._-]{1,32}`, unique among peers, clients and servers.
    pub name: String,
    /// Its public key, unique among clients and servers.
    pub public_key: PublicKey,
    /// The tunnel addresses that it always gets; of a family without one, it gets one from the pool.
    pub addresses: TunnelAddresses,
}

/// A server that this host connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name, `[A-Za-z0-9._-]{1,32}`, unique among peers, clients and servers.
    pub name: String,
    /// Its public key, unique among clients and servers.
    pub public_key: PublicKey,
    /// The own prefix for the session: one of [`super::Config::prefixes`]. `None` when the prefix is that of the
    /// interface.
    pub local_prefix: Option<Ipv6Net>,
    /// Inner networks behind the server, besides its tunnel addresses; host bits zero, and none of them a second
    /// time at any peer or server.
    pub allowed_ips: Vec<IpNet>,
    /// Longest time without a packet from the server before it is asked for one.
    pub keepalive: Duration,
    /// The server's rendezvous window, whole seconds within [`WINDOW_RANGE`].
    pub window: Duration,
}
