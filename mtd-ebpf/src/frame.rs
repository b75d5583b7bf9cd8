//! Packet memory: the one place where packet pointers are checked and made into references.

use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
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

/// Reads a packet pointer from the field at `OFFSET` of a context.
///
/// In assembly, because the field has 32 bits, and the verifier makes a pointer of 64 of it: a compiler that knows of
/// the 32 copies, spills and subtracts no more than those, and what it gets then is no pointer.
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
        // SAFETY: the field of the context, on the host only ever compiled.
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

impl Memory for XdpFrame<'_> {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let ctx = self.ctx.ctx;
        (pointer::<{ offset_of!(xdp_md, data) }, _>(ctx), pointer::<{ offset_of!(xdp_md, data_end) }, _>(ctx))
    }

    #[inline(always)]
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        let to = buffer.as_mut_ptr().cast();
        // SAFETY: `part` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset as u32, to, part(length)) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        let from = buffer.as_ptr().cast_mut().cast();
        // SAFETY: `part` is below the size of `buffer`, which the helper only reads; it checks the packet's bounds.
        let result = unsafe { bpf_xdp_store_bytes(self.ctx.ctx, offset as u32, from, part(length)) };
        (result == 0).then_some(())
    }
}

impl Memory for SkbFrame<'_> {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let skb = self.ctx.skb.skb;
        (
            pointer::<{ offset_of!(__sk_buff, data) }, _>(skb),
            pointer::<{ offset_of!(__sk_buff, data_end) }, _>(skb),
        )
    }

    #[inline(always)]
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        let (skb, to) = (self.ctx.as_ptr().cast(), buffer.as_mut_ptr().cast());
        // SAFETY: `part` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_load_bytes(skb, offset as u32, to, part(length)) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        let (skb, from) = (self.ctx.as_ptr().cast(), buffer.as_ptr().cast());
        // SAFETY: `part` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_store_bytes(skb, offset as u32, from, part(length), 0) };
        (result == 0).then_some(())
    }
}

/// The length of a part of a block, bounded where the verifier can see it.
#[inline(always)]
fn part(length: usize) -> u32 {
    let length = opaque::value(length);
    if length == 0 || length >= BLOCK { 1 } else { length as u32 }
}

/// A frame as the XDP program sees it.
pub(crate) struct XdpFrame<'a> {
    pub(crate) ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
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
            bpf_xdp_load_bytes(self.ctx.ctx, offset as u32, buffer.as_mut_ptr().cast(), length as u32)
        };
        (result == 0).then_some(())
    }

    /// Takes `bytes` off the front of the frame.
    #[inline(always)]
    pub(crate) fn strip(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the context is the program's own; no reference into the packet is alive (exclusive borrow).
        let result = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, (bytes as u16).into()) };
        (result == 0).then_some(())
    }
}

/// A frame as the TC program sees it.
pub(crate) struct SkbFrame<'a> {
    pub(crate) ctx: &'a TcContext,
}

impl<'a> SkbFrame<'a> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    /// Length in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.ctx.len() as usize
    }
}

/// The inner packet of a frame, behind its headers or the room made for them: what the cipher works on.
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
