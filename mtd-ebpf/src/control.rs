//! Introductions and control messages: what the receive program opens for the controller, not for the tunnel device.
//!
//! Functions of their own in the program too, for the sake of the stack: see `ingress::decrypt`.

use mtd_common::DropReason;
use mtd_common::abi::{IntroductionTag, MODE_INTRODUCTION, Session};
use mtd_common::bytes::part;
use mtd_common::control_record::{CONTROL_VERSION, MAX_CONTROL};
use mtd_common::packet::inner::Inner;
use mtd_common::packet::{IPV6, MTD, UDP, outer};

use crate::frame::{Memory, XdpFrame};
use crate::ingress::{INNER, IP, MTD_HEADER, PAYLOAD};
use crate::maps::{self, Job, State};

#[inline(always)]
fn tag(frame: &XdpFrame<'_>) -> Result<IntroductionTag, DropReason> {
    let header = frame.get::<[u8; MTD]>(MTD_HEADER).ok_or(DropReason::Truncated)?;
    Ok(*part::<8, 16, MTD>(header))
}

/// Whether this introduction packet was not taken before.
#[inline(never)]
pub(crate) fn require_new(frame: &XdpFrame<'_>) -> Result<(), DropReason> {
    if maps::introduced(&tag(frame)?) { Err(DropReason::Replayed) } else { Ok(()) }
}

/// Remembers an introduction packet. To be called only for packets whose tag verified.
#[inline(never)]
pub(crate) fn remember(frame: &XdpFrame<'_>, now: u64) -> Result<(), DropReason> {
    // Another CPU may have been faster since.
    if maps::remember(&tag(frame)?, now) { Ok(()) } else { Err(DropReason::Replayed) }
}

/// Whether a control message, an inner packet of `length` bytes, fits into a record.
#[inline(always)]
pub(crate) const fn require_fitting(length: usize) -> Result<(), DropReason> {
    if length > IPV6 + MAX_CONTROL { Err(DropReason::ControlTooLong) } else { Ok(()) }
}

/// Whether an inner packet is one that an introduction may carry: a control message between the outer addresses. The
/// outer ones are not authenticated, so nobody can have what he saw answered to himself.
#[inline(always)]
pub(crate) fn require_introduction(frame: &XdpFrame<'_>, facts: &Inner) -> Result<(), DropReason> {
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

/// Hands an opened control message to the controller. The session's own limit comes first: what it uses up beyond that
/// must not be taken from the others'.
#[inline(never)]
pub(crate) fn divert(
    frame: &XdpFrame<'_>,
    session: &Session,
    state: State,
    job: &Job,
    now: u64,
) -> Result<(), DropReason> {
    if session.mode == MODE_INTRODUCTION {
        if !maps::may_introduce(now) {
            return Err(DropReason::IntroductionLimited);
        }
    } else if !state.may_control(now) || !maps::may_control(now) {
        return Err(DropReason::ControlLimited);
    }
    maps::control(|record| {
        let ip = frame.get::<[u8; IPV6]>(IP)?;
        let udp = frame.get::<[u8; UDP]>(PAYLOAD)?;
        record.time = now;
        record.session = job.session;
        record.generation = job.generation;
        record.slot = job.nonce[0];
        record.version = CONTROL_VERSION;
        record.source = *outer::source(ip);
        record.destination = *outer::destination(ip);
        record.source_port = *part::<0, 2, UDP>(udp);
        record.destination_port = *part::<2, 2, UDP>(udp);
        let length = job.length.checked_sub(IPV6)?;
        record.length = length as u16;
        frame.copy(INNER + IPV6, length, &mut record.payload)
    })
    .ok_or(DropReason::ControlFull)
}
