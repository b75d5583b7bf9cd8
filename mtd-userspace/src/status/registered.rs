//! The registered clients.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SessionState;

/// The document of `GET /v1/peers`: the registered clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// [`super::SCHEMA`].
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
    /// The file that registers it; absent when it is in the configuration.
    pub file: Option<PathBuf>,
    /// Its tunnel addresses, if it has any.
    pub addresses: Vec<IpAddr>,
    /// State of the session with it; absent without one.
    pub session: Option<SessionState>,
}

/// The document of `POST /v1/reload`: the names of clients, by the kind of change in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// New clients.
    pub added: Vec<String>,
    /// Removed clients.
    pub removed: Vec<String>,
    /// Clients with the same key, and with another name or other fixed addresses.
    pub changed: Vec<String>,
    /// Peers, servers and clients of the configuration file with another filter than before, which is in force.
    #[serde(default)]
    pub filters: Vec<String>,
    /// Files that were left out, and why.
    pub warnings: Vec<String>,
    /// Settings of the configuration file that differ from those in force. Settings about clients have been applied.
    pub settings: Vec<Setting>,
}

/// A setting of the configuration file that is not in force: it needs a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The key, with the names of its tables.
    pub key: String,
    /// The value in force, in TOML; absent: the default.
    pub in_force: Option<String>,
    /// The value in the file, in TOML; absent: the default.
    pub in_file: Option<String>,
}
