//! State of each CPU.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::abi::Local;

#[map]
static LOCAL: PerCpuArray<Local> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's element.
#[inline(always)]
pub(crate) fn local() -> Option<&'static mut Local> {
    // SAFETY: this CPU's own element. A program is not interrupted by itself; if one interrupts another, both may take the
    // same token, and `clock` describes the effect on the time.
    LOCAL.get_ptr_mut(0).map(|local| unsafe { &mut *local })
}
