//! What the controller tells about itself: the documents of the control socket, and of `--json`.

mod health;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use mtd_common::DropReason;
use serde::{Deserialize, Serialize};

use crate::model::{Frames, MapFill, Program, Totals, Traffic};

pub use health::{Paths, SessionCount, Slots, WallClock, Warning, WarningCode};

/// Version of the documents in this module. Fields may be added to a version, never changed or removed.
pub const SCHEMA: u32 = 1;

/// The document of `GET /v1/status` and of `mtd status --json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the controller.
    pub version: String,
    /// Commit that the controller was built from; `unknown` for a build outside of its repository.
    #[serde(default)]
    pub commit: String,
    /// Version of the layout that controller and programs share.
    #[serde(default)]
    pub abi: u32,
    /// Release of the running kernel.
    #[serde(default)]
    pub kernel: String,
    /// Process id of the controller; absent when the data plane is attached and no controller runs.
    pub pid: Option<u32>,
    /// Time since the controller started, in seconds.
    pub uptime_seconds: f64,
    /// Underlay interface.
    pub interface: String,
    /// Tunnel device.
    pub device: String,
    /// Mode of the XDP program: `native` or `generic`.
    pub xdp: String,
    /// `routed`, `on-link` or `shared`.
    pub link: String,
    /// Protected prefixes.
    pub prefixes: Vec<IpNet>,
    /// MTU of the tunnel device, in bytes.
    pub mtu: u32,
    /// Paths to peers that carry less than the interface.
    #[serde(default)]
    pub paths: Paths,
    /// Where programs and maps are pinned.
    pub pins: PathBuf,
    /// Frames counted since the data plane was attached.
    pub frames: Frames,
    /// Dropped packets by reason, the reasons that occurred only.
    pub drops: BTreeMap<String, u64>,
    /// Packets that would have been dropped if that were enforced, by reason, the reasons that occurred only.
    #[serde(default)]
    pub would_drop: BTreeMap<String, u64>,
    /// What is done to what is no valid packet.
    #[serde(default)]
    pub guard: Guard,
    /// The peers of the configuration, in its order.
    pub peers: Vec<Peer>,
    /// The own public key, base64; absent without one.
    pub public_key: Option<String>,
    /// How servers and clients find each other; absent when this host is neither.
    pub rendezvous: Option<Rendezvous>,
    /// Handshakes with clients; absent when this host is no server.
    pub handshakes: Option<Handshakes>,
    /// Number of registered clients; absent when this host is no server.
    pub clients_registered: Option<u64>,
    /// What the operator should look at.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// The programs in the kernel that work on the maps of this data plane.
    #[serde(default)]
    pub programs: Vec<Program>,
    /// How full the maps are; empty when no controller runs.
    #[serde(default)]
    pub maps: Vec<MapFill>,
    /// How well slots are kept loaded; absent when no controller runs.
    #[serde(default)]
    pub slots: Option<Slots>,
    /// The wall clock; absent where the kernel does not tell.
    #[serde(default)]
    pub clock: Option<WallClock>,
    /// Seconds since the last valid packet of any session; absent before the first one.
    #[serde(default)]
    pub last_valid_seconds: Option<f64>,
    /// The largest difference between a session's clock and the wall clock, either way, in seconds; absent without
    /// sessions.
    #[serde(default)]
    pub clock_offset_seconds: Option<f64>,
    /// Number of sessions by role and state, those there can be without those there are not.
    #[serde(default)]
    pub session_counts: Vec<SessionCount>,
    /// What went through all sessions.
    #[serde(default)]
    pub traffic: Totals,
    /// The sessions with clients and with servers, servers first.
    #[serde(default)]
    pub sessions: Vec<Session>,
}

/// Counts of the programs, by the names of the documents.
pub fn by_name(counts: &BTreeMap<DropReason, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
}

/// What is done to packets towards the prefixes that are no valid ones; the document of `POST /v1/confirm` and
/// `POST /v1/policy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `dark`: they are dropped, or `monitor`: they are counted and pass.
    pub policy: String,
    /// Whether they are dropped now: with `dark`, unless nobody confirmed in time.
    pub enforced: bool,
    /// What passes all the same, as in the configuration.
    pub allow: Vec<String>,
    /// Seconds that are left to confirm in, 0 when they are over; absent when nothing is to be confirmed.
    pub confirm_seconds_left: Option<f64>,
}

