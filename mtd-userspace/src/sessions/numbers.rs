//! The sequence numbers of a configured session. Its keys are the same after each start, so no number may be used twice:
//! many numbers at a time are noted in the state file as used, before they are used, and what was noted once stays used.

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
    /// Those used with earlier clocks, and by earlier controllers.
    used: Vec<Range<u64>>,
    /// Numbers of the present range that are below this one are noted in the state file.
    noted: u64,
}

impl Numbers {
    /// A session that has used these numbers, and sends from the first unused one from `seed` on. None of them is noted yet.
    pub(super) fn new(used: Vec<Range<u64>>, seed: u64) -> Self {
        let mut numbers = Self { current: 0..0, used: merged(used), noted: 0 };
        numbers.go_on_from(numbers.unused_from(seed));
        numbers
    }

    /// A session that goes on in the data plane, and sends `next`. If that lies in the last of these ranges, an earlier
    /// controller has noted the rest of it for what the programs send.
    pub(super) fn adopted(mut used: Vec<Range<u64>>, next: u64) -> Self {
        match used.pop_if(|present| present.start <= next && next <= present.end) {
            Some(present) => Self { current: present.start..next, used: merged(used), noted: present.end },
            None => Self { current: next..next, used: merged(used), noted: next },
        }
    }

    /// The next number to send, as far as is known.
    pub(super) const fn next(&self) -> u64 {
        self.current.end
    }

    /// Treats all numbers of the present range that are below `sequence` as used.
    pub(super) fn note_sent(&mut self, sequence: u64) {
        self.current.end = self.current.end.max(sequence);
    }

    /// Treats all noted numbers of the present range as used.
    pub(super) fn use_noted(&mut self) {
        self.note_sent(self.noted);
    }

    /// Continues from this number with another clock: in the present range, or in one of which none is noted yet.
    pub(super) fn go_on_from(&mut self, sequence: u64) {
        if sequence == self.current.end {
            return;
        }
        let before = std::mem::replace(&mut self.current, sequence..sequence);
        self.used.push(before);
        self.used = merged(std::mem::take(&mut self.used));
        self.noted = sequence;
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

    /// Whether the noted numbers may soon run out, and there are more.
    pub(super) fn are_low(&self) -> bool {
        self.current.end.saturating_add(RESERVE / 2) > self.noted && self.end() > self.noted
    }

    /// Whether they may run out before the next tick.
    pub(super) const fn are_spent(&self) -> bool {
        self.current.end.saturating_add(LAST) > self.noted
    }

    /// All ranges that are to be noted: the used ones, and last the present one with what may be used soon.
    pub(super) fn wanted(&self) -> Vec<Range<u64>> {
        self.with_present(self.end())
    }

    /// All used ranges, now that nothing is sent any more.
    pub(super) fn ended(&self) -> Vec<Range<u64>> {
        self.with_present(self.current.end)
    }

    fn with_present(&self, end: u64) -> Vec<Range<u64>> {
        let mut ranges = self.used.clone();
        ranges.push(self.current.start..end);
        ranges
    }

    /// The end of the present range once more is noted: at most up to the next used range.
    fn end(&self) -> u64 {
        let ahead = self.used.iter().map(|range| range.start).filter(|start| *start >= self.current.end);
        let most = ahead.min().unwrap_or(u64::MAX);
        self.noted.max(self.current.end.saturating_add(RESERVE).min(most))
    }

    /// These ranges, which [`Numbers::wanted`] returned at some time, are noted now.
    pub(super) fn set_noted(&mut self, ranges: &[Range<u64>]) {
        // Of another present range, if the clock has changed meanwhile.
        let present = ranges.last().filter(|range| range.start == self.current.start);
        self.noted = present.map_or(self.noted, |range| self.noted.max(range.end));
    }
}

/// The same numbers and perhaps some between them, in order, in no more than [`MAX_RANGES`] ranges.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    while merged.len() > MAX_RANGES {
        let gap = |at: &usize| merged[at + 1].start - merged[*at].end;
        let Some(at) = (0..merged.len() - 1).min_by_key(gap) else { break };
        merged[at].end = merged.remove(at + 1).end;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(numbers: &mut Numbers) {
        let wanted = numbers.wanted();
        numbers.set_noted(&wanted);
    }

