//! The view of a frame as plain Ethernet, IPv6 and UDP: what mtd puts on the wire.

use std::net::Ipv6Addr;

use super::{ETHERNET_LEN, ETHERTYPE_IPV6, IPV6_LEN, PROTOCOL_UDP, UDP_LEN, checksum};

/// The header fields and the payload of a UDP packet over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer<'a> {
    /// IPv6 source.
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// Hop limit.
    pub hop_limit: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// UDP checksum field of the packet.
    pub checksum: u16,
    /// The bytes after the UDP header.
    pub payload: &'a [u8],
    /// UDP header and payload.
    segment: &'a [u8],
}

impl<'a> Outer<'a> {
    /// The view of an Ethernet frame. `None` unless it is a whole UDP packet directly after a fixed IPv6 header, without a
    /// VLAN tag, whose length fields agree. Bytes after the packet (Ethernet padding) are ignored.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET_LEN)?;
        let (header, rest) = packet.split_at_checked(IPV6_LEN)?;
        if ethernet[12..] != ETHERTYPE_IPV6 || header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
            return None;
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let segment = rest.get(..payload_len)?;
        let (udp, payload) = segment.split_at_checked(UDP_LEN)?;
        if usize::from(u16::from_be_bytes([udp[4], udp[5]])) != payload_len {
            return None;
        }
        let first_word = u32::from_be_bytes(*header.first_chunk()?);
        Some(Self {
            source: address(&header[8..24])?,
            destination: address(&header[24..40])?,
            source_port: u16::from_be_bytes([udp[0], udp[1]]),
            destination_port: u16::from_be_bytes([udp[2], udp[3]]),
            hop_limit: header[7],
            flow_label: first_word & 0xf_ffff,
            traffic_class: (first_word >> 20) as u8,
            checksum: u16::from_be_bytes([udp[6], udp[7]]),
            payload,
            segment,
        })
    }

    /// Whether there is a UDP checksum, as IPv6 requires, and it is correct.
    pub fn checksum_is_right(&self) -> bool {
        self.checksum != 0 && checksum(self.source, self.destination, PROTOCOL_UDP, self.segment) == 0
    }
}

/// Whether the UDP checksum of a frame is correct. `None` if [`Outer::parse`] returns none.
pub fn udp_checksum_is_right(frame: &[u8]) -> Option<bool> {
    Outer::parse(frame).map(|outer| outer.checksum_is_right())
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}
