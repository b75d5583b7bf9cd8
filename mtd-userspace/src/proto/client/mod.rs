//! The client's end: finds a server of which it knows the public key, and keeps a session with it (requirements MT-20 …
//! MT-23, MT-41 … MT-45).
//!
//! Sans-IO. The owner calls [`Client::poll`] a few times a second, tells what came in by the `handle_…` functions, and
//! after each call carries out what [`Client::next_action`] yields, until it yields nothing.
//!
//! Finding: the introduction of the present window is requested, then those of its neighbours. Introducing: a handshake
//! request goes to the present address of the introduction; if there is no answer, the own clock may be wrong, and the
//! request goes to the addresses of times further and further away. Then the session is kept: its keys are replaced before
//! they expire, its clock follows the server's, and when nothing comes from the server any more, a new session is sought
//! while the old one stays in place.

mod attempt;
mod claims;
#[cfg(test)]
mod firewall;
#[cfg(test)]
mod hardship;
mod keeping;
mod opening;
mod search;
#[cfg(test)]
mod tests;
mod told;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mtd_common::address::Network;

use self::attempt::Attempt;
use self::claims::Claims;
pub use self::claims::Refused;
use self::keeping::Rekey;
use self::search::Search;
pub use self::trouble::Trouble;
use super::backoff::Backoff;
use super::clock::Reading;
use super::exchange::{Action, Adopted, Random, Received, SECOND, SessionId, random_bytes, random_u64};
use super::messages::{Capabilities, Control, Instance, Reason, Text, Token, Tunnel};
use super::middlebox::{Middlebox, Opener};
use super::rendezvous::{Introduction, OpenError, Shared};
use super::session::Session;
use crate::keys::{PublicKey, SecretKey};
use crate::model::{BootNs, ClockOffset, MiddleboxChoice};

/// Longest wait between two tries, in ns.
const MAX_BACKOFF: u64 = 30 * SECOND;

/// Waits between tries: the clients of a restarted server must not all come at once.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(1), longest: Duration::from_nanos(MAX_BACKOFF) };

/// The settings of a client.
pub struct Settings {
    /// Own key.
    pub identity: SecretKey,
    /// The server's key.
    pub server: PublicKey,
    /// Length of a rendezvous window, in s.
    pub window: u64,
    /// Time without a valid packet after which the server is asked for a sign of life, in ns.
    pub keepalive: u64,
    /// Slot length that the server is asked for, in ms; 0: what the server has.
    pub period_ms: u32,
    /// Inner networks in which the server may have addresses, in addition to private ones.
    pub allowed: Vec<IpNet>,
    /// Whether something on this side lets in only answers.
    pub middlebox: MiddleboxChoice,
}

/// The result of a fetch.
#[derive(Debug)]
pub enum Fetched {
    /// The newest introduction that the network has.
    Found(Introduction),
    /// The network answered, and has none.
    Absent,
    /// The server has published one that this program cannot read.
    Unreadable(OpenError),
    /// The network did not answer.
    Unreachable,
}

/// The phase of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The interface has no prefix to derive addresses from.
    NoPrefix,
    /// It waits until it tries again.
    Waiting,
    /// It looks for an introduction.
    Finding,
    /// It has an introduction, and waits for the server's answer.
    Connecting,
    /// It has keys, and waits for the first valid packet.
    HalfOpen,
    /// The session is open.
    Open,
    /// The session is open, but nothing comes from the server any more.
    Silent,
}

/// An introduction that was found.
struct Known {
    introduction: Introduction,
    /// Nobody answered at its addresses.
    failed: bool,
}

/// A session with the server.
struct Active {
    id: SessionId,
    session: Arc<Session>,
    offset: ClockOffset,
    started: BootNs,
    rekey_at: BootNs,
    /// Boot time from which on every way to a new session is tried.
    last_resort_at: BootNs,
    expires_at: BootNs,
    /// When the last valid packet came.
    last_valid: BootNs,
    /// Boot time at which it is removed, since another session has replaced it.
    retires: Option<BootNs>,
    /// The server sees this host at other addresses than its own.
    translated: bool,
    opener: Opener,
    /// What the server can do; not known of sessions that an earlier controller of this host began.
    capabilities: Option<Capabilities>,
}

