//! A handshake through an introduction.

use std::sync::Arc;

use mtd_common::address::End;
use mtd_common::slot;

use super::keeping::LAST_RESORT;
use super::{Active, Client, Trouble};
use crate::model::{BootNs, ClockOffset, SessionNs};
use crate::proto::clock::Reading;
use crate::proto::exchange::{
    Action, Binding, Install, MILLISECOND, NO_COMMUNITY, SECOND, SessionId, fresh_end, introduce,
    random_bytes, random_u64,
};
use crate::proto::messages::{Control, Response, Tunnel};
use crate::proto::middlebox::Opener;
use crate::proto::noise::{Ephemeral, Initiator, Secrets};
use crate::proto::packet::Path;
use crate::proto::session::{Ends, Role, Session, Terms};

/// When a request is sent again, ns after the first time.
const AGAIN: [u64; 3] = [250 * MILLISECOND, 500 * MILLISECOND, 1000 * MILLISECOND];
/// How long to wait for an answer, in ns: at the time that the own clock shows …
const PATIENCE: u64 = 2 * SECOND;
/// … and at other times.
const PATIENCE_ELSEWHERE: u64 = SECOND;

/// How often in a row the time of the server's clock is tried, where it is known from a session: without a session …
const TRIES_BY_IT: u32 = 4;
/// … and while one in another prefix goes on, so that there is no hurry.
const UNHURRIED_TRIES: u32 = 2;

/// Slots around the one that a request is sent in, in which it is accepted.
const REACH: u64 = 3;

/// A request that waits for its answer.
pub(super) struct Attempt {
    id: SessionId,
    /// Window of the introduction.
    window: u64,
    /// How many times have been tried before.
    step: u32,
    /// The time tried is that of the server's own clock.
    by_its_clock: bool,
    session: Arc<Session>,
    path: Path,
    initiator: Initiator,
    request: Vec<u8>,
    end: End,
    started: BootNs,
    sent: usize,
    /// The server takes no handshake of this version.
    in_vain: bool,
}

impl Attempt {
    /// Window of the introduction.
    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// How many times have been tried before.
    pub(super) const fn step(&self) -> u32 {
        self.step
    }

    pub(super) const fn id(&self) -> SessionId {
        self.id
    }
}

impl Client {
    /// Sends a request at the time of this step, or of the next one that the introduction allows.
    pub(super) fn start_attempt(&mut self, window: u64, first: u32, now: Reading) {
        // A client that has moved, or was cut off, knew the server's clock a moment ago: packets get lost, most of all at
        // first in a new network, and that says nothing of the clock.
        let unhurried = self.server_clock.is_some() && self.is_elsewhere() && !self.silent;
        let tries = if unhurried { UNHURRIED_TRIES } else { TRIES_BY_IT };
        let its_time = self.server_clock.map(|clock| clock.session(now.boot));
        let its_time = its_time.filter(|_| first == 0 && self.asked_by_it < tries);
        let own_time = || if unhurried { None } else { self.time_of(window, first, now) };
        let Some((step, time)) = its_time.map(|time| (0, time)).or_else(own_time) else {
            if let Some(known) = self.known.get_mut(&window) {
                known.failed = true;
            }
            // Another introduction may have been found: of a neighbouring window, or a new one of this window.
            return self.fail(Trouble::NoAnswer, now);
        };
        let (Some(network), Some(known)) = (self.network, self.known.get(&window)) else { return };
        let introduction = &known.introduction;
        let key = introduction.key.as_bytes();
        let local = End { network, seed: self.shared.client_seed(introduction) };
        let remote = End { network: introduction.network, seed: introduction.seed };
        let period = introduction.slot.as_nanos() as u64;
        let session = Arc::new(Session::to_introduction(Ends { local, remote }, key, window, period));
        let number = slot::number(time.0, 0, period);
        let binding = Binding::Introduction { window, key, slot: number as u32 };
        let prologue = binding.prologue(&self.settings.server);
        let (local, remote) = session.endpoints(number);
        let end = fresh_end(network, &mut self.random);
        let payload = self.request(end).encode();
        let ephemeral = Ephemeral(random_bytes(&mut self.random));
        let started =
            Initiator::start(&self.settings.identity, &self.settings.server, &prologue, ephemeral, &payload);
        // The server's key was checked when the client was made.
        let Ok((initiator, request)) = started else { return self.fail(Trouble::NoAnswer, now) };
        let by_its_clock = its_time.is_some();
        self.asked_by_it += u32::from(by_its_clock);
        let id = self.new_id();
        self.actions.push_back(Action::Install(Box::new(Install {
            id,
            session: Arc::clone(&session),
            offset: ClockOffset::of(time, now.boot),
            started: now.boot,
            role: Role::Client,
            peer: self.settings.server,
            local: Tunnel::default(),
            remote: Tunnel::default(),
            translated: false,
        })));
        let in_vain = self.note_versions(window);
        let path = Path { slot: number, local, remote };
        let started = now.boot;
        self.attempt = Some(Attempt {
            id,
            window,
            step,
            by_its_clock,
            session,
            path,
            initiator,
            request,
            end,
            started,
            sent: 0,
            in_vain,
        });
        self.send_request();
    }

