//! A rate limit in one word that any number of CPUs share.
//!
//! The word is a point in time: the one at which the limit will be unused again. Each use moves it on by one interval; a use
//! that would move it further ahead of the present than a burst of intervals is refused. Zero is an unused limit. (A
//! [`crate::abi::TokenBucket`] has the same function, in two words of a single CPU.)

use crate::window::Word;

/// Tries of [`take`]. A failed try means that another CPU took one at the same time. If that happens this often, an exact
/// limit no longer matters, and the use is refused.
const TRIES: u32 = 4;

/// A limit of one use every `interval` ns, and of `burst` uses at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Ns for one more use.
    pub interval: u64,
    /// Uses at once, after a time without any.
    pub burst: u64,
}

impl Meter {
    /// Takes one use at `now` (ns, monotonic); false if none is left.
    #[inline(always)]
    pub fn take(self, word: &impl Word, now: u64) -> bool {
        let most = now + self.interval * self.burst;
        let mut found = word.load();
        let mut tries = 0;
        while tries < TRIES {
            let from = if found > now { found } else { now };
            let until = from + self.interval;
            if until > most {
                return false;
            }
            let before = word.compare_exchange(found, until);
            if before == found {
                return true;
            }
            found = before;
            tries += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    const METER: Meter = Meter { interval: 10, burst: 3 };

    #[test]
    fn a_burst_and_then_the_rate() {
        let word = AtomicU64::new(0);
        let take = |now| METER.take(&word, now);
        assert_eq!((0..10).filter(|_| take(1_000)).count(), 3);
        assert!(!take(1_009));
        assert!(take(1_010));
        assert!(!take(1_010));
        assert_eq!((1_011..2_011).filter(|now| take(*now)).count(), 100);
        assert_eq!((0..10).filter(|_| take(5_000)).count(), 3, "after a rest, a burst and no more");
    }

    #[test]
    fn many_at_once_get_no_more_than_one_would() {
        let word = AtomicU64::new(0);
        let meter = Meter { interval: 10, burst: 1_000 };
        let takers = || (0..10_000).filter(|_| meter.take(&word, 50)).count();
        let taken: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(takers)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((taken, word.load(Ordering::Relaxed)), (1_000, 50 + 10 * 1_000));
    }
}
