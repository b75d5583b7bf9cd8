//! Which sequence numbers of a session have been used.
//!
//! Beside the highest number seen, a ring of [`WINDOW_WORDS`] words. Sequence numbers go in groups of 32; a word holds the
//! marks of one group (low 32 bits) and the low 32 bits of the number of the ring's round that this group belongs to. Numbers
//! that are more than [`WIDTH`] below the highest one are refused. So any number of CPUs may receive for a session at a time,
//! without a lock, and a number is accepted at most once, for ever:
//!
//! * the highest number is raised before a mark is set, and read after the word that is to be changed: whatever a word holds
//!   belongs to a number that is not above the highest one as it was read;
//! * so the word of a number inside the window cannot have gone on to a later round: if it holds another round, that is an
//!   earlier one, whose marks are obsolete;
//! * one compare-and-swap of the word decides over the number.
//!
//! A word that nobody has changed for a multiple of 2^32 rounds, and whose marks then look like those of the present round,
//! refuses numbers that were not used. It takes a jump of days between two numbers, and odds of one in 2^32.
//!
//! An all-zero ring, with 0 for the highest number, is a fresh one.

use crate::drop_reason::DropReason;

/// Words of the ring.
pub const WINDOW_WORDS: usize = 33;

/// Numbers that have their marks in one word.
const GROUP: u64 = 32;

/// How far numbers may lag behind the highest one and still be accepted.
pub const WIDTH: u64 = (WINDOW_WORDS as u64 - 1) * GROUP;

/// Tries of [`Place::mark`]. A failed try means that another CPU raised the highest number or marked another number of the
/// group in between: that does not happen this many times in a row.
const TRIES: u32 = 40;

/// A word that several CPUs share.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u64;
    /// Reads it, ordered after all earlier reads and before all later ones.
    fn load_in_order(&self) -> u64;
    /// Writes it, in one step, in no order.
    fn store(&self, value: u64);
    /// Replaces `current` by `new` in one step; returns the word found, which is `current` on success. In order, on success.
    fn compare_exchange(&self, current: u64, new: u64) -> u64;
}

#[cfg(target_has_atomic = "64")]
impl Word for core::sync::atomic::AtomicU64 {
    fn load(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Relaxed)
    }

    fn load_in_order(&self) -> u64 {
        self.fetch_add(0, core::sync::atomic::Ordering::SeqCst)
    }

    fn store(&self, value: u64) {
        self.store(value, core::sync::atomic::Ordering::Relaxed);
    }

    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        use core::sync::atomic::Ordering::{Relaxed, SeqCst};
        match self.compare_exchange(current, new, SeqCst, Relaxed) {
            Ok(found) | Err(found) => found,
        }
    }
}

/// The place of a sequence number's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of its word, below [`WINDOW_WORDS`].
    pub index: usize,
    sequence: u64,
    /// The low 32 bits of the number of its round, where a word has them.
    round: u64,
    bit: u64,
}

/// The place of a sequence number.
#[inline(always)]
pub const fn place(sequence: u64) -> Place {
    let group = sequence / GROUP;
    let round = group / WINDOW_WORDS as u64;
    Place {
        index: (group - round * WINDOW_WORDS as u64) as usize,
        sequence,
        round: round << 32,
        bit: 1 << (sequence % GROUP),
    }
}

impl Place {
    /// Whether this number is unused and not too old, given its word and the highest number. Marks nothing.
    ///
    /// # Errors
    /// [`DropReason::InvalidSequence`] when too old, [`DropReason::Replayed`] when used.
    #[inline(always)]
    pub const fn check(self, word: u64, highest: u64) -> Result<(), DropReason> {
        if self.sequence < highest.saturating_sub(WIDTH) {
            return Err(DropReason::InvalidSequence);
        }
        if self.is_round_of(word) && word & self.bit != 0 {
            return Err(DropReason::Replayed);
        }
        Ok(())
    }

    #[inline(always)]
    const fn is_round_of(self, word: u64) -> bool {
        word >> 32 == self.round >> 32
    }

    /// The word with this number marked.
    #[inline(always)]
    const fn marked(self, word: u64) -> u64 {
        if self.is_round_of(word) { word | self.bit } else { self.round | self.bit }
    }

