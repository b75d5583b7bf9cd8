//! The table against a plain model of it, read as the receive program reads it.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const RING_BITS: u32 = 3;

fn table(sessions: usize, bits: u32) -> Addresses {
    table_with_filter(sessions, bits, table::sharing(bits))
}

/// A table in whose filter `1 << sharing` buckets share a word.
fn table_with_filter(sessions: usize, bits: u32, sharing: u32) -> Addresses {
    let layout =
        Layout { key: [0x1234_5678_9abc_def1, 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93], bits, sharing };
    Addresses::new(
        layout,
        RING_BITS,
        Shared::anonymous(sessions << RING_BITS),
        Shared::anonymous(1 << bits),
        Shared::anonymous(1 << (bits - sharing)),
    )
}

fn slot(low: u64, number: u64) -> Slot {
    Slot { slot: number, local_low: low.to_be_bytes(), generation: 1, ..Slot::default() }
}

impl Addresses {
    /// Whether the program would look at the table at all.
    fn passes(&self, low: u64) -> bool {
        let mark = self.layout.hash(&low.to_be_bytes()).mark();
        self.filter.read(mark.word).unwrap() & mark.mask == mark.mask
    }

    /// The sessions that have an address, in order.
    fn who(&self, low: u64) -> Vec<u32> {
        let low = low.to_be_bytes();
        let hash = self.layout.hash(&low);
        let places =
            self.entries(hash).filter_map(|e| table::place(e.load(Ordering::Relaxed), hash.fingerprint()));
        let ours = places.filter(|place| self.slots.read(*place).unwrap().local_low == low);
        let mut sessions: Vec<u32> = ours.map(|place| slot::session(place, self.ring_bits)).collect();
        sessions.sort_unstable();
        sessions
    }

    fn is_empty(&self) -> bool {
        let zero = |words: &[AtomicU64]| words.iter().all(|word| word.load(Ordering::Relaxed) == 0);
        zero(self.buckets.words()) && zero(self.filter.words()) && self.counts.iter().all(|n| *n == 0)
    }
}

proptest! {
    /// Few addresses, so that sessions share them.
    #[test]
    fn it_holds_what_was_loaded_and_nothing_else(
        sharing in 1_u32..=2,
        steps in prop::collection::vec((any::<bool>(), 0_u32..4, 0_u64..8, 0_u64..6), 1..300),
    ) {
        let mut table = table_with_filter(4, 4, sharing);
        let mut model: HashMap<(u32, u64), u64> = HashMap::new();
        for (load, session, number, low) in steps {
            if load {
                // A slot keeps its address while it is loaded.
                let low = model.get(&(session, number)).copied().unwrap_or(low);
                let others = model.iter().filter(|(key, other)| **key != (session, number) && **other == low);
                let fits = others.count() < MAX_SHARED || model.contains_key(&(session, number));
                prop_assert_eq!(table.load(SessionIndex(session), &slot(low, number)).is_ok(), fits);
                if fits {
                    model.insert((session, number), low);
                }
            } else {
                table.unload(SessionIndex(session), 1, number);
                model.remove(&(session, number));
            }
            for low in 0..6 {
                let mut expected: Vec<u32> = model.iter().filter(|(_, l)| **l == low).map(|((s, _), _)| *s).collect();
                expected.sort_unstable();
                prop_assert_eq!(table.who(low), expected.clone());
                prop_assert!(expected.is_empty() || table.passes(low));
            }
        }
        let left: Vec<_> = model.keys().copied().collect();
        for (session, number) in left {
            table.unload(SessionIndex(session), 1, number);
        }
        prop_assert!(table.is_empty());
    }
}

