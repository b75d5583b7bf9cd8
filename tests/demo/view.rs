//! The view of captured frames on which the demonstration's counts are based.

use std::net::Ipv6Addr;

use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN, UDP_LEN};

const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 types below this one are errors (RFC 4443 section 2.1).
const FIRST_INFORMATIONAL: u8 = 128;

/// Destination and source of a frame.
pub(crate) fn ethernet(frame: &[u8]) -> Option<([u8; 6], [u8; 6])> {
    Some((frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?))
}

/// An untagged IPv6 packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    /// IPv6 source.
    pub(crate) source: Ipv6Addr,
    /// IPv6 destination.
    pub(crate) destination: Ipv6Addr,
    next_header: u8,
    /// The bytes after the fixed header.
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet in a frame, if it is an untagged IPv6 packet.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET_LEN)?;
        let (header, payload) = packet.split_at_checked(IPV6_LEN)?;
        if ethernet[12..] != ETHERTYPE_IPV6 {
            return None;
        }
        Some(Self {
            source: address(header, 8)?,
            destination: address(header, 24)?,
            next_header: header[6],
            payload,
        })
    }

    /// Source and destination port, if it is UDP.
    pub(crate) fn udp_ports(&self) -> Option<(u16, u16)> {
        let udp = self.payload.get(..UDP_LEN).filter(|_| self.next_header == UDP)?;
        Some((u16::from_be_bytes([udp[0], udp[1]]), u16::from_be_bytes([udp[2], udp[3]])))
    }

    /// The target of a neighbour solicitation.
    pub(crate) fn solicited(&self) -> Option<Ipv6Addr> {
        self.target(NEIGHBOUR_SOLICITATION)
    }

    /// The target of a neighbour advertisement.
    pub(crate) fn advertised(&self) -> Option<Ipv6Addr> {
        self.target(NEIGHBOUR_ADVERTISEMENT)
    }

    /// Whether the packet is an ICMPv6 error message.
    pub(crate) fn is_icmpv6_error(&self) -> bool {
        self.next_header == ICMPV6 && self.payload.first().is_some_and(|&kind| kind < FIRST_INFORMATIONAL)
    }

    fn target(&self, kind: u8) -> Option<Ipv6Addr> {
        let message =
            self.payload.get(..24).filter(|message| self.next_header == ICMPV6 && message[0] == kind)?;
        address(message, 8)
    }
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets))
}
