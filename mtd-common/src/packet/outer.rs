//! The packet on the wire: IPv6, UDP, masked sequence number, tag, sealed inner packet (`docs/wire-format.md`).

use super::{IPV6, MTD, NEXT_ICMPV6, NEXT_TCP, NEXT_UDP, OVERHEAD, UDP};
use crate::abi::{FLAG_ANYBODY, Session, Slot};
use crate::bytes::{be16, le64, part, part_mut};
use crate::checksum;
use crate::drop_reason::DropReason;
use crate::siphash;

/// Hop limit of every packet that mtd sends.
pub const HOP_LIMIT: u8 = 64;

/// Shortest inner packet: a bare IPv4 header.
pub const MIN_INNER: usize = 20;

/// ECN codepoint: not capable.
pub const NOT_ECT: u8 = 0;
/// ECN codepoint: congestion experienced.
pub const CE: u8 = 3;

/// Destination address of an IPv6 header.
#[inline(always)]
pub const fn destination(ipv6: &[u8; IPV6]) -> &[u8; 16] {
    part::<24, 16, IPV6>(ipv6)
}

/// Source address of an IPv6 header.
#[inline(always)]
pub const fn source(ipv6: &[u8; IPV6]) -> &[u8; 16] {
    part::<8, 16, IPV6>(ipv6)
}

/// Next-header field of an IPv6 header.
#[inline(always)]
pub const fn next_header(ipv6: &[u8; IPV6]) -> u8 {
    ipv6[6]
}

/// ECN codepoint of an IPv6 header.
#[inline(always)]
pub const fn ecn(ipv6: &[u8; IPV6]) -> u8 {
    (ipv6[1] >> 4) & 3
}

/// Whether the packet is UDP straight after the IPv6 header, the only thing a peer sends.
///
/// # Errors
/// The reason that fits the next header.
#[inline(always)]
pub const fn require_udp(ipv6: &[u8; IPV6]) -> Result<(), DropReason> {
    match next_header(ipv6) {
        NEXT_UDP => Ok(()),
        NEXT_TCP => Err(DropReason::Tcp),
        NEXT_ICMPV6 => Err(DropReason::Icmpv6),
        44 => Err(DropReason::Fragment),
        // Hop-by-hop, routing, authentication, none, destination options, mobility, HIP, shim6.
        0 | 43 | 51 | 59 | 60 | 135 | 139 | 140 => Err(DropReason::ExtensionHeader),
        _ => Err(DropReason::OtherProtocol),
    }
}

/// Whether ports and source of a packet to a live address are those of its slot.
///
/// # Errors
/// [`DropReason::WrongPort`], [`DropReason::WrongPeer`].
#[inline(always)]
pub fn require_peer(
    session: &Session,
    slot: &Slot,
    ipv6: &[u8; IPV6],
    udp: &[u8; UDP],
) -> Result<(), DropReason> {
    if *part::<2, 2, UDP>(udp) != slot.local_port {
        return Err(DropReason::WrongPort);
    }
    let fits = *part::<0, 2, UDP>(udp) == slot.peer_port
        && *part::<8, 8, IPV6>(ipv6) == session.peer_high
        && *part::<16, 8, IPV6>(ipv6) == slot.peer_low;
    // Checked last: nearly every session has a peer.
    if fits || session.flags & FLAG_ANYBODY != 0 { Ok(()) } else { Err(DropReason::WrongPeer) }
}

/// The length of the sealed inner packet, once all lengths agree. `frame` is the length of the packet from the
/// IPv6 header on, in bytes.
///
/// The fields that routers change (hop limit, and the traffic class with its ECN bits) may have any value; the
/// flow label, which no router should change, must be zero.
///
/// # Errors
/// [`DropReason::FlowLabel`], [`DropReason::LengthMismatch`], [`DropReason::TooShort`], [`DropReason::Oversized`].
#[inline(always)]
pub fn inner_length(
    ipv6: &[u8; IPV6],
    udp: &[u8; UDP],
    frame: usize,
    inner_mtu: u32,
) -> Result<usize, DropReason> {
    if ipv6[0] >> 4 != 6 {
        return Err(DropReason::LengthMismatch);
    }
    if ipv6[1] & 0x0f != 0 || ipv6[2] != 0 || ipv6[3] != 0 {
        return Err(DropReason::FlowLabel);
    }
    let payload = be16::<4, IPV6>(ipv6);
    if payload != be16::<4, UDP>(udp) || payload as usize + IPV6 != frame {
        return Err(DropReason::LengthMismatch);
    }
    if frame < OVERHEAD + MIN_INNER {
        return Err(DropReason::TooShort);
    }
    let inner = frame - OVERHEAD;
    if inner > inner_mtu as usize {
        return Err(DropReason::Oversized);
    }
    Ok(inner)
}

