//! SipHash-2-4 (Aumasson, Bernstein 2012) of one 16-byte message: the mask over the sequence number.

use crate::bytes::le64;

#[inline(always)]
const fn round(v: [u64; 4]) -> [u64; 4] {
    let [mut v0, mut v1, mut v2, mut v3] = v;
    v0 = v0.wrapping_add(v1);
    v2 = v2.wrapping_add(v3);
    v1 = v1.rotate_left(13) ^ v0;
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v1);
    v0 = v0.wrapping_add(v3);
    v1 = v1.rotate_left(17) ^ v2;
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[inline(always)]
const fn absorb(v: [u64; 4], word: u64) -> [u64; 4] {
    let [v0, v1, v2, v3] = v;
    let [v0, v1, v2, v3] = round(round([v0, v1, v2, v3 ^ word]));
    [v0 ^ word, v1, v2, v3]
}

/// SipHash-2-4 of the 16 bytes that the little-endian words `message` stand for.
#[inline(always)]
pub const fn hash16(key: &[u8; 16], message: [u64; 2]) -> u64 {
    let k0 = le64::<0, 16>(key);
    let k1 = le64::<8, 16>(key);
    let v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let v = absorb(absorb(v, message[0]), message[1]);
    // The last word: no bytes left over, the message's length in the top byte.
    let [v0, v1, v2, v3] = absorb(v, 16 << 56);
    let v = round(round(round(round([v0, v1, v2 ^ 0xff, v3]))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use proptest::prelude::*;

    /// Appendix A of the paper gives the hash of 00 01 … 0e under the key 00 01 … 0f. The reference code's vectors
    /// go on; this is the one for sixteen bytes (00 … 0f).
    #[test]
    fn reference_vector_for_sixteen_bytes() {
        let key: [u8; 16] = core::array::from_fn(|i| i as u8);
        let message = [le64::<0, 16>(&key), le64::<8, 16>(&key)];
        assert_eq!(hash16(&key, message).to_le_bytes(), [0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_siphasher_crate(key in any::<[u8; 16]>(), message in any::<[u8; 16]>()) {
            let mut oracle = siphasher::sip::SipHasher24::new_with_key(&key);
            oracle.write(&message);
            let words = [le64::<0, 16>(&message), le64::<8, 16>(&message)];
            prop_assert_eq!(hash16(&key, words), oracle.finish());
        }
    }
}
