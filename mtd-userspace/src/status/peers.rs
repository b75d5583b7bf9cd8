//! Statically configured peers.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::model::{MiddleboxChoice, Traffic};
use crate::proto::middlebox::Finding;

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
    /// What is known of a middlebox on this side; `None`: not reported by this version.
    #[serde(default)]
    pub middlebox: Option<Middlebox>,
    /// The other end asks to be answered only where it was heard, because of a middlebox on its side.
    #[serde(default)]
    pub answered_where_heard: bool,
    /// Number of rules of its filter; absent: it has none, and everything passes.
    #[serde(default)]
    pub filter_rules: Option<u32>,
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

/// See [`Peer::middlebox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Middlebox {
    /// There may be one: this end opens each slot.
    Assumed,
    /// There is one: this end opens each slot.
    Found,
    /// The other end has shown that there is none.
    None,
    /// `middlebox = "on"`: this end opens each slot.
    On,
    /// `middlebox = "off"`.
    Off,
}

impl Middlebox {
    /// What is configured, and what was found out.
    pub const fn of(choice: MiddleboxChoice, finding: Finding) -> Self {
        match (choice, finding) {
            (MiddleboxChoice::On, _) => Self::On,
            (MiddleboxChoice::Off, _) => Self::Off,
            (MiddleboxChoice::Auto, Finding::Assumed) => Self::Assumed,
            (MiddleboxChoice::Auto, Finding::Found) => Self::Found,
            (MiddleboxChoice::Auto, Finding::Absent) => Self::None,
        }
    }

    /// The word in the documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assumed => "assumed",
            Self::Found => "found",
            Self::None => "none",
            Self::On => "on",
            Self::Off => "off",
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
