//! What the controller tells about itself: the documents of the control socket, and of `--json`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Version of the documents in this module. Fields may be added to a version, never changed or removed.
pub const SCHEMA: u32 = 1;

/// The document of `GET /v1/status` and of `mtd status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the controller.
    pub version: String,
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
    /// `routed` or `on-link`.
    pub link: String,
    /// Protected prefixes.
    pub prefixes: Vec<IpNet>,
    /// MTU of the tunnel device, in bytes.
    pub mtu: u32,
    /// Where programs and maps are pinned.
    pub pins: PathBuf,
    /// Frames counted since the data plane was attached.
    pub frames: Frames,
    /// Dropped packets by reason, the reasons that occurred only.
    pub drops: BTreeMap<String, u64>,
    /// The peers of the configuration, in its order.
    pub peers: Vec<Peer>,
}

/// Frames that were not dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Not ours: handed to the kernel untouched.
    pub passed: u64,
    /// Valid packets, opened and delivered.
    pub accepted: u64,
    /// Inner packets sealed and sent.
    pub sent: u64,
    /// Neighbour solicitations answered.
    pub neighbour_answered: u64,
    /// Drop events that were counted but not reported (rate limit, slow reader).
    pub events_suppressed: u64,
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

/// An outer address and UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IPv6 address.
    pub address: Ipv6Addr,
    /// UDP port.
    pub port: u16,
}

/// Inner packets.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, inner headers included.
    pub bytes: u64,
}

/// A line of `GET /v1/drops/events` and of `mtd drops --follow --json`: one dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Unix time in ns.
    pub time_ns: u64,
    /// Name of the reason (`mtd_common::DropReason`).
    pub reason: String,
    /// `receive` or `send`.
    pub direction: String,
    /// Interface index where the packet was seen.
    pub ifindex: u32,
    /// Source address, if it was read.
    pub source: Option<std::net::IpAddr>,
    /// Source port, if there was one.
    pub source_port: Option<u16>,
    /// Destination address, if it was read.
    pub destination: Option<std::net::IpAddr>,
    /// Destination port, if there was one.
    pub destination_port: Option<u16>,
    /// IPv6 next header, if it was read.
    pub next_header: Option<u8>,
    /// Length of the frame in bytes.
    pub length: u32,
}
