//! Marking the sockets of DHT nodes. The crate makes them itself and does not hand them out.

use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{BorrowedFd, RawFd};

use nix::sys::socket::{SockType, SockaddrIn, getsockname, getsockopt, setsockopt, sockopt};

/// Gives the UDP sockets of this process that are bound to this port a mark.
///
/// # Errors
/// When there are none, or the kernel refuses.
pub(super) fn mark_sockets(port: u16, mark: u32) -> io::Result<()> {
    let mut found = false;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        let Ok(address) = getsockname::<SockaddrIn>(fd) else { continue };
        if SocketAddrV4::from(address).port() != port {
            continue;
        }
        // SAFETY: the number was that of an open descriptor a moment ago, and is not kept. Should another thread have closed it
        // meanwhile, the calls fail, or are about another descriptor of this process, which they do not close.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        if getsockopt(&socket, sockopt::SockType)? == SockType::Datagram {
            setsockopt(&socket, sockopt::Mark, &mark)?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}
