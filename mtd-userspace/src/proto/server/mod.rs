//! The server's end: introductions, handshakes with registered clients, their sessions (requirements MT-21, MT-22, MT-40
//! … MT-47).
//!
//! Sans-IO, like [`super::client`]: the owner calls [`Server::poll`] a few times a second, tells what came in by the
//! `handle_…` functions, and after each call carries out what [`Server::next_action`] yields, until it yields nothing.
//!
//! One introduction per window serves all clients: packets that arrive there have passed the receive program, so they come
//! from somebody who knows the window's key. No cost here grows with the number of registered clients.

mod answering;
mod denials;
mod introductions;
mod limits;
mod peculiar;
mod sessions;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;
#[cfg(test)]
mod versions;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use mtd_common::address::{End, Network};

use self::denials::Denials;
use self::limits::{Bucket, Recent};
use self::peculiar::Peculiar;
pub use self::peculiar::Remark;
use self::sessions::Active;
pub use self::sessions::View;
use super::clock::Reading;
use super::exchange::{Action, Random, SECOND, SessionId};
use super::messages::{Control, Reason, Text, Tunnel};
use super::noise::Identity;
use super::rendezvous::{Introduction, Shared};
use super::session::Session;
use crate::keys::{PublicKey, SecretKey};
use crate::model::BootNs;

/// How long removals are gathered before introductions are replaced, in ns.
const RENEWAL_PAUSE: u64 = 2 * SECOND;
/// How long no introduction is opened after the tables were full, in ns.
const BLOCKED: u64 = 10 * SECOND;

/// The settings of a server.
pub struct Settings {
    /// Own key.
    pub identity: SecretKey,
    /// Own protected prefix.
    pub network: Network,
    /// Length of a rendezvous window, in s.
    pub window: u64,
    /// Slot length of introductions, in ns.
    pub introduction_slot: u64,
    /// How long an introduction outlives its window, in ns.
    pub grace: u64,
    /// For how many windows after the present one introductions are made ahead, to be carried to clients in files. They are
    /// opened in time as all are.
    pub ahead: u64,
    /// Slot length of sessions, in ns.
    pub period: u64,
    /// Longest slot length that a client gets because it wishes it, in ns.
    pub longest_period: u64,
    /// Mode of sessions: [`mtd_common::abi::MODE_ENCRYPT`] or [`mtd_common::abi::MODE_AUTHENTICATE`].
    pub mode: u32,
    /// Time without a valid packet after which a session ends, in ns.
    pub idle: u64,
    /// Seconds after which a client asks for new keys.
    pub rekey_after: u32,
    /// Seconds after which keys expire.
    pub expire_after: u32,
    /// Longest inner packet, in bytes.
    pub inner_mtu: u16,
    /// Own tunnel addresses.
    pub tunnel: Tunnel,
    /// Handshakes a second, of all clients together.
    pub handshakes: u32,
    /// Handshakes a minute of one client.
    pub handshakes_per_client: u32,
}

/// Why a handshake request was refused. None of them is answered, but for two that only the client's own key can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Too many requests of all clients together.
    TotalLimit,
    /// Too many requests of one client.
    ClientLimit,
    /// Not a handshake request of this version.
    Malformed,
    /// Not authentic: for another server or window, or altered.
    NotAuthentic,
    /// The client is not registered.
    Unregistered,
    /// The same request again, from elsewhere or too late.
    Replayed,
    /// It does not come from the place of this client's requests.
    WrongSource,
    /// There is no room for another session.
    Full,
    /// Authentic, of a registered client that speaks another version.
    OtherVersion,
    /// It has an option that this version does not know, and that must be known. The client is told.
    UnknownOption,
    /// Another controller with the same key has the session. This one is told.
    InUse,
}

impl Refusal {
    /// Stable name: metric label, JSON key.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TotalLimit => "total_limit",
            Self::ClientLimit => "client_limit",
            Self::Malformed => "malformed",
            Self::NotAuthentic => "not_authentic",
            Self::Unregistered => "unregistered",
            Self::Replayed => "replayed",
            Self::WrongSource => "wrong_source",
            Self::Full => "full",
            Self::OtherVersion => "other_version",
            Self::UnknownOption => "unknown_option",
            Self::InUse => "in_use",
        }
    }
}

