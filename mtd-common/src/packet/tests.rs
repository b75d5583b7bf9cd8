//! Parsers and writers together, and RFC 6040's table.

use proptest::prelude::*;

use super::inner::{decapsulated_ecn, ipv4, ipv6, mapped, set_ipv4_ecn};
use super::outer::{Send, checksum_valid, inner_length, require_peer, require_udp, sequence, tag};
use super::*;
use crate::abi::{Prefix, Session, Slot};
use crate::bytes::part;
use crate::{DropReason, aead};

const LOCAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2];
const PEER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
const LOCAL_PORT: [u8; 2] = [0x12, 0x34];
const PEER_PORT: [u8; 2] = [0xab, 0xcd];

const fn halves(address: &[u8; 16]) -> [&[u8; 8]; 2] {
    [part::<0, 8, 16>(address), part::<8, 8, 16>(address)]
}

fn run(operation: aead::Operation, nonce: [u32; 3], text: &mut [u8], length: usize) -> aead::Sums {
    let mut pass = aead::Pass::default();
    aead::pass(operation, &[5; 32], nonce, &mut aead::Buffer(text), length, &mut pass).unwrap()
}

fn sealed(inner: &[u8], sequence: u64) -> Vec<u8> {
    let mut text = inner.to_vec();
    let nonce = aead::nonce(7, sequence);
    let sums = run(aead::Operation::Seal, nonce, &mut text, inner.len());
    let mut headers = [0; OVERHEAD];
    Send {
        local: halves(&LOCAL),
        peer: halves(&PEER),
        local_port: LOCAL_PORT,
        peer_port: PEER_PORT,
        mask: &[6; 16],
        sequence,
        tag: sums.tag,
        checksum: sums.checksum,
        inner: inner.len() as u16,
        ecn: 2,
    }
    .write(&mut headers);
    [headers.to_vec(), text].concat()
}

fn plain_checksum_ok(packet: &[u8]) -> bool {
    let mut pseudo = packet[8..40].to_vec();
    pseudo.extend(u32::try_from(packet.len() - 40).unwrap().to_be_bytes());
    pseudo.extend([0, 0, 0, 17]);
    pseudo.extend(&packet[40..]);
    let mut sum = 0_u32;
    for pair in pseudo.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(inner in prop::collection::vec(any::<u8>(), 20..1428), number in any::<u64>()) {
        let packet = sealed(&inner, number);
        prop_assert!(plain_checksum_ok(&packet));
        let (headers, text) = packet.split_first_chunk::<OVERHEAD>().unwrap();
        let ip = part::<0, IPV6, OVERHEAD>(headers);
        let udp = part::<IPV6, UDP, OVERHEAD>(headers);
        let mtd = part::<{ IPV6 + UDP }, MTD, OVERHEAD>(headers);
        prop_assert_eq!(require_udp(ip), Ok(()));
        prop_assert_eq!(inner_length(ip, udp, packet.len(), 1428), Ok(inner.len()));
        prop_assert_eq!(sequence(mtd, &[6; 16]), number);
        let mut text = text.to_vec();
        let length = text.len();
        let nonce = aead::nonce(7, number);
        let sums =
            run(aead::Operation::Open, nonce, &mut text, length);
        prop_assert!(aead::verify(sums.tag, tag(mtd)));
        prop_assert!(checksum_valid(ip, udp, mtd, sums.checksum));
        prop_assert_eq!(text, inner);
    }

    #[test]
    fn every_flip_of_a_header_bit_that_routers_do_not_change_is_seen(bit in 0_usize..OVERHEAD * 8) {
        let packet = sealed(&[0x45; 100], 99);
        let mut headers = *packet.first_chunk::<OVERHEAD>().unwrap();
        headers[bit / 8] ^= 1 << (bit % 8);
        let ip = part::<0, IPV6, OVERHEAD>(&headers);
        let udp = part::<IPV6, UDP, OVERHEAD>(&headers);
        let mtd = part::<{ IPV6 + UDP }, MTD, OVERHEAD>(&headers);
        // The receiver's view.
        let session = Session { peer_high: *halves(&LOCAL)[0], ..Session::default() };
        let slot = Slot {
            local_port: PEER_PORT,
            peer_port: LOCAL_PORT,
            peer_low: *halves(&LOCAL)[1],
            ..Slot::default()
        };
        let sound = require_udp(ip).is_ok()
            && *outer::destination(ip) == PEER
            && require_peer(&session, &slot, ip, udp).is_ok()
            && inner_length(ip, udp, packet.len(), 1428).is_ok();
        let mut text = packet[OVERHEAD..].to_vec();
        let nonce = aead::nonce(7, sequence(mtd, &[6; 16]));
        let sums =
            run(aead::Operation::Open, nonce, &mut text, 100);
        let accepted =
            sound && aead::verify(sums.tag, tag(mtd)) && checksum_valid(ip, udp, mtd, sums.checksum);
        // Traffic class (4..12) and hop limit (56..64) are the network's to change.
        let bit_in_order = bit / 8 * 8 + 7 - bit % 8;
        let mutable = (4..12).contains(&bit_in_order) || (56..64).contains(&bit_in_order);
        prop_assert_eq!(accepted, mutable, "bit {}", bit_in_order);
    }

    #[test]
    fn an_ipv4_mark_keeps_the_checksum_right(mut header in any::<[u8; 20]>(), ecn in 0_u8..4) {
        header[0] = 0x45;
        header[10..12].fill(0);
        let sum = |header: &[u8; 20]| header.chunks(2).fold(0_u64, |s, p| s + u64::from(u16::from_ne_bytes([p[0], p[1]])));
        let field = (!crate::checksum::fold(sum(&header))).to_ne_bytes();
        header[10..12].copy_from_slice(&field);
        set_ipv4_ecn(&mut header, ecn);
        prop_assert_eq!(header[1] & 3, ecn);
        prop_assert_eq!(crate::checksum::fold(sum(&header)), 0xffff);
    }
}

