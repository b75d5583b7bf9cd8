//! Packet memory: the one place where packet pointers are checked and made into references.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use mtd_common::aead::{BLOCK, Text};
use mtd_common::opaque;
use mtd_common::packet::{ETHERNET, OVERHEAD};

/// Types that may be read from and written to packet memory: any bytes, no alignment.
///
/// # Safety
/// Every bit pattern must be a valid value, and the alignment must be 1.
pub(crate) unsafe trait Bytes {}

// SAFETY: bytes.
unsafe impl<const N: usize> Bytes for [u8; N] {}

/// `T` at `offset` from `start`, where all of it lies before `end`.
#[inline(always)]
fn checked<T: Bytes>(start: usize, end: usize, offset: usize) -> Option<*mut T> {
    let at = start + offset;
    (at + size_of::<T>() <= end).then_some(at as *mut T)
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
        // Opaque, or the compiler may subtract 32-bit halves of the pointers, which the verifier forbids.
        opaque::value(self.ctx.data_end() - self.ctx.data())
    }

    /// The bytes at `offset`, or `None` where the frame ends before.
    #[inline(always)]
    pub(crate) fn get<T: Bytes>(&self, offset: usize) -> Option<&T> {
        let pointer = checked::<T>(self.ctx.data(), self.ctx.data_end(), offset)?;
        // SAFETY: inside the packet (checked), alignment 1, any bytes are valid; not written while borrowed.
        Some(unsafe { &*pointer })
    }

    /// The bytes at `offset`, to be changed, or `None` where the frame ends before.
    #[inline(always)]
    pub(crate) fn get_mut<T: Bytes>(&mut self, offset: usize) -> Option<&mut T> {
        let pointer = checked::<T>(self.ctx.data(), self.ctx.data_end(), offset)?;
        // SAFETY: inside the packet (checked), alignment 1, any bytes are valid; borrowed exclusively.
        Some(unsafe { &mut *pointer })
    }

    /// Takes `bytes` off the front of the frame.
    #[inline(always)]
    pub(crate) fn strip(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the context is the program's own; no reference into the packet is alive (exclusive borrow).
        let result = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, (bytes as u16).into()) };
        (result == 0).then_some(())
    }
}

/// The sealed inner packet of a received frame.
pub(crate) struct Sealed<'a, 'b>(pub(crate) &'a mut XdpFrame<'b>);

const INNER: usize = ETHERNET + OVERHEAD;

impl Text for Sealed<'_, '_> {
    #[inline(always)]
    fn block(&mut self, offset: usize) -> Option<&mut [u8; BLOCK]> {
        self.0.get_mut(INNER + offset)
    }

    #[inline(always)]
    fn load(&mut self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        let at = (INNER + offset) as u32;
        // SAFETY: `length` is below the size of `buffer`; the helper checks the packet's bounds.
        let result =
            unsafe { bpf_xdp_load_bytes(self.0.ctx.ctx, at, buffer.as_mut_ptr().cast(), tail(length)) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        let at = (INNER + offset) as u32;
        let from = buffer.as_ptr().cast_mut().cast();
        // SAFETY: `length` is below the size of `buffer`, which the helper only reads; it checks the packet's bounds.
        let result = unsafe { bpf_xdp_store_bytes(self.0.ctx.ctx, at, from, tail(length)) };
        (result == 0).then_some(())
    }
}

/// The length of a tail, bounded where the verifier can see it.
#[inline(always)]
fn tail(length: usize) -> u32 {
    let length = opaque::value(length);
    if length == 0 || length >= BLOCK { 1 } else { length as u32 }
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

    /// The bytes at `offset`, or `None` where the linear part of the packet ends before.
    #[inline(always)]
    pub(crate) fn get<T: Bytes>(&self, offset: usize) -> Option<&T> {
        let pointer = checked::<T>(self.ctx.data(), self.ctx.data_end(), offset)?;
        // SAFETY: inside the packet (checked), alignment 1, any bytes are valid; not written while borrowed.
        Some(unsafe { &*pointer })
    }

    /// The bytes at `offset`, to be changed, or `None` where the linear part of the packet ends before.
    #[inline(always)]
    pub(crate) fn get_mut<T: Bytes>(&mut self, offset: usize) -> Option<&mut T> {
        let pointer = checked::<T>(self.ctx.data(), self.ctx.data_end(), offset)?;
        // SAFETY: inside the packet (checked), alignment 1, any bytes are valid; borrowed exclusively.
        Some(unsafe { &mut *pointer })
    }
}

/// The inner packet of a frame to be sent, behind the room made for the headers.
pub(crate) struct Unsealed<'a, 'b>(pub(crate) &'a mut SkbFrame<'b>);

impl Text for Unsealed<'_, '_> {
    #[inline(always)]
    fn block(&mut self, offset: usize) -> Option<&mut [u8; BLOCK]> {
        self.0.get_mut(INNER + offset)
    }

    #[inline(always)]
    fn load(&mut self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        let at = (INNER + offset) as u32;
        // SAFETY: `length` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe {
            bpf_skb_load_bytes(self.0.ctx.as_ptr().cast(), at, buffer.as_mut_ptr().cast(), tail(length))
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store(&mut self, offset: usize, length: usize, buffer: &[u8; BLOCK]) -> Option<()> {
        let at = (INNER + offset) as u32;
        // SAFETY: `length` is below the size of `buffer`; the helper checks the packet's bounds.
        let result = unsafe {
            bpf_skb_store_bytes(self.0.ctx.as_ptr().cast(), at, buffer.as_ptr().cast(), tail(length), 0)
        };
        (result == 0).then_some(())
    }
}
