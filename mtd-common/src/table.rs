//! Where the receive program finds the session that an address belongs to: a hash table and a filter in front of it.
//!
//! Both lie in arrays that the controller has mapped into its own memory, so that loading a slot costs no system call;
//! the programs only read them. Their contents:
//!
//! * `ADDRESSES`: buckets of [`BUCKET`] entries, a cache line each. An entry is a place in the array `SLOTS` (low 32
//!   bits) and a fingerprint of the address (high 32 bits, never 0); an entry of 0 is free. An address has two
//!   buckets. Writers put it into the emptier one. A fingerprint that fits proves nothing: the element of `SLOTS`
//!   holds the address itself.
//! * `FILTER`: a word of 64 bits for every two buckets, or four ([`sharing`]). An address sets three of the bits in
//!   the word of its first bucket. If one of the three is not set, no session has the address. This one read, from a
//!   small part of the table's memory, is nearly all that a stranger's packet costs. A few per cent of the addresses
//!   that no session has pass the filter.
//!
//! The hash has a random key, which the programs and the controller know: without it, nobody can choose addresses
//! that pass the filter but belong to no session, or learn from the time that a packet takes more than that the host
//! was busy.

use core::mem::size_of;

use crate::bytes::ne64;

/// Entries of a bucket.
pub const BUCKET: usize = 8;

/// The largest share of all entries that is used, in per cent. Below it, practically no address finds both of its
/// buckets full: with 60 of 100 taken, one of some ten million.
pub const MAX_LOAD: u64 = 60;

/// Element of the array map `ADDRESSES`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The entries; see the module's documentation.
    pub entries: [u64; BUCKET],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Size of the table, and the secret key of its hash. All zero: no table yet.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// Key of the hash; the second and third word are odd.
    pub key: [u64; 3],
    /// Binary logarithm of the number of buckets, 1 to [`MAX_BITS`].
    pub bits: u32,
    /// Binary logarithm of the number of buckets that share a word of the filter: [`sharing`].
    pub sharing: u32,
}

/// Says nothing of the key.
impl core::fmt::Debug for Layout {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Layout").field("bits", &self.bits).finish_non_exhaustive()
    }
}

/// Most [`Layout::bits`].
pub const MAX_BITS: u32 = 26;

/// [`Layout::bits`] of a table for this number of entries.
pub const fn bits(entries: u64) -> u32 {
    let mut bits = 1;
    while bits < MAX_BITS && ((BUCKET as u64) << bits) * MAX_LOAD / 100 < entries {
        bits += 1;
    }
    bits
}

/// [`Layout::sharing`] of a table with these [`Layout::bits`].
///
/// A filter that does not fit into the second-level cache costs every stranger's packet an access to memory, which
/// costs more than the additional packets that pass a denser filter: from 8 MiB on, it is made half as large.
pub const fn sharing(bits: u32) -> u32 {
    if bits > 20 { 2 } else { 1 }
}

/// Words of the filter of a table with these [`Layout::bits`].
pub const fn words(bits: u32) -> u64 {
    1 << (bits - sharing(bits))
}

/// The hash of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    value: u64,
    bits: u32,
    sharing: u32,
}

/// The word of `FILTER` for an address, and its bits in that word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Index of the word.
    pub word: u32,
    /// The bits that are set if somebody has the address.
    pub mask: u64,
}

impl Layout {
    /// Hashes bytes 8–15 of an address. (The others are those of a protected prefix, of which there are few.)
    #[inline(always)]
    pub const fn hash(&self, low: &[u8; 8]) -> Hash {
        // Addresses of one prefix may differ in their last two bytes only, which are the highest ones here: the shift
        // brings them down again before the second multiplication.
        let value = (ne64::<0, 8>(low) ^ self.key[0]).wrapping_mul(self.key[1]);
        let value = (value ^ value >> 32).wrapping_mul(self.key[2]);
        Hash { value: value ^ value >> 32, bits: self.bits, sharing: self.sharing }
    }
}

impl Hash {
    /// Index of the first bucket.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        (self.value >> ((64 - self.bits) & 63)) as u32
    }

    /// Index of the second bucket; it may be the first one again.
    #[inline(always)]
    pub const fn second(self) -> u32 {
        let spread = (self.fingerprint() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.first() ^ (spread >> ((64 - self.bits) & 63)) as u32
    }

    /// The high half of the address's entries.
    #[inline(always)]
    pub const fn fingerprint(self) -> u32 {
        (self.value >> 8) as u32 | 1
    }

    /// The entry for a place.
    #[inline(always)]
    pub const fn entry(self, place: u32) -> u64 {
        (self.fingerprint() as u64) << 32 | place as u64
    }

    /// The address's bits in the filter.
    #[inline(always)]
    pub const fn mark(self) -> Mark {
        let mask =
            1_u64 << (self.value & 63) | 1_u64 << (self.value >> 6 & 63) | 1_u64 << (self.value >> 12 & 63);
        Mark { word: self.first() >> (self.sharing & 31), mask }
    }
}