/// The client's machine: one for each server.
pub struct Client {
    settings: Settings,
    /// Own public key.
    public: PublicKey,
    shared: Shared,
    random: Random,
    /// By which the server tells this controller from others with the same key.
    instance: Instance,
    /// What the server gave when it refused this controller.
    token: Option<Token>,
    /// What the server said when it last ended a session, or gave none.
    said: Text,
    network: Option<Network>,
    /// Prefixes that can be used too: sessions in them go on until there is one in `network`.
    usable: Vec<Network>,
    known: BTreeMap<u64, Known>,
    search: Option<Search>,
    attempt: Option<Attempt>,
    sessions: Vec<Active>,
    rekey: Option<Rekey>,
    /// The server's clock, as the last session that was open had it.
    server_clock: Option<ClockOffset>,
    /// How many requests in a row were sent by that clock.
    asked_by_it: u32,
    /// Own and the server's tunnel addresses, as the last answer gave them.
    tunnel: Option<(Tunnel, Tunnel)>,
    claims: Claims,
    failures: u32,
    next_try: BootNs,
    last_ping: BootNs,
    last_refresh: BootNs,
    silent: bool,
    middlebox: Middlebox,
    actions: VecDeque<Action>,
    ids: u64,
    trouble: Option<Trouble>,
}

impl Client {
    /// A client that has no session yet. `None`: the server's key is weak.
    pub fn new(settings: Settings, mut random: Random) -> Option<Self> {
        let shared = Shared::new(&settings.identity, &settings.server)?;
        Some(Self {
            public: settings.identity.public(),
            middlebox: Middlebox::new(settings.middlebox),
            settings,
            shared,
            instance: random_bytes(&mut random),
            random,
            token: None,
            said: Text::NONE,
            network: None,
            usable: Vec::new(),
            known: BTreeMap::new(),
            search: None,
            attempt: None,
            sessions: Vec::new(),
            rekey: None,
            server_clock: None,
            asked_by_it: 0,
            tunnel: None,
            claims: Claims::default(),
            failures: 0,
            next_try: BootNs::NEVER,
            last_ping: BootNs::NEVER,
            last_refresh: BootNs::NEVER,
            silent: false,
            actions: VecDeque::new(),
            ids: 0,
            trouble: None,
        })
    }

    /// Goes on with a session that an earlier controller left.
    pub fn adopt(&mut self, adopted: Adopted, tunnel: (Tunnel, Tunnel), now: Reading) -> SessionId {
        let Adopted { session, offset, started, last_valid, translated, .. } = adopted;
        let id = self.new_id();
        let lifetime = session.until.since(offset.session(started));
        self.sessions.push(Active {
            id,
            session,
            offset,
            started,
            // The server's setting is not noted; this is its default.
            rekey_at: started + lifetime / 3 * 2,
            last_resort_at: started + lifetime / 6 * 5,
            expires_at: started + lifetime,
            last_valid,
            retires: None,
            translated,
            opener: Opener::default(),
            capabilities: None,
        });
        // In the order in which they began: the newest is the one that traffic goes through.
        self.sessions.sort_by_key(|active| active.started);
        self.retire_replaced(now);
        self.server_clock = self.sessions.last().map(|newest| newest.offset);
        self.silent =
            self.sessions.last().is_some_and(|newest| Some(newest.session.local.network) != self.network);
        self.tunnel = Some(tunnel);
        id
    }

    /// The next request.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The secret shared with the server, by which its messages are found.
    pub const fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The phase of the client.
    pub fn phase(&self) -> Phase {
        // While keys are replaced, the previous session is still open.
        let stands = |active: &Active| active.last_valid.happened() && active.retires.is_none();
        match self.current() {
            Some(_) if self.sessions.iter().any(stands) => {
                if self.silent {
                    Phase::Silent
                } else {
                    Phase::Open
                }
            }
            Some(_) => Phase::HalfOpen,
            None if self.network.is_none() => Phase::NoPrefix,
            None if self.attempt.is_some() => Phase::Connecting,
            None if self.search.is_some() => Phase::Finding,
            None => Phase::Waiting,
        }
    }

