//! Poly1305 (RFC 8439 section 2.5) with 64-bit products only, in words of 32 bits.
//!
//! Words of the message are used as they are read, without shifts or masks. The key leaves room for carries:
//! RFC 8439 clears the upper four bits of each word of it. The bounds below, in units of 2^32 (for words of `h`) and
//! 2^28 (for those of `r`), show that no sum leaves its 64 bits.

use crate::bytes::{le32, part};

/// State of an authentication: the polynomial so far, and its key.
#[derive(Debug, Default)]
pub(crate) struct Poly1305 {
    /// Each word is below 1.
    r: [u32; 4],
    /// `r[1..]` times 5/4, each below 1.25. A product at 2^128 or above comes back with 5/4 (2^130 is 5, modulo
    /// 2^130 - 5); the lower two bits of these words are clear, so that the quarter is a whole number.
    s: [u32; 3],
    /// Five words that overlap: below 2.5625, 2, 2 and 2, and at most three for the last one, which stands for 2^128.
    h: [u64; 5],
    /// The number that is added at the end.
    pad: [u32; 4],
}

impl Poly1305 {
    /// From the first 32 bytes of the key stream's block 0 (RFC 8439 section 2.6).
    #[inline(always)]
    pub(crate) const fn new(key: [u32; 8]) -> Self {
        let r = [key[0] & 0x0fff_ffff, key[1] & 0x0fff_fffc, key[2] & 0x0fff_fffc, key[3] & 0x0fff_fffc];
        Self {
            r,
            s: [r[1] + (r[1] >> 2), r[2] + (r[2] >> 2), r[3] + (r[3] >> 2)],
            h: [0; 5],
            pad: [key[4], key[5], key[6], key[7]],
        }
    }

    /// Adds 16 bytes, given as little-endian words, to the authenticated message.
    #[inline(always)]
    pub(crate) const fn block(&mut self, words: [u32; 4]) {
        self.h = self.next(self.h, words);
    }

    /// Adds 64 bytes; returns the sum of their words in host order, for the checksum.
    #[inline(always)]
    pub(crate) fn blocks(&mut self, text: &[u8; 64]) -> u64 {
        let first = words::<0>(text);
        let h = self.next(self.h, first);
        let second = words::<16>(text);
        let h = self.next(h, second);
        let third = words::<32>(text);
        let h = self.next(h, third);
        let fourth = words::<48>(text);
        self.h = self.next(h, fourth);
        sum(first) + sum(second) + sum(third) + sum(fourth)
    }

    /// `(h + words + 2^128) * r`, partly reduced.
    #[inline(always)]
    const fn next(&self, h: [u64; 5], words: [u32; 4]) -> [u64; 5] {
        let [r0, r1, r2, r3] = self.r;
        let [s1, s2, s3] = self.s;
        let (r0, r1, r2, r3) = (r0 as u64, r1 as u64, r2 as u64, r3 as u64);
        let (s1, s2, s3) = (s1 as u64, s2 as u64, s3 as u64);
        // Below 3.5625, 3, 3 and 3; at most four.
        let h0 = h[0] + words[0] as u64;
        let h1 = h[1] + words[1] as u64;
        let h2 = h[2] + words[2] as u64;
        let h3 = h[3] + words[3] as u64;
        let h4 = h[4] + 1;
        // The largest is the first one: 3.5625 + 3 * 3 * 1.25 = 14.8125 units of 2^60. Products of h4 are below 2^31.
        let d0 = h0 * r0 + h1 * s3 + h2 * s2 + h3 * s1;
        let d1 = h0 * r1 + h1 * r0 + h2 * s3 + h3 * s2 + h4 * s1;
        let d2 = h0 * r2 + h1 * r1 + h2 * r0 + h3 * s3 + h4 * s2;
        let d3 = h0 * r3 + h1 * r2 + h2 * r1 + h3 * r0 + h4 * s3;
        // Below 0.25 + 1.
        let d4 = h4 * r0 + (d3 >> 32);
        // The upper halves move on by one word only: nothing waits for a chain of carries. What is above 2^130 comes
        // back with 5, below 1.25 * 5 / 4.
        [
            (d0 & LOW) + (d4 >> 2) + (d4 & !3),
            (d1 & LOW) + (d0 >> 32),
            (d2 & LOW) + (d1 >> 32),
            (d3 & LOW) + (d2 >> 32),
            d4 & 3,
        ]
    }

    /// The tag, as two little-endian words of 64 bits.
    #[inline(always)]
    pub(crate) const fn finish(&self) -> [u64; 2] {
        let [h0, h1, h2, h3, h4] = self.h;
        let h1 = h1 + (h0 >> 32);
        let h2 = h2 + (h1 >> 32);
        let h3 = h3 + (h2 >> 32);
        // At most 5, so that h is below twice p = 2^130 - 5.
        let h4 = h4 + (h3 >> 32);
        let (h0, h1, h2, h3) = (h0 & LOW, h1 & LOW, h2 & LOW, h3 & LOW);
        // Whether h + 5 reaches 2^130. Modulo 2^128, h - p is h + 5 then, so nothing has to be selected.
        let carry = (h0 + 5) >> 32;
        let carry = (h1 + carry) >> 32;
        let carry = (h2 + carry) >> 32;
        let carry = (h3 + carry) >> 32;
        let beyond = (h4 + carry) >> 2;
        let f0 = h0 + 5 * beyond + self.pad[0] as u64;
        let f1 = h1 + self.pad[1] as u64 + (f0 >> 32);
        let f2 = h2 + self.pad[2] as u64 + (f1 >> 32);
        let f3 = h3 + self.pad[3] as u64 + (f2 >> 32);
        [(f0 & LOW) | f1 << 32, (f2 & LOW) | f3 << 32]
    }
}

