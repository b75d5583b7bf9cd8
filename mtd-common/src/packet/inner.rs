//! Inner packets: the packets carried through the tunnel.

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::bytes::{be16, ne64, part, part_mut};
use crate::checksum;
use crate::drop_reason::DropReason;
use crate::packet::outer::{CE, NOT_ECT};

/// Bytes of the shortest inner header, IPv4's.
pub const IPV4: usize = 20;

/// Facts read from an inner header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IP version, 4 or 6.
    pub version: u8,
    /// EtherType for the frame that it is delivered in.
    pub ethertype: u16,
    /// Source address; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination address; IPv4 as `::ffff:a.b.c.d`.
    pub destination: [u8; 16],
    /// ECN codepoint.
    pub ecn: u8,
    /// Next header (IPv6) or protocol (IPv4).
    pub next_header: u8,
}

/// IPv6 next header of a control message between the controllers, which is never handed to the tunnel device. One of
/// the two numbers for experiments (RFC 3692).
pub const NEXT_CONTROL: u8 = 254;

/// Mark (`SO_MARK`) of the control messages that the controller sends into the tunnel device. Others must not send any:
/// the peer would take them for messages of this controller.
pub const CONTROL_MARK: u32 = 0x6d74_6401;

/// As [`CONTROL_MARK`], for a message that goes out in the present slot, wherever the peer was heard: it opens the way back
/// through a middlebox on this side.
pub const OPENER_MARK: u32 = 0x6d74_6402;

/// As [`CONTROL_MARK`], for a message that goes out in the slot after the present one, in which the peer has sent nothing
/// yet: it arrives only if nothing on the peer's side holds back what was not asked for.
pub const PROBE_MARK: u32 = 0x6d74_6403;

/// Whether a packet with this mark comes from the controller.
#[inline(always)]
pub const fn is_controllers(mark: u32) -> bool {
    matches!(mark, CONTROL_MARK | OPENER_MARK | PROBE_MARK)
}

impl Inner {
    /// Whether the packet is a control message between the controllers.
    #[inline(always)]
    pub const fn is_control(&self) -> bool {
        self.version == 6 && self.next_header == NEXT_CONTROL
    }

    /// Whether the packet is a UDP datagram in IPv6 without extension headers, as outer packets are.
    #[inline(always)]
    pub const fn is_udp6(&self) -> bool {
        self.version == 6 && self.next_header == super::NEXT_UDP
    }
}

/// An IPv4 address as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub const fn mapped(ipv4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = ipv4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
const fn is_mapped(address: &[u8; 16]) -> bool {
    ne64::<0, 16>(address) == 0 && u32::from_be_bytes(*part::<8, 4, 16>(address)) == 0xffff
}

/// The IP version of an inner packet.
#[inline(always)]
pub const fn version(first: u8) -> u8 {
    first >> 4
}

/// Reads an inner IPv4 header; `length` is the length of the inner packet in bytes.
///
/// # Errors
/// [`DropReason::MalformedInner`] when version, header length or total length do not fit.
#[inline(always)]
pub const fn ipv4(header: &[u8; IPV4], length: usize) -> Result<Inner, DropReason> {
    let words = header[0] & 0x0f;
    if version(header[0]) != 4 || words < 5 || words as usize * 4 > length {
        return Err(DropReason::MalformedInner);
    }
    if be16::<2, IPV4>(header) as usize != length {
        return Err(DropReason::MalformedInner);
    }
    Ok(Inner {
        version: 4,
        ethertype: ETHERTYPE_IPV4,
        source: mapped(*part::<12, 4, IPV4>(header)),
        destination: mapped(*part::<16, 4, IPV4>(header)),
        ecn: header[1] & 3,
        next_header: header[9],
    })
}

/// Reads an inner IPv6 header; `length` is the length of the inner packet in bytes.
///
/// # Errors
/// [`DropReason::MalformedInner`] when version or payload length do not fit, or an address is an IPv4-mapped one,
/// which no packet carries (RFC 4291 section 2.5.5.2) and which would pass for an IPv4 peer's.
#[inline(always)]
pub const fn ipv6(header: &[u8; 40], length: usize) -> Result<Inner, DropReason> {
    if version(header[0]) != 6 || be16::<4, 40>(header) as usize + 40 != length {
        return Err(DropReason::MalformedInner);
    }
    if is_mapped(part::<8, 16, 40>(header)) || is_mapped(part::<24, 16, 40>(header)) {
        return Err(DropReason::MalformedInner);
    }
    Ok(Inner {
        version: 6,
        ethertype: ETHERTYPE_IPV6,
        source: *part::<8, 16, 40>(header),
        destination: *part::<24, 16, 40>(header),
        ecn: (header[1] >> 4) & 3,
        next_header: header[6],
    })
}

/// The ECN codepoint that the inner packet leaves the tunnel with (RFC 6040 section 4.2).
///
/// # Errors
/// [`DropReason::Ecn`] when congestion was experienced and the inner packet cannot carry that mark.
#[inline(always)]
pub const fn decapsulated_ecn(inner: u8, outer: u8) -> Result<u8, DropReason> {
    match (inner, outer) {
        (NOT_ECT, CE) => Err(DropReason::Ecn),
        (_, CE) => Ok(CE),
        // ECT(0) inside, ECT(1) outside: the mark of a milder congestion signal is kept.
        (2, 1) => Ok(1),
        _ => Ok(inner),
    }
}

/// Sets the ECN codepoint of an IPv4 header and updates its checksum.
#[inline(always)]
pub const fn set_ipv4_ecn(header: &mut [u8; IPV4], ecn: u8) {
    let old = *part::<0, 2, IPV4>(header);
    let new = [old[0], old[1] & !3 | ecn];
    *part_mut::<0, 2, IPV4>(header) = new;
    *part_mut::<10, 2, IPV4>(header) = checksum::update(*part::<10, 2, IPV4>(header), old, new);
}

/// Sets the ECN codepoint of an IPv6 header.
#[inline(always)]
pub const fn set_ipv6_ecn(header: &mut [u8; 40], ecn: u8) {
    header[1] = header[1] & !0x30 | ecn << 4;
}
