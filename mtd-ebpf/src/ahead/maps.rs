//! Maps of the key stream that is made ahead, and of the requests for it. Not pinned: their content is as secret as keys.

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
    /// The element's stamp; the read stays in program order.
    #[inline(always)]
    pub(super) fn stamp(self) -> u64 {
        // SAFETY: the field of a map value, aligned by its type.
        unsafe { Shared::new(&raw mut (*self.0).stamp) }.load_in_order()
    }

    /// The element's content.
    #[inline(always)]
    pub(super) fn ready(self) -> Ready {
        // SAFETY: a map value, which is aligned and lives as long as the program runs.
        unsafe { Ready::new(self.0) }
    }
}

/// Requests key stream behind a packet. The record is lost if the thread is gone or overloaded.
#[inline(always)]
pub(super) fn want(wanted: &Wanted) {
    // On an error, the cipher in the program does the work.
    let _ = WANTED.output::<Wanted>(wanted, 0);
}
