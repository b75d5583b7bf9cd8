//! Packet sockets on an interface of a namespace, shared by capture and injection.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::inject::Interface;
use crate::netns::Netns;

/// Which frames a packet socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// None: the socket only sends.
    Nothing,
    /// All that pass the interface in either direction.
    Everything,
}

/// Opens a raw packet socket on one interface. `configure` runs before the first frame can be queued.
pub(crate) fn open(
    netns: &Netns,
    interface: &Interface,
    receive: Receive,
    configure: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> Result<OwnedFd> {
    let socket = netns.enter(new_socket)?.context("cannot open a packet socket (root is needed)")?;
    configure(&socket).context("cannot set the options of a packet socket")?;
    bind(&socket, interface.index, receive)
        .with_context(|| format!("cannot bind a packet socket to {} in {}", interface.name, netns.name()))?;
    Ok(socket)
}

/// Sets a socket option that holds a plain value.
pub(crate) fn set_option<T: Copy>(socket: impl AsFd, level: i32, option: i32, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of a value that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a socket with protocol 0, so that no frame is queued before the socket is bound to its interface.
fn new_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was opened just now and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn bind(socket: &OwnedFd, index: u32, receive: Receive) -> io::Result<()> {
    let protocol = match receive {
        Receive::Nothing => 0,
        Receive::Everything => (libc::ETH_P_ALL as u16).to_be(),
    };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of an address that lives until the call returns.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
