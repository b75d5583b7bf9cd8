//! The outcome of a frame that is not dropped.

use aya_ebpf::bindings::xdp_action;
use mtd_common::abi::Counter;

use crate::count;

/// What the receive program does with a frame.
///
/// A byte, like the reasons, so that no part of a result with both is ever undefined. LLVM keeps undefined parts in
/// registers that were never written, and the verifier refuses to let them be read.
#[repr(u8)]
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Taken: the frame itself is not needed any more.
    Consume = xdp_action::XDP_DROP as u8,
    /// To the kernel.
    Pass = xdp_action::XDP_PASS as u8,
    /// To the tunnel device.
    Redirect = xdp_action::XDP_REDIRECT as u8,
}

/// Counts a frame that does not belong to mtd, and hands it to the kernel.
#[inline(always)]
pub(crate) fn pass() -> Action {
    count::one(Counter::Passed);
    Action::Pass
}
