//! Clients with which something is out of the ordinary: they speak another version, or two hosts have one key.
//!
//! Two hosts with one key: each controller draws a number at its start, its instance, and says it in its requests. A newcomer
//! gets the session, since that is what a restart or a move looks like, and the instance that had it is displaced. A displaced
//! instance that asks again is no restart: it is alive, and so is the one that has the session now, if it still answers. That
//! one keeps it, and the other is refused until it is gone. A request can be held back and replayed by somebody on the way, but
//! only who is alive can send back the token of the refusal; so the operator is told when that comes.

use std::collections::VecDeque;

use super::limits::Bucket;
use super::{Refusal, Server};
use crate::keys::PublicKey;
use crate::model::BootNs;
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, SECOND, SessionId, random_bytes};
use crate::proto::messages::{Control, Denial, Instance, Reason, Request, Text, Token};

/// Displaced instances of one client that are remembered: more than hosts are cloned by mistake.
const MAX_DISPLACED: usize = 16;

/// How long displaced instances are remembered, in ns. One that is still there asks much earlier.
const REMEMBERED: u64 = 3600 * SECOND;

/// The client that has the session is asked for a sign of life if it has sent nothing for this long, in ns …
const QUIET: u64 = 3 * SECOND;
/// … and counts as gone if it has answered nothing for this long since it was first asked, in ns.
const GONE: u64 = 12 * SECOND;

/// Interval of answers that give one client no session, in ns …
const DENIAL_INTERVAL: u64 = SECOND / 2;
/// … and how many there may be at once.
const MAX_DENIALS: u64 = 10;

/// How long it is told that two hosts have one key, since the last sign of it, in ns: the refused one asks every few seconds.
const TOLD: u64 = 60 * SECOND;
/// How long it is told that a client speaks another version: it asks at least every minute.
const TOLD_OF_VERSION: u64 = 600 * SECOND;

/// What the operator should know of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// It speaks this version of the handshake, and no other.
    OtherVersion(u8),
    /// It insists on an option of this type, which this version does not know.
    UnknownOption(u16),
    /// Another host uses its key.
    KeyInUse,
}

/// What is out of the ordinary with a client.
#[derive(Default)]
pub(super) struct Peculiar {
    /// Instances that have lost the session to another one, the last one at the end.
    displaced: VecDeque<Instance>,
    /// When one was displaced, or asked, for the last time.
    touched: BootNs,
    /// Given to those that are refused since the last one was displaced.
    token: Token,
    /// When the client that has the session was first asked for a sign of life, without one since.
    asked: Option<BootNs>,
    /// The last answer that gave no session.
    pub(super) denied: Option<SessionId>,
    /// Limits these answers.
    denials: Option<Bucket>,
    version: Option<(u8, BootNs)>,
    option: Option<(u16, BootNs)>,
    /// When a displaced instance last proved that it is alive beside another one.
    twin: Option<BootNs>,
}

impl Peculiar {
    /// Whether one more answer may be sent that gives no session.
    pub(super) fn may_deny(&mut self, now: BootNs) -> bool {
        self.denials.get_or_insert_with(|| Bucket::new(DENIAL_INTERVAL, MAX_DENIALS)).take(now)
    }

    /// The client speaks this version.
    pub(super) fn note_version(&mut self, version: u8, now: Reading) {
        self.version = Some((version, now.boot));
    }

    fn remarks(&self, now: BootNs) -> impl Iterator<Item = Remark> {
        let within = |at: BootNs, time| now.since(at) < time;
        let version = self.version.filter(|(_, at)| within(*at, TOLD_OF_VERSION));
        let option = self.option.filter(|(_, at)| within(*at, TOLD_OF_VERSION));
        let twin = self.twin.filter(|at| within(*at, TOLD));
        let version = version.map(|(version, _)| Remark::OtherVersion(version));
        let option = option.map(|(option, _)| Remark::UnknownOption(option));
        version.into_iter().chain(option).chain(twin.map(|_| Remark::KeyInUse))
    }
}

impl Server {
    /// What the operator should know of clients.
    pub fn remarks(&self, now: BootNs) -> impl Iterator<Item = (&PublicKey, Remark)> {
        self.peculiar
            .iter()
            .flat_map(move |(client, peculiar)| peculiar.remarks(now).map(move |remark| (client, remark)))
    }

    pub(super) fn peculiar_of(&mut self, client: &PublicKey) -> &mut Peculiar {
        self.peculiar.entry(*client).or_default()
    }