    /// Why the last try failed; `None` once a session is open.
    pub const fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// The session that traffic goes through, with the offset of its clock and when it began.
    pub fn session(&self) -> Option<(SessionId, &Session, ClockOffset, BootNs)> {
        self.current().map(|current| (current.id, &*current.session, current.offset, current.started))
    }

    /// Whether a router on the way translates this host's addresses, as the server has said.
    pub fn is_translated(&self) -> bool {
        self.current().is_some_and(|current| current.translated)
    }

    /// Whether the own addresses are unique local ones (RFC 4193), with which nobody gets out of his site untranslated.
    pub fn is_local_only(&self) -> bool {
        self.network.is_some_and(|network| Ipv6Addr::from(network.prefix).is_unique_local())
    }

    /// Whether nobody has answered a request at the time that the own clock shows.
    pub fn is_unanswered(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.step() > 0)
    }

    /// Own and the server's tunnel addresses.
    pub const fn tunnel(&self) -> Option<(Tunnel, Tunnel)> {
        self.tunnel
    }

    /// Sets the protected prefix at the start.
    pub const fn begin_in(&mut self, network: Option<Network>) {
        self.network = network;
    }

    /// The protected prefix has changed (requirement MT-45), or has gone. In the `usable` ones, addresses of this host work
    /// as well: sessions there go on until one in the new prefix is open.
    pub fn set_network(&mut self, network: Option<Network>, usable: &[Network], now: Reading) {
        let moved = self.network != network;
        self.network = network;
        self.usable = usable.to_vec();
        // Nothing reaches other addresses any more; and no packet may leave here with a source that reveals where this host
        // was before.
        let over = self.sessions.iter().filter(|active| !self.works(active)).map(|active| active.id);
        for id in over.collect::<Vec<_>>() {
            self.remove(id);
        }
        if moved {
            self.middlebox.reset();
            self.abandon_attempt();
            self.middlebox.reset();
            self.known.values_mut().for_each(|known| known.failed = false);
            self.failures = 0;
            self.next_try = now.boot;
            self.poll(now);
        }
    }

    /// Whether addresses of a session are this host's.
    fn works(&self, active: &Active) -> bool {
        let network = active.session.local.network;
        self.network == Some(network) || self.usable.contains(&network)
    }

    /// Whether the session that traffic goes through is in another prefix than the one to use.
    fn is_elsewhere(&self) -> bool {
        self.current().is_some_and(|current| Some(current.session.local.network) != self.network)
    }

    /// Whether a session is wanted, and none comes about in this prefix though the server's introduction is known: another
    /// prefix may do better.
    pub fn blames_prefix(&self) -> bool {
        let unheard =
            self.attempt.is_some() || matches!(self.trouble, Some(Trouble::NoAnswer | Trouble::NotOpened));
        self.network.is_some() && unheard && (self.silent || self.is_elsewhere() || self.current().is_none())
    }

    /// The prefixes that sessions are in.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        self.sessions.iter().map(|active| active.session.local.network)
    }

    /// Does the work that is due.
    pub fn poll(&mut self, now: Reading) {
        self.retire(now);
        if self.network.is_none() {
            return;
        }
        self.keep(now);
        self.keep_open(now);
        self.continue_attempt(now);
        if self.wants_session(now) && self.attempt.is_none() && now.boot >= self.next_try {
            self.connect(now);
        }
        self.continue_search(now);
        self.refresh(now);
    }

    /// A control message has come in.
    pub fn handle_control(&mut self, received: Received<'_>, now: Reading) {
        let Some(message) = Control::decode(received.message) else { return };
        match message {
            Control::Response(body) if self.attempt.as_ref().is_some_and(|a| a.id() == received.id) => {
                self.handle_introduced(body, now);
            }
            Control::Response(body) => self.handle_rekeyed(received.id, body, now),
            Control::Term { reason, text } => self.handle_term(received.id, reason, text, now),
            Control::Pong { stamp, time } => self.handle_pong(received.id, stamp, time, now),
            Control::Ping { stamp } => self.answer_ping(received.id, stamp, now),
            Control::Translated => self.handle_translated(received.id),
            Control::Probe { stamp } => self.handle_probe(&received, stamp, now),
            // A client answers no requests, and a server needs no openers. Path probes are of the path, which all sessions
            // with a peer share.
            Control::Request(_)
            | Control::ProbeRequest { .. }
            | Control::Opener { .. }
            | Control::PathProbe { .. }
            | Control::PathProbeAnswer { .. } => {}
        }
    }

    /// Valid packets came through a session, the last of them at `last_valid`.
    pub fn handle_valid(&mut self, id: SessionId, last_valid: BootNs, now: Reading) {
        let Some(position) = self.sessions.iter().position(|active| active.id == id) else { return };
        let active = &mut self.sessions[position];
        if last_valid <= active.last_valid {
            return;
        }
        let first = !active.last_valid.happened();
        active.last_valid = last_valid;
        let (overlap, offset) = (active.session.overlap(), active.offset);
        if position + 1 == self.sessions.len() && self.works(&self.sessions[position]) {
            self.silent = false;
            self.server_clock = Some(offset);
        }
        if first {
            self.failures = 0;
            self.trouble = None;
            self.token = None;
            self.actions.push_back(Action::Route(id));
            for older in &mut self.sessions[..position] {
                older.retires.get_or_insert(now.boot + overlap);
            }
        }
    }

    /// The tables have no room for a session, or refused it.
    pub fn handle_not_installed(&mut self, id: SessionId, now: Reading) {
        self.sessions.retain(|active| active.id != id);
        if self.attempt.as_ref().is_some_and(|attempt| attempt.id() == id) {
            self.attempt = None;
        }
        self.fail(Trouble::NoAnswer, now);
    }

    /// This host was copied or set back to an earlier state: ends all sessions without a message, since another copy may have
    /// sent with their keys since, and seeks a new one at once.
    pub fn handle_copied(&mut self, now: Reading) {
        self.abandon_attempt();
        self.rekey = None;
        self.instance = random_bytes(&mut self.random);
        for active in std::mem::take(&mut self.sessions) {
            self.actions.push_back(Action::Remove(active.id));
        }
        self.next_try = now.boot;
    }

    /// Ends everything, and tells the server.
    pub fn stop(&mut self) {
        self.abandon_attempt();
        self.search = None;
        self.rekey = None;
        if let Some(current) = self.current() {
            let term = Control::Term { reason: Reason::Stopping, text: Text::NONE };
            let (id, message) = (current.id, term.encode());
            self.actions.push_back(Action::Control { id, about: id, message });
        }
        for active in std::mem::take(&mut self.sessions) {
            self.actions.push_back(Action::Remove(active.id));
        }
        self.network = None;
    }

    /// The numbers of all sessions, and of the attempt.
    #[cfg(test)]
    pub(super) fn ids(&self) -> std::collections::BTreeSet<SessionId> {
        self.sessions.iter().map(|active| active.id).chain(self.attempt.as_ref().map(Attempt::id)).collect()
    }

    fn current(&self) -> Option<&Active> {
        self.sessions.last().filter(|active| active.retires.is_none())
    }

    fn new_id(&mut self) -> SessionId {
        self.ids += 1;
        SessionId(self.ids)
    }

    /// Notes a failure; waits longer before each further try.
    fn fail(&mut self, trouble: Trouble, now: Reading) {
        self.trouble = Some(trouble);
        self.failures = self.failures.saturating_add(1);
        let wait = BACKOFF.wait(self.failures, random_u64(&mut self.random));
        self.next_try = now.boot + wait.as_nanos() as u64;
    }

    /// There is reason to believe that what failed may succeed now: tries at once.
    pub fn hurry(&mut self, now: Reading) {
        self.failures = 0;
        self.next_try = now.boot;
        self.poll(now);
    }

    /// Removes a session. False if none has this number.
    fn remove(&mut self, id: SessionId) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|active| active.id != id);
        let found = self.sessions.len() < before;
        if found {
            self.actions.push_back(Action::Remove(id));
        }
        found
    }
}