/// RFC 6040, figure 4: rows are the inner, columns the outer codepoint, both in the order 0, 1, 2, 3.
#[test]
fn decapsulation_follows_rfc_6040() {
    let drop = Err(DropReason::Ecn);
    let table = [
        [Ok(0), Ok(0), Ok(0), drop],
        [Ok(1), Ok(1), Ok(1), Ok(3)],
        [Ok(2), Ok(1), Ok(2), Ok(3)],
        [Ok(3), Ok(3), Ok(3), Ok(3)],
    ];
    for (inner, row) in (0..).zip(table) {
        for (outer, expected) in (0..).zip(row) {
            assert_eq!(decapsulated_ecn(inner, outer), expected, "inner {inner} outer {outer}");
        }
    }
}

#[test]
fn prefixes_are_found_by_their_bits() {
    let mut dataplane = Dataplane { prefix_count: 2, ..Dataplane::default() };
    let at = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let prefix = |text: &str, length: u32| {
        let address = at(text);
        Prefix {
            high: ne64::<0, 16>(&address),
            low: ne64::<8, 16>(&address),
            mask: (u64::MAX << (128 - length)).to_be(),
        }
    };
    dataplane.prefixes[0] = prefix("2001:db8:1:2:3::", 80);
    dataplane.prefixes[1] = Prefix { mask: 0, ..prefix("2001:db8:9::", 65) };
    assert!(is_protected(&dataplane, &at("2001:db8:1:2:3:4:5:6")));
    assert!(!is_protected(&dataplane, &at("2001:db8:1:2:4:4:5:6")));
    assert!(is_protected(&dataplane, &at("2001:db8:9::1")));
    dataplane.prefix_count = 1;
    assert!(!is_protected(&dataplane, &at("2001:db8:9::1")));
}

#[test]
fn next_headers_other_than_udp_have_their_own_reasons() {
    let mut header = [0; IPV6];
    for (next, reason) in [
        (6, DropReason::Tcp),
        (58, DropReason::Icmpv6),
        (44, DropReason::Fragment),
        (0, DropReason::ExtensionHeader),
        (60, DropReason::ExtensionHeader),
        (132, DropReason::OtherProtocol),
        (4, DropReason::OtherProtocol),
    ] {
        header[6] = next;
        assert_eq!(require_udp(&header), Err(reason));
    }
}

