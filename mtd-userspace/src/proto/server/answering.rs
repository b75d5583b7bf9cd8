//! Handshake requests, through an introduction or inside a session.

use std::sync::Arc;

use mtd_common::address::{End, Network};
use mtd_common::slot;

use super::sessions::{Active, Back, HalfOpen};
use super::{Refusal, Server};
use crate::keys::PublicKey;
use crate::proto::clock::Reading;
use crate::proto::exchange::{
    Action, Binding, Install, MILLISECOND, NO_COMMUNITY, Received, SECOND, SessionId, fresh_end, introduce,
    random_bytes,
};
use crate::proto::messages::{
    Capabilities, Control, Reply, Request, Response, VERSION, request_of_any_version,
};
use crate::proto::noise::{Ephemeral, Responder};
use crate::proto::packet::Path;
use crate::proto::session::{Ends, Role, Session, Terms};

/// How often one request is answered.
pub(super) const MAX_ANSWERS: u32 = 8;
/// Half-open sessions of one client.
const MAX_HALF_OPEN: usize = 3;

impl Server {
    /// A control message has come in.
    pub fn handle_control(&mut self, received: Received<'_>, now: Reading) {
        let message = Control::decode(received.message);
        if let Some(open) = self.introductions.iter().position(|open| open.id == received.id) {
            let result = match message {
                Some(Control::Request(body)) => self.introduced(open, &received, body, now),
                _ => self.introduced_otherwise(open, &received, now),
            };
            return self.count(result);
        }
        match message {
            Some(Control::Request(body)) if self.sessions.contains_key(&received.id) => {
                let result = self.rekey(&received, body, now);
                self.count(result);
            }
            Some(message) => self.handle_session(received.id, received.slot, &message, now),
            None => self.handle_unreadable(&received, now),
        }
    }

    /// A message inside a session that this version cannot read. A request of another version comes from a client that had its
    /// session before one of the two ends was updated, and will have none when its keys end.
    fn handle_unreadable(&mut self, received: &Received<'_>, now: Reading) {
        let version = request_of_any_version(received.message).map(|(version, _)| version);
        let Some(version) = version.filter(|version| *version != VERSION) else { return };
        if let Some(client) = self.sessions.get(&received.id).map(|active| active.client) {
            self.peculiar_of(&client).note_version(version, now);
            self.count(Err(Refusal::OtherVersion));
        }
    }

    fn count(&mut self, result: Result<(), Refusal>) {
        self.counts.received += 1;
        match result {
            Ok(()) => self.counts.answered += 1,
            Err(refusal) => *self.counts.refused.entry(refusal).or_default() += 1,
        }
    }

    /// A request through an introduction, cheapest checks first: all before the first public-key operation are of
    /// constant cost.
    fn introduced(
        &mut self,
        open: usize,
        received: &Received<'_>,
        body: &[u8],
        now: Reading,
    ) -> Result<(), Refusal> {
        let ephemeral = *body.first_chunk::<32>().ok_or(Refusal::Malformed)?;
        if let Some(id) = self.recent.get(&ephemeral) {
            return self.answer_again(id, received);
        }
        if !self.recent.has_room() {
            return Err(Refusal::Full);
        }
        if !self.total.take(now.boot) {
            return Err(Refusal::TotalLimit);
        }
        let open = &self.introductions[open];
        let binding = Binding::Introduction {
            window: open.window,
            key: open.introduction.key.as_bytes(),
            slot: received.slot,
        };
        let own = Ephemeral(random_bytes(&mut self.random));
        let prologue = binding.prologue(&self.public);
        let (responder, client, payload) =
            Responder::read(&self.identity, &prologue, own, body).map_err(|_| Refusal::NotAuthentic)?;
        let registered = self.clients.get(&client).ok_or(Refusal::Unregistered)?;
        let request = Request::decode(&payload).ok_or(Refusal::Malformed)?;
        let path = expected_path(open, &registered.shared, &request, received, now);
        // What the sender sealed, not what is on the wire: a router may have translated that.
        if path.remote.address != received.inner_source {
            return Err(Refusal::WrongSource);
        }
        let back = Back { path, to: received.source };
        let psk = binding.psk(&NO_COMMUNITY, &registered.shared, &self.public, &client);
        let (through, back) = (received.id, Some(back));
        if let Some((refusal, denial)) = self.judge(&client, &request, now) {
            // Not the client's own limit: hosts that are refused must not use up that of the one that has the session.
            if !self.peculiar_of(&client).may_deny(now.boot) {
                return Err(refusal);
            }
            let payload = Reply::Denied(denial).encode();
            let (answer, _) = responder.answer(&psk, &payload).map_err(|_| Refusal::Malformed)?;
            let id = self.new_id();
            self.recent.insert(ephemeral, id);
            self.deny(id, &client, HalfOpen { answer, through, back, answers: 0 }, now);
            return Err(refusal);
        }
        // Only after these checks: nobody else can use up this client's limit.
        let registered = self.clients.get_mut(&client).ok_or(Refusal::Unregistered)?;
        if !registered.limit.take(now.boot) {
            return Err(Refusal::ClientLimit);
        }
        let translated = back.as_ref().is_some_and(Back::is_translated);
        let peer = Asking { client: &client, request: &request, translated };
        let (id, answer) = self.agree(responder, peer, &psk, now).ok_or(Refusal::Full)?;
        self.recent.insert(ephemeral, id);
        self.send_answer(id, Box::new(HalfOpen { answer, through, back, answers: 0 }));
        Ok(())
    }