/// The tag of a header, as two little-endian words.
#[inline(always)]
pub const fn tag(header: &[u8; MTD]) -> [u64; 2] {
    [le64::<8, MTD>(header), le64::<16, MTD>(header)]
}

/// The sequence number of a header, unmasked.
#[inline(always)]
pub const fn sequence(header: &[u8; MTD], mask: &[u8; 16]) -> u64 {
    le64::<0, MTD>(header) ^ siphash::hash16(mask, tag(header))
}

/// Whether the UDP checksum is correct, given the running sum of the sealed inner packet.
#[inline(always)]
pub const fn checksum_valid(ipv6: &[u8; IPV6], udp: &[u8; UDP], header: &[u8; MTD], sealed: u64) -> bool {
    let [tag0, tag1] = tag(header);
    let sum = checksum::udp_header(
        source(ipv6),
        destination(ipv6),
        *part::<0, 2, UDP>(udp),
        *part::<2, 2, UDP>(udp),
        be16::<4, UDP>(udp),
    );
    let sum = checksum::add64(sum, le64::<0, MTD>(header).to_le());
    let sum = checksum::add64(checksum::add64(sum, tag0.to_le()), tag1.to_le());
    let field = u16::from_ne_bytes(*part::<6, 2, UDP>(udp));
    // A field of zero means "no checksum", which IPv6 forbids (RFC 8200 section 8.1).
    field != 0 && checksum::fold(checksum::add64(sum, sealed) + field as u64) == 0xffff
}

/// Everything that the headers of a packet to be sent are made from.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// The halves of the own address.
    pub local: [&'a [u8; 8]; 2],
    /// The halves of the peer's address.
    pub peer: [&'a [u8; 8]; 2],
    /// Own UDP port, network order.
    pub local_port: [u8; 2],
    /// The peer's UDP port, network order.
    pub peer_port: [u8; 2],
    /// Key of the sequence mask.
    pub mask: &'a [u8; 16],
    /// Sequence number.
    pub sequence: u64,
    /// Tag over the inner packet.
    pub tag: [u64; 2],
    /// Running Internet checksum of the sealed inner packet.
    pub checksum: u64,
    /// Bytes of the inner packet.
    pub inner: u16,
    /// ECN codepoint of the inner packet, copied to the outside (RFC 6040 section 4.1).
    pub ecn: u8,
}

impl Send<'_> {
    /// Writes all headers in front of the sealed inner packet.
    #[inline(always)]
    pub fn write(&self, out: &mut [u8; OVERHEAD]) {
        let length = self.inner + (UDP + MTD) as u16;
        let masked = self.sequence ^ siphash::hash16(self.mask, self.tag);

        let ipv6 = part_mut::<0, IPV6, OVERHEAD>(out);
        *part_mut::<0, 4, IPV6>(ipv6) = [0x60, self.ecn << 4, 0, 0];
        *part_mut::<4, 2, IPV6>(ipv6) = length.to_be_bytes();
        *part_mut::<6, 2, IPV6>(ipv6) = [NEXT_UDP, HOP_LIMIT];
        *part_mut::<8, 8, IPV6>(ipv6) = *self.local[0];
        *part_mut::<16, 8, IPV6>(ipv6) = *self.local[1];
        *part_mut::<24, 8, IPV6>(ipv6) = *self.peer[0];
        *part_mut::<32, 8, IPV6>(ipv6) = *self.peer[1];

        let (from, to) = (source(ipv6), destination(ipv6));
        let sum = checksum::udp_header(from, to, self.local_port, self.peer_port, length);
        let sum = checksum::add64(sum, masked.to_le());
        let sum = checksum::add64(checksum::add64(sum, self.tag[0].to_le()), self.tag[1].to_le());
        let sum = checksum::add64(sum, self.checksum);

        let udp = part_mut::<IPV6, UDP, OVERHEAD>(out);
        *part_mut::<0, 2, UDP>(udp) = self.local_port;
        *part_mut::<2, 2, UDP>(udp) = self.peer_port;
        *part_mut::<4, 2, UDP>(udp) = length.to_be_bytes();
        *part_mut::<6, 2, UDP>(udp) = checksum::udp_field(sum);

        let header = part_mut::<{ IPV6 + UDP }, MTD, OVERHEAD>(out);
        *part_mut::<0, 8, MTD>(header) = masked.to_le_bytes();
        *part_mut::<8, 8, MTD>(header) = self.tag[0].to_le_bytes();
        *part_mut::<16, 8, MTD>(header) = self.tag[1].to_le_bytes();
    }
}