/// What stands for bytes 8–15 of an address in the hash where ports alone move: all sessions have the same address, so its
/// port (network order) tells them apart.
#[inline(always)]
pub const fn with_port(low: &[u8; 8], port: [u8; 2]) -> [u8; 8] {
    let mut mixed = *low;
    mixed[0] ^= port[0];
    mixed[1] ^= port[1];
    mixed
}

/// The place of an entry if it has this fingerprint.
#[inline(always)]
pub const fn place(entry: u64, fingerprint: u32) -> Option<u32> {
    if entry >> 32 == fingerprint as u64 { Some(entry as u32) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn layout(bits: u32) -> Layout {
        Layout {
            key: [0x0123_4567_89ab_cdef, 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f],
            bits,
            sharing: sharing(bits),
        }
    }

    /// Addresses of a /112, and of a /64.
    fn families() -> [Vec<[u8; 8]>; 2] {
        let narrow = (0..20_000_u16).map(|n| u64::from(n).to_be_bytes()).collect();
        let mut state = 1_u64;
        let wide = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state ^ state >> 29).to_be_bytes()
            })
            .collect();
        [narrow, wide]
    }

    #[test]
    fn places_are_inside_and_come_back() {
        for bits in 1..=MAX_BITS {
            for low in families().concat().iter().step_by(97) {
                let hash = layout(bits).hash(low);
                assert!(hash.first() < 1 << bits && hash.second() < 1 << bits);
                assert!(u64::from(hash.mark().word) < words(bits));
                assert!((1..=3).contains(&hash.mark().mask.count_ones()));
                assert_eq!(place(hash.entry(77), hash.fingerprint()), Some(77));
                assert_eq!(place(0, hash.fingerprint()), None);
            }
        }
    }

    #[test]
    fn addresses_of_every_kind_of_prefix_spread_over_the_table() {
        for addresses in families() {
            let layout = layout(bits(addresses.len() as u64));
            let mut taken = vec![0; 1 << layout.bits];
            for low in &addresses {
                let hash = layout.hash(low);
                let (first, second) = (hash.first() as usize, hash.second() as usize);
                let emptier = if taken[first] <= taken[second] { first } else { second };
                taken[emptier] += 1;
            }
            assert!(taken.iter().all(|&count| count <= BUCKET), "{:?}", taken.iter().max());
            let fingerprints: HashSet<u32> =
                addresses.iter().map(|low| layout.hash(low).fingerprint()).collect();
            assert!(fingerprints.len() > addresses.len() - 20, "{}", fingerprints.len());
        }
    }

    #[test]
    fn the_filter_refuses_nearly_all_that_nobody_has() {
        for (addresses, (sharing, most)) in families()
            .into_iter()
            .flat_map(|family| [(1, 0.03), (2, 0.1)].map(|filter| (family.clone(), filter)))
        {
            let (ours, others) = addresses.split_at(addresses.len() / 2);
            let layout = Layout { sharing, ..layout(bits(ours.len() as u64)) };
            let mut filter = vec![0_u64; 1 << (layout.bits - sharing)];
            for low in ours {
                let mark = layout.hash(low).mark();
                filter[mark.word as usize] |= mark.mask;
            }
            let passes = |low: &&[u8; 8]| {
                let mark = layout.hash(low).mark();
                filter[mark.word as usize] & mark.mask == mark.mask
            };
            assert!(ours.iter().all(|low| passes(&low)));
            let mistaken = others.iter().filter(passes).count();
            assert!((mistaken as f64) < others.len() as f64 * most, "{mistaken} of {}", others.len());
        }
    }

    #[test]
    fn the_table_grows_with_what_it_must_hold() {
        assert_eq!(bits(1), 1);
        for entries in [10, 1000, 25_000, 5_000_000] {
            let room = (BUCKET as u64) << bits(entries);
            assert!(room * MAX_LOAD / 100 >= entries && room * MAX_LOAD / 200 < entries, "{entries}");
        }
    }

    #[test]
    fn the_filter_is_a_small_part_of_the_table_and_has_a_word_for_every_bucket() {
        for bits in 1..=MAX_BITS {
            assert_eq!(words(bits) << sharing(bits), 1 << bits);
        }
        assert!(words(bits(7_000_000)) * 8 <= 4 << 20);
    }

    #[test]
    fn a_debug_print_shows_no_key() {
        let text = format!("{:?}", layout(5));
        assert!(text.contains('5') && !text.contains("81985529216486895"), "{text}");
    }
}