/// That of controllers which tell of none: they know nothing but to drop.
impl Default for Guard {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            policy: "dark".to_owned(),
            enforced: true,
            allow: Vec::new(),
            confirm_seconds_left: None,
        }
    }
}

/// State of the session with one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Name in the configuration.
    pub name: String,
    /// `waiting` (no valid packet yet), `open`, or `silent` (none for three slots and ten seconds at least).
    pub state: PeerState,
    /// `encrypt` or `authenticate`.
    pub mode: String,
    /// Slot length in seconds.
    pub period_seconds: f64,
    /// Current slot number.
    pub slot: u64,
    /// Own address and port in the current slot.
    pub local: Endpoint,
    /// The peer's address and port in the current slot.
    pub remote: Endpoint,
    /// Slots loaded ahead of the current one.
    pub slots_ahead: u64,
    /// Seconds since the last valid packet.
    pub last_valid_seconds: Option<f64>,
    /// Session clock minus wall clock, in seconds.
    pub clock_offset_seconds: f64,
    /// Inner packets and bytes received.
    pub received: Traffic,
    /// Inner packets and bytes sent.
    pub sent: Traffic,
    /// Longest packet in bytes that the path to the peer carries, as a router has said; `None`: what the interface carries.
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// Packets from the peer's own prefix that were dropped, by reason, as far as they were sampled: what tells a
    /// wrong configuration from an absent peer.
    pub dropped_from_prefix: BTreeMap<String, u64>,
    /// What the operator should look at, when something seems wrong.
    pub hint: Option<String>,
}

/// See [`Peer::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// No valid packet since the session was installed.
    Waiting,
    /// Valid packets arrive.
    Open,
    /// Valid packets arrived once, none lately.
    Silent,
}

impl PeerState {
    /// The state in the word of the documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Open => "open",
            Self::Silent => "silent",
        }
    }
}

/// What is published for clients and fetched from servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rendezvous {
    /// Whether this host publishes, fetches or does both.
    pub role: RendezvousRole,
    /// Length of a window in seconds.
    pub window_seconds: u64,
    /// When the current window began, in unix seconds of this host's clock.
    pub window_start: u64,
    /// When an introduction was last published, in unix seconds.
    pub last_publication: Option<f64>,
    /// When an introduction was last fetched and accepted, in unix seconds.
    pub last_fetch: Option<f64>,
    /// Introductions published.
    pub published: u64,
    /// Introductions fetched and accepted.
    pub fetched: u64,
    /// Publications and fetches that failed; they are tried again.
    pub failed: u64,
    /// Publications and fetches that are due or under way.
    pub pending: u64,
    /// What the DHT gave and was not accepted, by reason, the reasons that occurred only.
    pub rejected: BTreeMap<String, u64>,
    /// Seconds until the next publication or fetch; absent when none is planned.
    pub next_seconds: Option<f64>,
    /// Whether the DHT can be reached.
    pub network: Network,
    /// Median time of the fetches that found something, in ms.
    pub median_fetch_ms: Option<f64>,
}

/// See [`Rendezvous::role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RendezvousRole {
    /// It publishes for its clients.
    Server,
    /// It fetches from its servers.
    Client,
    /// It does both.
    Both,
}

/// See [`Rendezvous::network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nodes answer.
    Ok,
    /// No node answers.
    Unreachable,
    /// Nothing was asked yet.
    Unknown,
}

/// Handshakes that clients began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// First messages that came through the introduction.
    pub received: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Those that were not, by reason, the reasons that occurred only.
    pub refused: BTreeMap<String, u64>,
    /// Sessions whose client has sent no data packet yet.
    pub half_open: u64,
}

/// A session with a registered client or with a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Name of the other end.
    pub name: String,
    /// Public key of the other end, base64.
    pub public_key: String,
    /// What this host is in it.
    pub role: SessionRole,
    /// How far it is.
    pub state: SessionState,
    /// Addresses in the tunnel.
    pub tunnel: Tunnel,
    /// `encrypt` or `authenticate`; absent before the handshake.
    pub mode: Option<String>,
    /// Slot length in seconds; absent before the handshake.
    pub period_seconds: Option<f64>,
    /// Current slot number; absent before the handshake.
    pub slot: Option<u64>,
    /// Own address and port in the current slot; absent before the handshake.
    pub local: Option<Endpoint>,
    /// The other end's address and port in the current slot; absent before the handshake.
    pub remote: Option<Endpoint>,
    /// The other end's prefix, as far as it is known.
    pub prefix: Option<IpNet>,
    /// Seconds since the last valid packet; absent before the first one.
    pub last_valid_seconds: Option<f64>,
    /// Session clock minus wall clock, in seconds; absent before the handshake.
    pub clock_offset_seconds: Option<f64>,
    /// Seconds since its keys were agreed on.
    pub rekeyed_seconds: Option<f64>,
    /// As [`Peer::path_mtu`].
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// Inner packets and bytes received.
    pub received: Traffic,
    /// Inner packets and bytes sent.
    pub sent: Traffic,
    /// What the operator should look at, when something seems wrong.
    pub hint: Option<String>,
}

