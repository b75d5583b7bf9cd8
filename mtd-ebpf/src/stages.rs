//! Stages that not every packet needs: programs of their own, reached by tail calls, so that their variables are on a stack of
//! their own and the others cost nothing where they are not used.
//!
//! A tail call is possible only from the body of a program, and an array has programs of one kind only. The arrays belong to
//! one load of the programs, which share the working memory `JOBS`; they are pinned, since an array without any user is
//! emptied by the kernel. Where a stage is missing, the packet is dropped.

use aya_ebpf::macros::map;
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::{TcContext, XdpContext};
use mtd_common::abi::stages::{ENTRIES, FILTER, SEAL};

use crate::frame::{SkbFrame, XdpFrame};
use crate::steer::Stage;

/// Those behind `mtd_receive`, those behind `mtd_take`, and those behind `mtd_send`.
#[map]
static STAGES_RECEIVE: ProgramArray = ProgramArray::with_max_entries(ENTRIES, 0);
#[map]
static STAGES_TAKE: ProgramArray = ProgramArray::with_max_entries(ENTRIES, 0);
#[map]
static STAGES_SEND: ProgramArray = ProgramArray::with_max_entries(ENTRIES, 0);

/// Goes on with the filter of a received packet. Returns only where that is missing.
#[inline(always)]
pub(crate) fn filter_received(frame: &XdpFrame, stage: Stage) {
    let array = match stage {
        Stage::Arrived => &STAGES_RECEIVE,
        Stage::Handed => &STAGES_TAKE,
    };
    // SAFETY: nothing is left to be dropped, and the packet is not used any more if the call succeeds.
    unsafe { array.tail_call(&XdpContext::new(frame.context()), FILTER) }
}

/// Goes on with the filter of a packet to be sent. Returns only where that is missing.
#[inline(always)]
pub(crate) fn filter_sent(frame: &SkbFrame) {
    // SAFETY: as above.
    unsafe { STAGES_SEND.tail_call(&TcContext::new(frame.context()), FILTER) }
}

/// Goes back to the send program, for a packet that the filter has allowed. Returns only where that is missing.
#[inline(always)]
pub(crate) fn seal(frame: &SkbFrame) {
    // SAFETY: as above.
    unsafe { STAGES_SEND.tail_call(&TcContext::new(frame.context()), SEAL) }
}
