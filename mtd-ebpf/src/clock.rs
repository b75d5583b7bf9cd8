//! The two clocks of the programs: an exact one, and one that is late by a tick at most and costs next to nothing.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use mtd_common::abi::Local;

use crate::local::local;

/// Boot time in ns: the clock that session time is counted from.
#[inline(always)]
pub(crate) fn boot_time() -> u64 {
    // SAFETY: takes nothing, returns the time.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Boot time in ns of the first packet after the clock's last tick: late by a tick at most (1 to 10 ms, depending on how
/// the kernel was built). The exact clock costs as much as dropping a stranger's packet altogether.
#[inline(always)]
pub(crate) fn tick_of(local: &mut Local) -> u64 {
    // SAFETY: takes nothing, returns a number; the kernel makes one read of memory of it.
    let tick = unsafe { bpf_jiffies64() };
    if local.tick != tick {
        // SAFETY: fields of a map value, aligned by its type; volatile for their order: a program that comes between the
        // two writes reads the clock itself.
        unsafe {
            (&raw mut local.time).write_volatile(boot_time());
            (&raw mut local.tick).write_volatile(tick);
        }
    }
    local.time
}

/// Boot time in ns for decisions to which a tick does not matter: see [`tick_of`].
#[inline(always)]
pub(crate) fn tick() -> u64 {
    local().map_or(0, tick_of)
}
