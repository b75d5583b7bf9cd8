//! The filter of a session: see [`mtd_common::filter`]. A stage of its own ([`crate::stages`]): behind opening and in front of
//! delivery, or in front of sealing. Control messages never come here.

use aya_ebpf::bindings::TC_ACT_SHOT;
use mtd_common::DropReason;
use mtd_common::abi::filter::FragmentKey;
use mtd_common::abi::{Counter, FLAG_FILTER, MODE_ENCRYPT, Session};
use mtd_common::aead::BLOCK;
use mtd_common::filter::{Packet, Part, Verdict, judge};
use mtd_common::keystream::Direction;
use mtd_common::opaque;
use mtd_common::packet::ETHERNET;

use crate::frame::{Memory, SkbFrame, XdpFrame};
use crate::job::{self, Job};
use crate::layout::INNER;
use crate::once::once;
use crate::tunnel::deliver;
use crate::verdict::Action;
use crate::{ahead, count, report, session, stages};

mod maps;
pub(crate) mod prohibited;

/// Whether a session has a filter. Read again: otherwise the verifier would walk all that was before once for each value that
/// it remembers.
#[inline(always)]
pub(crate) fn has_filter(session: &Session) -> bool {
    opaque::reference(session).flags & FLAG_FILTER != 0
}

/// The inner packet of a frame.
struct Inside<'a, F>(&'a F);

impl<F: Memory> Packet for Inside<'_, F> {
    #[inline(always)]
    fn load(&self, offset: usize, length: usize, buffer: &mut [u8; BLOCK]) -> Option<()> {
        self.0.load(offset, length, buffer)
    }
}

once! {
    /// Reads an opened packet into the job.
    fn read_received = filter_read_received(frame: &XdpFrame, job: &mut Job) -> bool {
        job.filter.flow.read(&Inside(frame), INNER, false)
    }
}

once! {
    /// Reads the packet that an opened ICMP error is about in place of the error.
    fn read_quoted_received = filter_quoted_received(frame: &XdpFrame, job: &mut Job) -> bool {
        job.filter.flow.read_quoted(&Inside(frame))
    }
}

once! {
    /// Reads a packet that is to be sent into the job.
    fn read_sent = filter_read_sent(frame: &SkbFrame, job: &mut Job) -> bool {
        job.filter.flow.read(&Inside(frame), ETHERNET, false)
    }
}

once! {
    /// As [`read_quoted_received`].
    fn read_quoted_sent = filter_quoted_sent(frame: &SkbFrame, job: &mut Job) -> bool {
        job.filter.flow.read_quoted(&Inside(frame))
    }
}

once! {
    /// What the session's policy says of the packet in the job.
    fn verdict = filter_verdict(job: &mut Job, inward: bool) -> Verdict {
        let Some((number, policy)) = maps::policy(job.session) else { return Verdict::NoPolicy };
        job.filter.policy_flags = policy.flags;
        judge(policy, &job.filter.flow, inward, |kind, value| maps::rules(number, kind, value))
    }
}

once! {
    /// The same, and a later part of a packet passes with its first one.
    fn verdict_of_part = filter_part(job: &mut Job, inward: bool) -> Verdict {
        let key = FragmentKey {
            session: job.session,
            id: job.filter.flow.id,
            source: job.filter.flow.source,
            destination: job.filter.flow.destination,
        };
        let is_first = matches!(job.filter.flow.part, Part::First);
        let found = verdict(job, inward);
        match found {
            Verdict::Allowed if is_first => maps::remember(&key),
            Verdict::Unnamed if !is_first && maps::is_remembered(&key) => return Verdict::Allowed,
            _ => {}
        }
        found
    }
}

#[inline(always)]
fn decide(job: &mut Job, inward: bool) -> Verdict {
    if matches!(job.filter.flow.part, Part::Whole) {
        verdict(job, inward)
    } else {
        verdict_of_part(job, inward)
    }
}

/// Decides on an opened packet of a session with a filter, and hands it to the tunnel device if it may pass.
#[inline(always)]
pub(crate) fn received(frame: &mut XdpFrame) -> Result<Action, DropReason> {
    let job = job::job(Direction::Receive).ok_or(DropReason::ReceiveFailed)?;
    let state = session::state(job.session).ok_or(DropReason::FilterMissing)?;
    // Authentic in any case: the peer is there.
    let is_busy = state.count_received(job.length, job.now);
    let mut found = if read_received(frame, job) { decide(job, true) } else { Verdict::Denied };
    if found == Verdict::Unnamed && job.filter.flow.is_error && read_quoted_received(frame, job) {
        found = decide(job, true);
    }
    match found {
        Verdict::Allowed => {}
        Verdict::Denied | Verdict::Unnamed => return Err(DropReason::Filtered),
        Verdict::NoPolicy => return Err(DropReason::FilterMissing),
    }
    deliver::deliver(frame)?;
    if is_busy && encrypts(job) {
        ahead::want(job, Direction::Receive);
    }
    count::one(Counter::Accepted);
    Ok(Action::Redirect)
}

/// Decides on a packet that is to be sent in a session with a filter. Returns the reason to drop it; one that may pass goes
/// back to the send program.
#[inline(always)]
pub(crate) fn sent(frame: &mut SkbFrame) -> Result<i32, DropReason> {
    let job = job::job(Direction::Send).ok_or(DropReason::SendFailed)?;
    let is_read = read_sent(frame, job);
    job.filter.tell = is_read && prohibited::is_wanted(job);
    let mut found = if is_read { decide(job, false) } else { Verdict::Denied };
    if found == Verdict::Unnamed && job.filter.flow.is_error && read_quoted_sent(frame, job) {
        found = decide(job, false);
    }
    match found {
        Verdict::Allowed => {}
        Verdict::Denied | Verdict::Unnamed => return Err(DropReason::SendFiltered),
        Verdict::NoPolicy => return Err(DropReason::SendFilterMissing),
    }
    job.filter.may_leave = true;
    stages::seal(frame);
    job.filter.may_leave = false;
    Err(DropReason::SendFilterMissing)
}

/// Counts and reports an opened packet that [`received`] has refused.
#[inline(always)]
pub(crate) fn report_received(frame: &XdpFrame, reason: DropReason) {
    match job::job(Direction::Receive) {
        Some(job) => report::filtered_on_receipt(frame, job, reason as u32),
        None => count::drop(reason as u32, false),
    }
}

/// Tells the sender of a packet that [`sent`] has refused, if that is wanted. Returns the TC action.
#[inline(always)]
pub(crate) fn tell(frame: &mut SkbFrame, reason: DropReason) -> i32 {
    if !matches!(reason, DropReason::SendFiltered) {
        return TC_ACT_SHOT;
    }
    job::job(Direction::Send).and_then(|job| prohibited::answer(frame, job)).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn encrypts(job: &Job) -> bool {
    session::session(job.session, job.generation).is_some_and(|session| session.mode == MODE_ENCRYPT)
}