    #[test]
    fn a_clock_that_goes_back_repeats_no_sequence_number() {
        let mut numbers = Numbers::new(Vec::new(), 1_000_000);
        numbers.note_sent(1_500_000);
        assert_eq!(numbers.unused_from(1_200_000), 1_500_000, "inside the range in use");
        assert_eq!(numbers.unused_from(900_000), 1_500_000, "shortly before it");
        assert_eq!(numbers.unused_from(2_000_000), 2_000_000, "behind it");
        numbers.go_on_from(RESERVE * 10);
        numbers.note_sent(RESERVE * 10 + 5);
        assert_eq!(numbers.unused_from(1_200_000), 1_500_000, "also of clocks before the last one");
        assert_eq!(numbers.unused_from(RESERVE * 10 - 1), RESERVE * 10 + 5);
        assert!(numbers.are_low() && numbers.are_spent());
        noted(&mut numbers);
        assert!(!numbers.are_low() && !numbers.are_spent());
        for n in 0..100 {
            numbers.go_on_from(RESERVE * (20 + 2 * n));
            numbers.note_sent(RESERVE * (20 + 2 * n) + 1);
        }
        assert!(numbers.used.len() <= MAX_RANGES);
        assert!(
            numbers.unused_from(1_200_000) >= 1_500_000,
            "ranges made into one hold all that they were made of"
        );
    }

    #[test]
    fn what_was_used_before_a_start_stays_used() {
        let mut numbers = Numbers::new(Vec::new(), RESERVE * 100);
        noted(&mut numbers);
        numbers.note_sent(RESERVE * 100 + 7);
        numbers.go_on_from(RESERVE * 50);
        numbers.note_sent(RESERVE * 50 + 9);
        // The clock is right again after the stop: the numbers of before must not come again.
        let mut next = Numbers::new(numbers.ended(), RESERVE * 100 + 1);
        assert_eq!(next.next(), RESERVE * 100 + 7);
        assert_eq!(Numbers::new(numbers.ended(), RESERVE * 50).next(), RESERVE * 50 + 9);
        // After a crash, what was noted counts as used.
        noted(&mut next);
        assert_eq!(Numbers::new(next.wanted(), RESERVE * 100 + 1).next(), RESERVE * 101 + 7);
        // What went on in the data plane goes on in its range.
        let adopted = Numbers::adopted(next.wanted(), RESERVE * 100 + 20);
        assert!(
            (adopted.next(), adopted.noted) == (RESERVE * 100 + 20, RESERVE * 101 + 7)
                && !adopted.are_spent()
        );
    }

    #[test]
    fn a_range_ends_where_a_used_one_begins() {
        let mut numbers = Numbers::new(std::iter::once(RESERVE * 3..RESERVE * 4).collect(), RESERVE * 2);
        assert_eq!(numbers.next(), RESERVE * 2);
        noted(&mut numbers);
        numbers.note_sent(RESERVE * 3 - LAST - 1);
        assert!(!numbers.are_low() && !numbers.are_spent(), "there are no more");
        numbers.note_sent(RESERVE * 3 - LAST + 1);
        assert!(numbers.are_spent());
        assert_eq!(numbers.unused_from(RESERVE * 2), RESERVE * 4);
    }

    #[test]
    fn a_note_of_another_range_is_none_of_this_one() {
        let mut numbers = Numbers::new(Vec::new(), RESERVE);
        let wanted = numbers.wanted();
        numbers.go_on_from(RESERVE * 9);
        numbers.set_noted(&wanted);
        assert!(numbers.are_spent());
    }
}
