//! What neighbours are told by: solicitations, and memberships in groups.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::mem::size_of_val;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mtd_common::packet::ndp;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use crate::model::BootNs;

/// Most groups that this host is in at a time: switches and network cards have room for a few hundred.
const MAX_GROUPS: usize = 128;

/// A raw socket, whose packets leave by the underlay, with any source address.
pub(super) struct Solicitor {
    socket: OwnedFd,
    ifindex: u32,
}

impl Solicitor {
    /// Opens the socket. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn open(underlay: &str, ifindex: u32) -> io::Result<Self> {
        // SAFETY: takes numbers, and returns a descriptor that is ours, or an error.
        let fd = unsafe {
            libc::socket(
                libc::AF_INET6,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                libc::IPPROTO_RAW,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made, and that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(underlay))?;
        Ok(Self { socket, ifindex })
    }

    /// Tells a neighbour that `own` has this MAC address, by a solicitation for the neighbour's own address (RFC 4861 section
    /// 7.2.3). The kernel finds the neighbour.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn tell(&self, neighbour: Ipv6Addr, own: Ipv6Addr, mac: [u8; 6]) -> io::Result<()> {
        let packet = ndp::solicit(mac, &own.octets(), &neighbour.octets());
        // SAFETY: all zero is a valid value of this plain structure.
        let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        address.sin6_addr.s6_addr = neighbour.octets();
        if neighbour.is_unicast_link_local() {
            address.sin6_scope_id = self.ifindex;
        }
        // SAFETY: both references are valid for their lengths during the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The groups in which solicitations for own addresses come, by which switches and network cards know whom to send them to.
pub(super) struct Groups {
    socket: UdpSocket,
    ifindex: u32,
    /// Until when each is needed.
    joined: HashMap<Ipv6Addr, BootNs>,
}

impl Groups {
    /// None joined yet.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        // Not bound to a port: it receives nothing.
        let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket: socket.into(), ifindex, joined: HashMap::new() })
    }

    /// Joins the group of an own address until then. False: there are too many already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn join(&mut self, own: Ipv6Addr, until: BootNs) -> io::Result<bool> {
        let group = Ipv6Addr::from(ndp::solicited_node(&own.octets()));
        if let Some(present) = self.joined.get_mut(&group) {
            *present = until.max(*present);
            return Ok(true);
        }
        if self.joined.len() >= MAX_GROUPS {
            return Ok(false);
        }
        self.socket.join_multicast_v6(&group, self.ifindex)?;
        self.joined.insert(group, until);
        Ok(true)
    }

    /// Leaves the groups that are not needed any more.
    pub(super) fn leave(&mut self, now: BootNs) {
        let (socket, ifindex) = (&self.socket, self.ifindex);
        self.joined.retain(|group, until| {
            let needed = *until > now;
            if !needed {
                // The interface may have gone, and the membership with it.
                let _ = socket.leave_multicast_v6(group, ifindex);
            }
            needed
        });
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.joined.len()
    }
}
