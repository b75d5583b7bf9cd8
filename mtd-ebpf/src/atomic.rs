//! Atomic operations on map memory.
//!
//! Rust's BPF target declares no compare-and-swap, so `core::sync::atomic` lacks these operations; the instructions exist
//! since Linux 5.12.

use mtd_common::window::Word;

/// A `u64` in a map value that several CPUs change at a time.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut u64);

impl Shared {
    /// # Safety
    /// `pointer` must point to eight aligned bytes inside a map value, and stay valid as long as the program runs.
    #[inline(always)]
    pub(crate) const unsafe fn new(pointer: *mut u64) -> Self {
        Self(pointer)
    }

    /// Adds to it, and returns what it was before.
    #[inline(always)]
    pub(crate) fn fetch_add(self, amount: u64) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            let mut value = amount;
            // SAFETY: valid and aligned by the contract of `new`; the instruction touches nothing else.
            unsafe {
                core::arch::asm!(
                    "{value} = atomic_fetch_add((u64 *)({pointer} + 0), {value})",
                    pointer = in(reg) self.0,
                    value = inout(reg) value,
                );
            }
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: valid and aligned by the contract of `new`; everybody else accesses it atomically.
            let shared = unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0) };
            shared.fetch_add(amount, core::sync::atomic::Ordering::SeqCst)
        }
    }
}

impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: valid and aligned by the contract of `new`; volatile, since others write it at the same time.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn load_in_order(&self) -> u64 {
        // The kernel gives an addition that returns the old value full ordering; before 6.15, BPF has no load with ordering.
        self.fetch_add(0)
    }

    /// Aligned eight-byte writes are not torn.
    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: valid and aligned by the contract of `new`; volatile, since others read it at the same time.
        unsafe { self.0.write_volatile(value) }
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            let mut found = current;
            // SAFETY: valid and aligned by the contract of `new`; the instruction touches nothing else. It takes the
            // expected value in r0 and leaves the one it found there.
            unsafe {
                core::arch::asm!(
                    "r0 = cmpxchg_64({pointer} + 0, r0, {new})",
                    pointer = in(reg) self.0,
                    new = in(reg) new,
                    inout("r0") found,
                );
            }
            found
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: valid and aligned by the contract of `new`; everybody else accesses it atomically.
            let shared = unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0) };
            Word::compare_exchange(shared, current, new)
        }
    }
}