#[test]
fn inner_headers_with_wrong_lengths_are_refused() {
    let mut v4 = [0; 20];
    v4[0] = 0x45;
    v4[3] = 60;
    v4[12..16].copy_from_slice(&[10, 0, 0, 1]);
    assert_eq!(ipv4(&v4, 60).unwrap().source, mapped([10, 0, 0, 1]));
    assert_eq!(ipv4(&v4, 59), Err(DropReason::MalformedInner));
    v4[0] = 0x4f;
    v4[3] = 40;
    assert_eq!(ipv4(&v4, 40), Err(DropReason::MalformedInner), "header longer than the packet");
    v4[0] = 0x44;
    assert_eq!(ipv4(&v4, 40), Err(DropReason::MalformedInner), "header shorter than a header");
    let mut v6 = [0; 40];
    v6[0] = 0x60;
    assert!(ipv6(&v6, 40).is_ok());
    assert_eq!(ipv6(&v6, 41), Err(DropReason::MalformedInner));
    v6[8..24].copy_from_slice(&mapped([10, 0, 0, 1]));
    assert_eq!(ipv6(&v6, 40), Err(DropReason::MalformedInner), "IPv4-mapped source");
    v6[8..24].fill(1);
    assert!(ipv6(&v6, 40).is_ok());
    v6[0] = 0x40;
    assert_eq!(ipv6(&v6, 40), Err(DropReason::MalformedInner));
}

mod ndp_tests {
    use super::super::ndp::{FRAME, WITH_OPTION, advertise, is_solicitation, require_answerable, target};
    use super::super::{ETHERNET, IPV6};
    use crate::bytes::part;

    /// A solicitation as Linux sends it: captured layout, checksum made by `etherparse`-free arithmetic below.
    fn solicitation() -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        let (asker, wanted) = (
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        );
        frame[14] = 0x60;
        frame[19] = WITH_OPTION as u8;
        frame[20] = 58;
        frame[21] = 255;
        frame[22..38].copy_from_slice(&asker);
        frame[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 6, 7, 8]);
        frame[54] = 135;
        frame[62..78].copy_from_slice(&wanted);
        frame[78..86].copy_from_slice(&[1, 1, 2, 0, 0, 0, 0, 9]);
        let sum = icmp_sum(&frame);
        frame[56..58].copy_from_slice(&(!sum).to_be_bytes());
        frame
    }

    fn icmp_sum(frame: &[u8; FRAME]) -> u16 {
        let mut bytes = frame[22..54].to_vec();
        bytes.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        bytes.extend(&frame[54..]);
        let mut sum: u32 = bytes.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn a_solicitation_is_answered_with_a_sound_advertisement() {
        let mut frame = solicitation();
        let ip = part::<ETHERNET, IPV6, FRAME>(&frame);
        assert!(is_solicitation(ip, part::<54, 24, FRAME>(&frame)));
        assert_eq!(require_answerable(ip, part::<54, 32, FRAME>(&frame), 72), Ok(()));
        let wanted = *target(part::<54, 24, FRAME>(&frame));
        advertise(&mut frame, [2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[22..38], wanted);
        assert_eq!(frame[38..40], [0xfe, 0x80]);
        assert_eq!((frame[54], frame[58]), (136, 0x60));
        assert_eq!(frame[78..86], [2, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(icmp_sum(&frame), 0xffff);
    }

    #[test]
    fn any_flaw_makes_it_unanswerable() {
        let sound = solicitation();
        // Hop limit, length, code, checksum, option type, option length, source address.
        for (at, xor) in [(21, 1), (19, 8), (55, 1), (56, 1), (78, 3), (79, 1), (30, 1), (22, 0x01)] {
            let mut frame = sound;
            frame[at] ^= xor;
            let ip = part::<ETHERNET, IPV6, FRAME>(&frame);
            assert!(require_answerable(ip, part::<54, 32, FRAME>(&frame), 72).is_err(), "byte {at}");
        }
        let ip = part::<ETHERNET, IPV6, FRAME>(&sound);
        assert!(require_answerable(ip, part::<54, 32, FRAME>(&sound), 71).is_err());
    }
}
