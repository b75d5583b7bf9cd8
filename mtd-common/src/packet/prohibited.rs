//! Answers to packets that a filter does not let out: "communication administratively prohibited", ICMPv6 type 1, code 1 (RFC
//! 4443, section 3.1) and ICMP type 3, code 13 (RFC 1812, section 5.2.7.1). They come from the address that the packet was for,
//! and quote its beginning.

use super::{ETHERNET, IPV6, NEXT_ICMPV6};
use crate::bytes::{ne64, part, part_mut};
use crate::checksum;
use crate::filter::flow::ICMP;
use crate::filter::{Flow, Opens, Part};
use crate::packet::inner::IPV4;

/// Bytes by which the answer to an IPv6 packet is longer than what it quotes.
pub const GROWTH_V6: usize = IPV6 + 8;
/// Bytes by which the answer to an IPv4 packet is longer than what it quotes.
pub const GROWTH_V4: usize = IPV4 + 8;

/// Hop limit of the answers: as packets of most hosts.
const HOPS: u8 = 64;

/// Whether the sender of this packet may be told: errors are no answers to errors, nor to later parts of packets, nor to what
/// went to many, or came from nobody (RFC 4443, section 2.4; RFC 1122, section 3.2.2).
#[inline(always)]
pub const fn may_be_told(flow: &Flow) -> bool {
    let (source, destination) = (&flow.source, &flow.destination);
    let quiet = matches!(flow.part, Part::Later)
        || flow.is_icmp() && !matches!(flow.opens, Opens::Something)
        || is_many(flow.version, source)
        || is_many(flow.version, destination)
        || ne64::<0, 16>(source) == 0 && ne64::<8, 16>(source) == 0;
    !quiet
}

/// Whether an address is a group's, or in IPv4 not a host's.
#[inline(always)]
const fn is_many(version: u8, address: &[u8; 16]) -> bool {
    if version == 6 { address[0] == 0xff } else { address[12] >= 224 || address[12] == 0 }
}

/// Writes the answer to an IPv6 packet: `frame` are the first bytes of its Ethernet frame, `answer` has [`GROWTH_V6`] bytes more,
/// and all are written.
#[inline(always)]
pub fn ipv6<const FROM: usize, const TO: usize>(
    frame: &[u8; FROM],
    [to, from]: [[u8; 6]; 2],
    answer: &mut [u8; TO],
) {
    const { assert!(TO == FROM + GROWTH_V6 && FROM >= ETHERNET + IPV6) };
    let source = *part::<{ ETHERNET + 24 }, 16, FROM>(frame);
    let destination = *part::<{ ETHERNET + 8 }, 16, FROM>(frame);
    let length = (TO - ETHERNET - IPV6) as u16;
    *part_mut::<0, 6, TO>(answer) = to;
    *part_mut::<6, 6, TO>(answer) = from;
    *part_mut::<12, 2, TO>(answer) = *part::<12, 2, FROM>(frame);
    *part_mut::<ETHERNET, 4, TO>(answer) = [0x60, 0, 0, 0];
    *part_mut::<{ ETHERNET + 4 }, 2, TO>(answer) = length.to_be_bytes();
    answer[ETHERNET + 6] = NEXT_ICMPV6;
    answer[ETHERNET + 7] = HOPS;
    *part_mut::<{ ETHERNET + 8 }, 16, TO>(answer) = source;
    *part_mut::<{ ETHERNET + 24 }, 16, TO>(answer) = destination;
    let (message, quote) = (ETHERNET + IPV6, ETHERNET + GROWTH_V6);
    *part_mut::<{ ETHERNET + IPV6 }, 8, TO>(answer) = [1, 1, 0, 0, 0, 0, 0, 0];
    answer[quote..].copy_from_slice(&frame[ETHERNET..]);
    let sum = checksum::icmpv6_header(&source, &destination, length) + words(answer, message, TO);
    let field = (!checksum::fold(sum)).to_ne_bytes();
    answer[message + 2] = field[0];
    answer[message + 3] = field[1];
}