const LOW: u64 = 0xffff_ffff;

/// The 16 bytes from `AT`, as little-endian words.
#[inline(always)]
pub(crate) const fn words<const AT: usize>(text: &[u8; 64]) -> [u32; 4] {
    let piece = part::<AT, 16, 64>(text);
    [le32::<0, 16>(piece), le32::<4, 16>(piece), le32::<8, 16>(piece), le32::<12, 16>(piece)]
}

/// The sum of little-endian words as words in host order, as [`crate::checksum`] adds them.
#[inline(always)]
pub(crate) const fn sum(words: [u32; 4]) -> u64 {
    words[0].to_le() as u64 + words[1].to_le() as u64 + words[2].to_le() as u64 + words[3].to_le() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A number in words of 64 bits, the lowest first.
    type Number = [u64; 3];

    fn add(a: Number, b: Number) -> Number {
        let mut sum = [0; 3];
        let mut carry = 0;
        for i in 0..3 {
            let word = u128::from(a[i]) + u128::from(b[i]) + carry;
            sum[i] = word as u64;
            carry = word >> 64;
        }
        sum
    }

    /// A number below twice 2^130 - 5, reduced modulo that: by adding 5 and looking at bit 130.
    fn reduce(a: Number) -> Number {
        let more = add(a, [5, 0, 0]);
        if more[2] >> 2 == 0 { a } else { [more[0], more[1], more[2] & 3] }
    }

    /// The definition, bit by bit.
    fn plain(key: &[u32; 8], message: &[[u32; 4]]) -> [u64; 2] {
        let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let r = [word(key[0], key[1]) & 0x0fff_fffc_0fff_ffff, word(key[2], key[3]) & 0x0fff_fffc_0fff_fffc];
        let mut h = [0; 3];
        for m in message {
            let sum = reduce(add(h, [word(m[0], m[1]), word(m[2], m[3]), 1]));
            h = [0; 3];
            for bit in (0..128).rev() {
                h = reduce(add(h, h));
                if r[bit / 64] >> (bit % 64) & 1 == 1 {
                    h = reduce(add(h, sum));
                }
            }
        }
        let tag = add(h, [word(key[4], key[5]), word(key[6], key[7]), 0]);
        [tag[0], tag[1]]
    }

    fn poly(key: &[u32; 8]) -> Poly1305 {
        Poly1305::new(*key)
    }

    fn check(key: &[u32; 8], message: &[[u32; 4]]) {
        let mut poly = poly(key);
        for words in message {
            poly.block(*words);
        }
        assert_eq!(poly.finish(), plain(key, message), "{key:x?} {message:x?}");
    }

    const ONES: [u32; 4] = [u32::MAX; 4];

    /// RFC 8439 appendix A.3, vectors 7 to 9: sums at and above 2^130 - 5.
    #[test]
    fn rfc_8439_values_at_and_above_p() {
        let run = |r: u32, message: &[[u32; 4]]| {
            let mut poly = poly(&[r, 0, 0, 0, 0, 0, 0, 0]);
            for words in message {
                poly.block(*words);
            }
            poly.finish()
        };
        let top = u32::MAX;
        assert_eq!(run(1, &[ONES, [top - 0x0f, top, top, top], [0x11, 0, 0, 0]]), [5, 0]);
        assert_eq!(
            run(1, &[ONES, [0xfefe_fefb, 0xfefe_fefe, 0xfefe_fefe, 0xfefe_fefe], [0x0101_0101; 4]]),
            [0, 0]
        );
        assert_eq!(run(2, &[[top - 2, top, top, top]]), [u64::MAX - 5, u64::MAX]);
    }

    /// With r = 1 the blocks are summed: to each value around p, and around twice p before it is reduced.
    #[test]
    fn every_value_around_p() {
        let key = [1, 0, 0, 0, 0, 0, 0, 0];
        for low in (0..16).chain(u32::MAX - 16..=u32::MAX) {
            for high in [0, u32::MAX] {
                let last = [low, high, high, high];
                for before in 0..9 {
                    check(&key, &[vec![ONES; before], vec![last]].concat());
                    check(&key, &[vec![[0; 4]; before], vec![last]].concat());
                }
            }
        }
    }

    /// The largest key, and the largest words for as long as a text can be: where a sum would first leave its 64 bits
    /// (in tests, that panics).
    #[test]
    fn the_largest_key_and_text() {
        let mut message = vec![];
        for _ in 0..90 {
            message.push(ONES);
            check(&[u32::MAX; 8], &message);
        }
    }

    proptest! {
           #[test]
           fn agrees_with_the_definition(
               key in prop::array::uniform8(word()),
               message in prop::collection::vec(prop::array::uniform4(word()), 0..8),
           ) {
               check(&key, &message);
           }

           #[test]
           fn sixty_four_bytes_are_four_times_sixteen(key in any::<[u32; 8]>(), text in prop::array::uniform(any::<u8>())) {
               let (mut at_once, mut each) = (poly(&key), poly(&key));
               let words = [words::<0>(&text), words::<16>(&text), words::<32>(&text), words::<48>(&text)];
               prop_assert_eq!(at_once.blocks(&text), words.iter().map(|w| sum(*w)).sum::<u64>());
               for words in words {
    each.block(words);
    }
               prop_assert_eq!(at_once.finish(), each.finish());
           }
       }

    /// Random words, with extreme values more often than by chance.
    fn word() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), 0..6_u32, u32::MAX - 6..=u32::MAX]
    }
}
