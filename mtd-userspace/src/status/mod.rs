//! The controller's reports: the documents of the control socket, and of `--json`.

mod bypass;
mod drops;
mod enforcement;
mod events;
mod health;
mod neighbours;
mod peers;
mod registered;
mod rendezvous;
mod sessions;
mod tasks;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use mtd_common::DropReason;
use serde::{Deserialize, Serialize};

use crate::model::{Frames, MapFill, Program, Totals};

pub use bypass::{Bypass, Dns};
pub use drops::{DropLine, DroppedPacket};
pub use enforcement::Guard;
pub use events::{
    ConfigurationEvent, EventDocument, EventLine, PathEvent, RegistrationEvent, SessionEvent, TaskEvent,
};
pub use health::{ClockSource, Paths, Saved, SessionCount, Slots, WallClock, Warning, WarningCode};
pub use neighbours::Neighbours;
pub use peers::{Endpoint, Middlebox, PathSource, Peer, PeerState};
pub use registered::{Client, Registered, Reload, Setting};
pub use rendezvous::{IntroductionFile, Network, Rendezvous, RendezvousRole};
pub use sessions::{Handshakes, Remark, Session, SessionRole, SessionState, Tunnel};
pub use tasks::{Events, Repairs, Task};

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
    /// What the controller waits for before it starts, in words; absent once it has started.
    #[serde(default)]
    pub waiting_for: Option<String>,
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
    /// Dropped packets, by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
    /// Packets that enforcement would have dropped, by reason; only reasons that occurred.
    #[serde(default)]
    pub would_drop: BTreeMap<String, u64>,
    /// How packets that are not valid are handled.
    #[serde(default)]
    pub guard: Guard,
    /// How neighbours on the link learn of the own addresses; absent where the prefixes are routed, or no controller runs.
    #[serde(default)]
    pub neighbours: Option<Neighbours>,
    /// The peers of the configuration, in its order.
    pub peers: Vec<Peer>,
    /// The own public key, base64; absent without a key.
    pub public_key: Option<String>,
    /// How servers and clients find each other; absent when this host is neither server nor client.
    pub rendezvous: Option<Rendezvous>,
    /// Handshakes with clients; absent when this host is not a server.
    pub handshakes: Option<Handshakes>,
    /// Number of registered clients; absent when this host is not a server.
    pub clients_registered: Option<u64>,
    /// Warnings for the operator.
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
    /// Whether what must outlive a restart is on the disk; absent when no controller runs.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// The wall clock; absent when the kernel gives no information.
    #[serde(default)]
    pub clock: Option<WallClock>,
    /// Seconds since the last valid packet of any session; absent before the first one.
    #[serde(default)]
    pub last_valid_seconds: Option<f64>,
    /// The largest difference between a session's clock and the wall clock, either way, in seconds; absent without
    /// sessions.
    #[serde(default)]
    pub clock_offset_seconds: Option<f64>,
    /// Number of sessions by role and state; states that are possible are shown even if their number is 0.
    #[serde(default)]
    pub session_counts: Vec<SessionCount>,
    /// The tasks of the controller; empty when no controller runs.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// What goes through the tunnel although mtd's own packets go past it; absent where no route would catch these, or no
    /// controller runs.
    #[serde(default)]
    pub bypass: Option<Bypass>,
    /// The name servers behind the tunnel; absent where none are configured, or no controller runs.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// Repairs of the tunnel device since the controller started.
    #[serde(default)]
    pub tunnel_repairs: Repairs,
    /// The events of the controller.
    #[serde(default)]
    pub events: Events,
    /// The traffic of all sessions.
    #[serde(default)]
    pub traffic: Totals,
    /// The sessions with clients and with servers, servers first.
    #[serde(default)]
    pub sessions: Vec<Session>,
}

/// The counters of the programs, by their names in the documents.
pub fn by_name(counts: &BTreeMap<DropReason, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
}
