//! Refused frames that nevertheless pass to the kernel: those of management addresses and ports, so that nobody is locked
//! out.
//!
//! The list is checked last, only for frames that would be dropped: valid packets are opened whoever sent them, and the list
//! costs them nothing.

use core::mem::{offset_of, size_of};

use crate::abi::GuardSettings;
use crate::bytes::{ne64, part};
use crate::packet::{IPV6, NEXT_ICMPV6, NEXT_TCP, NEXT_UDP, outer};

/// Largest number of elements of [`GuardSettings::allow`].
pub const MAX_ALLOW: usize = 16;

/// Bytes of an ICMPv6 header.
const ICMPV6: usize = 8;

/// Bytes of an ICMPv6 error, up to the ports of the packet that it is about.
pub const ERROR: usize = ICMPV6 + IPV6 + 4;

/// One rule of the list: a packet passes if it matches all fields. Addresses as in [`crate::abi::Prefix`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Bytes 0–7 of the network that packets come from; host bits zero.
    pub high: u64,
    /// Bytes 8–15 of that network.
    pub low: u64,
    /// Mask over `high`: ones for the bits of the network.
    pub mask_high: u64,
    /// Mask over `low`.
    pub mask_low: u64,
    /// IPv6 next header; 0: any.
    pub protocol: u8,
    /// Padding.
    pub reserved: u8,
    /// Port at this host, network order; zero: any.
    pub port: [u8; 2],
    /// Padding.
    pub padding: [u8; 4],
}

const _: () = {
    assert!(size_of::<Allow>() == 40);
    assert!(offset_of!(Allow, protocol) == 32);
    assert!(offset_of!(Allow, port) == 34);
};

/// The flow of a packet, as seen from this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    high: u64,
    low: u64,
    protocol: u8,
    /// Padding: the verifier refuses bytes that were never written.
    reserved: u8,
    /// Port at this host, network order; zero if there is none.
    port: [u8; 2],
    /// Padding.
    padding: [u8; 4],
}

impl Flow {
    /// The flow of a packet that arrives, with the first bytes of its payload.
    #[inline(always)]
    pub fn of(ipv6: &[u8; IPV6], payload: [u8; 4]) -> Self {
        let source = outer::source(ipv6);
        Self::new(source, outer::next_header(ipv6), [payload[2], payload[3]])
    }

    /// The flow that an ICMPv6 error is about; the error may come from any router on the path. `None`: it is not an error,
    /// or not about a packet from the address that it is sent to.
    #[inline(always)]
    pub fn of_error(ipv6: &[u8; IPV6], icmpv6: &[u8; ERROR]) -> Option<Self> {
        let quoted = part::<ICMPV6, IPV6, ERROR>(icmpv6);
        let is_error = outer::next_header(ipv6) == NEXT_ICMPV6 && matches!(icmpv6[0], 1..=4);
        if !is_error || *outer::source(quoted) != *outer::destination(ipv6) {
            return None;
        }
        let port = part::<{ ICMPV6 + IPV6 }, 2, ERROR>(icmpv6);
        Some(Self::new(outer::destination(quoted), outer::next_header(quoted), *port))
    }

    #[inline(always)]
    fn new(remote: &[u8; 16], protocol: u8, port: [u8; 2]) -> Self {
        let port = if matches!(protocol, NEXT_TCP | NEXT_UDP) { port } else { [0; 2] };
        let (high, low) = (ne64::<0, 16>(remote), ne64::<8, 16>(remote));
        Self { high, low, protocol, reserved: 0, port, padding: [0; 4] }
    }
}

/// Whether a packet is a neighbour solicitation or advertisement from the link (RFC 4861): without them, the neighbours of
/// an allowed address could not reach it.
#[inline(always)]
pub const fn is_neighbour_discovery(ipv6: &[u8; IPV6], payload: [u8; 4]) -> bool {
    outer::next_header(ipv6) == NEXT_ICMPV6 && ipv6[7] == 255 && matches!(payload[0], 135 | 136)
}

impl Allow {
    /// Whether this rule names the flow.
    #[inline(always)]
    pub fn names(&self, flow: &Flow) -> bool {
        let network = (flow.high & self.mask_high) ^ self.high | (flow.low & self.mask_low) ^ self.low;
        let port = u16::from_ne_bytes(self.port);
        network == 0
            && (self.protocol == 0 || self.protocol == flow.protocol)
            && (port == 0 || port == u16::from_ne_bytes(flow.port))
    }
}

