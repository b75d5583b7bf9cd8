//! Introductions: the first packets of those who have no session yet. They are sealed by a key that all members have, and hold a
//! control message for the controller.

use mtd_common::DropReason;
use mtd_common::abi::IntroductionTag;
use mtd_common::bytes::part;
use mtd_common::packet::{IPV6, MTD, outer};

use crate::frame::{Memory, XdpFrame};
use crate::job::Job;
use crate::layout::{IP, MTD_HEADER};
use crate::record;
use crate::tunnel::inspect::require_well_formed;

mod maps;

#[inline(always)]
fn tag(frame: &XdpFrame<'_>) -> Result<IntroductionTag, DropReason> {
    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    Ok(*part::<8, 16, MTD>(header))
}

/// Whether this introduction packet was not taken before. A function of its own in the program too, as the ones below, for the
/// sake of the stack.
#[inline(never)]
pub(crate) fn require_new(frame: &XdpFrame<'_>) -> Result<(), DropReason> {
    if maps::introduced(&tag(frame)?) { Err(DropReason::Replayed) } else { Ok(()) }
}

/// Checks an opened introduction: it must be a control message between the outer addresses. The outer ones are not
/// authenticated, so nobody can have what he saw answered to himself.
#[inline(never)]
pub(crate) fn inspect(frame: &mut XdpFrame<'_>, job: &mut Job) -> Result<(), DropReason> {
    let facts = require_well_formed(frame, job)?;
    if !facts.is_control() {
        return Err(DropReason::MalformedInner);
    }
    let ip = frame.get::<[u8; IPV6]>(IP).ok_or(DropReason::Truncated)?;
    if facts.source == *outer::source(ip) && facts.destination == *outer::destination(ip) {
        Ok(())
    } else {
        Err(DropReason::InnerSource)
    }
}

/// Remembers an introduction packet. To be called only for packets whose tag verified.
#[inline(never)]
pub(crate) fn remember(frame: &XdpFrame<'_>, now: u64) -> Result<(), DropReason> {
    // Another CPU may have been faster since.
    if maps::remember(&tag(frame)?, now) { Ok(()) } else { Err(DropReason::Replayed) }
}

/// Hands an introduction to the controller.
#[inline(always)]
pub(crate) fn hand_over(frame: &XdpFrame<'_>, job: &Job, now: u64) -> Result<(), DropReason> {
    if !maps::may_introduce(now) {
        return Err(DropReason::IntroductionLimited);
    }
    record::control_message(frame, job, now)
}
