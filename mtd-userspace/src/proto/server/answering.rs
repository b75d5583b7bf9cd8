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
use crate::proto::messages::{Control, Request, Response};
use crate::proto::noise::{Ephemeral, Responder};
use crate::proto::packet::Path;
use crate::proto::session::{Ends, Role, Session, Terms};

/// How often one request is answered.
const MAX_ANSWERS: u32 = 8;
/// Half-open sessions of one client.
const MAX_HALF_OPEN: usize = 3;

impl Server {
    /// A control message has come in.
    pub fn handle_control(&mut self, received: Received<'_>, now: Reading) {
        let message = Control::decode(received.message);
        if let Some(open) = self.introductions.iter().position(|open| open.id == received.id) {
            let result = match message {
                Some(Control::Request(body)) => self.introduced(open, &received, body, now),
                _ => Err(Refusal::Malformed),
            };
            return self.count(result);
        }
        match message {
            Some(Control::Request(body)) if self.sessions.contains_key(&received.id) => {
                let result = self.rekey(&received, body, now);
                self.count(result);
            }
            Some(message) => self.handle_session(received.id, received.slot, &message, now),
            None => {}
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
        let registered = self.clients.get_mut(&client).ok_or(Refusal::Unregistered)?;
        let request = Request::decode(&payload).ok_or(Refusal::Malformed)?;
        let path = expected_path(open, &registered.shared, &request, received, now);
        // What the sender sealed, not what is on the wire: a router may have translated that.
        if path.remote.address != received.inner_source {
            return Err(Refusal::WrongSource);
        }
        let back = Back { path, to: received.source };
        // Only after these checks: nobody else can use up this client's limit.
        if !registered.limit.take(now.boot) {
            return Err(Refusal::ClientLimit);
        }
        let psk = binding.psk(&NO_COMMUNITY, &registered.shared, &self.public, &client);
        let peer = Asking {
            client: &client,
            end: request.end,
            wish: request.period_ms,
            translated: back.is_translated(),
        };
        let (id, answer) = self.agree(responder, peer, &psk, now).ok_or(Refusal::Full)?;
        self.recent.insert(ephemeral, id);
        let through = received.id;
        self.send_answer(id, Box::new(HalfOpen { answer, through, back: Some(back), answers: 0 }));
        Ok(())
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
        let peer = Asking { client: &client, end: request.end, wish: request.period_ms, translated };
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
        let Asking { client, end: remote, wish, translated } = asking;
        let registered = self.clients.get(client)?;
        let tunnel = registered.tunnel;
        let period = self.period(registered.period, wish);
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
        };
        let (answer, secrets) = responder.answer(psk, &response.encode()).ok()?;
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
        self.sessions.insert(id, Box::new(Active::new(*client, session, translated, now)));
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
        let active = self.sessions.get_mut(&id).ok_or(Refusal::Replayed)?;
        let half = active.half_open.as_mut().ok_or(Refusal::Replayed)?;
        let back = half.back.as_mut().ok_or(Refusal::Replayed)?;
        let path = back.path;
        let same = half.through == received.id
            && path.slot as u32 == received.slot
            && path.remote.address == received.inner_source;
        if !same || !active.translated && received.source != path.remote {
            return Err(Refusal::Replayed);
        }
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
        let message = Control::Response(&half.answer);
        let action = match (&half.back, self.introductions.iter().find(|open| open.id == half.through)) {
            (Some(Back { path, to }), Some(open)) => {
                introduce(&open.session, path, *to, message, &mut self.random)
                    .map(|packet| Action::Transmit { id, packet })
            }
            (Some(_), None) => None,
            (None, _) => Some(Action::Control { id: half.through, about: id, message: message.encode() }),
        };
        self.actions.extend(action);
        if let Some(active) = self.sessions.get_mut(&id) {
            active.half_open = Some(half);
        }
    }
}

/// A client that asks for a session.
#[derive(Clone, Copy)]
struct Asking<'a> {
    client: &'a PublicKey,
    /// Its end of the session.
    end: End,
    /// The slot length that it wishes, in ms; 0: none.
    wish: u32,
    /// A router translates its addresses.
    translated: bool,
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
