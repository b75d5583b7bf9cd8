//! Control messages: packets that the receive program opens for the controller, not for the tunnel device.

use mtd_common::DropReason;
use mtd_common::abi;
use mtd_common::control_record::{MAX_CONTROL, TYPE_PATH_PROBE};
use mtd_common::packet::IPV6;

use super::maps;
use crate::atomic::Shared;
use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::INNER;
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

/// Whether the control message in an opened frame fits into a record.
#[inline(always)]
pub(crate) fn require_fitting(frame: &XdpFrame) -> Result<(), DropReason> {
    if frame.len() > INNER + IPV6 + MAX_CONTROL { Err(DropReason::ControlTooLong) } else { Ok(()) }
}

/// The same inside a session, where probes of the path may be longer: only their head goes into a record.
#[inline(always)]
pub(super) fn require_fitting_or_probe(frame: &XdpFrame) -> Result<(), DropReason> {
    match frame.get::<[u8; 1]>(INNER + IPV6) {
        Some([TYPE_PATH_PROBE]) => Ok(()),
        _ => require_fitting(frame),
    }
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
