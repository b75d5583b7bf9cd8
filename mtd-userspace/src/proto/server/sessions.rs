//! The sessions of a server's clients.

use std::sync::Arc;

use mtd_common::address::Endpoint;
use mtd_common::slot;

use super::Server;
use super::answering::Asking;
use crate::keys::PublicKey;
use crate::model::{BootNs, ClockOffset};
use crate::proto::clock::Reading;
use crate::proto::exchange::{Action, Adopted, Received, SECOND, SessionId};
use crate::proto::messages::{Capabilities, Control, Instance, Reason, Tunnel};
use crate::proto::middlebox::{Moment, probe_slot};
use crate::proto::packet::Path;
use crate::proto::session::Session;

/// How long a session may wait for its first valid packet, in ns.
const HALF_OPEN: u64 = 30 * SECOND;

/// A session with a client.
pub(super) struct Active {
    pub(super) client: PublicKey,
    pub(super) session: Arc<Session>,
    offset: ClockOffset,
    started: BootNs,
    /// When the last valid packet came.
    pub(super) last_valid: BootNs,
    /// Boot time at which it is removed, since another session has replaced it.
    retires: Option<BootNs>,
    pub(super) half_open: Option<Box<HalfOpen>>,
    /// A router translates the client's addresses.
    pub(super) translated: bool,
    /// The client's controller, as it calls itself; not known of sessions that an earlier controller of this host began.
    pub(super) instance: Option<Instance>,
    /// What the client can do, likewise.
    pub(super) capabilities: Option<Capabilities>,
}

/// The data of a handshake until the client's first valid packet.
pub(super) struct HalfOpen {
    pub(super) answer: Vec<u8>,
    /// The introduction or session that the request came through.
    pub(super) through: SessionId,
    /// The way back through an introduction.
    pub(super) back: Option<Back>,
    pub(super) answers: u32,
}

impl HalfOpen {
    /// Whether the request in a packet through an introduction is the one that this answers, for all that the packet says.
    pub(super) fn is_for(&self, received: &Received<'_>) -> bool {
        self.through == received.id
            && self.back.as_ref().is_some_and(|Back { path, .. }| {
                path.slot as u32 == received.slot && path.remote.address == received.inner_source
            })
    }
}

/// The way back to a client that came through an introduction.
#[derive(Clone, Copy)]
pub(super) struct Back {
    /// Both ends' own endpoints, and the slot.
    pub(super) path: Path,
    /// Where the request came from: the client's own endpoint, or the one that a router has for it.
    pub(super) to: Endpoint,
}

impl Back {
    /// Whether a router translates the client's addresses.
    pub(super) fn is_translated(&self) -> bool {
        self.to != self.path.remote
    }
}

impl Active {
    /// The session that a client has asked for.
    pub(super) fn new(asking: &Asking<'_>, session: Arc<Session>, now: Reading) -> Self {
        Self {
            client: *asking.client,
            session,
            offset: now.offset(),
            started: now.boot,
            last_valid: BootNs::NEVER,
            retires: None,
            half_open: None,
            translated: asking.translated,
            instance: asking.request.instance,
            capabilities: asking.request.capabilities,
        }
    }

    /// Whether it is open, and no other one has replaced it.
    pub(super) fn stands(&self) -> bool {
        self.last_valid.happened() && self.retires.is_none()
    }

    /// The number of the present slot.
    pub(super) fn slot(&self, now: Reading) -> u64 {
        slot::number(self.offset.session(now.boot).0, self.session.phase, self.session.period)
    }
}

