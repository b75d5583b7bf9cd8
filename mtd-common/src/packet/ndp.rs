//! Neighbour solicitations and advertisements (RFC 4861), for the on-link responder (requirement MT-09).

use super::{ETHERNET, IPV6, NEXT_ICMPV6};
use crate::bytes::{part, part_mut};
use crate::checksum;
use crate::drop_reason::DropReason;
use crate::packet::outer;

/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Flag of an advertisement, in the first of its reserved bytes: it answers a solicitation.
const SOLICITED: u8 = 0x40;

/// Bytes of a solicitation without options: ICMPv6 header, target address.
pub const SOLICITATION_LENGTH: usize = 24;
/// Bytes of a solicitation or advertisement with one link-layer address option.
pub const WITH_OPTION: usize = 32;
/// Bytes of a whole frame with a solicitation or advertisement with one link-layer address option.
pub const FRAME: usize = ETHERNET + IPV6 + WITH_OPTION;

/// The target address of a neighbour solicitation.
#[inline(always)]
pub const fn target(icmp: &[u8; SOLICITATION_LENGTH]) -> &[u8; 16] {
    part::<8, 16, SOLICITATION_LENGTH>(icmp)
}

/// Whether an IPv6 header and the start of its payload are a neighbour solicitation.
#[inline(always)]
pub const fn is_solicitation(ipv6: &[u8; IPV6], icmp: &[u8; SOLICITATION_LENGTH]) -> bool {
    outer::next_header(ipv6) == NEXT_ICMPV6 && icmp[0] == SOLICITATION
}

/// Whether an IPv6 header and the start of its payload are a neighbour's answer to a solicitation of ours.
#[inline(always)]
pub const fn is_answer(ipv6: &[u8; IPV6], icmp: &[u8; SOLICITATION_LENGTH]) -> bool {
    outer::next_header(ipv6) == NEXT_ICMPV6
        && ipv6[7] == 255
        && icmp[0] == ADVERTISEMENT
        && icmp[1] == 0
        && icmp[4] & SOLICITED != 0
}

/// Accepts the solicitations that are answered. Not answered are those from the unspecified address (duplicate
/// address detection), since the address is not ours alone to defend, and those that have not exactly one option, the
/// source's link-layer address, since no neighbour sends them.
///
/// # Errors
/// [`DropReason::NeighbourMalformed`].
#[inline(always)]
pub fn require_answerable(
    ipv6: &[u8; IPV6],
    icmp: &[u8; WITH_OPTION],
    frame: usize,
) -> Result<(), DropReason> {
    let payload = u16::from_be_bytes([ipv6[4], ipv6[5]]) as usize;
    let source = outer::source(ipv6);
    let well_formed = ipv6[0] >> 4 == 6
        && ipv6[7] == 255
        && payload == WITH_OPTION
        && frame == IPV6 + WITH_OPTION
        && icmp[1] == 0
        && *part::<24, 2, WITH_OPTION>(icmp) == [1, 1]
        && source[0] != 0xff
        && *source != [0; 16]
        && checksum_valid(ipv6, icmp);
    if well_formed { Ok(()) } else { Err(DropReason::NeighbourMalformed) }
}

#[inline(always)]
const fn sum(source: &[u8; 16], destination: &[u8; 16], icmp: &[u8; WITH_OPTION]) -> u64 {
    let sum = checksum::icmpv6_header(source, destination, WITH_OPTION as u16);
    let sum = checksum::add128(sum, part::<0, 16, WITH_OPTION>(icmp));
    checksum::add128(sum, part::<16, 16, WITH_OPTION>(icmp))
}

#[inline(always)]
const fn checksum_valid(ipv6: &[u8; IPV6], icmp: &[u8; WITH_OPTION]) -> bool {
    checksum::fold(sum(outer::source(ipv6), outer::destination(ipv6), icmp)) == 0xffff
}

