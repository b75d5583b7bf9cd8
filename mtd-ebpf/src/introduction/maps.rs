//! Maps of accepted introductions, and the limit on their number.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use mtd_common::abi::{IntroductionTag, TokenBucket};

use crate::limit::Rate;

/// Number of introduction packets that are remembered, so that none is accepted twice.
const INTRODUCTIONS: u32 = 65_536;

/// `BPF_NOEXIST`: insert only.
const NO_EXIST: u64 = 1;

#[map]
static INTRODUCED: LruHashMap<IntroductionTag, u64> = LruHashMap::with_max_entries(INTRODUCTIONS, 0);
#[map]
static INTRODUCTION_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);

/// Rate of introductions that go to the controller, from each CPU.
const RATE: Rate = Rate::per_second(5_000, 5_000);

/// Whether an introduction packet with this tag was accepted before.
#[inline(always)]
pub(super) fn introduced(tag: &IntroductionTag) -> bool {
    INTRODUCED.get_ptr(tag).is_some()
}

/// Remembers the tag of an introduction packet accepted at `now` (boot time in ns). False: it was accepted before, or cannot
/// be remembered.
#[inline(always)]
pub(super) fn remember(tag: &IntroductionTag, now: u64) -> bool {
    INTRODUCED.insert(tag, now, NO_EXIST).is_ok()
}

/// Whether one more introduction may go to the controller.
#[inline(always)]
pub(super) fn may_introduce(now: u64) -> bool {
    RATE.take_here(&INTRODUCTION_LIMIT, now)
}
