//! The limit on answers to solicitations, and memory to write them in.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::TokenBucket;
use mtd_common::packet::ndp;

use crate::limit::Rate;

#[map]
static NEIGHBOUR_LIMIT: PerCpuArray<TokenBucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static NEIGHBOUR_FRAME: PerCpuArray<[u8; ndp::FRAME]> = PerCpuArray::with_max_entries(1, 0);

/// Rate of advertisements from each CPU.
const RATE: Rate = Rate::per_second(1_000, 500);

/// Whether one more neighbour advertisement may be sent.
#[inline(always)]
pub(super) fn may_advertise(now: u64) -> bool {
    RATE.take_here(&NEIGHBOUR_LIMIT, now)
}

/// Working memory of `mtd_advertise` on this CPU: on the stack, the verifier wants every access aligned.
#[inline(always)]
pub(super) fn frame() -> Option<&'static mut [u8; ndp::FRAME]> {
    // SAFETY: this CPU's own element, which only `mtd_advertise` uses; it is not interrupted by itself, and asks once.
    NEIGHBOUR_FRAME.get_ptr_mut(0).map(|frame| unsafe { &mut *frame })
}
