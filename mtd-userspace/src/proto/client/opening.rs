//! Keeping the way back open through a middlebox on this side: see [`crate::proto::middlebox`].

use super::Client;
use crate::model::MiddleboxChoice;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, Received, SendSlot, SessionId};
use crate::proto::middlebox::{Finding, Moment};

impl Client {
    /// The newest slot in which the server was heard in a session.
    pub fn handle_heard(&mut self, id: SessionId, slot: u64) {
        if let Some(active) = self.sessions.iter_mut().find(|active| active.id == id) {
            active.opener.handle_heard(slot);
        }
    }

    /// What is configured about a middlebox on this side, and what is known.
    pub const fn middlebox(&self) -> (MiddleboxChoice, Finding) {
        (self.middlebox.choice(), self.middlebox.finding())
    }

    /// Sends the openers that are due, and asks whether they are needed.
    pub(super) fn keep_open(&mut self, now: Reading) {
        let wanted = self.middlebox.wants_openers();
        // While keys are replaced, the server answers through the session before, which it ends soon after it has answered
        // through the new one.
        let newest = self.sessions.len().saturating_sub(1);
        let begun = self.sessions.last().is_some_and(|active| active.last_valid.happened());
        let used = self.sessions.iter_mut().skip(if begun { newest } else { 0 });
        // Through one that was replaced before, the server sends nothing any more, and has perhaps ended it already.
        for active in used.filter(|active| active.retires.is_none()) {
            let (id, moment) = (active.id, Moment::of(&active.session, active.offset, now.boot));
            if let Some(message) = active.opener.next(wanted, moment) {
                let message = message.encode();
                self.actions.push_back(Action::ControlIn { id, slot: SendSlot::Present, message });
            }
        }
        let Some(current) = self.sessions.last().filter(|active| active.retires.is_none()) else { return };
        let (id, moment) = (current.id, Moment::of(&current.session, current.offset, now.boot));
        if !current.last_valid.happened() || self.silent {
            return;
        }
        if let Some(message) = self.middlebox.next(true, None, moment) {
            let message = message.encode();
            self.actions.push_back(Action::ControlIn { id, slot: SendSlot::Present, message });
        }
    }

    /// A probe from the server.
    pub(super) fn handle_probe(&mut self, received: &Received<'_>, stamp: u64, now: Reading) {
        let Some(active) = self.sessions.iter().find(|active| active.id == received.id) else { return };
        let moment = Moment::of(&active.session, active.offset, now.boot);
        if self.middlebox.handle_probe(stamp, received.slot, &active.opener, moment) {
            self.sessions.iter_mut().for_each(|active| active.opener.tell_again());
            self.keep_open(now);
        }
    }
}
