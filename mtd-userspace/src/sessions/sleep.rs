//! Sleep of the host (suspension to memory or disk). Nobody tells in time, but the clocks show it: boot time goes on, and
//! monotonic time does not. No other jump of a clock is a reason to do anything: a step of the wall clock is what an
//! administrator or a time service does, and sessions do not go by it; and boot time jumps only together with monotonic time
//! when a process, or a virtual machine, was stopped for a while, which is no more than a busy host.

use std::time::Duration;

/// A shorter sleep is none: no packet is late by it, and the clocks are not read at the same instant.
const SHORTEST: i128 = 1_000_000_000;

/// What is known of the host's sleep.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    /// For how many ns the host had slept at the last look.
    known: Option<i128>,
}

impl Sleep {
    /// For how long the host has slept since the last look, if it has; `slept` is the time in ns for which it has slept in all.
    pub(super) fn look(&mut self, slept: i128) -> Option<Duration> {
        let ns = slept - self.known.replace(slept)?;
        (ns >= SHORTEST).then(|| Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn a_sleep_is_told_once() {
        let mut sleep = Sleep::default();
        // Before the start, the host may have slept for long, and a time namespace may begin with any number.
        assert_eq!(sleep.look(-7000 * SECOND), None);
        assert_eq!(sleep.look(-7000 * SECOND + 300), None);
        assert_eq!(sleep.look(-6940 * SECOND + 300), Some(Duration::from_mins(1)));
        assert_eq!(sleep.look(-6940 * SECOND), None);
    }

    #[test]
    fn what_is_shorter_than_a_second_is_none_however_often_it_comes() {
        let mut sleep = Sleep::default();
        let all: Vec<_> = (0..100).filter_map(|n| sleep.look(n * SECOND * 9 / 10)).collect();
        assert_eq!(all, []);
        assert_eq!(sleep.look(0), None, "monotonic time that has caught up is no sleep");
    }
}
