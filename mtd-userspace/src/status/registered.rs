//! Who may come.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SessionState;

/// The document of `GET /v1/peers`: who may come.
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
    /// [`super::SCHEMA`].
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