impl GuardSettings {
    /// Whether a rule of the list names the flow.
    #[inline(always)]
    pub fn allows(&self, flow: &Flow) -> bool {
        let mut i = 0;
        while i < MAX_ALLOW {
            if i as u32 >= self.allow_count {
                return false;
            }
            if self.allow[i].names(flow) {
                return true;
            }
            i += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
    const CLIENT: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    const ROUTER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn header(source: [u8; 16], destination: [u8; 16], next: u8) -> [u8; IPV6] {
        let mut header = [0; IPV6];
        header[0] = 0x60;
        header[6] = next;
        header[7] = 255;
        header[8..24].copy_from_slice(&source);
        header[24..].copy_from_slice(&destination);
        header
    }

    fn line(network: [u8; 16], bits: u32, protocol: u8, port: u16) -> Allow {
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) }.to_be_bytes();
        let network = (u128::from_be_bytes(network) & u128::from_be_bytes(mask)).to_be_bytes();
        Allow {
            high: ne64::<0, 16>(&network),
            low: ne64::<8, 16>(&network),
            mask_high: ne64::<0, 16>(&mask),
            mask_low: ne64::<8, 16>(&mask),
            protocol,
            port: port.to_be_bytes(),
            ..Allow::default()
        }
    }

    #[test]
    fn a_line_names_what_all_its_fields_fit() {
        let ssh = Flow::of(&header(CLIENT, HOST, NEXT_TCP), [0x90, 0, 0, 22]);
        for (bits, protocol, port, expected) in [
            (0, 0, 0, true),
            (48, 0, 0, true),
            (128, NEXT_TCP, 22, true),
            (0, NEXT_TCP, 22, true),
            (0, NEXT_TCP, 0x9000, false),
            (0, NEXT_UDP, 22, false),
            (0, NEXT_ICMPV6, 0, false),
        ] {
            let line = line(CLIENT, bits, protocol, port);
            assert_eq!(line.names(&ssh), expected, "{line:?}");
        }
        for bits in [1, 32, 44, 48, 64, 96, 128] {
            let mut other = CLIENT;
            other[(bits as usize - 1) / 8] ^= 0x80 >> ((bits - 1) % 8);
            assert!(line(CLIENT, bits, 0, 0).names(&ssh), "{bits} bits");
            assert!(!line(other, bits, 0, 0).names(&ssh), "another network of {bits} bits");
        }
    }

    #[test]
    fn only_the_lines_that_count_are_asked_and_all_of_them() {
        let flow = Flow::of(&header(CLIENT, HOST, NEXT_UDP), [0, 0, 0, 53]);
        let mut guard = GuardSettings::default();
        assert!(!guard.allows(&flow));
        guard.allow[MAX_ALLOW - 1] = line(CLIENT, 128, NEXT_UDP, 53);
        for count in 1..=MAX_ALLOW {
            guard.allow_count = count as u32;
            guard.allow[count - 1] = match count {
                MAX_ALLOW => guard.allow[count - 1],
                _ => line(CLIENT, 128, NEXT_TCP, 53),
            };
            assert_eq!(guard.allows(&flow), count == MAX_ALLOW, "{count} lines");
        }
    }

    #[test]
    fn what_has_no_port_fits_no_line_with_one() {
        // The type and code of an ICMPv6 message are not ports.
        let echo = Flow::of(&header(CLIENT, HOST, NEXT_ICMPV6), [128, 0, 0, 22]);
        assert!(line(CLIENT, 0, NEXT_ICMPV6, 0).names(&echo));
        assert!(!line(CLIENT, 0, 0, 22).names(&echo));
    }

    #[test]
    fn an_error_belongs_to_the_flow_that_it_is_about() {
        let too_big = header(ROUTER, HOST, NEXT_ICMPV6);
        let mut message = [0; ERROR];
        message[0] = 2;
        message[ICMPV6..ICMPV6 + IPV6].copy_from_slice(&header(HOST, CLIENT, NEXT_TCP));
        message[ICMPV6 + IPV6..].copy_from_slice(&[0, 22, 0x90, 0]);
        let flow = Flow::of_error(&too_big, &message).expect("an error");
        assert!(line(CLIENT, 128, NEXT_TCP, 22).names(&flow));
        assert!(!line(ROUTER, 128, 0, 0).names(&flow));
        for kind in [0, 5, 128, 135] {
            let mut other = message;
            other[0] = kind;
            assert_eq!(Flow::of_error(&too_big, &other), None, "type {kind}");
        }
        let mut foreign = message;
        foreign[ICMPV6 + 8] ^= 1;
        assert_eq!(Flow::of_error(&too_big, &foreign), None, "about another host's packet");
        assert_eq!(Flow::of_error(&header(ROUTER, HOST, NEXT_TCP), &message), None);
    }

    #[test]
    fn neighbour_discovery_comes_from_the_link() {
        let near = header(ROUTER, HOST, NEXT_ICMPV6);
        assert!(
            is_neighbour_discovery(&near, [135, 0, 0, 0]) && is_neighbour_discovery(&near, [136, 0, 0, 0])
        );
        assert!(!is_neighbour_discovery(&near, [134, 0, 0, 0]));
        let mut far = near;
        far[7] = 254;
        assert!(!is_neighbour_discovery(&far, [135, 0, 0, 0]));
    }
}
