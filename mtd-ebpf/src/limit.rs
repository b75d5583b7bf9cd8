//! Limits on how often something may happen, for each CPU.

use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::TokenBucket;

/// How often something may happen.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    /// Time in ns that has to go by, on average, between two times.
    interval: u64,
    /// How often it may happen at once.
    burst: u64,
}

impl Rate {
    /// So many times a second, and at most `burst` times at once.
    pub(crate) const fn per_second(times: u64, burst: u64) -> Self {
        Self { interval: 1_000_000_000 / times, burst }
    }

    /// Takes a token out of a bucket, if there is one, at `now` (boot time in ns).
    #[inline(always)]
    pub(crate) fn take(self, bucket: &mut TokenBucket, now: u64) -> bool {
        bucket.take(now, self.interval, self.burst)
    }

    /// Takes a token out of this CPU's bucket, if there is one, at `now` (boot time in ns).
    #[inline(always)]
    pub(crate) fn take_here(self, buckets: &PerCpuArray<TokenBucket>, now: u64) -> bool {
        let Some(bucket) = buckets.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's own element; a program is not interrupted by itself.
        self.take(unsafe { &mut *bucket }, now)
    }
}