impl Server {
    /// Goes on with a session that an earlier controller left. `None`: its client is not registered any more, or has
    /// other tunnel addresses.
    pub fn adopt(
        &mut self,
        client: PublicKey,
        tunnel: Tunnel,
        adopted: Adopted,
        now: Reading,
    ) -> Option<SessionId> {
        let Adopted { session, offset, started, last_valid, translated, where_heard } = adopted;
        let id = self.new_id();
        // If its addresses may have been given to another client, the session is not continued.
        let registered = self.clients.get_mut(&client).filter(|registered| registered.tunnel == tunnel)?;
        registered.sessions.push(id);
        registered.where_heard |= where_heard;
        // In the order in which they began: the newest is the one that traffic goes through.
        let sessions = &self.sessions;
        let began = |id: &SessionId| sessions.get(id).map_or(started, |active| active.started);
        registered.sessions.sort_by_key(began);
        let active = Active {
            client,
            session,
            offset,
            started,
            last_valid,
            retires: None,
            half_open: None,
            translated,
            instance: None,
            capabilities: None,
        };
        self.sessions.insert(id, Box::new(active));
        self.retire_replaced(&client, now);
        Some(id)
    }

    /// Retires the sessions of a client that were replaced under an earlier controller, which noted it nowhere. The client has
    /// ended them by now, or will soon.
    fn retire_replaced(&mut self, client: &PublicKey, now: Reading) {
        let Some(registered) = self.clients.get(client) else { return };
        let mut opened: Option<(BootNs, BootNs)> = None;
        for id in registered.sessions.iter().rev() {
            let Some(active) = self.sessions.get_mut(id) else { continue };
            match opened {
                // What was heard later is still in use.
                Some((last_valid, retires)) if active.last_valid <= last_valid => {
                    active.retires.get_or_insert(retires);
                }
                None if active.last_valid.happened() => {
                    opened = Some((active.last_valid, now.boot + active.session.overlap()));
                }
                _ => {}
            }
        }
    }

