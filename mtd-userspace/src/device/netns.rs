//! Which network namespace this is.

use std::io;
use std::mem::size_of_val;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A setting that the kernel shows in its initial network namespace only. Unlike `/proc/1/ns/net`, it tells an
/// unprivileged `mtd status` the same as the controller.
const INITIAL_ONLY: &str = "/proc/sys/net/core/netdev_budget";

/// `SO_NETNS_COOKIE` of asm-generic/socket.h (Linux 5.14), which the libc crate lacks.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A number for the calling thread's network namespace, or `None` in the kernel's initial one, the host's. Tells
/// apart instances of mtd that share a host but not a network namespace.
///
/// The number is the namespace's cookie: unlike its inode number, which the next namespace gets as soon as this one
/// is gone, it stays unique until the next boot, so that nobody adopts what a dead namespace left behind.
///
/// # Errors
/// Those of `socket(2)` and `getsockopt(2)`: no file descriptor left, or a kernel older than 5.14.
pub fn netns_tag() -> io::Result<Option<u64>> {
    if Path::new(INITIAL_ONLY).exists() {
        return Ok(None);
    }
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: `cookie` and `len` are live and exclusively borrowed, and `len` is the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Some(cookie)) }
}
