//! The Internet checksum (RFC 1071), summed in wide words, and its incremental update (RFC 1624).

use crate::bytes::ne64;

/// Adds eight bytes, read as one integer in host order, to a running sum.
///
/// The sum may take 2^31 words before it could overflow.
#[inline(always)]
pub const fn add64(sum: u64, word: u64) -> u64 {
    sum + (word & 0xffff_ffff) + (word >> 32)
}

/// Adds sixteen bytes (an address) to a running sum.
#[inline(always)]
pub const fn add128(sum: u64, bytes: &[u8; 16]) -> u64 {
    add64(add64(sum, ne64::<0, 16>(bytes)), ne64::<8, 16>(bytes))
}

/// Folds a running sum to 16 bits, in host order as it lies in memory.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The running sum of a UDP datagram's pseudo-header (RFC 8200 section 8.1) and UDP header with checksum zero.
/// `length` is the UDP length in bytes, ports are in network order.
#[inline(always)]
pub const fn udp_header(
    source: &[u8; 16],
    destination: &[u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    length: u16,
) -> u64 {
    let length = length.to_be() as u64;
    let sum = add128(add128(0, source), destination);
    // The length stands in the pseudo-header and in the UDP header.
    sum + length
        + length
        + (17_u16.to_be() as u64)
        + (u16::from_ne_bytes(source_port) as u64)
        + (u16::from_ne_bytes(destination_port) as u64)
}

/// The running sum of the pseudo-header of an ICMPv6 message of `length` bytes (RFC 8200 section 8.1), to which the
/// sum of the message is added.
#[inline(always)]
pub const fn icmpv6_header(source: &[u8; 16], destination: &[u8; 16], length: u16) -> u64 {
    add128(add128(0, source), destination) + length.to_be() as u64 + (58_u16.to_be() as u64)
}

/// The bytes of the UDP checksum field for a running sum: never zero (RFC 8200 section 8.1).
#[inline(always)]
pub const fn udp_field(sum: u64) -> [u8; 2] {
    let field = !fold(sum);
    if field == 0 { [0xff, 0xff] } else { field.to_ne_bytes() }
}

/// The checksum field after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(field: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let sum = (!u16::from_ne_bytes(field) as u64)
        + (!u16::from_ne_bytes(old) as u64)
        + (u16::from_ne_bytes(new) as u64);
    (!fold(sum)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn wide_sums_agree_with_the_plain_one(words in prop::collection::vec(any::<[u8; 8]>(), 1..200)) {
            let sum = words.iter().fold(0, |sum, w| add64(sum, u64::from_ne_bytes(*w)));
            let folded = fold(sum).to_ne_bytes();
            prop_assert_eq!(u16::from_be_bytes(folded) % 0xffff, reference(&words.concat()) % 0xffff);
        }

        #[test]
        fn an_updated_field_agrees_with_a_new_sum(mut header in any::<[u8; 20]>(), new in any::<[u8; 2]>()) {
            header[10..12].fill(0);
            let field = (!reference(&header)).to_be_bytes();
            let old = [header[0], header[1]];
            header[..2].copy_from_slice(&new);
            let expected = !reference(&header);
            let updated = u16::from_be_bytes(update(field, old, new));
            prop_assert_eq!(updated % 0xffff, expected % 0xffff);
        }
    }

    #[test]
    fn a_field_is_never_zero() {
        assert_eq!(udp_field(0xffff), [0xff, 0xff]);
        assert_eq!(udp_field(0), [0xff, 0xff]);
    }
}
