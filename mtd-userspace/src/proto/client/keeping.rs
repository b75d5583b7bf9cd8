//! Keeping a session: keep-alive, its clock, new keys.

use mtd_common::address::End;

use super::{Active, Client, Settings, Trouble};
use crate::model::{BootNs, ClockOffset, SessionNs};
use crate::proto::clock::Reading;
use crate::proto::exchange::{
    Action, Binding, MILLISECOND, NO_COMMUNITY, SECOND, SessionId, fresh_end, random_bytes,
};
use crate::proto::messages::Control;
use crate::proto::noise::{Ephemeral, Initiator};

/// How often a session that is not open yet, or silent, is asked for a sign of life, in ns.
const PING_AGAIN: u64 = 300 * MILLISECOND;
/// How long a new session may take to open, in ns.
const OPENING: u64 = 5 * SECOND;
/// How long the server may leave pings unanswered, in ns.
const UNANSWERED: u64 = 8 * SECOND;

/// Interval at which a request for new keys is sent again, in ns …
const REKEY_AGAIN: u64 = SECOND;
/// … and the time after which a new request is made: the time in the answer is that at which the request first arrived.
const REKEY_PATIENCE: u64 = 2 * SECOND;
/// A session without new keys is given up this long before its keys expire, in ns.
pub(super) const LAST_RESORT: u64 = 20 * SECOND;

/// Clock differences from the server up to this one are ignored, in ns.
const CLOCK_TOLERANCE: u64 = 5 * MILLISECOND;

/// A request for new keys that waits for its answer.
pub(super) struct Rekey {
    parent: SessionId,
    initiator: Initiator,
    request: Vec<u8>,
    end: End,
    started: BootNs,
    last_sent: BootNs,
}

impl Client {
    /// The time without a valid packet after which a session counts as silent, in ns.
    pub(super) fn silence(&self) -> u64 {
        self.settings.keepalive + UNANSWERED
    }

    /// Whether there is no session that can be relied on, or it is in a prefix that is to be left.
    pub(super) fn wants_session(&self, now: Reading) -> bool {
        let over = |current: &Active| self.silent || now.boot >= current.last_resort_at;
        self.current().is_none_or(over) || self.is_elsewhere()
    }

    /// Removes sessions that are over.
    pub(super) fn retire(&mut self, now: Reading) {
        // As long as something comes, the server's controller may not have seen yet that there is another session.
        let unused = |active: &Active| now.boot.since(active.last_valid) >= active.session.overlap();
        let over = |active: &Active| {
            active.retires.is_some_and(|at| now.boot >= at && unused(active)) || now.boot >= active.expires_at
        };
        let ids: Vec<_> = self.sessions.iter().filter(|active| over(active)).map(|a| a.id).collect();
        for id in ids {
            self.remove(id);
        }
    }

    /// Retires the sessions that were replaced under an earlier controller, which noted it nowhere. The server has ended them
    /// by now, or will soon.
    pub(super) fn retire_replaced(&mut self, now: Reading) {
        let Some(opened) = self.sessions.iter().rposition(|active| active.last_valid.happened()) else {
            return;
        };
        let Active { last_valid, ref session, .. } = self.sessions[opened];
        let retires = now.boot + session.overlap();
        // What was heard later is still in use.
        for older in self.sessions[..opened].iter_mut().filter(|older| older.last_valid <= last_valid) {
            older.retires.get_or_insert(retires);
        }
    }

    /// Maintains the current session.
    pub(super) fn keep(&mut self, now: Reading) {
        let Some(current) = self.current() else {
            self.rekey = None;
            return;
        };
        let (id, last_valid, started) = (current.id, current.last_valid, current.started);
        if !last_valid.happened() {
            if now.boot.since(started) >= OPENING {
                self.remove(id);
                // The session before it may still be good. New keys are requested again, but not at once.
                if let Some(older) = self.sessions.last_mut() {
                    older.rekey_at = older.rekey_at.max(now.boot + OPENING);
                }
                self.fail(Trouble::NotOpened, now);
            } else if now.boot.since(self.last_ping) >= PING_AGAIN {
                self.ping(now);
            }
            return;
        }
        let quiet = now.boot.since(last_valid);
        self.silent |= quiet > self.silence();
        let keepalive = self.settings.keepalive;
        if quiet >= keepalive && now.boot.since(self.last_ping) >= PING_AGAIN.max(keepalive / 10) {
            self.ping(now);
        }
        self.keep_keys(now);
    }

