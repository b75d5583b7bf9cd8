//! Builders of whole Ethernet frames with correct lengths and checksums.

use std::net::Ipv6Addr;

use super::{
    ETHERNET_LEN, ETHERTYPE_IPV6, IPV6_LEN, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, UDP_LEN, checksum,
};

const NEIGHBOUR_SOLICITATION: u8 = 135;
const ECHO_REQUEST: u8 = 128;

/// The Ethernet and IPv6 header fields of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// IPv6 source.
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
}

impl Path {
    /// Hop limit 64, traffic class and flow label 0.
    pub fn new(
        source_mac: [u8; 6],
        destination_mac: [u8; 6],
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) -> Self {
        Self {
            source_mac,
            destination_mac,
            source,
            destination,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
        }
    }

    /// The frame of an upper-layer packet. `checksum_at` is the offset in `segment` of its checksum, which is zero so far.
    fn frame(&self, protocol: u8, mut segment: Vec<u8>, checksum_at: usize) -> Vec<u8> {
        let mut sum = checksum(self.source, self.destination, protocol, &segment);
        if protocol == PROTOCOL_UDP && sum == 0 {
            // RFC 768: zero would mean that there is no checksum.
            sum = 0xffff;
        }
        segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut frame = Vec::with_capacity(ETHERNET_LEN + IPV6_LEN + segment.len());
        frame.extend_from_slice(&self.destination_mac);
        frame.extend_from_slice(&self.source_mac);
        frame.extend_from_slice(&ETHERTYPE_IPV6);
        let first_word = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        frame.extend_from_slice(&first_word.to_be_bytes());
        frame.extend_from_slice(&(segment.len() as u16).to_be_bytes());
        frame.extend_from_slice(&[protocol, self.hop_limit]);
        frame.extend_from_slice(&self.source.octets());
        frame.extend_from_slice(&self.destination.octets());
        frame.extend_from_slice(&segment);
        frame
    }
}

/// A UDP packet. `payload` may have up to 65,527 bytes.
pub fn udp(path: &Path, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(UDP_LEN + payload.len());
    segment.extend_from_slice(&source_port.to_be_bytes());
    segment.extend_from_slice(&destination_port.to_be_bytes());
    segment.extend_from_slice(&((UDP_LEN + payload.len()) as u16).to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(payload);
    path.frame(PROTOCOL_UDP, segment, 6)
}

/// A TCP SYN without options (RFC 9293), window 65,535.
pub fn tcp_syn(path: &Path, source_port: u16, destination_port: u16, sequence: u32) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20);
    segment.extend_from_slice(&source_port.to_be_bytes());
    segment.extend_from_slice(&destination_port.to_be_bytes());
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&[0; 4]);
    segment.extend_from_slice(&[5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    path.frame(PROTOCOL_TCP, segment, 16)
}

/// An ICMPv6 echo request (RFC 4443).
pub fn echo_request(path: &Path, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![ECHO_REQUEST, 0, 0, 0];
    segment.extend_from_slice(&identifier.to_be_bytes());
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(payload);
    path.frame(PROTOCOL_ICMPV6, segment, 2)
}

/// An ICMPv6 error of type `kind` (RFC 4443) about the packet in the frame `about`. `detail` is the field after the
/// checksum: in a Packet Too Big, the MTU.
pub fn icmpv6_error(path: &Path, kind: u8, detail: u32, about: &[u8]) -> Vec<u8> {
    let mut segment = vec![kind, 0, 0, 0];
    segment.extend_from_slice(&detail.to_be_bytes());
    segment.extend_from_slice(&about[ETHERNET_LEN..]);
    path.frame(PROTOCOL_ICMPV6, segment, 2)
}

/// A neighbour solicitation (RFC 4861) with a source link-layer option and hop limit 255.
///
/// If `to` is the MAC address of a neighbour, the packet is unicast to the target; otherwise it goes to the solicited-node
/// multicast address.
pub fn neighbour_solicitation(
    source_mac: [u8; 6],
    source: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<[u8; 6]>,
) -> Vec<u8> {
    let (destination_mac, destination) = match to {
        Some(mac) => (mac, target),
        None => solicited_node(target),
    };
    let path = Path { hop_limit: 255, ..Path::new(source_mac, destination_mac, source, destination) };
    let mut segment = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    segment.extend_from_slice(&target.octets());
    segment.extend_from_slice(&[1, 1]);
    segment.extend_from_slice(&source_mac);
    path.frame(PROTOCOL_ICMPV6, segment, 2)
}

/// The solicited-node multicast address (RFC 4291 section 2.7.1) and its MAC address (RFC 2464 section 7).
fn solicited_node(target: Ipv6Addr) -> ([u8; 6], Ipv6Addr) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    ([0x33, 0x33, 0xff, a, b, c], group)
}
