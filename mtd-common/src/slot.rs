//! Slot arithmetic and the seed of sequence numbers. All times are session time in ns.

/// Shortest slot, in ns (requirement MT-04).
pub const MIN_PERIOD: u64 = 1_000_000_000;
/// Longest slot, in ns (requirement MT-04).
pub const MAX_PERIOD: u64 = 3_600_000_000_000;

/// The slot that `time` lies in: `floor((time + phase) / period)`. `period` must not be 0.
#[inline(always)]
pub const fn number(time: u64, phase: u64, period: u64) -> u64 {
    time.wrapping_add(phase) / period
}

/// The time at which `slot` begins; 0 for slots that began before time did.
#[inline(always)]
pub const fn start(slot: u64, phase: u64, period: u64) -> u64 {
    slot.saturating_mul(period).saturating_sub(phase)
}

/// From when until when packets to the addresses of `slot` are accepted: one slot early to one slot late, so that
/// at any time three generations are live (requirement MT-05).
#[inline(always)]
pub const fn live(slot: u64, phase: u64, period: u64) -> (u64, u64) {
    (start(slot.saturating_sub(1), phase, period), start(slot.saturating_add(2), phase, period))
}

/// Whether the addresses of `slot` are live at `time` (as [`live`] says), in a session of which no slot is live from
/// `until` on. Nothing is live where `period` is 0.
#[inline(always)]
pub const fn is_live(slot: u64, time: u64, phase: u64, period: u64, until: u64) -> bool {
    // A multiplication, where the number of the present slot would take a division.
    let begin = slot.wrapping_sub(1).wrapping_mul(period);
    time < until && time.wrapping_add(phase).wrapping_sub(begin) < period.wrapping_mul(3)
}

/// Index of the element of `SLOTS` for a slot of a session that has `1 << ring_bits` of them.
#[inline(always)]
pub const fn place(session: u32, slot: u64, ring_bits: u32) -> u32 {
    let ring_bits = ring_bits & 31;
    session << ring_bits | slot as u32 & ((1 << ring_bits) - 1)
}

/// The session that an index into `SLOTS` belongs to.
#[inline(always)]
pub const fn session(place: u32, ring_bits: u32) -> u32 {
    place >> (ring_bits & 31)
}

/// Sequence numbers start at the session time in units of 2^6 ns and count up. So a sender that lost its counter starts
/// above every number that it may have used, as long as it sent fewer than 15 million packets a second.
pub const SEQUENCE_SHIFT: u32 = 6;

/// How far ahead of the receiver's time a sequence number may be: 2^40 ns, 18 minutes. Most forged (random) numbers
/// are above it.
pub const SEQUENCE_SLACK: u64 = 1 << (40 - SEQUENCE_SHIFT);

/// The first sequence number of a sender that starts at `time`.
#[inline(always)]
pub const fn sequence_seed(time: u64) -> u64 {
    time >> SEQUENCE_SHIFT
}

/// Whether an honest sender can have reached `sequence` at the receiver's `time`.
#[inline(always)]
pub const fn sequence_possible(sequence: u64, time: u64) -> bool {
    sequence <= sequence_seed(time) + SEQUENCE_SLACK
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000_000_000;

    proptest! {
        #[test]
        fn three_generations_are_live_at_any_time(
            time in NOW..NOW + MAX_PERIOD,
            period in MIN_PERIOD..=MAX_PERIOD,
            phase in any::<u64>(),
        ) {
            let phase = phase % period;
            let current = number(time, phase, period);
            prop_assert!(start(current, phase, period) <= time && time < start(current + 1, phase, period));
            let live_slots: Vec<u64> = (current - 4..=current + 4)
                .filter(|&slot| {
                    let (from, until) = live(slot, phase, period);
                    let live = from <= time && time < until;
                    assert_eq!(is_live(slot, time, phase, period, u64::MAX), live);
                    assert!(!is_live(slot, time, phase, period, time));
                    live
                })
                .collect();
            prop_assert_eq!(live_slots, vec![current - 1, current, current + 1]);
        }
    }

    #[test]
    fn sequence_numbers_of_an_honest_sender_are_possible_and_random_ones_are_not() {
        assert!(sequence_possible(sequence_seed(NOW), NOW));
        assert!(sequence_possible(sequence_seed(NOW + MIN_PERIOD), NOW));
        assert!(!sequence_possible(u64::MAX, NOW));
        assert!(!sequence_possible(1 << 60, NOW));
    }

    #[test]
    fn the_first_slots_of_time_do_not_underflow() {
        assert_eq!(live(0, 500, 1000), (0, 1500));
    }
}
