//! The limit on answers to solicitations.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::TokenBucket;

use crate::limit::Rate;

#[map]
static NEIGHBOUR_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);

/// Rate of advertisements from each CPU.
const RATE: Rate = Rate::per_second(1_000, 500);

/// Whether one more neighbour advertisement may be sent.
#[inline(always)]
pub(super) fn may_advertise(now: u64) -> bool {
    RATE.take_here(&NEIGHBOUR_LIMIT, now)
}
