//! Rate limits, for each CPU.

use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::TokenBucket;

/// A rate limit.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    /// Mean time in ns between two events.
    interval: u64,
    /// Largest number of events at once.
    burst: u64,
}

impl Rate {
    /// A limit of this many `times` a second, and at most `burst` at once.
    pub(crate) const fn per_second(times: u64, burst: u64) -> Self {
        Self { interval: 1_000_000_000 / times, burst }
    }

    /// Takes a token from a bucket at `now` (boot time in ns). Returns whether there was one.
    #[inline(always)]
    pub(crate) fn take(self, bucket: &mut TokenBucket, now: u64) -> bool {
        bucket.take(now, self.interval, self.burst)
    }

    /// Takes a token from this CPU's bucket at `now` (boot time in ns). Returns whether there was one.
    #[inline(always)]
    pub(crate) fn take_here(self, buckets: &PerCpuArray<TokenBucket>, now: u64) -> bool {
        let Some(bucket) = buckets.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's own element; a program is not interrupted by itself.
        self.take(unsafe { &mut *bucket }, now)
    }
}
