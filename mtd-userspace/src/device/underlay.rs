//! The link that carries the tunnel's packets.

use ipnet::IpNet;
use netlink_packet_route::link::{LinkFlags, LinkLayerType};

use super::address;
use super::error::{Error, Result};
use super::features;
use super::netlink::Netlink;
use super::prefix::{self, Lack, Prefix};

/// An Ethernet interface of the host, as it was when inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The interface's index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up and has carrier (`IFF_UP` and `IFF_LOWER_UP`).
    pub up: bool,
    /// The id of the XDP program that it runs, if it runs one.
    pub xdp_program: Option<u32>,
    /// Its addresses with their prefix lengths, IPv4 before IPv6.
    pub addresses: Vec<IpNet>,
    /// The prefixes on its link in which the host has an address, the one to choose first; or why there is none.
    pub prefixes: std::result::Result<Vec<Prefix>, Lack>,
}

impl Underlay {
    /// Looks at the interface `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the interfaces there are, [`Error::NotEthernet`] for interfaces whose packets have
    /// no Ethernet header (`lo`, tun, ppp), [`Error::Netlink`].
    pub async fn inspect(name: &str) -> Result<Self> {
        let netlink = Netlink::open()?;
        let link = netlink.existing_link(name).await?;
        let (LinkLayerType::Ether, Some(mac)) = (link.layer, link.mac) else {
            return Err(Error::NotEthernet {
                name: name.to_owned(),
                link_type: link.layer.to_string().to_lowercase(),
            });
        };
        let up = link.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let (addresses, ipv6) = address::examine(&netlink, link.index).await?;
        let prefixes = prefix::find(&netlink, (link.index, name), &ipv6).await?;
        let xdp_program = link.xdp_program;
        Ok(Self { ifindex: link.index, mac, mtu: link.mtu, up, xdp_program, addresses, prefixes })
    }
}

/// Receive offloads that merge several datagrams into one frame.
const MERGING: [&str; 3] = ["rx-udp-gro-forwarding", "rx-gro-list", "rx-lro"];

/// The receive offloads of an interface that are on and may merge datagrams, by the names of `ethtool -k`. The first two
/// act after an XDP program in the driver but before a generic one; the last acts before both.
///
/// # Errors
/// The kernel cannot be asked, or there is no such interface.
pub fn merging(name: &str) -> std::io::Result<Vec<&'static str>> {
    features::active(name, &MERGING)
}

/// The names of all interfaces, by ifindex.
///
/// # Errors
/// [`Error::Netlink`].
pub async fn interfaces() -> Result<Vec<String>> {
    Netlink::open()?.link_names().await
}
