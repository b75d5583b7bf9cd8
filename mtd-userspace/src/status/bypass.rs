//! What goes through the tunnel although mtd's own packets go past it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Routes into the tunnel device that would catch mtd's own packets, and the way by which these get past them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypass {
    /// Mark of mtd's own packets (`fwmark` in `ip rule`), and number of the routing table.
    pub mark: u32,
    /// The networks whose routes are in that table.
    pub networks: Vec<IpNet>,
    /// The peers and servers that they lead to.
    pub peers: Vec<String>,
    /// Nothing leaves past the tunnel.
    pub kill_switch: bool,
    /// Why rules or routes are not as they should be; absent if they are.
    #[serde(default)]
    pub problem: Option<String>,
}

/// The name servers behind the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Their addresses.
    pub servers: Vec<IpAddr>,
    /// Whether systemd-resolved was told to ask them: a session leads to one of them.
    pub used: bool,
    /// Why it could not be told; absent if it could, or needs not be.
    #[serde(default)]
    pub problem: Option<String>,
}
