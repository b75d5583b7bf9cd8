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
    /// Searches of one window to which nodes answered that they have nothing.
    #[serde(default)]
    pub absent: u64,
    /// Publications and fetches that are due or under way.
    pub pending: u64,
    /// Data from the DHT that was not accepted, by reason; only reasons that occurred.
    pub rejected: BTreeMap<String, u64>,
    /// Seconds until the next publication or fetch; absent when none is planned.
    pub next_seconds: Option<f64>,
    /// Whether the DHT can be reached.
    pub network: Network,
    /// Why it cannot; absent when it can.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Nodes that have answered and are kept for the next start.
    #[serde(default)]
    pub known_nodes: u64,
    /// Files with introductions: those of `introduction_file`, and the folder `introductions_dir`.
    #[serde(default)]
    pub files: Vec<IntroductionFile>,
    /// Median time of the fetches that found something, in ms.
    pub median_fetch_ms: Option<f64>,
}

/// See [`Rendezvous::files`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntroductionFile {
    /// The server whose introductions are in the file; absent for the folder of a server.
    pub server: Option<String>,
    /// The file or folder.
    pub path: String,
    /// When the last window of its introductions ends, in unix seconds; absent if there are none.
    pub good_until: Option<f64>,
    /// Why it is of no use now; absent if it is.
    pub problem: Option<String>,
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