/// Handshakes since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came in.
    pub received: u64,
    /// Requests that were answered, repetitions included.
    pub answered: u64,
    /// Requests that were refused.
    pub refused: BTreeMap<Refusal, u64>,
}

/// What is to hold for a client that may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its public key.
    pub client: PublicKey,
    /// Its tunnel addresses.
    pub tunnel: Tunnel,
    /// Slot length of its sessions, in ns; `None`: what it wishes, if that is neither shorter than [`Settings::period`] nor
    /// longer than [`Settings::longest_period`].
    pub period: Option<u64>,
}

impl Admission {
    /// With these tunnel addresses, and no slot length of its own.
    pub const fn new(client: PublicKey, tunnel: Tunnel) -> Self {
        Self { client, tunnel, period: None }
    }
}

/// A registered client.
struct Registered {
    shared: Shared,
    tunnel: Tunnel,
    /// Slot length of its sessions, in ns; `None`: as it wishes.
    period: Option<u64>,
    /// Its sessions, the newest last.
    sessions: Vec<SessionId>,
    limit: Bucket,
    /// It is to be answered where it was heard.
    where_heard: bool,
}

/// An introduction that is open.
struct Open {
    id: SessionId,
    window: u64,
    introduction: Introduction,
    session: Arc<Session>,
    /// Boot time at which it closes, since another one has replaced it.
    closes: Option<BootNs>,
}

/// The server's machine: one for all clients.
pub struct Server {
    settings: Settings,
    public: PublicKey,
    identity: Identity,
    random: Random,
    introductions: Vec<Open>,
    /// Introductions made ahead, by their windows: the server's end, and K.
    prepared: BTreeMap<u64, (End, SecretKey)>,
    clients: HashMap<PublicKey, Registered>,
    /// Boxed: a table of many has room for twice as many at times.
    sessions: HashMap<SessionId, Box<Active>>,
    recent: Recent,
    /// Answers that gave no session.
    denials: Denials,
    /// The clients with which something is out of the ordinary.
    peculiar: HashMap<PublicKey, Box<Peculiar>>,
    total: Bucket,
    /// Boot time at which the introductions are replaced, since a removed client knows them.
    renew_at: Option<BootNs>,
    /// Boot time until which no introduction is opened: the tables have no room.
    blocked_until: Option<BootNs>,
    /// When this host last woke from sleep.
    woken: BootNs,
    counts: Counts,
    last_published: u64,
    actions: VecDeque<Action>,
    ids: u64,
}

impl Server {
    /// A server without clients. `published`: the newest time of publication of an earlier one with this key, Unix time
    /// in ms; 0: none.
    pub fn new(settings: Settings, random: Random, published: u64) -> Self {
        let per_second = u64::from(settings.handshakes.max(1));
        Self {
            public: settings.identity.public(),
            identity: Identity::new(settings.identity.clone()),
            introductions: Vec::new(),
            prepared: BTreeMap::new(),
            clients: HashMap::new(),
            sessions: HashMap::new(),
            recent: Recent::new(3 * settings.introduction_slot),
            denials: Denials::default(),
            peculiar: HashMap::new(),
            renew_at: None,
            blocked_until: None,
            woken: BootNs::NEVER,
            total: Bucket::new(SECOND / per_second, 2 * per_second),
            counts: Counts::default(),
            last_published: published,
            actions: VecDeque::new(),
            ids: 0,
            settings,
            random,
        }
    }

    /// The next request.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The results of the handshakes so far.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Own public key.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The secret shared with a registered client, with which its messages are sealed.
    pub fn shared(&self, client: &PublicKey) -> Option<&Shared> {
        self.clients.get(client).map(|client| &client.shared)
    }

    /// All registered clients.
    pub fn clients(&self) -> impl Iterator<Item = &PublicKey> {
        self.clients.keys()
    }

    /// Number of sessions that wait for the client's first valid packet.
    pub fn half_open(&self) -> usize {
        self.sessions.values().filter(|active| !active.last_valid.happened()).count()
    }