    /// A registered client has sent a request of another version. If it has a session, that is an old one, sent again by somebody.
    pub(super) fn remark_version(&mut self, client: &PublicKey, version: u8, now: Reading) {
        if self.holder(client).is_some() {
            return;
        }
        self.peculiar_of(client).note_version(version, now);
    }

    /// A client's request has an option that must be known, and is not.
    pub(super) fn unknown_option(&mut self, client: &PublicKey, option: u16, now: Reading) -> Denial {
        self.peculiar_of(client).option = Some((option, now.boot));
        let text = Text::new(&format!("option {option}"));
        Denial { reason: Reason::UnknownOption, token: Token::default(), text }
    }

    /// The session that a client has.
    fn holder(&self, client: &PublicKey) -> Option<SessionId> {
        let stands = |id: &&SessionId| self.sessions.get(*id).is_some_and(|active| active.stands());
        self.clients.get(client)?.sessions.iter().rev().find(stands).copied()
    }

    /// Whether an authentic request gets no session, and why.
    pub(super) fn judge(
        &mut self,
        client: &PublicKey,
        request: &Request,
        now: Reading,
    ) -> Option<(Refusal, Denial)> {
        if let Some(option) = request.unknown {
            return Some((Refusal::UnknownOption, self.unknown_option(client, option, now)));
        }
        let id = self.holder(client)?;
        let holder = self.sessions.get(&id)?;
        let (asking, last_valid) = (request.instance?, holder.last_valid);
        let peculiar = self.peculiar.get_mut(client)?;
        if holder.instance == Some(asking) || !peculiar.displaced.contains(&asking) {
            return None;
        }
        if now.boot.since(last_valid) > QUIET {
            let asked = peculiar.asked.filter(|asked| *asked > last_valid).unwrap_or(now.boot);
            if now.boot.since(asked) >= GONE {
                return None;
            }
            peculiar.asked = Some(asked);
            let message = Control::Ping { stamp: now.boot.0 }.encode();
            self.actions.push_back(Action::Control { id, about: id, message });
        }
        let token = peculiar.token;
        peculiar.touched = now.boot;
        if request.token == Some(token) {
            peculiar.twin = Some(now.boot);
        }
        Some((Refusal::InUse, Denial { reason: Reason::InUse, token, text: Text::NONE }))
    }

    /// A session has opened: those of other controllers with the same key end, and the clients are told.
    pub(super) fn handle_displaced(&mut self, id: SessionId, now: Reading) {
        let Some(active) = self.sessions.get(&id) else { return };
        let (client, instance) = (active.client, active.instance);
        if let Some(peculiar) = self.peculiar.get_mut(&client) {
            (peculiar.version, peculiar.option) = (None, None);
        }
        let (Some(own), Some(registered)) = (instance, self.clients.get(&client)) else { return };
        let theirs = registered.sessions.iter().filter_map(|other| {
            let other = (*other, self.sessions.get(other).filter(|other| other.stands())?.instance?);
            (other.0 != id && other.1 != own).then_some(other)
        });
        let theirs: Vec<_> = theirs.collect();
        if theirs.is_empty() {
            return;
        }
        let token = random_bytes(&mut self.random);
        let peculiar = self.peculiar.entry(client).or_default();
        peculiar.displaced.retain(|instance| *instance != own);
        (peculiar.token, peculiar.asked, peculiar.touched) = (token, None, now.boot);
        for (other, instance) in theirs {
            if !peculiar.displaced.contains(&instance) {
                peculiar.displaced.push_back(instance);
            }
            let message = Control::Term { reason: Reason::InUse, text: Text::NONE }.encode();
            self.actions.push_back(Action::Control { id: other, about: other, message });
        }
        while peculiar.displaced.len() > MAX_DISPLACED {
            peculiar.displaced.pop_front();
        }
    }

    /// Forgets what is of no use any more.
    pub(super) fn forget_peculiar(&mut self, now: Reading) {
        if self.peculiar.is_empty() {
            return;
        }
        let denials = &self.denials;
        self.peculiar.retain(|_, peculiar| {
            peculiar.denied = peculiar.denied.filter(|id| denials.contains(*id));
            now.boot.since(peculiar.touched) < REMEMBERED
                || peculiar.denied.is_some()
                || peculiar.remarks(now.boot).next().is_some()
        });
    }
}
