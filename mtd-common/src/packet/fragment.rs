//! Inner IPv6 packets in two parts (RFC 8200, section 4.5): what is too long for the path to the peer is cut by the sealing
//! end, and put together by the host that it is for.

use super::IPV6;
use crate::bytes::{be16, part_mut};

/// IPv6 next header of a fragment header.
pub const NEXT_FRAGMENT: u8 = 44;

/// Bytes of a fragment header.
pub const HEADER: usize = 8;

/// IPv6 next headers that routers on the way read, so that they may not be behind a fragment header: hop-by-hop options,
/// routing.
const PER_HOP: [u8; 2] = [0, 43];

/// Flag in bytes 2 and 3 of the header: more parts follow. The bits above it count units of eight bytes.
const MORE: u16 = 1;

/// Whether a packet with this first next header may get a fragment header behind its IPv6 header.
#[inline(always)]
pub const fn may_be_cut(next_header: u8) -> bool {
    next_header != PER_HOP[0] && next_header != PER_HOP[1]
}

/// The header of a packet of one part, in front of this next header.
#[inline(always)]
pub const fn whole(next_header: u8, id: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = next_header;
    *part_mut::<4, 4, HEADER>(&mut header) = id.to_be_bytes();
    header
}

/// Bytes behind the header of the first part, if that is to have at most `longest` bytes.
#[inline(always)]
pub const fn kept(longest: usize) -> usize {
    longest.saturating_sub(IPV6 + HEADER) & !7
}

/// The header of the first part.
#[inline(always)]
pub const fn first(whole: &[u8; HEADER]) -> [u8; HEADER] {
    let mut header = *whole;
    *part_mut::<2, 2, HEADER>(&mut header) = (be16::<2, HEADER>(whole) | MORE).to_be_bytes();
    header
}

/// The header of the second part, when the first one has kept these bytes (a multiple of eight). `None`: the packet would
/// be longer than IPv6 allows.
#[inline(always)]
pub const fn second(whole: &[u8; HEADER], kept: u16) -> Option<[u8; HEADER]> {
    let mut header = *whole;
    let Some(place) = be16::<2, HEADER>(whole).checked_add(kept) else { return None };
    *part_mut::<2, 2, HEADER>(&mut header) = place.to_be_bytes();
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_long_as_the_path_allows_in_units_of_eight() {
        for (longest, expected) in [(1280, 1232), (1228, 1176), (1208, 1160), (48, 0), (0, 0)] {
            assert_eq!(kept(longest), expected, "{longest}");
        }
    }

    #[test]
    fn the_second_part_begins_where_the_first_one_ends() {
        let packet = whole(6, 0x0102_0304);
        assert_eq!(packet, [6, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(first(&packet), [6, 0, 0, 1, 1, 2, 3, 4]);
        assert_eq!(second(&packet, 1176), Some([6, 0, 4, 0x98, 1, 2, 3, 4]), "147 units of eight bytes");
        // Parts of a part: it stays the last one, or one in the middle.
        let middle = [17, 0, 4, 0x99, 1, 2, 3, 4];
        assert_eq!(first(&middle), middle);
        assert_eq!(second(&middle, 8), Some([17, 0, 4, 0xa1, 1, 2, 3, 4]));
        assert_eq!(second(&[17, 0, 0xff, 0xf8, 1, 2, 3, 4], 8), None);
    }

    #[test]
    fn what_every_hop_reads_stays_in_front() {
        assert!(!may_be_cut(0) && !may_be_cut(43));
        assert!([6, 17, 44, 50, 58, 60].into_iter().all(may_be_cut));
    }
}
