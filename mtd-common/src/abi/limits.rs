//! State of each CPU.

use core::mem::size_of;

/// State of one CPU: the only element of the per-CPU array `LOCAL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The kernel's count of ticks when `time` was read.
    pub tick: u64,
    /// Boot time in ns.
    pub time: u64,
    /// The limit on drop events.
    pub events: TokenBucket,
}

/// A token bucket of one CPU ([`Local`]; maps `NEIGHBOUR_LIMIT`, `INTRODUCTION_LIMIT`, `CONTROL_LIMIT`,
/// `TOO_BIG_LIMIT`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// Time in ns of the last refill, by whichever clock that does not jump.
    pub refilled: u64,
    /// Tokens left.
    pub tokens: u64,
}

impl TokenBucket {
    /// Takes one token at `now` (ns, monotonic) from a bucket that holds up to `burst` tokens and gains one every
    /// `interval` ns. Returns whether there was one.
    #[inline(always)]
    pub fn take(&mut self, now: u64, interval: u64, burst: u64) -> bool {
        let elapsed = now.wrapping_sub(self.refilled);
        // Compared first: a division costs more than all the rest.
        if elapsed >= interval {
            let tokens = self.tokens.saturating_add(elapsed / interval);
            self.tokens = if tokens > burst { burst } else { tokens };
            self.refilled = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

const _: () = {
    assert!(size_of::<TokenBucket>() == 16);
    assert!(size_of::<Local>() == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_bucket_refills_with_time_and_never_over_its_burst() {
        let mut bucket = TokenBucket::default();
        assert!(bucket.take(1_000, 10, 3), "a new bucket fills up at its first use");
        assert!(bucket.take(1_000, 10, 3));
        assert!(bucket.take(1_000, 10, 3));
        assert!(!bucket.take(1_000, 10, 3));
        assert!(!bucket.take(1_009, 10, 3));
        assert!(bucket.take(1_010, 10, 3));
        assert!(!bucket.take(1_010, 10, 3));
    }
}
