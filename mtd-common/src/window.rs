//! Which sequence numbers of a session have been used.
//!
//! A ring of [`WINDOW_WORDS`] words. Sequence numbers go in groups of 16; a word holds the marks of one group (low
//! 16 bits) and the round of the ring that this group belongs to (high 48 bits). One compare-and-swap of one word
//! decides over one number, so any number of CPUs may receive for a session at a time, without a lock:
//!
//! * a word only ever moves to a later round, and within a round only gains marks; so a number is accepted at most
//!   once, for ever;
//! * a number is refused as too old when a later round has taken its word, at the earliest [`WIDTH`] numbers on.
//!
//! An all-zero ring is a fresh one.

use crate::drop_reason::DropReason;

/// Words of the ring.
pub const WINDOW_WORDS: usize = 66;

/// How far numbers may lag behind the highest one and still be accepted for certain.
pub const WIDTH: u64 = (WINDOW_WORDS as u64 - 1) * 16;

/// Tries of [`mark`]. A failed try means that another CPU marked one of the 15 other numbers of the group, or that
/// the word moved on to a later round, which ends the matter; so this many tries always suffice.
const TRIES: u32 = 17;

/// A word of the ring, shared between CPUs.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u64;
    /// Replaces `current` by `new` in one step; returns the word found, which is `current` on success.
    fn compare_exchange(&self, current: u64, new: u64) -> u64;
}

#[cfg(target_has_atomic = "64")]
impl Word for core::sync::atomic::AtomicU64 {
    fn load(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Relaxed)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        use core::sync::atomic::Ordering::Relaxed;
        match self.compare_exchange(current, new, Relaxed, Relaxed) {
            Ok(found) | Err(found) => found,
        }
    }
}

/// Where the mark of a sequence number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of its word, below [`WINDOW_WORDS`].
    pub index: usize,
    round: u64,
    bit: u64,
}

/// The place of a sequence number.
#[inline(always)]
pub const fn place(sequence: u64) -> Place {
    let group = sequence >> 4;
    Place {
        index: (group % WINDOW_WORDS as u64) as usize,
        round: group / WINDOW_WORDS as u64,
        bit: 1 << (sequence & 15),
    }
}

impl Place {
    /// Whether this number is unused and not too old, given its word. Marks nothing.
    ///
    /// # Errors
    /// [`DropReason::InvalidSequence`] when too old, [`DropReason::Replayed`] when used.
    #[inline(always)]
    pub const fn check(self, word: u64) -> Result<(), DropReason> {
        if word >> 16 > self.round {
            return Err(DropReason::InvalidSequence);
        }
        if word >> 16 == self.round && word & self.bit != 0 {
            return Err(DropReason::Replayed);
        }
        Ok(())
    }

    /// The word with this number marked.
    #[inline(always)]
    const fn marked(self, word: u64) -> u64 {
        if word >> 16 == self.round { word | self.bit } else { self.round << 16 | self.bit }
    }

    /// Marks this number as used, in its word. To be called only for packets whose tag verified.
    ///
    /// # Errors
    /// As [`Place::check`]: another CPU may have been faster since.
    #[inline(always)]
    pub fn mark(self, word: &impl Word) -> Result<(), DropReason> {
        let mut current = word.load();
        let mut tries = 0;
        while tries < TRIES {
            self.check(current)?;
            let found = word.compare_exchange(current, self.marked(current));
            if found == current {
                return Ok(());
            }
            current = found;
            tries += 1;
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

    struct Window([AtomicU64; WINDOW_WORDS]);

    impl Window {
        fn new() -> Self {
            Self(core::array::from_fn(|_| AtomicU64::new(0)))
        }

        fn mark(&self, sequence: u64) -> Result<(), DropReason> {
            let place = place(sequence);
            place.mark(&self.0[place.index])
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
        fn no_number_is_accepted_twice_whatever_the_order(
            steps in prop::collection::vec((any::<bool>(), 0_u64..3_000), 1..2_000)
        ) {
            let window = Window::new();
            let mut used = HashSet::new();
            let mut highest = 1_u64 << 50;
            for (ahead, distance) in steps {
                let sequence = if ahead { highest + distance } else { highest - distance };
                let fresh = !used.contains(&sequence);
                match window.mark(sequence) {
                    Ok(()) => { prop_assert!(fresh); used.insert(sequence); }
                    Err(DropReason::Replayed) => prop_assert!(!fresh),
                    Err(reason) => {
                        prop_assert_eq!(reason, DropReason::InvalidSequence);
                        prop_assert!(highest - sequence > WIDTH, "refused inside the window");
                    }
                }
                highest = highest.max(sequence);
            }
        }
    }

    #[test]
    fn four_cpus_accept_each_number_exactly_once() {
        const NUMBERS: u64 = 200_000;
        let window = Window::new();
        let next = AtomicU64::new(0);
        let accepted = AtomicU64::new(0);
        // Each number is offered by two threads at about the same time: it must get through exactly once.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let turn = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if turn >= 2 * NUMBERS {
                            break;
                        }
                        // Lap by lap of 64 numbers, each lap twice.
                        let sequence = (turn / 128) * 64 + turn % 64;
                        if window.mark(sequence).is_ok() {
                            accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let accepted = accepted.into_inner();
        assert!(accepted <= NUMBERS, "{accepted} accepted of {NUMBERS}");
        // A thread may be scheduled away for longer than the window is wide; then its numbers are refused, not lost
        // count of.
        assert!(accepted > NUMBERS / 2, "{accepted} accepted of {NUMBERS}");
    }
}
