//! A router that translates addresses and ports.

use std::collections::BTreeMap;

use mtd_common::address::Network;

/// Address (16 bytes) and port (2) of one end.
type End = [u8; 18];

/// A router's table: each flow has a port of its own at the router's address.
pub(in crate::proto) struct Translation {
    /// Where the router's address is.
    outside: Network,
    next_port: u16,
    /// The inner end of each flow, by its outer and its far end.
    flows: BTreeMap<(End, End), End>,
}

impl Translation {
    /// A router with one address in this network.
    pub(in crate::proto) const fn new(outside: Network) -> Self {
        Self { outside, next_port: 1024, flows: BTreeMap::new() }
    }

    /// A packet of the host behind the router, as it leaves the router.
    pub(in crate::proto) fn outwards(&mut self, packet: &[u8]) -> Vec<u8> {
        let (inner, far) = (end(packet, 8, 40), end(packet, 24, 42));
        let known = self.flows.iter().find(|((_, to), from)| *to == far && **from == inner);
        let new = || {
            self.next_port += 1;
            let mut outer = [0; 18];
            outer[..16].copy_from_slice(&self.outside.prefix);
            outer[15] = 1;
            outer[16..].copy_from_slice(&self.next_port.to_be_bytes());
            outer
        };
        let outer = known.map_or_else(new, |((outer, _), _)| *outer);
        self.flows.insert((outer, far), inner);
        rewritten(packet, 8, 40, &outer)
    }

    /// A packet to the router's address, as the host behind it gets it; `None`: it is for somebody else, or belongs to no
    /// flow.
    pub(super) fn inwards(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let inner = self.flows.get(&(end(packet, 24, 42), end(packet, 8, 40)))?;
        Some(rewritten(packet, 24, 42, inner))
    }
}

fn end(packet: &[u8], address: usize, port: usize) -> End {
    let mut end = [0; 18];
    end[..16].copy_from_slice(&packet[address..address + 16]);
    end[16..].copy_from_slice(&packet[port..port + 2]);
    end
}

/// The packet with another end, and the checksum that fits it (RFC 1624).
fn rewritten(packet: &[u8], address: usize, port: usize, end: &End) -> Vec<u8> {
    let mut out = packet.to_vec();
    out[address..address + 16].copy_from_slice(&end[..16]);
    out[port..port + 2].copy_from_slice(&end[16..]);
    let words = |packet: &[u8], at: usize, length: usize| -> u32 {
        packet[at..at + length].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
    };
    let sum = |packet: &[u8]| words(packet, address, 16) + words(packet, port, 2);
    let fold = |mut sum: u32| {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    };
    let (old, field) = (fold(sum(packet)), words(packet, 46, 2));
    let checksum = !(fold((!field & 0xffff) + (!old & 0xffff) + fold(sum(&out))) as u16);
    out[46..48].copy_from_slice(&checksum.max(1).to_be_bytes());
    out
}
