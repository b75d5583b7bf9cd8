//! How long to wait between tries that fail: short at first, longer after each further failure, and never as long as
//! others wait who have failed at the same time.

use std::time::Duration;

/// Waits that double from the first to the longest one, each longer by up to a half of it at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row, of which there is at least one: from the doubled waits to half as much
    /// again, as `random` falls. Everybody needs a `random` of his own: those who fail together shall not come back
    /// together.
    pub fn wait(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.longest);
        let most = (wait / 2).as_nanos().max(1) as u64;
        wait + Duration::from_nanos(random % most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

    #[test]
    fn the_first_tries_are_quick_and_later_ones_rare() {
        let waits: Vec<_> = (1..=8).map(|failures| BACKOFF.wait(failures, 0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(BACKOFF.wait(0, 0).as_secs(), 1);
        assert_eq!(BACKOFF.wait(u32::MAX, 0).as_secs(), 30);
    }

    #[test]
    fn no_wait_is_longer_than_half_as_much_again() {
        for failures in 0..40 {
            let least = BACKOFF.wait(failures, 0);
            for random in [1, 499_999_999, 1 << 40, u64::MAX] {
                let wait = BACKOFF.wait(failures, random);
                assert!((least..=least * 3 / 2).contains(&wait), "{failures} {random}: {wait:?}");
            }
        }
        let tiny = Backoff { first: Duration::ZERO, longest: Duration::ZERO };
        assert_eq!(tiny.wait(3, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn hosts_that_fail_together_do_not_come_back_together() {
        // A thousand hosts lose the network at the same instant. By their eighth try none of a hundred equal parts of the
        // time has more than a small share of them.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut parts = [0; 100];
        let mut comes =
            |tries| (1..=tries).map(|failures| BACKOFF.wait(failures, random())).sum::<Duration>();
        let (least, most) = (BACKOFF_SUM, BACKOFF_SUM * 3 / 2);
        for _ in 0..1000 {
            let at = comes(8);
            assert!((least..=most).contains(&at), "{at:?}");
            let part = (at.as_nanos() - least.as_nanos()) * 100 / (most.as_nanos() - least.as_nanos());
            parts[(part as usize).min(99)] += 1;
        }
        assert!(parts.iter().all(|count| *count < 100), "{parts:?}");
        assert!(parts.iter().filter(|count| **count > 0).count() > 40, "{parts:?}");
    }

    /// The sum of the first eight waits, without what is random.
    const BACKOFF_SUM: Duration = Duration::from_secs(1 + 2 + 4 + 8 + 16 + 30 + 30 + 30);
}
