//! Networks that contain more than the other side of the tunnel.

use ipnet::IpNet;

/// The shortest prefix of a network in particular. Shorter ones are a default route, or one that was cut in pieces.
const SHORTEST_NETWORK: u8 = 4;

/// Whether a network stands for everything of its IP version, alone or with others of its kind: a default route (`::/0`), or one
/// that was cut in pieces (`::/1` and `8000::/1`).
pub fn is_everything(net: &IpNet) -> bool {
    net.prefix_len() < SHORTEST_NETWORK
}

/// The firewall mark of mtd's own packets, by which routes into the tunnel let them pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FwMark {
    /// One that nobody else has, where it is needed.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one.
    Number(u32),
}
