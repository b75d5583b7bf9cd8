//! Tunnel addresses, and the networks that they come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The networks of the clients' tunnel addresses; at least one. This host has an address of each family that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// IPv6, [`Pool::V6_LENGTHS`] bits, host bits zero.
    pub v6: Option<Ipv6Net>,
    /// IPv4, [`Pool::V4_LENGTHS`] bits, host bits zero.
    pub v4: Option<Ipv4Net>,
}

impl Pool {
    /// Prefix lengths that an IPv6 network can have.
    pub const V6_LENGTHS: (u8, u8) = (32, 120);

    /// Prefix lengths that an IPv4 network can have.
    pub const V4_LENGTHS: (u8, u8) = (8, 30);

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v6.map(IpNet::V6).into_iter().chain(self.v4.map(IpNet::V4))
    }
}

/// Tunnel addresses of one host: at most one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TunnelAddresses {
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
}

impl TunnelAddresses {
    /// The addresses that are there.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v6.map(IpAddr::V6).into_iter().chain(self.v4.map(IpAddr::V4))
    }
}