    /// The time on the server's clock to try at this step: the own clock's time, then times further and further away from
    /// it, by the reach of a request. A client whose clock is wrong by up to a window must still connect.
    fn time_of(&self, window: u64, first: u32, now: Reading) -> Option<(u32, SessionNs)> {
        let introduction = &self.known.get(&window)?.introduction;
        let period = introduction.slot.as_nanos() as u64;
        let n = self.settings.window * SECOND;
        let furthest = (n / (REACH * period)) as u32 + 1;
        (first..=2 * furthest).find_map(|step| {
            let distance = u64::from(step.div_ceil(2)) * REACH * period;
            let time =
                if step % 2 == 1 { now.wall.0 + distance } else { now.wall.0.checked_sub(distance)? };
            // No server publishes or holds open a window further away than this from its own time.
            let latest = window * SECOND + 3 * n;
            (step == 0 || time < latest).then_some((step, SessionNs(time)))
        })
    }

    fn send_request(&mut self) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.sent += 1;
        let message = Control::Request(&attempt.request);
        let packet =
            introduce(&attempt.session, &attempt.path, attempt.path.remote, message, &mut self.random);
        if let Some(packet) = packet {
            self.actions.push_back(Action::Transmit { id: attempt.id, packet });
        }
    }

    pub(super) fn continue_attempt(&mut self, now: Reading) {
        let Some(attempt) = &self.attempt else { return };
        let waited = now.boot.since(attempt.started);
        let patience = if attempt.step == 0 { PATIENCE } else { PATIENCE_ELSEWHERE };
        if waited >= patience && attempt.in_vain {
            if let Some(known) = self.known.get_mut(&attempt.window) {
                known.failed = true;
            }
            let trouble = self.trouble.unwrap_or(Trouble::NoAnswer);
            self.abandon_attempt();
            self.fail(trouble, now);
        } else if waited >= patience {
            let (window, step) = (attempt.window, attempt.step);
            // The own clock's time comes after the server's.
            let next = if attempt.by_its_clock { 0 } else { step + 1 };
            self.abandon_attempt();
            if (step + 1).is_power_of_two() {
                // The server may have another introduction by now; meanwhile the own clock may be wrong.
                self.actions.push_back(Action::Fetch { window });
            }
            self.start_attempt(window, next, now);
        } else if AGAIN.get(attempt.sent - 1).is_some_and(|again| waited >= *again) {
            self.send_request();
        }
    }

    pub(super) fn abandon_attempt(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.actions.push_back(Action::Remove(attempt.id));
        }
    }

    /// The server's answer, if it is authentic.
    pub(super) fn handle_introduced(&mut self, body: &[u8], now: Reading) {
        let Some(attempt) = &mut self.attempt else { return };
        let Some(known) = self.known.get(&attempt.window) else { return };
        let binding = Binding::Introduction {
            window: attempt.window,
            key: known.introduction.key.as_bytes(),
            slot: attempt.path.slot as u32,
        };
        let psk = binding.psk(&NO_COMMUNITY, &self.shared, &self.settings.server, &self.public);
        let Ok((payload, secrets)) = attempt.initiator.finish(body, &psk) else { return };
        let (end, sent) = (attempt.end, attempt.started);
        let Some(response) = self.terms(&payload, now) else { return };
        self.begin(&response, &secrets, end, sent, now);
    }

    /// Begins the session that a handshake has led to. `sent`: when the request was first sent.
    pub(super) fn begin(
        &mut self,
        response: &Response,
        secrets: &Secrets,
        local: End,
        sent: BootNs,
        now: Reading,
    ) {
        let (own, servers) = match self.admit(response.client, response.server) {
            Ok(admitted) => admitted,
            Err(trouble) => {
                self.abandon_attempt();
                return self.fail(trouble, now);
            }
        };
        let terms = Terms {
            period: u64::from(response.period_ms) * MILLISECOND,
            mode: u32::from(response.mode),
            until: SessionNs(response.time) + u64::from(response.expire_after) * SECOND,
        };
        let session =
            Arc::new(Session::negotiated(secrets, Role::Client, Ends { local, remote: response.end }, terms));
        let offset = self.offset(SessionNs(response.time), sent, now);
        // The server counts only one of several handshakes.
        self.abandon_attempt();
        self.rekey = None;
        let id = self.new_id();
        let rekey_after = u64::from(response.rekey_after) * SECOND;
        let expire_after = u64::from(response.expire_after) * SECOND;
        // A little early, each by another time: a server's clients must not all come for new keys at once.
        let early = random_u64(&mut self.random) % (rekey_after / 8).max(1);
        self.tunnel = Some((own, servers));
        self.actions.push_back(Action::Install(Box::new(Install {
            id,
            session: Arc::clone(&session),
            offset,
            started: now.boot,
            role: Role::Client,
            peer: self.settings.server,
            local: own,
            remote: servers,
            translated: false,
        })));
        let stands = self.sessions.iter().any(|other| other.last_valid.happened() && other.retires.is_none());
        if !stands || self.silent {
            self.actions.push_back(Action::Route(id));
        }
        self.sessions.push(Active {
            id,
            session,
            offset,
            started: now.boot,
            rekey_at: now.boot + (rekey_after - early),
            last_resort_at: now.boot + (expire_after - LAST_RESORT.min((expire_after - rekey_after) / 2)),
            expires_at: now.boot + expire_after,
            last_valid: BootNs::NEVER,
            retires: None,
            // The server says so with its first pong.
            translated: false,
            opener: Opener::default(),
            capabilities: response.capabilities,
        });
        self.search = None;
        self.silent = false;
        // First, so that the answer to the ping can be sent where this end was heard.
        self.keep_open(now);
        // The server counts the session as open from the first valid packet on.
        self.ping(now);
    }

    /// The offset of a session whose server's clock showed `time` at some instant between `sent` and now: that of the
    /// session before, if it can be the right one, since pings have measured it better; else the middle.
    fn offset(&self, time: SessionNs, sent: BootNs, now: Reading) -> ClockOffset {
        let (least, most) = (ClockOffset::of(time, now.boot), ClockOffset::of(time, sent));
        let possible = |offset: ClockOffset| (0..=most.ahead_of(least)).contains(&offset.ahead_of(least));
        let before = self.sessions.last().map(|active| active.offset).filter(|offset| possible(*offset));
        before.unwrap_or_else(|| least.moved((now.boot.since(sent) / 2).cast_signed()))
    }
}
