//! Router advertisements (RFC 4861, section 4.2), as routers send them to all hosts of a link.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv6Net;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};

use crate::inject::Interface;
use crate::netns::Netns;
use crate::packet_socket::set_option;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Hosts ignore advertisements that a router may have forwarded.
const HOP_LIMIT: i32 = 255;

/// A prefix of an advertisement (RFC 4861, section 4.6.2).
#[derive(Debug, Clone, Copy)]
pub struct Advertised {
    /// The prefix.
    pub net: Ipv6Net,
    /// Whether it is on the link: hosts get a route.
    pub on_link: bool,
    /// Whether hosts give themselves addresses in it; otherwise a DHCP server gives them.
    pub autonomous: bool,
    /// How long both hold, in seconds.
    pub valid: u32,
    /// How long the addresses may be used for what is new, in seconds.
    pub preferred: u32,
}

impl Advertised {
    /// A prefix on the link in which hosts give themselves addresses, for an hour.
    pub const fn new(net: Ipv6Net) -> Self {
        Self { net, on_link: true, autonomous: true, valid: 3600, preferred: 3600 }
    }
}

/// Sends an advertisement from a router's interface. `lifetime`: for how long it is a default router, in seconds; 0: it is
/// none.
///
/// # Errors
/// Without root, or when the interface has no address of the link.
pub fn advertise(netns: &Netns, ifname: &str, lifetime: u16, prefixes: &[Advertised]) -> Result<()> {
    let interface = Interface::resolve(netns, ifname)?;
    let open = || socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6);
    let socket = netns.enter(open)?.context("no ICMPv6 socket (root is needed)")?;
    set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, HOP_LIMIT)?;
    set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, interface.index.cast_signed())?;
    let to = SockaddrIn6::from(SocketAddrV6::new(ALL_NODES, 0, 0, interface.index));
    let message = message(lifetime, interface.mac, prefixes);
    let sent = sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())
        .with_context(|| format!("cannot advertise from {ifname}"))?;
    ensure!(sent == message.len(), "only {sent} bytes of an advertisement were sent");
    Ok(())
}

/// The ICMPv6 message; its checksum is the kernel's.
fn message(lifetime: u16, mac: [u8; 6], prefixes: &[Advertised]) -> Vec<u8> {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const SOURCE_LINK_ADDRESS: [u8; 2] = [1, 1];
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend(lifetime.to_be_bytes());
    // Reachable time and time between solicitations: not told.
    message.extend([0; 8]);
    message.extend(SOURCE_LINK_ADDRESS);
    message.extend(mac);
    for prefix in prefixes {
        let flags = u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6;
        message.extend([3, 4, prefix.net.prefix_len(), flags]);
        message.extend(prefix.valid.to_be_bytes());
        message.extend(prefix.preferred.to_be_bytes());
        message.extend([0; 4]);
        message.extend(prefix.net.addr().octets());
    }
    message
}