    /// Something else than a request of this version has come through an introduction. If it is an authentic request of another
    /// version, the operator is told whose: nobody else learns anything.
    fn introduced_otherwise(
        &mut self,
        open: usize,
        received: &Received<'_>,
        now: Reading,
    ) -> Result<(), Refusal> {
        let (version, body) = request_of_any_version(received.message)
            .filter(|(version, _)| *version != VERSION)
            .ok_or(Refusal::Malformed)?;
        let ephemeral = *body.first_chunk::<32>().ok_or(Refusal::Malformed)?;
        if self.recent.get(&ephemeral).is_some() {
            return Err(Refusal::Replayed);
        }
        if !self.recent.has_room() {
            return Err(Refusal::Full);
        }
        if !self.total.take(now.boot) {
            return Err(Refusal::TotalLimit);
        }
        let open = &self.introductions[open];
        let key = open.introduction.key.as_bytes();
        let binding = Binding::Introduction { window: open.window, key, slot: received.slot };
        let own = Ephemeral(random_bytes(&mut self.random));
        let prologue = binding.prologue_of(version, &self.public);
        let (_, client, _) =
            Responder::read(&self.identity, &prologue, own, body).map_err(|_| Refusal::NotAuthentic)?;
        let registered = self.clients.get_mut(&client).ok_or(Refusal::Unregistered)?;
        if !registered.limit.take(now.boot) {
            return Err(Refusal::ClientLimit);
        }
        let id = self.new_id();
        self.recent.insert(ephemeral, id);
        self.remark_version(&client, version, now);
        Err(Refusal::OtherVersion)
    }

