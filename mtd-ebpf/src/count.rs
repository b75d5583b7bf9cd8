//! Counters of drops and of everything else, one element for each CPU.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::{COUNTER_SLOTS, Counter, DROP_COUNTERS, DROP_SLOTS};

#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_COUNTERS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

#[inline(always)]
fn add(array: &PerCpuArray<u64>, index: u32, amount: u64) {
    if let Some(counter) = array.get_ptr_mut(index) {
        // SAFETY: this CPU's own element; a program is not interrupted by itself.
        unsafe { *counter += amount }
    }
}

/// Counts a packet dropped for the reason of this number, or one that `passed` because nothing is enforced.
#[inline(always)]
pub(crate) fn drop(reason: u32, passed: bool) {
    add(&DROPS, reason + if passed { DROP_SLOTS } else { 0 }, 1);
}

/// Increments any other counter.
#[inline(always)]
pub(crate) fn one(counter: Counter) {
    several(counter, 1);
}

/// Adds several to any other counter.
#[inline(always)]
pub(crate) fn several(counter: Counter, amount: u64) {
    add(&COUNTERS, counter as u32, amount);
}
