//! The system calls of a capture: one frame with its time, direction and auxiliary data.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::Frame;
use crate::packet_socket::set_option;

/// How long one call waits for a frame, microseconds; bounds how long a stop takes.
const WAIT_MICROSECONDS: libc::suseconds_t = 20_000;

/// Room for the control messages (time stamp 16 bytes, auxiliary data 20 bytes, two headers), aligned for them.
type ControlBuffer = [u64; 16];

const ETHERNET_ADDRESSES: usize = 12;

/// Sets the socket's options: large buffer, time stamps, auxiliary data, bounded waits.
pub(super) fn configure(socket: &OwnedFd, buffer_bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(buffer_bytes).map_err(io::Error::other)?;
    let wait = libc::timeval { tv_sec: 0, tv_usec: WAIT_MICROSECONDS };
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1_i32)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, wait)?;
    set_option(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1_i32)
}

/// Receives into `frame`. Returns false if no frame came in time, or with `no_wait` if none is queued.
pub(super) fn next_frame(
    socket: &OwnedFd,
    snap_len: usize,
    no_wait: bool,
    frame: &mut Frame,
) -> io::Result<bool> {
    frame.data.resize(snap_len, 0);
    let mut control: ControlBuffer = [0; 16];
    // SAFETY: all-zero is a valid value of these C structures.
    let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    let mut part = libc::iovec { iov_base: frame.data.as_mut_ptr().cast(), iov_len: snap_len };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of_val(&from) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_TRUNC | if no_wait { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: every pointer in `message` is to a live local or to `frame.data`, with its true length.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(length) = usize::try_from(length) else { return no_frame(io::Error::last_os_error()) };
    frame.wire_len = length;
    frame.data.truncate(length.min(snap_len));
    frame.outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
    frame.time_ns = 0;
    frame.checksum_pending = false;
    read_control(&message, frame);
    Ok(true)
}

/// Frames dropped for want of buffer since the socket was opened; the kernel resets the count on reading.
pub(super) fn kernel_drops(socket: &OwnedFd) -> io::Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a structure of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u64::from(statistics.tp_drops)) }
}

/// Returns false for an error that means only that there is no frame: the wait timed out, a signal came, or the interface
/// went down.
fn no_frame(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(false),
        _ => Err(error),
    }
}

fn read_control(message: &libc::msghdr, frame: &mut Frame) {
    // SAFETY: `message` was filled in by recvmsg and its control buffer is still alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header inside the control buffer.
        let (level, kind, data) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, libc::CMSG_DATA(header)) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => frame.time_ns = nanoseconds(read_at(data)),
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => apply_auxiliary(&read_at(data), frame),
            _ => {}
        }
        // SAFETY: `header` is a header inside the control buffer of `message`.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

/// Copies the plain C structure that a control message carries.
fn read_at<T: Copy>(data: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the kernel wrote a whole `T`, which level and type determine, at `data`; any bytes are a valid `T`, whose
    // fields are integers.
    unsafe {
        std::ptr::copy_nonoverlapping(data, value.as_mut_ptr().cast::<u8>(), size_of::<T>());
        value.assume_init()
    }
}

fn nanoseconds(time: libc::timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Checksum state, and the VLAN tag that the kernel takes out of incoming frames.
fn apply_auxiliary(auxiliary: &libc::tpacket_auxdata, frame: &mut Frame) {
    frame.checksum_pending = auxiliary.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
    if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && frame.data.len() >= ETHERNET_ADDRESSES {
        let [t0, t1] = auxiliary.tp_vlan_tpid.to_be_bytes();
        let [c0, c1] = auxiliary.tp_vlan_tci.to_be_bytes();
        frame.data.splice(ETHERNET_ADDRESSES..ETHERNET_ADDRESSES, [t0, t1, c0, c1]);
        frame.wire_len += 4;
    }
}