    /// The sessions, with client, keys and ends, offset of the clock, when they began, and when the last valid packet
    /// came.
    pub fn sessions(&self) -> impl Iterator<Item = View<'_>> {
        self.sessions.iter().map(|(id, active)| View {
            id: *id,
            client: &active.client,
            session: &active.session,
            offset: active.offset,
            started: active.started,
            last_valid: active.last_valid,
            closing: active.retires.is_some(),
            replaced: self.has_successor(*id, active),
            translated: active.translated,
            capabilities: active.capabilities,
        })
    }

    /// Whether there is a session with the same client that is not about to end.
    fn has_successor(&self, id: SessionId, active: &Active) -> bool {
        let others = self.clients.get(&active.client).map_or(&[][..], |client| client.sessions.as_slice());
        let stays = |other: &SessionId| self.sessions.get(other).is_some_and(|other| other.retires.is_none());
        active.retires.is_some() && others.iter().filter(|other| **other != id).any(stays)
    }

    /// Valid packets came through a session, the last of them at `last_valid`.
    pub fn handle_valid(&mut self, id: SessionId, last_valid: BootNs, now: Reading) {
        let Some(active) = self.sessions.get_mut(&id) else { return };
        if last_valid <= active.last_valid {
            return;
        }
        let first = !active.last_valid.happened();
        active.last_valid = last_valid;
        if !first {
            return;
        }
        active.half_open = None;
        active.retires = None;
        let (client, overlap) = (active.client, active.session.overlap());
        self.handle_displaced(id, now);
        let Some(registered) = self.clients.get(&client) else { return };
        // The client has begun to use this session, and uses no other any more.
        for other in registered.sessions.iter().filter(|other| **other != id) {
            if let Some(other) = self.sessions.get_mut(other) {
                other.retires.get_or_insert(now.boot + overlap);
            }
        }
        self.actions.push_back(Action::Route(id));
    }

    /// The tables are full, or refused a session: cancels the steps that depend on it.
    pub fn handle_not_installed(&mut self, id: SessionId, now: Reading) {
        if let Some(active) = self.sessions.remove(&id)
            && let Some(registered) = self.clients.get_mut(&active.client)
        {
            registered.sessions.retain(|other| *other != id);
        }
        let failed = |open: &mut super::Open| open.id == id;
        for open in self.introductions.extract_if(.., failed) {
            // Nobody should look for this one. Earlier publications stay as they are.
            self.blocked_until = Some(now.boot + super::BLOCKED);
            self.actions.retain(|action| !matches!(action, Action::Publish(p) if p.window == open.window));
        }
    }

    /// This host was copied or set back to an earlier state: ends all sessions without a message, since another copy may have
    /// sent with their keys since. Their clients come again.
    pub fn handle_copied(&mut self) {
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            self.end(id, None);
        }
    }

    /// This host has slept. Clients were not idle meanwhile, but not heard: they have the whole idle time from now on, and so go on
    /// with the keys that they have, or come again.
    pub const fn handle_woken(&mut self, now: Reading) {
        self.woken = now.boot;
    }

    /// A message inside a session, other than a request, in a packet of the slot with these low 32 bits.
    pub(super) fn handle_session(&mut self, id: SessionId, slot: u32, message: &Control<'_>, now: Reading) {
        let Some(active) = self.sessions.get(&id) else { return };
        match *message {
            Control::Term { .. } => self.end(id, None),
            Control::Ping { stamp } => {
                let time = active.offset.session(now.boot).0;
                let translated = active.translated.then_some(Control::Translated);
                for message in [Some(Control::Pong { stamp, time }), translated].into_iter().flatten() {
                    self.actions.push_back(Action::Control { id, about: id, message: message.encode() });
                }
            }
            Control::Opener { where_heard, .. } => {
                // Sessions to come begin with it: their first packets may be answers already.
                if let Some(client) = self.clients.get_mut(&active.client) {
                    client.where_heard = where_heard;
                }
                self.actions.push_back(Action::Answer { id, where_heard });
            }
            Control::ProbeRequest { stamp } => {
                let message = Control::Probe { stamp }.encode();
                let moment = Moment::of(&active.session, active.offset, now.boot);
                if let Some(slot) = probe_slot(slot, moment) {
                    self.actions.push_back(Action::ControlIn { id, slot, message: message.clone() });
                }
                self.actions.push_back(Action::Control { id, about: id, message });
            }
            // A server does not send requests, and needs no openers. Path probes are of the path, which all sessions with a
            // peer share.
            Control::Pong { .. }
            | Control::Request(_)
            | Control::Response(_)
            | Control::Probe { .. }
            | Control::Translated
            | Control::PathProbe { .. }
            | Control::PathProbeAnswer { .. } => {}
        }
    }

    /// Ends sessions that are over (MT-44).
    pub(super) fn expire(&mut self, now: Reading) {
        let (idle, lifetime) = (self.settings.idle, u64::from(self.settings.expire_after) * SECOND);
        let since = |time: BootNs| now.boot.since(time);
        let mut over = Vec::new();
        for (id, active) in &self.sessions {
            // As long as something comes, the client's controller may not have seen yet that there is another session: it is
            // slow, or dead.
            let unused = since(active.last_valid) >= active.session.overlap();
            let retired = active.retires.is_some_and(|at| now.boot >= at && unused);
            let unopened = !active.last_valid.happened() && since(active.started) >= HALF_OPEN;
            if retired || unopened || since(active.started) >= lifetime {
                over.push((*id, None));
            } else if active.last_valid.happened()
                && active.retires.is_none()
                && since(active.last_valid.max(self.woken)) >= idle
            {
                over.push((*id, Some(Reason::Idle)));
            }
        }
        for (id, reason) in over {
            self.end(id, reason);
        }
    }
}

/// The data of a session for reports.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Its number.
    pub id: SessionId,
    /// The client.
    pub client: &'a PublicKey,
    /// Keys and ends.
    pub session: &'a Session,
    /// The offset of its clock.
    pub offset: ClockOffset,
    /// When it began.
    pub started: BootNs,
    /// When the last valid packet came.
    pub last_valid: BootNs,
    /// It is about to end.
    pub closing: bool,
    /// Another session with the same client has replaced it.
    pub replaced: bool,
    /// A router translates the client's addresses.
    pub translated: bool,
    /// What the client can do; `None`: it has not said.
    pub capabilities: Option<Capabilities>,
}