/// Turns the frame of a solicitation into that of the advertisement that answers it: solicited, override, with
/// `mac` as the target's link-layer address, sent to the solicitation's sender.
#[inline(always)]
pub fn advertise(frame: &mut [u8; FRAME], mac: [u8; 6]) {
    let asker_mac = *part::<6, 6, FRAME>(frame);
    *part_mut::<0, 6, FRAME>(frame) = asker_mac;
    *part_mut::<6, 6, FRAME>(frame) = mac;

    let asker = *part::<{ ETHERNET + 8 }, 16, FRAME>(frame);
    let target = *part::<{ ETHERNET + IPV6 + 8 }, 16, FRAME>(frame);
    let ipv6 = part_mut::<ETHERNET, IPV6, FRAME>(frame);
    *part_mut::<0, 4, IPV6>(ipv6) = [0x60, 0, 0, 0];
    ipv6[7] = 255;
    *part_mut::<8, 16, IPV6>(ipv6) = target;
    *part_mut::<24, 16, IPV6>(ipv6) = asker;

    let icmp = part_mut::<{ ETHERNET + IPV6 }, WITH_OPTION, FRAME>(frame);
    *part_mut::<0, 8, WITH_OPTION>(icmp) = [ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
    *part_mut::<24, 2, WITH_OPTION>(icmp) = [2, 1];
    *part_mut::<26, 6, WITH_OPTION>(icmp) = mac;
    let field = (!checksum::fold(sum(&target, &asker, icmp))).to_ne_bytes();
    *part_mut::<2, 2, WITH_OPTION>(icmp) = field;
}

/// The group that solicitations for an address are sent to: its solicited-node address (RFC 4291 section 2.7.1).
pub const fn solicited_node(address: &[u8; 16]) -> [u8; 16] {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    *part_mut::<13, 3, 16>(&mut group) = *part::<13, 3, 16>(address);
    group
}

/// Bytes of an IPv6 packet with a solicitation with one link-layer address option.
pub const PACKET: usize = IPV6 + WITH_OPTION;

/// The IPv6 packet of a solicitation for `target`, sent to it, from the address `source`, which has this `mac`.
pub fn solicit(mac: [u8; 6], source: &[u8; 16], target: &[u8; 16]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    let ipv6 = part_mut::<0, IPV6, PACKET>(&mut packet);
    *part_mut::<0, 8, IPV6>(ipv6) = [0x60, 0, 0, 0, 0, WITH_OPTION as u8, NEXT_ICMPV6, 255];
    *part_mut::<8, 16, IPV6>(ipv6) = *source;
    *part_mut::<24, 16, IPV6>(ipv6) = *target;

    let icmp = part_mut::<IPV6, WITH_OPTION, PACKET>(&mut packet);
    icmp[0] = SOLICITATION;
    *part_mut::<8, 16, WITH_OPTION>(icmp) = *target;
    *part_mut::<24, 2, WITH_OPTION>(icmp) = [1, 1];
    *part_mut::<26, 6, WITH_OPTION>(icmp) = mac;
    let field = (!checksum::fold(sum(source, target, icmp))).to_ne_bytes();
    *part_mut::<2, 2, WITH_OPTION>(icmp) = field;
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    const ROUTER: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 11, 12, 13];

    #[test]
    fn a_solicitation_of_ours_is_one_that_is_answered_and_its_answer_is_recognised() {
        let packet = solicit([2; 6], &SOURCE, &ROUTER);
        let ip = part::<0, IPV6, PACKET>(&packet);
        let icmp = part::<IPV6, WITH_OPTION, PACKET>(&packet);
        let start = part::<0, SOLICITATION_LENGTH, WITH_OPTION>(icmp);
        assert!(is_solicitation(ip, start) && !is_answer(ip, start));
        assert_eq!((target(start), outer::destination(ip)), (&ROUTER, &ROUTER));
        assert_eq!(require_answerable(ip, icmp, PACKET), Ok(()));

        let mut frame = [0; FRAME];
        frame[ETHERNET..].copy_from_slice(&packet);
        advertise(&mut frame, [9; 6]);
        let ip = part::<ETHERNET, IPV6, FRAME>(&frame);
        assert_eq!(*outer::destination(ip), SOURCE);
        assert!(is_answer(ip, part::<{ ETHERNET + IPV6 }, SOLICITATION_LENGTH, FRAME>(&frame)));
    }

    #[test]
    fn the_group_of_an_address_has_its_last_three_bytes() {
        assert_eq!(solicited_node(&ROUTER), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 11, 12, 13]);
    }
}
