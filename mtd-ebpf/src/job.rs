//! The data that the stages of a program share about the current packet.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mtd_common::aead::{Pass, Sums};
use mtd_common::filter::Flow;
use mtd_common::keystream::Direction;

use crate::filter::prohibited::{ANSWER, LONG};

#[map]
static JOBS: PerCpuArray<Job> = PerCpuArray::with_max_entries(2, 0);

/// One packet's work for the cipher: input, output, and working memory. In a map, since a BPF stack is too small for it.
pub(crate) struct Job {
    /// Nonce of the packet.
    pub(crate) nonce: [u32; 3],
    /// Length of the inner packet in bytes.
    pub(crate) length: usize,
    /// Index of the session.
    pub(crate) session: u32,
    /// Generation of the session.
    pub(crate) generation: u32,
    /// Place of the slot's addresses in `SLOTS`.
    pub(crate) place: u32,
    /// To be sent: halves of the outer destination.
    pub(crate) remote: [[u8; 8]; 2],
    /// To be sent: outer destination port, network order.
    pub(crate) remote_port: [u8; 2],
    /// To be sent: ECN codepoint of the inner packet.
    pub(crate) ecn: u8,
    /// To be sent: IP version of the inner packet.
    pub(crate) version: u8,
    /// Whether the inner packet is a control message.
    pub(crate) control: bool,
    /// Received through an introduction: whether the outer source is not the sender's own address.
    pub(crate) translated: bool,
    /// Boot time in ns at which the packet came.
    pub(crate) now: u64,
    /// To be sent: whether the session has a filter.
    pub(crate) has_filter: bool,
    /// The filter's part.
    pub(crate) filter: FilterWork,
    /// Place in `KEYSTREAM` of key stream made ahead.
    pub(crate) element: u32,
    /// Stamp of that element when it was found.
    pub(crate) stamp: u64,
    /// The cipher's results: tag and checksum.
    pub(crate) sums: Sums,
    /// Working memory.
    pub(crate) pass: Pass,
}

/// What the filter of a session notes about the packet.
pub(crate) struct FilterWork {
    /// What it has read of the inner packet.
    pub(crate) flow: Flow,
    /// The flags of the session's policy.
    pub(crate) policy_flags: u32,
    /// To be sent: whether it has let the packet pass. True only from there to the beginning of the send program.
    pub(crate) may_leave: bool,
    /// To be sent: whether the sender may be told that the packet may not leave.
    pub(crate) tell: bool,
    /// The beginning of a packet that may not leave, and the answer to it: on the stack, their words would not be aligned.
    pub(crate) before: [u8; LONG],
    pub(crate) answer: [u8; ANSWER],
}

/// The job of this CPU and of the program for a direction: programs may interrupt each other.
#[inline(always)]
pub(crate) fn job(direction: Direction) -> Option<&'static mut Job> {
    // SAFETY: this CPU's and this program's own element; a program is not interrupted by itself, and asks once.
    JOBS.get_ptr_mut(direction as u32).map(|job| unsafe { &mut *job })
}
