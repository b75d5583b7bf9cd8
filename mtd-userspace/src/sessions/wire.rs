//! The two sockets by which the controller sends: whole IPv6 packets of introductions on the network, and control messages
//! of sessions into the tunnel device, where the send program seals them.

use std::ffi::OsString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mtd_common::packet::ETHERTYPE_IPV6;
use mtd_common::packet::inner::{CONTROL_MARK, OPENER_MARK, PROBE_MARK};
use nix::sys::socket::{setsockopt, sockopt};

use crate::device::TunnelInfo;
use crate::proto::exchange::SendSlot;

/// The packets that the controller sends itself.
pub(super) trait Wire: Send {
    /// Sends a packet, which begins with its IPv6 header, on the underlay.
    fn transmit(&self, packet: &[u8]) -> io::Result<()>;

    /// Sends an inner packet, a control message, into the tunnel device; in this slot, or like any other packet.
    fn inject(&self, inner: &[u8], slot: Option<SendSlot>) -> io::Result<()>;

    /// The tunnel device is this one from now on.
    fn set_tunnel(&mut self, device: &TunnelInfo);
}

/// The sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    network: OwnedFd,
    tunnel: OwnedFd,
    /// Two more of that kind, whose packets go out in the present and in the next slot.
    present: OwnedFd,
    next: OwnedFd,
    tunnel_ifindex: u32,
    tunnel_mac: [u8; 6],
}

impl Sockets {
    /// Opens the sockets. Packets leave by this interface, whatever the routes say, since a route may lead into the tunnel.
    /// They have this mark (0: none). Control messages go into the tunnel device.
    pub(super) fn open(underlay: &str, device: &TunnelInfo, mark: u32) -> io::Result<Self> {
        // The packet includes its header, and the kernel does not check it: any source address is possible.
        let network = socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        setsockopt(&network, sockopt::BindToDevice, &OsString::from(underlay))?;
        if mark != 0 {
            setsockopt(&network, sockopt::Mark, &mark)?;
        }
        Ok(Self {
            network,
            tunnel: marked(CONTROL_MARK)?,
            present: marked(OPENER_MARK)?,
            next: marked(PROBE_MARK)?,
            tunnel_ifindex: device.ifindex,
            tunnel_mac: device.mac,
        })
    }
}

impl Wire for Sockets {
    fn set_tunnel(&mut self, device: &TunnelInfo) {
        (self.tunnel_ifindex, self.tunnel_mac) = (device.ifindex, device.mac);
    }

    fn transmit(&self, packet: &[u8]) -> io::Result<()> {
        let destination = packet.get(24..40).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let destination = destination.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: all zero is a valid value of this plain structure.
        let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        address.sin6_addr.s6_addr = destination;
        send(&self.network, packet, &address)
    }

    fn inject(&self, inner: &[u8], slot: Option<SendSlot>) -> io::Result<()> {
        let socket = match slot {
            None => &self.tunnel,
            Some(SendSlot::Present) => &self.present,
            Some(SendSlot::Next) => &self.next,
        };
        let mut frame = Vec::with_capacity(14 + inner.len());
        frame.extend(self.tunnel_mac);
        frame.extend(self.tunnel_mac);
        frame.extend(ETHERTYPE_IPV6.to_be_bytes());
        frame.extend(inner);
        // SAFETY: all zero is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = ETHERTYPE_IPV6.to_be();
        address.sll_ifindex = self.tunnel_ifindex.cast_signed();
        address.sll_halen = 6;
        send(socket, &frame, &address)
    }
}

/// A socket for packets with a mark. Hosts behind this one must not send in the controller's name: the send program checks
/// the mark.
fn marked(mark: u32) -> io::Result<OwnedFd> {
    // Made for protocol 0, so that it receives nothing.
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    Ok(socket)
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and returns a descriptor that is ours, or an error.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made, and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send<A>(socket: &OwnedFd, bytes: &[u8], address: &A) -> io::Result<()> {
    // SAFETY: both references are valid for their lengths during the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            std::ptr::from_ref(address).cast(),
            size_of::<A>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
