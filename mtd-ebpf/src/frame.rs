//! Packet memory: the one place where packet pointers are checked and made into references.

use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use mtd_common::aead::{BLOCK, Text};
use mtd_common::opaque;

use crate::layout::INNER;

/// Types that may be read from and written to packet memory: any bytes, no alignment.
///
/// # Safety
/// Every bit pattern must be a valid value, and the alignment must be 1.
pub(crate) unsafe trait Bytes {}

// SAFETY: bytes.
unsafe impl<const N: usize> Bytes for [u8; N] {}

/// Reads a packet pointer from the context field at `OFFSET`.
///
/// In assembly, because the field has 32 bits and the verifier turns it into a pointer of 64: a compiler that knows of the
/// 32 bits copies, spills and subtracts only those, and the result is not a pointer any more.
#[inline(always)]
fn pointer<const OFFSET: usize, C>(ctx: *const C) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let pointer: usize;
        // SAFETY: the program's own context, which has a packet pointer there.
        unsafe {
            core::arch::asm!(
                "{pointer} = *(u32 *)({ctx} + {offset})",
                pointer = out(reg) pointer,
                ctx = in(reg) ctx,
                offset = const OFFSET,
                options(pure, readonly, nostack),
            );
        }
        pointer
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the field of the context; on the host, this is only compiled.
        unsafe { ctx.byte_add(OFFSET).cast::<u32>().read() as usize }
    }
}

/// A packet whose memory, or at least its linear part, can be read and written directly.
pub(crate) trait Memory {
    /// The packet's first byte, and the one behind its last.
    fn bounds(&self) -> (usize, usize);

    /// Copies the first `length` (1–63) bytes from `offset` to the front of `buffer`; `None` where the packet ends before.
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()>;

    /// Copies the first `length` (1–63) bytes of `buffer` to `offset`; `None` where the packet ends before.
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()>;

    /// `T` at `offset`, where all of it lies inside.
    #[inline(always)]
    fn checked<T: Bytes>(&self, offset: usize) -> Option<*mut T> {
        let (start, end) = self.bounds();
        let at = start + offset;
        (at + size_of::<T>() <= end).then_some(at as *mut T)
    }

    /// The bytes at `offset`, or `None` where the packet ends before.
    #[inline(always)]
    fn get<T: Bytes>(&self, offset: usize) -> Option<&T> {
        let pointer = self.checked::<T>(offset)?;
        // SAFETY: inside the packet (checked), alignment 1, any bytes are valid; not written while borrowed.
        Some(unsafe { &*pointer })
    }

    /// The bytes at `offset`, to be changed, or `None` where the packet ends before.
    #[inline(always)]
    fn get_mut<T: Bytes>(&mut self, offset: usize) -> Option<&mut T> {
        let pointer = self.checked::<T>(offset)?;
        // SAFETY: inside the packet (checked), alignment 1, any bytes are valid; borrowed exclusively.
        Some(unsafe { &mut *pointer })
    }
}

impl Memory for XdpFrame {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let ctx = &raw const self.0;
        (pointer::<{ offset_of!(xdp_md, data) }, _>(ctx), pointer::<{ offset_of!(xdp_md, data_end) }, _>(ctx))
    }

    #[inline(always)]
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        let to = buffer.as_mut_ptr().cast();
        // SAFETY: `part` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe { bpf_xdp_load_bytes(self.context(), offset as u32, to, part(length)) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        let from = buffer.as_ptr().cast_mut().cast();
        // SAFETY: `part` is below the size of `buffer`, which the helper only reads; it checks the packet's bounds.
        let result = unsafe { bpf_xdp_store_bytes(self.context(), offset as u32, from, part(length)) };
        (result == 0).then_some(())
    }
}

impl Memory for SkbFrame {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let skb = &raw const self.0;
        (
            pointer::<{ offset_of!(__sk_buff, data) }, _>(skb),
            pointer::<{ offset_of!(__sk_buff, data_end) }, _>(skb),
        )
    }

    #[inline(always)]
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        let (skb, to) = (self.context().cast_const().cast(), buffer.as_mut_ptr().cast());
        // SAFETY: `part` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_load_bytes(skb, offset as u32, to, part(length)) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        let (skb, from) = (self.context(), buffer.as_ptr().cast());
        // SAFETY: `part` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_store_bytes(skb, offset as u32, from, part(length), 0) };
        (result == 0).then_some(())
    }
}

/// The length of a part of a block, with a bound that the verifier can see.
#[inline(always)]
fn part(length: usize) -> u32 {
    let length = opaque::value(length);
    if length == 0 || length >= BLOCK { 1 } else { length as u32 }
}

/// A frame as the XDP programs see it: a reference to one is a reference to the context.
#[repr(transparent)]
pub(crate) struct XdpFrame(xdp_md);

