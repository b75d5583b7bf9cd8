//! What one end of a session does about a middlebox on its side: a stateful firewall or an address translator, which lets in
//! only answers to what went out. Each slot has other addresses and ports, so for a middlebox each slot is another flow,
//! which this end must begin (`docs/wire-format.md`, section *Behind a middlebox*).
//!
//! [`Opener`] decides for each session when this end sends a message that opens the present slot, and [`Middlebox`] for
//! each peer whether that is necessary. It asks the peer for a probe in the next slot, in which this end has sent nothing:
//! what arrives there was not asked for, so nothing holds it back. Neither has I/O or a clock.

use mtd_common::slot;

use super::exchange::SECOND;
use super::messages::Control;
use super::session::Session;
use crate::model::{BootNs, ClockOffset, MiddleboxChoice};

/// An opener is repeated after this part of a slot (where both ends send openers, the other one may begin its slot later by
/// nearly as much, and answers) …
const REPEAT_PART: u64 = 2;
/// … but after this many ns at most, if the peer was not heard in the slot.
const REPEAT_AT_MOST: u64 = 5 * SECOND;
/// Common middleboxes forget a flow of UDP after 30 s (RFC 4787 wants two minutes). In slots longer than that, openers …
const FORGETS: u64 = 30 * SECOND;
/// … go out this often, in ns.
const REFRESH: u64 = 20 * SECOND;

/// Time in ns between two questions, once there is an answer: a middlebox may come and go.
const ASK_AGAIN: u64 = 60 * SECOND;
/// Questions in a row without the proof that nothing is in between, after which the answer is taken as final.
const QUESTIONS: u32 = 3;
/// The part of a slot, in percent, in which a question is asked: in the middle, where the other end is in the same slot even
/// if its clock differs by nearly half a slot.
const ASKING: std::ops::Range<u64> = 40..70;

/// Where a session is in time.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The present slot.
    slot: u64,
    /// Time in ns since it began.
    elapsed: u64,
    /// Slot length in ns.
    period: u64,
    boot: BootNs,
}

impl Moment {
    /// The moment of a session with this clock.
    pub fn of(session: &Session, offset: ClockOffset, boot: BootNs) -> Self {
        let (time, phase, period) = (offset.session(boot).0, session.phase, session.period);
        let slot = slot::number(time, phase, period);
        Self { slot, elapsed: time.wrapping_add(phase) - slot * period, period, boot }
    }

    /// The present slot.
    pub const fn slot(self) -> u64 {
        self.slot
    }
}

/// When a session's slots are opened from this end.
#[derive(Debug, Default)]
pub struct Opener {
    /// The slot that was opened last.
    slot: u64,
    /// Openers in this slot.
    sent: u32,
    /// The peer opens this slot, too, and has not heard this end in it: the first opener came before the peer's side was open.
    missed: bool,
    last: BootNs,
    /// The newest slot in which the peer was heard.
    heard: u64,
    /// What the peer was told last: whether to answer where it hears this end.
    told: Option<bool>,
    /// The newest slot in which this end may have sent something: a probe there proves nothing.
    used: u64,
}

impl Opener {
    /// The peer was heard in this slot.
    pub fn handle_heard(&mut self, slot: u64) {
        self.heard = self.heard.max(slot);
    }

    /// An opener of the peer has come in a packet of the slot with these low 32 bits; `heard`: the peer has heard this end in
    /// that slot.
    pub fn handle_opener(&mut self, low: u32, heard: bool, moment: Moment) {
        self.missed = !heard && low == moment.slot as u32 && low == self.slot as u32;
    }

    /// Whether the peer was heard in the present slot or the one before.
    pub const fn hears(&self, moment: Moment) -> bool {
        self.heard + 1 >= moment.slot
    }

    /// The opener to be sent now, if one is due; `wanted`: there may be a middlebox.
    pub fn next(&mut self, wanted: bool, moment: Moment) -> Option<Control<'static>> {
        // Never lower: after a step of the clock, this end has been in later slots than the present one.
        self.used = self.used.max(moment.slot);
        let due = if wanted { self.is_due(moment) } else { self.told != Some(false) };
        if !due {
            return None;
        }
        // After a step of the clock, a slot may come again.
        self.sent = if wanted && self.slot == moment.slot { self.sent + 1 } else { 1 };
        (self.slot, self.last, self.told) = (moment.slot, moment.boot, Some(wanted));
        self.missed = false;
        Some(Control::Opener { where_heard: wanted, heard: self.heard == moment.slot })
    }

    fn is_due(&self, moment: Moment) -> bool {
        let Moment { slot, elapsed, period, boot } = moment;
        if slot != self.slot || self.told != Some(true) {
            return true;
        }
        let repeat = (period / REPEAT_PART).min(REPEAT_AT_MOST);
        let again = self.sent == 1 && (self.missed || (elapsed >= repeat && self.heard < slot));
        again || (period > FORGETS && boot.since(self.last) >= REFRESH)
    }

    /// This end sends a probe for its peer: it opens the slot after the present one.
    pub fn handle_probed(&mut self, moment: Moment) {
        self.used = self.used.max(moment.slot + 1);
    }

    /// Lets the peer be told once more, if it may have missed it, that it can send as it likes.
    pub const fn tell_again(&mut self) {
        self.told = None;
    }
}