    /// A request for new keys inside a session.
    fn rekey(&mut self, received: &Received<'_>, body: &[u8], now: Reading) -> Result<(), Refusal> {
        let parent = received.id;
        let ephemeral = *body.first_chunk::<32>().ok_or(Refusal::Malformed)?;
        let active = self.sessions.get(&parent).ok_or(Refusal::Malformed)?;
        if let Some(id) = self.recent.get(&ephemeral) {
            return self.repeat(id, |half| half.through == parent);
        }
        if !self.recent.has_room() {
            return Err(Refusal::Full);
        }
        let binding = Binding::Session(active.session.binding());
        let (expected, network) = (active.client, active.session.remote.network);
        let number = full_slot(received.slot, active.slot(now));
        let translated = active.translated && active.session.endpoints(number).1 != received.source;
        let registered = self.clients.get_mut(&expected).ok_or(Refusal::Unregistered)?;
        if !registered.limit.take(now.boot) {
            return Err(Refusal::ClientLimit);
        }
        let own = Ephemeral(random_bytes(&mut self.random));
        let prologue = binding.prologue(&self.public);
        let (responder, client, payload) =
            Responder::read(&self.identity, &prologue, own, body).map_err(|_| Refusal::NotAuthentic)?;
        let request = Request::decode(&payload).ok_or(Refusal::Malformed)?;
        if client != expected {
            return Err(Refusal::NotAuthentic);
        }
        // A client that has moved comes through the introduction, which shows that it is where it says.
        if request.end.network != network {
            return Err(Refusal::WrongSource);
        }
        let psk = binding.psk(&NO_COMMUNITY, &registered.shared, &self.public, &client);
        if let Some(option) = request.unknown {
            let denial = self.unknown_option(&client, option, now);
            let payload = Reply::Denied(denial).encode();
            let (answer, _) = responder.answer(&psk, &payload).map_err(|_| Refusal::Malformed)?;
            let message = Control::Response(&answer).encode();
            self.actions.push_back(Action::Control { id: parent, about: parent, message });
            return Err(Refusal::UnknownOption);
        }
        // Who has the keys of the session goes on with it: another controller of the same host, after an upgrade.
        if let Some(active) = self.sessions.get_mut(&parent) {
            active.instance = request.instance;
        }
        let peer = Asking { client: &client, request: &request, translated };
        let (id, answer) = self.agree(responder, peer, &psk, now).ok_or(Refusal::Full)?;
        self.recent.insert(ephemeral, id);
        self.send_answer(id, Box::new(HalfOpen { answer, through: parent, back: None, answers: 0 }));
        Ok(())
    }

    /// Makes the answer, and installs the session that it leads to.
    fn agree(
        &mut self,
        responder: Responder,
        asking: Asking<'_>,
        psk: &[u8; 32],
        now: Reading,
    ) -> Option<(SessionId, Vec<u8>)> {
        let Asking { client, request, translated } = asking;
        let remote = request.end;
        let registered = self.clients.get(client)?;
        let tunnel = registered.tunnel;
        let period = self.period(registered.period, request.period_ms);
        let local = fresh_end(self.settings.network, &mut self.random);
        let response = Response {
            mode: self.settings.mode as u8,
            end: local,
            period_ms: (period / MILLISECOND) as u32,
            rekey_after: self.settings.rekey_after,
            expire_after: self.settings.expire_after,
            inner_mtu: self.settings.inner_mtu,
            time: now.wall.0,
            client: tunnel,
            server: self.settings.tunnel,
            capabilities: Some(Capabilities::OWN),
            unknown: None,
        };
        let (answer, secrets) = responder.answer(psk, &Reply::Session(response).encode()).ok()?;
        let terms = Terms {
            period,
            mode: self.settings.mode,
            until: now.wall.session() + u64::from(self.settings.expire_after) * SECOND,
        };
        let session = Arc::new(Session::negotiated(&secrets, Role::Server, Ends { local, remote }, terms));
        let id = self.new_id();
        self.actions.push_back(Action::Install(Box::new(Install {
            id,
            session: Arc::clone(&session),
            offset: now.offset(),
            started: now.boot,
            role: Role::Server,
            peer: *client,
            local: self.settings.tunnel,
            remote: tunnel,
            translated,
        })));
        let registered = self.clients.get_mut(client)?;
        if registered.where_heard {
            self.actions.push_back(Action::Answer { id, where_heard: true });
        }
        // Where there is no older session, the first packet's answer must find its way.
        if registered.sessions.is_empty() {
            self.actions.push_back(Action::Route(id));
        }
        // One, and two for a moment when keys are renewed: no room for four.
        registered.sessions.reserve_exact(1);
        registered.sessions.push(id);
        self.sessions.insert(id, Box::new(Active::new(&asking, session, now)));
        self.limit_half_open(client);
        Some((id, answer))
    }

    /// The slot length of a new session in ns: what is set for this client, or what it wishes (in ms; 0: nothing), within
    /// bounds.
    pub(super) fn period(&self, set: Option<u64>, wish: u32) -> u64 {
        let (shortest, longest) = (self.settings.period, self.settings.longest_period);
        set.unwrap_or_else(|| (u64::from(wish) * MILLISECOND).clamp(shortest, longest.max(shortest)))
    }

