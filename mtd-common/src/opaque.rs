//! Hiding values from the compiler.
//!
//! In BPF programs, the compiler must sometimes be kept from using its knowledge: the verifier, which knows less, still
//! requires a check of a bound that the compiler has proved and would remove; and values that it keeps across loops are
//! spilled to a stack of 512 bytes. On the host these functions do nothing. (`core::hint::black_box` would serve, but its
//! empty assembly generates line information that the kernel refuses.)

/// The same value; the compiler can assume nothing about it.
#[inline(always)]
pub fn value(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: a register moved to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// The same reference; the compiler can assume nothing about its target.
#[inline(always)]
pub fn reference<T>(reference: &T) -> &T {
    #[cfg(target_arch = "bpf")]
    {
        let mut pointer: *const T = reference;
        // SAFETY: a register moved to itself. The compiler must assume that memory was written, but nothing was.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) pointer, options(nostack)) };
        // SAFETY: the reference that came in.
        unsafe { &*pointer }
    }
    #[cfg(not(target_arch = "bpf"))]
    reference
}

/// The same mutable reference; the compiler can assume nothing about its target.
#[inline(always)]
pub fn mutable<T>(reference: &mut T) -> &mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut pointer: *mut T = reference;
        // SAFETY: a register moved to itself. The compiler must assume that memory was written, but nothing was.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) pointer, options(nostack)) };
        // SAFETY: the reference that came in.
        unsafe { &mut *pointer }
    }
    #[cfg(not(target_arch = "bpf"))]
    reference
}
