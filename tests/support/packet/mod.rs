//! Packets as plain bytes: builders ([`build`]), changes of form ([`reshape`]) and a parsed view ([`parse`]).
//!
//! This is written after the RFCs, without mtd's own code, so that it does not repeat mistakes of that code.

use std::net::Ipv6Addr;

mod build;
mod parse;
mod reshape;

pub use build::{Path, echo_request, icmpv6_error, neighbour_solicitation, tcp_syn, udp};
pub use parse::{Outer, udp_checksum_is_right};
pub use reshape::{
    DESTINATION_OPTIONS, HOP_BY_HOP, fragments, with_extension_header, with_fragment_header, with_vlan_tag,
};

/// Length of an Ethernet header without VLAN tags.
pub const ETHERNET_LEN: usize = 14;
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;

const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;

/// The Internet checksum (RFC 1071) of an upper-layer packet with the IPv6 pseudo-header (RFC 8200 section 8.1). The
/// checksum field is included as it is, so that the result is 0 for a packet with a correct checksum.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, segment: &[u8]) -> u16 {
    let [l0, l1, l2, l3] = (segment.len() as u32).to_be_bytes();
    let tail = [l0, l1, l2, l3, 0, 0, 0, protocol];
    let parts: [&[u8]; 4] = [&source.octets(), &destination.octets(), &tail, segment];
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