    /// Marks this number as used, in its word. To be called only for packets with a valid tag.
    ///
    /// # Errors
    /// As [`Place::check`]: another CPU may have been faster since.
    #[inline(always)]
    pub fn mark(self, word: &impl Word, highest: &impl Word) -> Result<(), DropReason> {
        let mut tries = 0;
        while tries < TRIES {
            tries += 1;
            let current = word.load();
            // Read after the word, and raised before the mark: see the module.
            let known = highest.load_in_order();
            if known < self.sequence && highest.compare_exchange(known, self.sequence) != known {
                continue;
            }
            self.check(current, known)?;
            if word.compare_exchange(current, self.marked(current)) == current {
                return Ok(());
            }
        }
        Err(DropReason::InvalidSequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::sync::atomic::AtomicU64;

    struct Window {
        words: [AtomicU64; WINDOW_WORDS],
        highest: AtomicU64,
    }

    impl Window {
        fn new() -> Self {
            Self { words: core::array::from_fn(|_| AtomicU64::new(0)), highest: AtomicU64::new(0) }
        }

        fn mark(&self, sequence: u64) -> Result<(), DropReason> {
            let place = place(sequence);
            place.mark(&self.words[place.index], &self.highest)
        }
    }

    #[test]
    fn it_is_at_least_1024_wide() {
        const { assert!(WIDTH >= 1024) };
        for highest in [5_000, 5_007, 5_015, 1 << 57] {
            let window = Window::new();
            window.mark(highest).unwrap();
            for lag in 1..=WIDTH {
                assert_eq!(window.mark(highest - lag), Ok(()), "lag {lag} behind {highest}");
            }
            for lag in 0..=WIDTH {
                assert_eq!(window.mark(highest - lag), Err(DropReason::Replayed));
            }
        }
    }

    #[test]
    fn a_number_far_behind_a_dense_stream_is_too_old() {
        let window = Window::new();
        for sequence in 10_000..20_000 {
            window.mark(sequence).unwrap();
        }
        assert_eq!(window.mark(20_000 - 2 * WIDTH), Err(DropReason::InvalidSequence));
    }

    proptest! {
        #[test]
        fn a_number_is_accepted_once_and_only_inside_the_window(
            steps in prop::collection::vec((any::<bool>(), 0_u64..3_000, 0_u32..60), 1..2_000)
        ) {
            let window = Window::new();
            let mut used = HashSet::new();
            let mut highest = 1_u64 << 50;
            prop_assert_eq!(window.mark(highest), Ok(()));
            used.insert(highest);
            for (ahead, distance, jump) in steps {
                // Now and then the sender jumps, by as much as hours without a packet and a restart are worth.
                let far = if jump > 0 { 0 } else { distance << 27 };
                let sequence = if ahead { highest + distance + far } else { highest - distance };
                let expected = match highest.checked_sub(sequence) {
                    Some(lag) if lag > WIDTH => Err(DropReason::InvalidSequence),
                    _ if !used.insert(sequence) => Err(DropReason::Replayed),
                    _ => Ok(()),
                };
                prop_assert_eq!(window.mark(sequence), expected, "{} with {} the highest", sequence, highest);
                highest = highest.max(sequence);
            }
        }
    }

    /// Numbers from one use of a word's round to the next use of the same 32 bits of it.
    const TURN: u64 = (GROUP * WINDOW_WORDS as u64) << 32;

    #[test]
    fn a_round_that_looks_the_same_after_days_makes_no_used_number_new() {
        let window = Window::new();
        let first = 5_000_000;
        window.mark(first).unwrap();
        window.mark(first + TURN + 1).unwrap();
        assert_eq!(window.mark(first), Err(DropReason::InvalidSequence), "too old");
        assert_eq!(window.mark(first + TURN), Err(DropReason::Replayed), "refused though unused: the price");
        assert_eq!(window.mark(first + TURN + 2), Ok(()));
    }

    /// The outcome of offering one number.
    #[derive(Default)]
    struct Offers {
        accepted: AtomicU64,
        too_old: AtomicU64,
    }

    #[test]
    fn four_cpus_accept_each_number_exactly_once() {
        const NUMBERS: u64 = 200_000;
        let window = Window::new();
        let next = AtomicU64::new(0);
        let offers: Vec<Offers> = (0..NUMBERS).map(|_| Offers::default()).collect();
        let count = |counter: &AtomicU64| counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Each number is offered by two threads at about the same time: it must get through exactly once.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let turn = count(&next);
                        if turn >= 2 * NUMBERS {
                            break;
                        }
                        // Lap by lap of 64 numbers, each lap twice.
                        let sequence = (turn / 128) * 64 + turn % 64;
                        let offers = &offers[sequence as usize];
                        match window.mark(sequence) {
                            Ok(()) => _ = count(&offers.accepted),
                            Err(DropReason::InvalidSequence) => _ = count(&offers.too_old),
                            Err(_) => {}
                        }
                    }
                });
            }
        });
        let read = |counter: &AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let mut accepted = 0;
        for (number, offers) in offers.iter().enumerate() {
            let times = read(&offers.accepted);
            assert!(times <= 1, "number {number} was accepted {times} times");
            // A thread may be scheduled away for longer than the window is wide; then its numbers are refused as too old, and
            // as nothing else.
            assert!(
                times == 1 || read(&offers.too_old) > 0,
                "number {number} was refused as used, and never accepted"
            );
            accepted += times;
        }
        assert!(accepted > NUMBERS / 2, "{accepted} accepted of {NUMBERS}");
    }
}
