//! Introductions: the first packets of clients that have no session yet. They are sealed with a key that all members have,
//! and contain a control message for the controller.

use mtd_common::DropReason;
use mtd_common::abi::{self, FLAG_ANYBODY, IntroductionTag, Session};
use mtd_common::packet::{IPV6, MTD, outer};

use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{IP, MTD_HEADER};
use crate::once::once;
use crate::record;
use crate::tunnel::control;
use crate::tunnel::inspect::require_well_formed;

mod maps;

#[inline(always)]
fn tag(frame: &XdpFrame) -> Result<IntroductionTag, DropReason> {
    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    Ok(outer::tag(header))
}

/// Checks that this introduction packet was not accepted before as its sender sent it. A function of its own in the program,
/// too, as [`remember`]: the variables of all stages together do not fit on a stack of 512 bytes.
#[inline(never)]
pub(crate) fn require_new(frame: &XdpFrame) -> Result<(), DropReason> {
    if maps::introduced(&tag(frame)?) { Err(DropReason::Replayed) } else { Ok(()) }
}

once! {
    /// Checks an opened introduction: it must be a control message, and its inner addresses must be the outer ones, which
    /// are not authenticated. Only its source may differ, where anybody may send: routers translate it. Then the controller
    /// compares the inner one with the only address that this client can have (requirement MT-41). Notes in the job whether it
    /// differs.
    pub(crate) fn inspect = introduction_inspect(
        frame: &mut XdpFrame,
        session: &Session,
        job: &mut Job,
    ) -> Result<(), DropReason> {
        let facts = require_well_formed(frame, job)?;
        if !facts.is_control() {
            return Err(DropReason::MalformedInner);
        }
        control::require_fitting(frame)?;
        let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
        job.translated = facts.source != *outer::source(ip);
        if job.translated && session.flags & FLAG_ANYBODY == 0 || facts.destination != *outer::destination(ip) {
            return Err(DropReason::InnerSource);
        }
        Ok(())
    }
}

/// Remembers an introduction packet. To be called only for packets with a valid tag.
#[inline(never)]
pub(crate) fn remember(frame: &XdpFrame, job: &Job, now: u64) -> Result<(), DropReason> {
    let tag = tag(frame)?;
    let key = if job.translated { abi::translated(tag) } else { tag };
    // Another CPU may have been faster since.
    if maps::remember(&key, now) { Ok(()) } else { Err(DropReason::Replayed) }
}

/// Hands an introduction to the controller.
#[inline(always)]
pub(crate) fn hand_over(frame: &XdpFrame, job: &Job, now: u64) -> Result<(), DropReason> {
    if !maps::may_introduce(now) {
        return Err(DropReason::IntroductionLimited);
    }
    record::control_message(frame, job, now)
}