/// Writes the answer to an IPv4 packet: `frame` are the first bytes of its Ethernet frame, `answer` has [`GROWTH_V4`] bytes more,
/// and all are written.
#[inline(always)]
pub fn ipv4<const FROM: usize, const TO: usize>(
    frame: &[u8; FROM],
    [to, from]: [[u8; 6]; 2],
    answer: &mut [u8; TO],
) {
    const { assert!(TO == FROM + GROWTH_V4 && FROM >= ETHERNET + IPV4) };
    *part_mut::<0, 6, TO>(answer) = to;
    *part_mut::<6, 6, TO>(answer) = from;
    *part_mut::<12, 2, TO>(answer) = *part::<12, 2, FROM>(frame);
    *part_mut::<ETHERNET, 2, TO>(answer) = [0x45, 0];
    *part_mut::<{ ETHERNET + 2 }, 2, TO>(answer) = ((TO - ETHERNET) as u16).to_be_bytes();
    *part_mut::<{ ETHERNET + 4 }, 8, TO>(answer) = [0, 0, 0, 0, HOPS, ICMP, 0, 0];
    *part_mut::<{ ETHERNET + 12 }, 4, TO>(answer) = *part::<{ ETHERNET + 16 }, 4, FROM>(frame);
    *part_mut::<{ ETHERNET + 16 }, 4, TO>(answer) = *part::<{ ETHERNET + 12 }, 4, FROM>(frame);
    let (message, quote) = (ETHERNET + IPV4, ETHERNET + GROWTH_V4);
    let field = (!checksum::fold(words(answer, ETHERNET, message))).to_ne_bytes();
    answer[ETHERNET + 10] = field[0];
    answer[ETHERNET + 11] = field[1];
    *part_mut::<{ ETHERNET + IPV4 }, 8, TO>(answer) = [3, 13, 0, 0, 0, 0, 0, 0];
    answer[quote..].copy_from_slice(&frame[ETHERNET..]);
    let field = (!checksum::fold(words(answer, message, TO))).to_ne_bytes();
    answer[message + 2] = field[0];
    answer[message + 3] = field[1];
}

/// The running sum of the bytes from `at` up to `end`, an even number of them.
#[inline(always)]
fn words<const N: usize>(bytes: &[u8; N], at: usize, end: usize) -> u64 {
    let (mut sum, mut at) = (0, at);
    while at + 2 <= end && at + 2 <= N {
        sum += u16::from_ne_bytes([bytes[at], bytes[at + 1]]) as u64;
        at += 2;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with an IPv6 packet that begins with these bytes.
    fn frame<const N: usize>(version: u8) -> [u8; N] {
        let mut frame: [u8; N] = core::array::from_fn(|n| n as u8);
        frame[ETHERNET] = version << 4 | 5;
        frame
    }

    const MACS: [[u8; 6]; 2] = [[2; 6], [4; 6]];

    #[test]
    fn an_answer_goes_back_quotes_the_packet_and_its_checksum_is_right() {
        // Whatever was in the memory before must not matter.
        let mut answer = [0xaa; 62 + GROWTH_V6];
        let packet = frame::<62>(6);
        ipv6(&packet, MACS, &mut answer);
        assert_eq!(answer[..ETHERNET], [&[2; 6][..], &[4; 6], &packet[12..14]].concat());
        assert_eq!(answer[14..22], [0x60, 0, 0, 0, 0, 56, NEXT_ICMPV6, HOPS]);
        assert_eq!((&answer[22..38], &answer[38..54]), (&packet[38..54], &packet[22..38]));
        assert_eq!((answer[54], answer[55], &answer[58..62]), (1, 1, &[0; 4][..]));
        assert_eq!(answer[62..], packet[14..]);
        let (source, destination) = (answer[22..38].try_into().unwrap(), answer[38..54].try_into().unwrap());
        let sum = checksum::icmpv6_header(source, destination, 56) + words(&answer, 54, answer.len());
        assert_eq!(checksum::fold(sum), 0xffff);

        let mut answer = [0xaa; 42 + GROWTH_V4];
        let packet = frame::<42>(4);
        ipv4(&packet, MACS, &mut answer);
        assert_eq!(answer[14..24], [0x45, 0, 0, 56, 0, 0, 0, 0, HOPS, ICMP]);
        assert_eq!((&answer[26..30], &answer[30..34]), (&packet[30..34], &packet[26..30]));
        assert_eq!((answer[34], answer[35], &answer[38..42]), (3, 13, &[0; 4][..]));
        assert_eq!(answer[42..], packet[14..]);
        for (from, to) in [(14, 34), (34, answer.len())] {
            assert_eq!(checksum::fold(words(&answer, from, to)), 0xffff);
        }
    }

    #[test]
    fn errors_later_parts_and_groups_are_not_answered() {
        let source = [0xfd; 16];
        let flow = Flow { source, destination: source, version: 6, protocol: 17, ..Flow::default() };
        assert!(may_be_told(&flow));
        let icmp = Flow { protocol: NEXT_ICMPV6, opens: Opens::Something, ..flow };
        assert!(may_be_told(&icmp));
        for quiet in [
            Flow { part: Part::Later, ..flow },
            Flow { opens: Opens::Nothing, ..icmp },
            Flow { opens: Opens::Unknown, ..icmp },
            Flow { destination: [0xff; 16], ..flow },
            Flow { source: [0; 16], ..flow },
            Flow { version: 4, destination: [224; 16], ..flow },
            Flow { version: 4, source: [0; 16], ..flow },
        ] {
            assert!(!may_be_told(&quiet), "{quiet:?}");
        }
    }
}
