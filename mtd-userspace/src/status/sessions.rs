//! Sessions with registered clients and with servers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Middlebox, PathSource};
use crate::model::Traffic;

/// Handshakes that clients have begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// The version of the handshake that this host speaks.
    #[serde(default)]
    pub version: u8,
    /// First messages in introductions.
    pub received: u64,
    /// First messages that were answered.
    pub answered: u64,
    /// First messages that were refused, by reason; only reasons that occurred.
    pub refused: BTreeMap<String, u64>,
    /// Sessions whose client has sent no data packet yet.
    pub half_open: u64,
    /// Clients with which something is wrong that only people can mend.
    #[serde(default)]
    pub remarks: Vec<Remark>,
}

/// What the operator should know of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The code of the warning that says so, too.
    pub code: String,
    /// Name of the client.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
    /// What is wrong, and the way out.
    pub text: String,
}

/// A session with a registered client or with a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Name of the other end.
    pub name: String,
    /// Public key of the other end, base64.
    pub public_key: String,
    /// This host's role in it.
    pub role: SessionRole,
    /// Its state.
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
    /// The other end's prefix, if known.
    pub prefix: Option<IpNet>,
    /// Seconds since the last valid packet; absent before the first one.
    pub last_valid_seconds: Option<f64>,
    /// Session clock minus wall clock, in seconds; absent before the handshake.
    pub clock_offset_seconds: Option<f64>,
    /// Seconds since its keys were agreed on.
    pub rekeyed_seconds: Option<f64>,
    /// As [`super::Peer::path_mtu`].
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// As [`super::Peer::path_source`].
    #[serde(default)]
    pub path_source: PathSource,
    /// Whether a router on the way translates the client's addresses: the server answers where it hears the client.
    #[serde(default)]
    pub translated: bool,
    /// As [`super::Peer::middlebox`]; absent at the server's end.
    #[serde(default)]
    pub middlebox: Option<Middlebox>,
    /// As [`super::Peer::answered_where_heard`].
    #[serde(default)]
    pub answered_where_heard: bool,
    /// What the other end can do, as it has said in the handshake; absent before one, and after a restart until the keys are
    /// renewed.
    #[serde(default)]
    pub capabilities: Option<Vec<String>>,
    /// Inner packets and bytes received.
    pub received: Traffic,
    /// Inner packets and bytes sent.
    pub sent: Traffic,
    /// A hint for the operator, when something seems wrong.
    pub hint: Option<String>,
    /// Why a client's last try for a session failed, as [`crate::proto::client::Trouble::name`] has it; absent while the
    /// session is open, and at the server's end.
    #[serde(default)]
    pub trouble: Option<String>,
}

impl Session {
    /// A client's session without any data yet, to be filled in.
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
            path_source: PathSource::Configured,
            translated: false,
            middlebox: None,
            answered_where_heard: false,
            capabilities: None,
            received: Traffic::default(),
            sent: Traffic::default(),
            hint: None,
            trouble: None,
        }
    }
}

/// See [`Session::role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionRole {
    /// This host connected to the other end.
    Client,
    /// The other end connected to this host.
    Server,
}

/// See [`Session::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// The client is looking for the server's introduction.
    Finding,
    /// The client has found it, and the handshake is in progress.
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
    /// The name of the state in the documents.
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

/// Addresses of a session in the tunnel; empty while they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Of this host.
    pub local: Vec<IpAddr>,
    /// Of the other end.
    pub remote: Vec<IpAddr>,
}
