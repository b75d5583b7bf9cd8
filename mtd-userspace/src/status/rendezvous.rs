//! The part of the status about publishing and fetching introductions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Introductions that are published for clients and fetched from servers.
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
    /// Data from the DHT that was not accepted, by reason; only reasons that occurred.
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
    /// No request was made yet.
    Unknown,
}