    /// A client that begins many handshakes and opens no session has room for a few.
    fn limit_half_open(&mut self, client: &PublicKey) {
        let Some(registered) = self.clients.get(client) else { return };
        let half_open: Vec<_> = registered
            .sessions
            .iter()
            .copied()
            .filter(|id| self.sessions.get(id).is_some_and(|active| !active.last_valid.happened()))
            .collect();
        for id in half_open.iter().rev().skip(MAX_HALF_OPEN) {
            self.end(*id, None);
        }
    }

    /// The same request once more, in another packet: our answer may have been lost. It goes to where this packet came from.
    /// The first one may have been a copy that somebody sent from elsewhere. What comes from the client's own endpoint shows
    /// that it was, and from then on nothing else counts.
    fn answer_again(&mut self, id: SessionId, received: &Received<'_>) -> Result<(), Refusal> {
        if self.denials.contains(id) {
            return self.deny_again(id, received);
        }
        let active = self.sessions.get_mut(&id).ok_or(Refusal::Replayed)?;
        let half = active.half_open.as_mut().ok_or(Refusal::Replayed)?;
        let path = half.back.as_ref().ok_or(Refusal::Replayed)?.path;
        if !half.is_for(received) || !active.translated && received.source != path.remote {
            return Err(Refusal::Replayed);
        }
        let back = half.back.as_mut().ok_or(Refusal::Replayed)?;
        back.to = received.source;
        if active.translated && !back.is_translated() {
            active.translated = false;
            // Copies may have used up the answers.
            half.answers = 0;
            self.actions.push_back(Action::Untranslated(id));
        }
        self.repeat(id, |_| true)
    }

    fn repeat(&mut self, id: SessionId, same: impl Fn(&HalfOpen) -> bool) -> Result<(), Refusal> {
        let half = self.sessions.get_mut(&id).and_then(|active| active.half_open.take());
        let half = half.ok_or(Refusal::Replayed)?;
        if same(&half) && half.answers < MAX_ANSWERS {
            self.send_answer(id, half);
            return Ok(());
        }
        if let Some(active) = self.sessions.get_mut(&id) {
            active.half_open = Some(half);
        }
        Err(Refusal::Replayed)
    }

    fn send_answer(&mut self, id: SessionId, mut half: Box<HalfOpen>) {
        half.answers += 1;
        let action = self.answer(&half, id);
        self.actions.extend(action);
        if let Some(active) = self.sessions.get_mut(&id) {
            active.half_open = Some(half);
        }
    }

    /// Sends an answer to a handshake. `about`: what must be installed for it to be of use.
    pub(super) fn answer(&mut self, half: &HalfOpen, about: SessionId) -> Option<Action> {
        let message = Control::Response(&half.answer);
        match (&half.back, self.introductions.iter().find(|open| open.id == half.through)) {
            (Some(Back { path, to }), Some(open)) => {
                introduce(&open.session, path, *to, message, &mut self.random)
                    .map(|packet| Action::Transmit { id: about, packet })
            }
            (Some(_), None) => None,
            (None, _) => Some(Action::Control { id: half.through, about, message: message.encode() }),
        }
    }
}

/// A client that asks for a session.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) client: &'a PublicKey,
    pub(super) request: &'a Request,
    /// A router translates its addresses.
    pub(super) translated: bool,
}

/// The way back to where a client's request must have come from (requirement MT-41), unless a router translates it.
fn expected_path(
    open: &super::Open,
    shared: &crate::proto::rendezvous::Shared,
    request: &Request,
    received: &Received<'_>,
    now: Reading,
) -> Path {
    let number = full_slot(received.slot, slot::number(now.wall.0, 0, open.session.period));
    let network: Network = request.end.network;
    let client = End { network, seed: shared.client_seed(&open.introduction) };
    let (local, _) = open.session.endpoints(number);
    Path { slot: number, local, remote: open.session.introduced_client(&client, number) }
}

/// The slot with these low 32 bits that is next to `near`.
fn full_slot(low: u32, near: u64) -> u64 {
    let difference = low.wrapping_sub(near as u32).cast_signed();
    near.wrapping_add_signed(i64::from(difference))
}