/// What is known of a middlebox on this side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finding {
    /// Nothing yet: there may be one.
    #[default]
    Assumed,
    /// There is one.
    Found,
    /// There is none.
    Absent,
}

/// A question to the peer that is not answered yet.
#[derive(Debug)]
struct Question {
    stamp: u64,
    /// The peer has answered in a slot that was open: the question has arrived.
    received: bool,
}

/// Whether there is a middlebox between this end and its peer, on this side.
#[derive(Debug)]
pub struct Middlebox {
    choice: MiddleboxChoice,
    finding: Finding,
    question: Option<Question>,
    /// Questions in a row that brought no proof.
    unproved: u32,
    /// When to ask again.
    ask_at: BootNs,
    /// The peer was heard lately.
    heard: bool,
}

impl Middlebox {
    /// Nothing is known yet.
    pub const fn new(choice: MiddleboxChoice) -> Self {
        Self {
            choice,
            finding: Finding::Assumed,
            question: None,
            unproved: 0,
            ask_at: BootNs::NEVER,
            heard: false,
        }
    }

    /// What is known; what was configured is not questioned.
    pub const fn finding(&self) -> Finding {
        self.finding
    }

    /// What is configured.
    pub const fn choice(&self) -> MiddleboxChoice {
        self.choice
    }

    /// The path has changed, and nothing is known any more.
    pub fn reset(&mut self) {
        *self = Self::new(self.choice);
    }

    /// Whether slots are to be opened from this end.
    pub const fn wants_openers(&self) -> bool {
        match self.choice {
            MiddleboxChoice::Auto => !matches!(self.finding, Finding::Absent),
            MiddleboxChoice::On => true,
            MiddleboxChoice::Off => false,
        }
    }

    /// The question for the peer, if one is due. `hears`: the peer was heard lately; one that was not heard before, and did not
    /// answer, is asked at once. `even` are the slots in which this end asks, where both ends do: a probe that one of them sends opens a slot of its
    /// own side, in which then nothing is proved.
    pub fn next(&mut self, hears: bool, even: Option<bool>, moment: Moment) -> Option<Control<'static>> {
        let Moment { slot, elapsed, period, boot } = moment;
        if self.choice != MiddleboxChoice::Auto {
            return None;
        }
        if let Some(question) =
            self.question.take_if(|question| boot.0.wrapping_sub(question.stamp) >= period)
        {
            self.conclude(&question, boot);
        }
        let before = std::mem::replace(&mut self.heard, hears);
        if hears && !before && self.finding == Finding::Assumed {
            self.ask_at = BootNs::NEVER;
        }
        let now = self.question.is_none() && boot >= self.ask_at;
        let mine = even.is_none_or(|even| slot.is_multiple_of(2) == even);
        if !now || !mine || !ASKING.contains(&(elapsed * 100 / period)) {
            return None;
        }
        self.question = Some(Question { stamp: boot.0, received: false });
        Some(Control::ProbeRequest { stamp: boot.0 })
    }

    /// A slot's time has passed since the question, without a proof.
    fn conclude(&mut self, question: &Question, now: BootNs) {
        self.unproved += 1;
        // A slot or two with openers that are not needed cost less than packets lost.
        if self.finding == Finding::Absent {
            self.finding = Finding::Assumed;
        }
        if self.unproved >= QUESTIONS {
            self.unproved = 0;
            self.ask_at = now + ASK_AGAIN;
            self.finding = if question.received { Finding::Found } else { Finding::Assumed };
        }
    }

    /// A probe has come through the session of this opener, in a packet of the slot with these low 32 bits. Returns whether
    /// it proves that there is no middlebox.
    pub fn handle_probe(&mut self, stamp: u64, low: u32, opener: &Opener, moment: Moment) -> bool {
        let Some(question) = self.question.as_mut().filter(|question| question.stamp == stamp) else {
            return false;
        };
        question.received = true;
        let ahead = |slot: u64| low.wrapping_sub(slot as u32).cast_signed();
        if ahead(moment.slot) <= 0 || ahead(opener.used) <= 0 {
            return false;
        }
        self.question = None;
        self.unproved = 0;
        self.finding = Finding::Absent;
        self.ask_at = moment.boot + ASK_AGAIN;
        true
    }
}

#[cfg(test)]
mod tests;