    /// Registers a client, or gives a registered one another slot length, from its next session on, or other tunnel
    /// addresses. Returns false if its key is weak.
    pub fn register(&mut self, admission: Admission, now: Reading) -> bool {
        let Admission { client, tunnel, period } = admission;
        if let Some(registered) = self.clients.get_mut(&client) {
            registered.period = period;
            if registered.tunnel != tunnel {
                registered.tunnel = tunnel;
                // Its old addresses may belong to another client by now.
                for id in registered.sessions.clone() {
                    self.end_with(id, Reason::Renumbered, Text::new(&described(tunnel)));
                }
            }
            return true;
        }
        let Some(shared) = Shared::new(&self.settings.identity, &client) else { return false };
        let per_minute = u64::from(self.settings.handshakes_per_client.max(1));
        let limit = Bucket::new(60 * SECOND / per_minute, per_minute.min(10));
        self.identity.remember(client, shared.clone());
        let (sessions, where_heard) = (Vec::new(), false);
        self.clients.insert(client, Registered { shared, tunnel, period, sessions, limit, where_heard });
        // The introductions published so far do not include this client.
        for open in 0..self.introductions.len() {
            if self.introductions[open].closes.is_none() {
                self.publish(open, Some(client), 0, now);
            }
        }
        true
    }

    #[cfg(test)]
    pub(super) fn remove(&mut self, client: &PublicKey, now: Reading) {
        self.remove_with(client, Text::NONE, now);
    }

    /// Ends a client's registration, and its session at once, with these words. The introductions that it knows are replaced
    /// soon.
    pub fn remove_with(&mut self, client: &PublicKey, text: Text, now: Reading) {
        let Some(registered) = self.clients.remove(client) else { return };
        self.identity.forget(client);
        self.peculiar.remove(client);
        self.renew_at.get_or_insert(now.boot + RENEWAL_PAUSE);
        for id in registered.sessions {
            self.end_with(id, Reason::Removed, text);
        }
    }

    /// The protected prefix has changed: introductions are opened anew, and published at once. Sessions from before
    /// are out of reach, and end as idle ones do; their clients come again.
    pub fn set_network(&mut self, network: Network, now: Reading) {
        if self.settings.network == network {
            return;
        }
        self.settings.network = network;
        self.prepared.clear();
        for open in std::mem::take(&mut self.introductions) {
            self.actions.push_back(Action::Remove(open.id));
        }
        self.rotate(now);
    }

    /// Does the work that is due.
    pub fn poll(&mut self, now: Reading) {
        self.rotate(now);
        self.expire(now);
        self.recent.forget(now.boot);
        self.denials.forget(now.boot, 3 * self.settings.introduction_slot);
        self.forget_peculiar(now);
    }

    /// Ends everything, and tells the clients.
    pub fn stop(&mut self) {
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            self.end(id, Some(Reason::Stopping));
        }
        for open in std::mem::take(&mut self.introductions) {
            self.actions.push_back(Action::Remove(open.id));
        }
        self.prepared.clear();
    }

    /// The numbers of all sessions and introductions.
    #[cfg(test)]
    pub(super) fn ids(&self) -> std::collections::BTreeSet<SessionId> {
        self.sessions.keys().copied().chain(self.introductions.iter().map(|open| open.id)).collect()
    }

    fn new_id(&mut self) -> SessionId {
        self.ids += 1;
        SessionId(self.ids)
    }

    /// Ends a session, with or without a message to the client.
    fn end(&mut self, id: SessionId, reason: Option<Reason>) {
        if let Some(reason) = reason {
            return self.end_with(id, reason, Text::NONE);
        }
        let Some(active) = self.sessions.remove(&id) else { return };
        if let Some(registered) = self.clients.get_mut(&active.client) {
            registered.sessions.retain(|other| *other != id);
        }
        self.actions.push_back(Action::Remove(id));
    }

    /// Ends a session, and tells the client why.
    fn end_with(&mut self, id: SessionId, reason: Reason, text: Text) {
        if self.sessions.contains_key(&id) {
            let message = Control::Term { reason, text }.encode();
            self.actions.push_back(Action::Control { id, about: id, message });
            self.end(id, None);
        }
    }
}

/// Tunnel addresses in words.
fn described(tunnel: Tunnel) -> String {
    let addresses: Vec<_> = tunnel.iter().map(|address| address.to_string()).collect();
    format!("the tunnel addresses are {} now", addresses.join(" and "))
}
