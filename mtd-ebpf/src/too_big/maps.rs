//! The limit on messages to the controller.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::TokenBucket;

use crate::limit::Rate;

#[map]
static TOO_BIG_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);

/// Rate of messages to the controller from each CPU. Whoever sees packets of a session can forge such messages; a session
/// rarely needs one.
const RATE: Rate = Rate::per_second(100, 200);

/// Whether one more Packet Too Big may go to the controller.
#[inline(always)]
pub(super) fn may_report(now: u64) -> bool {
    RATE.take_here(&TOO_BIG_LIMIT, now)
}
