//! Control messages: packets that the receive program opens for the controller, not for the tunnel device.

use mtd_common::DropReason;
use mtd_common::abi;
use mtd_common::control_record::MAX_CONTROL;
use mtd_common::packet::IPV6;

use super::maps;
use crate::atomic::Shared;
use crate::frame::XdpFrame;
use crate::job::Job;
use crate::record;
use crate::session::State;

impl State {
    /// Whether one more control message of this session may go to the controller.
    #[inline(always)]
    fn may_control(self, now: u64) -> bool {
        // SAFETY: the field of a map value, aligned by its type.
        let word = unsafe { Shared::new(&raw mut (*self.0).rx_control) };
        abi::CONTROL_METER.take(&word, now)
    }
}

/// Whether a control message, an inner packet of `length` bytes, fits into a record.
#[inline(always)]
pub(crate) const fn require_fitting(length: usize) -> Result<(), DropReason> {
    if length > IPV6 + MAX_CONTROL { Err(DropReason::ControlTooLong) } else { Ok(()) }
}

/// Hands an opened control message of a session to the controller. The session's own limit is checked first, so that its
/// surplus messages take nothing from the limit of all. A function of its own in the program, too: the variables of all
/// stages together do not fit on a stack of 512 bytes.
#[inline(never)]
pub(crate) fn divert(frame: &XdpFrame, state: State, job: &Job, now: u64) -> Result<(), DropReason> {
    if !state.may_control(now) || !maps::may_control(now) {
        return Err(DropReason::ControlLimited);
    }
    record::control_message(frame, job, now)
}