    /// This host has slept, and its keys lay in memory meanwhile: asks for new ones at once. What has failed before counts no
    /// more, since the network may be another one.
    pub fn handle_woken(&mut self, now: Reading) {
        self.failures = 0;
        self.next_try = now.boot;
        if let Some(current) = self.sessions.last_mut().filter(|current| current.last_valid.happened()) {
            current.rekey_at = now.boot;
        }
    }

    /// Asks for new keys in good time.
    fn keep_keys(&mut self, now: Reading) {
        let Some(current) = self.current() else { return };
        let (id, due) = (current.id, now.boot >= current.rekey_at);
        if self
            .rekey
            .as_ref()
            .is_some_and(|rekey| rekey.parent != id || now.boot.since(rekey.started) >= REKEY_PATIENCE)
        {
            self.rekey = None;
        }
        match &mut self.rekey {
            None if due => self.start_rekey(now),
            Some(rekey) if now.boot.since(rekey.last_sent) >= REKEY_AGAIN => {
                rekey.last_sent = now.boot;
                let message = Control::Request(&rekey.request).encode();
                self.actions.push_back(Action::Control { id, about: id, message });
            }
            _ => {}
        }
    }

    pub(super) fn start_rekey(&mut self, now: Reading) {
        let Some(current) = self.sessions.last() else { return };
        // The server gives new keys only to where the old ones are; moving is done through the introduction.
        let network = current.session.local.network;
        let (parent, binding) = (current.id, Binding::Session(current.session.binding()));
        let prologue = binding.prologue(&self.settings.server);
        let end = fresh_end(network, &mut self.random);
        let payload = self.request(end).encode();
        let ephemeral = Ephemeral(random_bytes(&mut self.random));
        let Settings { identity, server, .. } = &self.settings;
        if let Ok((initiator, request)) = Initiator::start(identity, server, &prologue, ephemeral, &payload) {
            let message = Control::Request(&request).encode();
            self.actions.push_back(Action::Control { id: parent, about: parent, message });
            let (started, last_sent) = (now.boot, now.boot);
            self.rekey = Some(Rekey { parent, initiator, request, end, started, last_sent });
        }
    }

    /// The server's answer to a request for new keys, if it is authentic.
    pub(super) fn handle_rekeyed(&mut self, id: SessionId, body: &[u8], now: Reading) {
        let Some(rekey) = self.rekey.as_mut().filter(|rekey| rekey.parent == id) else { return };
        let Some(parent) = self.sessions.iter().find(|active| active.id == id) else { return };
        let binding = Binding::Session(parent.session.binding());
        let psk = binding.psk(&NO_COMMUNITY, &self.shared, &self.settings.server, &self.public);
        let Ok((payload, secrets)) = rekey.initiator.finish(body, &psk) else { return };
        let (end, sent) = (rekey.end, rekey.started);
        let Some(response) = self.terms(&payload, now) else { return };
        self.begin(&response, &secrets, end, sent, now);
    }

    pub(super) fn ping(&mut self, now: Reading) {
        let Some(current) = self.current() else { return };
        let (id, message) = (current.id, Control::Ping { stamp: now.boot.0 }.encode());
        self.actions.push_back(Action::Control { id, about: id, message });
        self.last_ping = now.boot;
    }

    /// The server has said that it sees this host at other addresses than its own.
    pub(super) fn handle_translated(&mut self, id: SessionId) {
        if let Some(active) = self.sessions.iter_mut().find(|active| active.id == id) {
            active.translated = true;
        }
    }

    pub(super) fn answer_ping(&mut self, id: SessionId, stamp: u64, now: Reading) {
        let Some(active) = self.sessions.iter().find(|active| active.id == id) else { return };
        let time = active.offset.session(now.boot).0;
        let message = Control::Pong { stamp, time }.encode();
        self.actions.push_back(Action::Control { id, about: id, message });
    }

    /// Follows the server's clock, by jumps that cost no packet: neighbouring slots are live too.
    pub(super) fn handle_pong(&mut self, id: SessionId, stamp: u64, time: u64, now: Reading) {
        let Some(active) = self.sessions.iter_mut().find(|active| active.id == id) else { return };
        let Some(trip) = now.boot.0.checked_sub(stamp).filter(|trip| *trip <= active.session.period) else {
            return;
        };
        let measured = ClockOffset::of(SessionNs(time), BootNs(stamp) + trip / 2);
        let difference = measured.ahead_of(active.offset);
        // A difference of the clocks cannot be distinguished from unequal delays of the two directions.
        if difference.unsigned_abs() <= CLOCK_TOLERANCE.max(trip / 2) {
            return;
        }
        let bound = (active.session.period / 2).cast_signed();
        active.offset = active.offset.moved(difference.clamp(-bound, bound));
        let offset = active.offset;
        self.actions.push_back(Action::Clock { id, offset });
    }
}