impl Session {
    /// A client's session of which nothing is known yet, for what is known to be filled in.
    pub fn unknown() -> Self {
        Self {
            name: String::new(),
            public_key: String::new(),
            role: SessionRole::Client,
            state: SessionState::Finding,
            tunnel: Tunnel::default(),
            mode: None,
            period_seconds: None,
            slot: None,
            local: None,
            remote: None,
            prefix: None,
            last_valid_seconds: None,
            clock_offset_seconds: None,
            rekeyed_seconds: None,
            path_mtu: None,
            received: Traffic::default(),
            sent: Traffic::default(),
            hint: None,
        }
    }
}

/// See [`Session::role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionRole {
    /// It connected to the other end.
    Client,
    /// The other end connected to it.
    Server,
}

/// See [`Session::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// The client looks for the server's introduction.
    Finding,
    /// The client has found it, and the handshake is under way.
    Connecting,
    /// The server has answered, and waits for the client's first data packet.
    HalfOpen,
    /// Valid packets arrive.
    Open,
    /// Valid packets arrived once, none lately.
    Silent,
    /// It is being torn down.
    Closing,
}

impl SessionState {
    /// The state in the word of the documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Connecting => "connecting",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
            Self::Silent => "silent",
            Self::Closing => "closing",
        }
    }
}

/// Addresses of a session in the tunnel; empty as long as they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Of this host.
    pub local: Vec<IpAddr>,
    /// Of the other end.
    pub remote: Vec<IpAddr>,
}

/// The document of `GET /v1/peers`: who may come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The registered clients, by name.
    pub peers: Vec<Client>,
}

/// A registered client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
    /// The file that registers it; absent when the configuration does.
    pub file: Option<PathBuf>,
    /// Its tunnel addresses, as far as it has any.
    pub addresses: Vec<IpAddr>,
    /// State of the session with it; absent without one.
    pub session: Option<SessionState>,
}

/// The document of `POST /v1/reload`: what changed in the registry. Names of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// [`SCHEMA`].
    pub schema: u32,
    /// New ones.
    pub added: Vec<String>,
    /// Those that may no longer come.
    pub removed: Vec<String>,
    /// Those with the same key and another name or other fixed addresses.
    pub changed: Vec<String>,
    /// Files that were left out, and why.
    pub warnings: Vec<String>,
    /// Settings of the configuration file that differ from those in force. What is about clients is in force now.
    pub settings: Vec<Setting>,
}

/// A setting of the configuration file that is not in force: it needs a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The key, with the names of its tables.
    pub key: String,
    /// What is in force, in TOML; absent: the default.
    pub in_force: Option<String>,
    /// What the file says, in TOML; absent: the default.
    pub in_file: Option<String>,
}

/// An outer address and UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IPv6 address.
    pub address: Ipv6Addr,
    /// UDP port.
    pub port: u16,
}

/// A line of `GET /v1/drops/events` and of `mtd drops --follow --json`: one dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Unix time in ns.
    pub time_ns: u64,
    /// Name of the reason (`mtd_common::DropReason`).
    pub reason: String,
    /// It was not dropped: nothing is enforced.
    #[serde(default)]
    pub passed: bool,
    /// `receive` or `send`.
    pub direction: String,
    /// Interface index where the packet was seen.
    pub ifindex: u32,
    /// Source address, if it was read.
    pub source: Option<IpAddr>,
    /// Source port, if there was one.
    pub source_port: Option<u16>,
    /// Destination address, if it was read.
    pub destination: Option<IpAddr>,
    /// Destination port, if there was one.
    pub destination_port: Option<u16>,
    /// IPv6 next header, if it was read.
    pub next_header: Option<u8>,
    /// Length of the frame in bytes.
    pub length: u32,
}
