//! What each CPU keeps for itself.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::DropReason;
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

/// The same reason, of which the verifier knows nothing any more: it walks what follows once, and not once for each reason.
#[inline(always)]
pub(crate) fn forgotten(reason: DropReason) -> DropReason {
    let Some(local) = local() else { return DropReason::ReceiveFailed };
    // SAFETY: a field of a map value, aligned by its type; volatile, so that the compiler does not keep the value itself.
    let number = unsafe {
        (&raw mut local.forgotten).write_volatile(reason as u64);
        (&raw const local.forgotten).read_volatile()
    };
    DropReason::from_number(number as u8).unwrap_or(DropReason::ReceiveFailed)
}