#[test]
fn a_table_of_the_right_size_takes_all_that_it_is_for() {
    let (sessions, slots) = (4_000, 5);
    let mut table = table(sessions, table::bits(sessions as u64 * slots));
    let low = |session: u64, number: u64| (session << 20 | number).wrapping_mul(0xa076_1d64_78bd_642f);
    // Slots come and go for a while.
    for number in 0..60 {
        for session in 0..sessions as u64 {
            if number >= slots {
                table.unload(SessionIndex(session as u32), 1, number - slots);
            }
            table.load(SessionIndex(session as u32), &slot(low(session, number), number)).unwrap();
        }
    }
    let strangers =
        (0..10_000_u64).filter(|n| table.passes(n.wrapping_mul(0x9e6c_63d0_876a_f4e1) | 1)).count();
    assert!(strangers < 1_000, "{strangers} of 10,000 addresses that nobody has pass");
    for session in 0..sessions as u64 {
        assert_eq!(table.who(low(session, 59)), [session as u32]);
        assert!(table.who(low(session, 54)).is_empty());
    }
}

#[test]
fn a_fifth_session_with_one_address_is_refused_and_can_send() {
    let mut table = table(5, 2);
    for session in 0..4 {
        table.load(SessionIndex(session), &slot(7, 1)).unwrap();
    }
    assert!(matches!(table.load(SessionIndex(4), &slot(7, 1)), Err(Error::Crowded)));
    assert_eq!(table.who(7), [0, 1, 2, 3]);
    assert_eq!(table.slots.read(slot::place(4, 1, RING_BITS)), Some(slot(7, 1)));
    // Whoever has it already may load it again.
    table.load(SessionIndex(2), &slot(7, 1)).unwrap();
    table.unload(SessionIndex(0), 1, 1);
    table.load(SessionIndex(4), &slot(7, 1)).unwrap();
    assert_eq!(table.who(7), [1, 2, 3, 4]);
}

#[test]
fn a_full_table_says_so_and_a_session_that_is_none_too() {
    let mut table = table(8, 1);
    let loaded = (0..64)
        .filter(|n| table.load(SessionIndex(n / 8), &slot(u64::from(*n) * 977, u64::from(n % 8))).is_ok())
        .count();
    assert!((8..=2 * BUCKET).contains(&loaded), "{loaded}");
    assert!(matches!(table.load(SessionIndex(8), &slot(1, 1)), Err(Error::Full(_))));
}

#[test]
fn only_the_slot_that_is_loaded_is_unloaded() {
    let mut table = table(1, 2);
    table.load(SessionIndex(0), &slot(7, 1)).unwrap();
    // Another generation; the slot that had this place before.
    table.unload(SessionIndex(0), 2, 1);
    table.unload(SessionIndex(0), 1, 1 + (1 << RING_BITS));
    assert_eq!(table.who(7), [0]);
    table.unload(SessionIndex(0), 1, 1);
    assert!(table.is_empty());
}

#[test]
fn what_another_writer_left_is_put_in_order() {
    let mut first = table(4, 3);
    for session in 0..4 {
        for number in 0..5 {
            first.load(SessionIndex(session), &slot(u64::from(session) * 100 + number, number)).unwrap();
        }
    }
    // It died between the two halves of a loading, and in the middle of an unloading.
    assert!(first.slots.write(slot::place(0, 0, RING_BITS), slot(5_555, 8)));
    let mark = first.layout.hash(&102_u64.to_be_bytes()).mark();
    first.filter.words()[mark.word as usize].store(0, Ordering::Relaxed);
    let Addresses { layout, ring_bits, slots, buckets, filter, .. } = first;
    let mut second = Addresses::new(layout, ring_bits, slots, buckets, filter);
    second.retain(|session, slot| session != 3 && slot.slot != 2);
    assert!(second.who(0).is_empty() && second.who(102).is_empty() && second.who(300).is_empty());
    for (session, low) in [(0, 1), (1, 101), (1, 103), (2, 204)] {
        assert!(second.passes(low));
        assert_eq!(second.who(low), [session]);
    }
    for session in 0..4 {
        (0..5).for_each(|number| second.unload(SessionIndex(session), 1, number));
    }
    assert!(second.is_empty());
}