impl XdpFrame {
    /// # Safety
    /// `context` must be the program's own, and nobody else may use it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn of<'a>(context: *mut xdp_md) -> &'a mut Self {
        // SAFETY: the program's own context is there as long as it runs; nobody else uses it (contract).
        unsafe { &mut *context.cast() }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) const fn context(&self) -> *mut xdp_md {
        (&raw const self.0).cast_mut()
    }

    /// Index of the interface that it came by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context; volatile, since the verifier refuses fields that the compiler merges into one
        // read.
        unsafe { (&raw const self.0.ingress_ifindex).read_volatile() }
    }

    /// Length in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        let (start, end) = self.bounds();
        end - start
    }

    /// Copies the `length` bytes at `offset` to the start of `buffer`; `None` where they do not fit, or the packet ends
    /// before.
    #[inline(always)]
    pub(crate) fn copy<const N: usize>(
        &self,
        offset: usize,
        length: usize,
        buffer: &mut [u8; N],
    ) -> Option<()> {
        let length = opaque::value(length);
        if length == 0 {
            return Some(());
        }
        if length > N {
            return None;
        }
        // SAFETY: `length` is at most the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe {
            bpf_xdp_load_bytes(self.context(), offset as u32, buffer.as_mut_ptr().cast(), length as u32)
        };
        (result == 0).then_some(())
    }

    /// Takes `bytes` off the front of the frame.
    #[inline(always)]
    pub(crate) fn strip(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the context is the program's own; no reference into the packet is alive (exclusive borrow).
        let result = unsafe { bpf_xdp_adjust_head(self.context(), (bytes as u16).into()) };
        (result == 0).then_some(())
    }
}

/// A frame as the TC program sees it: a reference to one is a reference to the context.
#[repr(transparent)]
pub(crate) struct SkbFrame(__sk_buff);

impl SkbFrame {
    /// # Safety
    /// `context` must be the program's own, and nobody else may use it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn of<'a>(context: *mut __sk_buff) -> &'a mut Self {
        // SAFETY: the program's own context is there as long as it runs; nobody else uses it (contract).
        unsafe { &mut *context.cast() }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) const fn context(&self) -> *mut __sk_buff {
        (&raw const self.0).cast_mut()
    }

    /// Length in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: as the others below. A field of the context; volatile, since the verifier refuses fields that the compiler
        // merges into one read.
        unsafe { (&raw const self.0.len).read_volatile() as usize }
    }

    /// The mark that the kernel's packet has.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (&raw const self.0.mark).read_volatile() }
    }

    /// Bytes of each packet into which this one will be segmented; 0: it is not segmented.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (&raw const self.0.gso_size).read_volatile() }
    }

    /// Index of the interface that it came by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (&raw const self.0.ifindex).read_volatile() }
    }

    /// Whether it had a VLAN tag that the kernel has taken off.
    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        // SAFETY: see `len`.
        unsafe { (&raw const self.0.vlan_present).read_volatile() != 0 }
    }

    /// Copies its first bytes; `None` where it ends before.
    #[inline(always)]
    pub(crate) fn load_start<const N: usize>(&self, bytes: &mut [u8; N]) -> Option<()> {
        let (skb, to) = (self.context().cast_const().cast(), bytes.as_mut_ptr().cast());
        // SAFETY: `bytes` is N bytes long; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_load_bytes(skb, 0, to, N as u32) };
        (result == 0).then_some(())
    }

    /// Writes its first bytes, and keeps a checksum right that the network card has made; `None` where it ends before.
    #[inline(always)]
    pub(crate) fn store_start<const N: usize>(&mut self, bytes: &[u8; N]) -> Option<()> {
        let (from, flags) = (bytes.as_ptr().cast_mut().cast(), u64::from(BPF_F_RECOMPUTE_CSUM));
        // SAFETY: `bytes` is N bytes long, and the helper only reads it; it checks the packet's bounds.
        let result = unsafe { bpf_skb_store_bytes(self.context(), 0, from, N as u32, flags) };
        (result == 0).then_some(())
    }

    /// Sends a copy of it out of the interface that it came by. Returns whether the interface took it.
    #[inline(always)]
    pub(crate) fn send_back(&mut self) -> bool {
        // SAFETY: the program's own context; no reference into the packet is alive (exclusive borrow).
        unsafe { bpf_clone_redirect(self.context(), self.ifindex(), 0) == 0 }
    }
}

/// The inner packet of a frame, behind its headers or the room made for them: the text for the cipher.
pub(crate) struct InnerText<'a, F>(pub(crate) &'a mut F);

impl<F: Memory> Text for InnerText<'_, F> {
    #[inline(always)]
    fn block(&mut self, offset: usize) -> Option<&mut [u8; BLOCK]> {
        self.0.get_mut(INNER + offset)
    }

    #[inline(always)]
    fn load(&mut self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        self.0.load(INNER + offset, length, buffer)
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        self.0.store(INNER + offset, length, buffer)
    }
}
