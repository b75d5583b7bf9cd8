//! Inner packets, and the frames that carry them through the tunnel device.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IPV6_LEN: usize = 40;

/// Inner addresses: the peer's, and those of this end.
pub(crate) const PEER4: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
pub(crate) const OWN4: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 2);
pub(crate) const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 1);

/// IP versions, in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Length of the shortest packet in bytes.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Self::V4 => IPV4_LEN,
            Self::V6 => IPV6_LEN,
        }
    }

    /// A packet of `length` bytes from the peer to this end, with this traffic class.
    pub(crate) fn received(self, traffic_class: u8, length: usize) -> Vec<u8> {
        match self {
            Self::V4 => ipv4(PEER4, OWN4, traffic_class, length),
            Self::V6 => ipv6(PEER6, OWN6, traffic_class, length),
        }
    }

    /// A packet of `length` bytes from this end to the peer, with this traffic class.
    pub(crate) fn sent(self, traffic_class: u8, length: usize) -> Vec<u8> {
        match self {
            Self::V4 => ipv4(OWN4, PEER4, traffic_class, length),
            Self::V6 => ipv6(OWN6, PEER6, traffic_class, length),
        }
    }
}

/// An IPv4 packet with a total length of `length` bytes, a correct checksum, and a pattern as payload.
pub(crate) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, traffic_class: u8, length: usize) -> Vec<u8> {
    let [l0, l1] = (length as u16).to_be_bytes();
    let mut packet = vec![0x45, traffic_class, l0, l1, 0x12, 0x34, 0x40, 0, 61, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    with_ipv4_checksum(&mut packet);
    packet.extend((IPV4_LEN..length).map(pattern));
    packet
}

/// An IPv6 packet with a total length of `length` bytes and a pattern as payload.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, traffic_class: u8, length: usize) -> Vec<u8> {
    let first_word = 6 << 28 | u32::from(traffic_class) << 20 | 0x5_4321;
    let mut packet = first_word.to_be_bytes().to_vec();
    packet.extend(((length - IPV6_LEN) as u16).to_be_bytes());
    packet.extend([17, 61]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend((IPV6_LEN..length).map(pattern));
    packet
}

fn pattern(at: usize) -> u8 {
    (at as u8).wrapping_mul(31) ^ (at >> 8) as u8
}

/// Sets the header checksum (RFC 791) of an IPv4 packet without options.
pub(crate) fn with_ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = !ones_complement_sum(&packet[..IPV4_LEN]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The one's complement sum (RFC 1071) of whole 16-bit words.
pub(crate) fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The packet with another traffic class, and a correct IPv4 checksum.
pub(crate) fn with_traffic_class(packet: &[u8], traffic_class: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[1] = traffic_class;
        with_ipv4_checksum(&mut packet);
    } else {
        packet[0] = 0x60 | traffic_class >> 4;
        packet[1] = packet[1] & 0x0f | traffic_class << 4;
    }
    packet
}

/// The EtherType of an IP packet.
pub(crate) fn ethertype(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] }
}

/// An inner packet in an Ethernet frame, as it enters the tunnel device.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    framed_as(ethertype(packet), packet)
}

/// The same with a given EtherType.
pub(crate) fn framed_as(ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&[0x02, 0, 0, 0, 0xbb, 0x02], [0x02, 0, 0, 0, 0xbb, 0x01].as_slice(), &ethertype, packet].concat()
}
