//! Statically configured peers.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::model::Traffic;

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
    /// Longest packet in bytes that the path to the peer carries; `None`: as long as the interface carries.
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// How that is known.
    #[serde(default)]
    pub path_source: PathSource,
    /// Packets from the peer's own prefix that were dropped, by reason, as far as they were sampled: they tell a wrong
    /// configuration from an absent peer.
    pub dropped_from_prefix: BTreeMap<String, u64>,
    /// A hint for the operator, when something seems wrong.
    pub hint: Option<String>,
}

/// See [`Peer::path_source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathSource {
    /// It is what the interface carries, or `mtu` says; nothing is known of the path.
    #[default]
    Configured,
    /// A router has reported it.
    Told,
    /// Probes have found it out.
    Probed,
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
    /// The name of the state in the documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Open => "open",
            Self::Silent => "silent",
        }
    }
}

/// An outer address and UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IPv6 address.
    pub address: Ipv6Addr,
    /// UDP port.
    pub port: u16,
}
