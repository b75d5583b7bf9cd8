//! The clock of a statically configured session.
//!
//! Session time is boot time plus an offset that is read from the wall clock when the session starts, and then kept:
//! a step of the wall clock does not disturb a session that works. Only when no valid packet comes in and the wall
//! clock says otherwise is the offset read anew, so that a host that started with a wrong clock finds its peer once
//! the clock is right.

pub use crate::model::Reading;
use crate::model::{BootNs, ClockOffset};

/// Below this difference to the wall clock, in ns, the offset is always kept: a quarter of the shortest slot.
pub(crate) const TOLERANCE: u64 = 250_000_000;

/// How long no valid packet must have come in, in slots …
const SILENT_SLOTS: u64 = 3;
/// … and in ns at least.
const SILENT_AT_LEAST: u64 = 3_000_000_000;

/// How long a peer may be quiet before it counts as silent, in ns.
pub fn silence(period: u64) -> u64 {
    period.saturating_mul(SILENT_SLOTS).max(SILENT_AT_LEAST)
}

/// Session clock minus wall clock in ns, for a session with this offset.
pub const fn difference(offset: ClockOffset, now: Reading) -> i64 {
    offset.ahead_of(now.offset())
}

/// The offset to go on with, when it is not the present one. `last_valid` is the boot time of the last valid packet,
/// or of the start of the session with this offset.
pub fn adjust(offset: ClockOffset, last_valid: BootNs, period: u64, now: Reading) -> Option<ClockOffset> {
    let off = difference(offset, now).unsigned_abs() > TOLERANCE;
    let silent = now.boot.since(last_valid) >= silence(period);
    (off && silent).then(|| now.offset())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnixNs;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;
    const BOOT: u64 = 1000 * SECOND;
    const WALL: u64 = 1_800_000_000 * SECOND;

    fn at(boot: u64, wall: u64) -> Reading {
        Reading { boot: BootNs(boot), wall: UnixNs(wall) }
    }

    #[test]
    fn a_step_does_not_disturb_a_session_with_traffic() {
        let offset = at(BOOT, WALL).offset();
        let later = BOOT + 60 * SECOND;
        assert_eq!(adjust(offset, BootNs(later - SECOND), 3 * SECOND, at(later, WALL + HOUR)), None);
    }

    #[test]
    fn a_silent_session_follows_the_wall_clock_both_ways() {
        let offset = at(BOOT, WALL).offset();
        let later = BOOT + 60 * SECOND;
        for wall in [WALL + 60 * SECOND + HOUR, WALL + 60 * SECOND - HOUR] {
            let now = at(later, wall);
            assert_eq!(adjust(offset, BootNs(BOOT), 3 * SECOND, now), Some(now.offset()));
            assert_eq!(adjust(now.offset(), BootNs(BOOT), 3 * SECOND, now), None, "once is enough");
        }
    }

    #[test]
    fn small_differences_are_no_reason() {
        let offset = at(BOOT, WALL).offset();
        let now = at(BOOT + HOUR, WALL + HOUR + TOLERANCE);
        assert_eq!(adjust(offset, BootNs(BOOT), SECOND, now), None);
        let now = at(BOOT + HOUR, WALL + HOUR + TOLERANCE + 1);
        assert_eq!(adjust(offset, BootNs(BOOT), SECOND, now), Some(now.offset()));
    }

    #[test]
    fn silence_is_counted_in_slots_and_seconds() {
        assert_eq!(silence(SECOND), 3 * SECOND);
        assert_eq!(silence(10 * SECOND), 30 * SECOND);
        let offset = at(BOOT, WALL).offset();
        let stepped = |boot| at(boot, WALL + HOUR);
        assert_eq!(adjust(offset, BootNs(BOOT), SECOND, stepped(BOOT + 2 * SECOND)), None);
        assert!(adjust(offset, BootNs(BOOT), SECOND, stepped(BOOT + 3 * SECOND)).is_some());
    }
}
