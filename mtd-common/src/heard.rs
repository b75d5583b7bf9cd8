//! In which slots a peer was heard, and where from as seen here: where a session sends to whose peer is behind a
//! middlebox (a stateful firewall, or an address translator) and can be answered only where it has spoken.
//!
//! A ring of [`SLOTS`] entries by slot number, one more than can be live at a time. An entry is four words, which any number
//! of CPUs write and read without a lock or an order: the last word has a check over all of them, so that words of two
//! writes, or of a write that is under way, are not an entry. A reader then finds nothing, as before the write, and the
//! next packet that is heard writes the entry again.

use crate::window::Word;

/// Entries of a ring.
pub const SLOTS: usize = 4;

/// Words of an entry: slot number, both halves of the address, port and check.
pub const WORDS: usize = 4;

/// A ring, as it is in the state of a session. All zero: nothing was heard.
pub type Ring = [[u64; WORDS]; SLOTS];

/// Odd numbers without a pattern (the golden ratio, and fractions of π and e): a change of one word changes the check.
const FACTORS: [u64; WORDS] =
    [0x9e37_79b9_7f4a_7c15, 0x243f_6a88_85a3_08d3, 0xb7e1_5162_8aed_2a6b, 0x1319_8a2e_0370_7345];
/// Makes the check of an entry of zeros another number than zero.
const NONZERO: u64 = 0xa409_3822_299f_31d1;

/// The sender of a packet, as the packet arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The halves of the address; bytes in network order, read as native integers.
    pub address: [u64; 2],
    /// The UDP port; bytes in network order, read as a native integer.
    pub port: u16,
}

/// The entry of a ring that a slot has.
#[inline(always)]
pub const fn index(slot: u64) -> usize {
    slot as usize & (SLOTS - 1)
}

impl Source {
    /// The words of an entry: this is where the peer was heard in `slot`.
    #[inline(always)]
    const fn words(&self, slot: u64) -> [u64; WORDS] {
        let [high, low] = self.address;
        let check = slot.wrapping_mul(FACTORS[0])
            ^ high.wrapping_mul(FACTORS[1])
            ^ low.wrapping_mul(FACTORS[2])
            ^ (self.port as u64).wrapping_mul(FACTORS[3])
            ^ NONZERO;
        [slot, high, low, check & !0xffff | self.port as u64]
    }
}

/// Notes that the peer was heard in a slot; `entry` is the slot's entry ([`index`]). Writes nothing when that is noted
/// already. If the peer was heard elsewhere in the same slot, `is_newest` decides: a packet that was overtaken does not say
/// where the peer is now.
#[inline(always)]
pub fn note<W: Word>(entry: &[W; WORDS], slot: u64, source: Source, is_newest: impl FnOnce() -> bool) {
    let [number, high, low, port] = source.words(slot);
    let found = entry[0].load();
    if found == number && entry[1].load() == high && entry[2].load() == low && entry[3].load() == port {
        return;
    }
    if found == number && read(entry, slot).is_some() && !is_newest() {
        return;
    }
    entry[3].store(port);
    entry[2].store(low);
    entry[1].store(high);
    entry[0].store(number);
}

/// Where the peer was heard in a slot, if it was; `entry` is the slot's entry ([`index`]).
#[inline(always)]
pub fn read<W: Word>(entry: &[W; WORDS], slot: u64) -> Option<Source> {
    if entry[0].load() != slot {
        return None;
    }
    let (address, port) = ([entry[1].load(), entry[2].load()], entry[3].load());
    let source = Source { address, port: port as u16 };
    if source.words(slot)[3] == port { Some(source) } else { None }
}

/// The newest slot of a ring in which the peer was heard.
pub fn newest(ring: &Ring) -> Option<u64> {
    newest_source(ring).map(|(slot, _)| slot)
}

/// The same, and where the peer was heard in it.
pub fn newest_source(ring: &Ring) -> Option<(u64, Source)> {
    let whole = |[slot, high, low, port]: &[u64; WORDS]| {
        let source = Source { address: [*high, *low], port: *port as u16 };
        (source.words(*slot)[3] == *port).then_some((*slot, source))
    };
    ring.iter().filter_map(whole).max_by_key(|(slot, _)| *slot)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    type Entry = [AtomicU64; WORDS];

    fn source(number: u64) -> Source {
        Source { address: [number.wrapping_mul(0x0101), !number], port: number as u16 }
    }

    fn ring(entry: &Entry) -> Ring {
        let mut ring = Ring::default();
        ring[0] = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
        ring
    }

    #[test]
    fn an_empty_entry_holds_no_slot() {
        let entry = Entry::default();
        assert_eq!((read(&entry, 0), read(&entry, 4)), (None, None));
        assert_eq!(newest(&ring(&entry)), None);
    }

    #[test]
    fn the_last_note_counts_and_other_slots_are_not_there() {
        let entry = Entry::default();
        note(&entry, 8, source(1), || panic!("nothing was heard before"));
        assert_eq!((read(&entry, 8), read(&entry, 12)), (Some(source(1)), None));
        note(&entry, 8, source(1), || panic!("noted already"));
        note(&entry, 12, source(2), || panic!("another slot"));
        assert_eq!((read(&entry, 8), read(&entry, 12)), (None, Some(source(2))));
        assert_eq!(newest(&ring(&entry)), Some(12));
    }

    #[test]
    fn an_overtaken_packet_does_not_move_the_peer() {
        let entry = Entry::default();
        note(&entry, 8, source(1), || true);
        note(&entry, 8, source(2), || true);
        note(&entry, 8, source(1), || false);
        assert_eq!(read(&entry, 8), Some(source(2)));
        entry[1].store(99, Ordering::Relaxed);
        note(&entry, 8, source(1), || false);
        assert_eq!(read(&entry, 8), Some(source(1)), "torn, so anything is better");
    }

    /// Writers of different sources, and a reader that must see one of them whole, or nothing.
    #[test]
    fn whatever_is_read_was_written_as_a_whole() {
        let (entry, done) = (Entry::default(), AtomicBool::new(false));
        let seen: u64 = thread::scope(|scope| {
            for writer in 1..=3 {
                let (entry, done) = (&entry, &done);
                scope.spawn(move || {
                    let mut number = writer;
                    while !done.load(Ordering::Relaxed) {
                        note(entry, 4 * (number % 2), source(number), || true);
                        number += 3;
                    }
                });
            }
            let (mut seen, mut round) = (0, 0);
            // On a busy machine, writers may begin late.
            while round < 200_000_u64 || seen == 0 {
                round += 1;
                if let Some(found) = read(&entry, 4 * (round % 2)) {
                    let number = !found.address[1];
                    assert_eq!(found, source(number), "torn");
                    assert_eq!(number % 2, round % 2, "another slot's");
                    seen += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
            seen
        });
        assert!(seen > 0);
    }

    proptest! {
        #[test]
        fn words_of_two_entries_are_no_entry(
            one in any::<(u64, u64, u64, u16)>(),
            other in any::<(u64, u64, u64, u16)>(),
            choice in 1_usize..15,
        ) {
            let words = |(slot, high, low, port): (u64, u64, u64, u16)| {
                Source { address: [high, low], port }.words(slot)
            };
            let (one, other) = (words(one), words(other));
            let mixed: [u64; WORDS] = std::array::from_fn(|at| if choice >> at & 1 == 0 { one[at] } else { other[at] });
            let entry = mixed.map(AtomicU64::new);
            let found = read(&entry, mixed[0]);
            prop_assert!(found.is_none() || mixed == one || mixed == other);
        }
    }
}
