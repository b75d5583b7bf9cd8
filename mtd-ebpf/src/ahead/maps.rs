//! Key stream made ahead, and what the thread that makes it is told. Not pinned: what is in them is as secret as keys.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use mtd_common::keystream::{Element, Ready, Wanted};
use mtd_common::window::Word as _;

use crate::atomic::Shared;
use crate::session::MMAPABLE;

#[map]
static KEYSTREAM: Array<Element> = Array::with_max_entries(1, MMAPABLE);
#[map]
static WANTED: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// An element of `KEYSTREAM`.
#[derive(Clone, Copy)]
pub(super) struct Stream(*mut Element);

/// The element at an index, if there is one.
#[inline(always)]
pub(super) fn element(index: u32) -> Option<Stream> {
    KEYSTREAM.get_ptr_mut(index).map(Stream)
}

impl Stream {
    /// Its stamp, in the order in which the program says.
    #[inline(always)]
    pub(super) fn stamp(self) -> u64 {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).stamp) }.load_in_order()
    }

    /// What is in it.
    #[inline(always)]
    pub(super) fn ready(self) -> Ready {
        // SAFETY: a map value, which is aligned and lives as long as the program runs.
        unsafe { Ready::new(self.0) }
    }
}

/// Tells the thread that makes key stream of a packet. Where it is away, or has much to do, that is lost.
#[inline(always)]
pub(super) fn want(wanted: &Wanted) {
    // Nothing comes of an error but that the cipher works.
    let _ = WANTED.output::<Wanted>(wanted, 0);
}
