//! What each CPU keeps for itself.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::Local;

#[map]
static LOCAL: PerCpuArray<Local> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's element.
#[inline(always)]
pub(crate) fn local() -> Option<&'static mut Local> {
    // SAFETY: this CPU's own element. A program is not interrupted by itself; where one interrupts another, both may take the
    // same token, and `clock` says what happens to the time.
    LOCAL.get_ptr_mut(0).map(|local| unsafe { &mut *local })
}
