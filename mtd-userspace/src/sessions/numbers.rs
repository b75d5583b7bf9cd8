//! The sequence numbers of a configured session. Its keys are the same after each start, so no number may be used twice:
//! many numbers at a time are noted in the state file as used, before they are used.

use std::ops::Range;

/// Sequence numbers that are noted as used ahead of time: a crash wastes at most this many.
pub(super) const RESERVE: u64 = 1 << 28;

/// With this many noted numbers left, a session that cannot get more is taken out of use: more than any data plane sends
/// between two ticks.
const LAST: u64 = RESERVE / 8;

/// Ranges that are kept; further ones are merged.
const MAX_RANGES: usize = 32;

/// The used sequence numbers of a session, and those noted as used.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Those used with the present clock.
    current: Range<u64>,
    /// Those used with earlier clocks.
    used: Vec<Range<u64>>,
    /// Numbers below this one are noted in the state file.
    noted: u64,
}

impl Numbers {
    /// A session that sends from `sequence` on; before it does, the numbers that [`Numbers::wanted`] returns are noted.
    pub(super) const fn new(sequence: u64) -> Self {
        Self { current: sequence..sequence, used: Vec::new(), noted: sequence + RESERVE }
    }

    /// Treats all numbers below `sequence` as used.
    pub(super) fn note_sent(&mut self, sequence: u64) {
        self.current.end = self.current.end.max(sequence);
    }

    /// Continues from this number with another clock.
    pub(super) fn go_on_from(&mut self, sequence: u64) {
        self.used.push(std::mem::replace(&mut self.current, sequence..sequence));
        if self.used.len() > MAX_RANGES {
            let (first, second) = (self.used.remove(0), &mut self.used[0]);
            *second = first.start.min(second.start)..first.end.max(second.end);
        }
    }

    /// The lowest number from `seed` on that is neither in a used range nor shortly before one. Numbers must not be used
    /// twice, even if the clock goes back and slots come again.
    pub(super) fn unused_from(&self, seed: u64) -> u64 {
        let mut from = seed;
        let mut ranges: Vec<&Range<u64>> = self.used.iter().chain([&self.current]).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        for range in ranges {
            // A range that begins within the reserve ahead would be reached.
            if from < range.end && range.start < from.saturating_add(RESERVE) {
                from = range.end;
            }
        }
        from
    }

    /// Whether the noted numbers may soon run out.
    pub(super) const fn are_low(&self) -> bool {
        self.current.end + RESERVE / 2 > self.noted
    }

    /// Whether they may run out before the next tick.
    pub(super) const fn are_spent(&self) -> bool {
        self.current.end + LAST > self.noted
    }

    /// The end of the range to be noted.
    pub(super) fn wanted(&self) -> u64 {
        self.noted.max(self.current.end + RESERVE)
    }

    /// Numbers below `noted` are noted now.
    pub(super) fn set_noted(&mut self, noted: u64) {
        self.noted = self.noted.max(noted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_repeats_no_sequence_number() {
        let mut numbers = Numbers::new(1_000_000);
        numbers.note_sent(1_500_000);
        assert_eq!(numbers.unused_from(1_200_000), 1_500_000, "inside the range in use");
        assert_eq!(numbers.unused_from(900_000), 1_500_000, "shortly before it");
        assert_eq!(numbers.unused_from(2_000_000), 2_000_000, "behind it");
        numbers.go_on_from(RESERVE * 10);
        numbers.note_sent(RESERVE * 10 + 5);
        assert_eq!(numbers.unused_from(1_200_000), 1_500_000, "also of clocks before the last one");
        assert_eq!(numbers.unused_from(RESERVE * 10 - 1), RESERVE * 10 + 5);
        assert!(numbers.are_low() && numbers.are_spent());
        numbers.set_noted(numbers.wanted());
        assert!(!numbers.are_low() && !numbers.are_spent());
        for n in 0..100 {
            numbers.go_on_from(RESERVE * (20 + n));
        }
        assert!(numbers.used.len() <= MAX_RANGES);
        assert!(
            numbers.unused_from(1_200_000) >= 1_500_000,
            "ranges made into one hold all that they were made of"
        );
    }
}
