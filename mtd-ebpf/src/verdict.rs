//! What becomes of a frame that is not dropped for a reason.

use aya_ebpf::bindings::xdp_action;
use mtd_common::abi::Counter;

use crate::count;

/// What the receive program does with a frame.
///
/// A byte, as the reasons are: in a result of both, no part is ever undefined. LLVM keeps what is undefined in registers that
/// nobody wrote, and the verifier refuses to see them read.
#[repr(u8)]
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Taken: the frame itself is of no more use.
    Consume = xdp_action::XDP_DROP as u8,
    /// To the kernel.
    Pass = xdp_action::XDP_PASS as u8,
    /// Back where it came from.
    Transmit = xdp_action::XDP_TX as u8,
    /// To the tunnel device.
    Redirect = xdp_action::XDP_REDIRECT as u8,
}

/// Counts a frame that is none of ours, and hands it to the kernel.
#[inline(always)]
pub(crate) fn pass() -> Action {
    count::one(Counter::Passed);
    Action::Pass
}
