//! Offsets of headers in a frame, in bytes.

use mtd_common::packet::{ETHERNET, IPV6, OVERHEAD, UDP, ndp};

/// The outer IPv6 header.
pub(crate) const IP: usize = ETHERNET;
/// The payload of the outer IPv6 header: UDP, or an ICMPv6 message.
pub(crate) const PAYLOAD: usize = ETHERNET + IPV6;
/// The header of mtd.
pub(crate) const MTD_HEADER: usize = PAYLOAD + UDP;
/// The inner packet of a sealed frame.
pub(crate) const INNER: usize = ETHERNET + OVERHEAD;

const _: () = assert!(PAYLOAD + ndp::WITH_OPTION == ndp::FRAME);
