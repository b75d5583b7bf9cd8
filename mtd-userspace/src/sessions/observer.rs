//! Publishes changes of sessions on the bus, derived from their installation, routing and removal.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::warn;

use super::{Key, OriginId};
use crate::events::{Bus, Event, PathChange, Peer, SessionChange};
use crate::keys::PublicKey;
use crate::model::PeerNumber;
use crate::proto::client::Refused;
use crate::proto::exchange::SessionId;
use crate::status::PeerState;

/// Knows which session carries the traffic of each peer, and publishes changes.
#[derive(Default)]
pub(super) struct Observer {
    /// `None`: nothing is published.
    bus: Option<Arc<Bus>>,
    /// Names of servers and registered clients.
    names: HashMap<PublicKey, String>,
    /// The peer of each session.
    peers: HashMap<Key, PublicKey>,
    /// The sessions with each peer.
    links: HashMap<(OriginId, PublicKey), Link>,
    /// States of the statically configured peers, by number.
    fixed: HashMap<PeerNumber, PeerState>,
    /// Handshakes refused so far.
    refused: HashMap<&'static str, u64>,
    /// What keeps peers from a session, as it was told.
    troubles: Vec<Troubled>,
    /// The tunnel address of each server that is not used.
    claims: HashMap<PublicKey, Refused>,
}

/// What keeps a peer from a session.
pub(super) struct Troubled {
    pub(super) origin: OriginId,
    pub(super) peer: PublicKey,
    pub(super) change: SessionChange,
    /// The same in a sentence.
    pub(super) text: String,
}

impl Troubled {
    fn is(&self, other: &Self) -> bool {
        (self.origin, self.peer, self.change) == (other.origin, other.peer, other.change)
    }
}

/// The sessions of one origin with one peer.
#[derive(Default)]
struct Link {
    /// The installed sessions, the newest last.
    installed: Vec<SessionId>,
    /// The session that carries the peer's traffic.
    current: Option<SessionId>,
    /// The peer's name, for as long as a session with it goes on after the peer was removed.
    name: Option<String>,
}

impl Observer {
    /// An observer that knows the names of these servers and clients, and publishes nothing yet.
    pub(super) fn new(names: HashMap<PublicKey, String>) -> Self {
        Self { names, ..Self::default() }
    }

    /// Publishes on this bus from now on.
    pub(super) fn tell(&mut self, bus: Arc<Bus>) {
        self.bus = Some(bus);
    }

    /// A client has this name from now on.
    pub(super) fn name(&mut self, key: PublicKey, name: String) {
        self.names.insert(key, name);
    }

    /// A client is no longer registered. Its sessions keep its name until they end.
    pub(super) fn forget(&mut self, key: &PublicKey) {
        let Some(name) = self.names.remove(key) else { return };
        for (_, link) in self.links.iter_mut().filter(|((_, peer), _)| peer == key) {
            link.name = Some(name.clone());
        }
    }

    /// The name of the peer of a session.
    pub(super) fn name_of(&self, key: Key) -> Option<&str> {
        self.peer_name(key.0, self.peers.get(&key)?)
    }

    /// The name of a peer with which an origin has sessions.
    pub(super) fn peer_name(&self, origin: OriginId, peer: &PublicKey) -> Option<&str> {
        let kept = || self.links.get(&(origin, *peer))?.name.as_ref();
        self.names.get(peer).or_else(kept).map(String::as_str)
    }

    /// A session was installed; `None`: it was not negotiated.
    pub(super) fn installed(&mut self, key: Key, peer: Option<PublicKey>) {
        let Some(peer) = peer else { return };
        self.peers.insert(key, peer);
        self.links.entry((key.0, peer)).or_default().installed.push(key.1);
    }

    /// A session of an earlier controller goes on: nothing has changed.
    pub(super) fn adopted(&mut self, key: Key, peer: PublicKey) {
        self.installed(key, Some(peer));
        self.links.entry((key.0, peer)).or_default().current = Some(key.1);
    }

    /// A session carries its peer's traffic now, if the routes could be set (`done`).
    pub(super) fn routed(&mut self, key: Key, done: bool) {
        if !done {
            return;
        }
        let Some(peer) = self.peers.get(&key).copied() else { return };
        match self.links.entry((key.0, peer)).or_default().current.replace(key.1) {
            None => self.publish(key, SessionChange::Opened),
            Some(before) if before != key.1 => self.publish(key, SessionChange::Rekeyed),
            Some(_) => {}
        }
    }

    /// A session was removed from the maps.
    pub(super) fn removed(&mut self, key: Key) {
        let Some(peer) = self.peers.get(&key).copied() else { return };
        let Some(link) = self.links.get_mut(&(key.0, peer)) else { return };
        link.installed.retain(|id| *id != key.1);
        let (was_current, last) = (link.current == Some(key.1), link.installed.last().copied());
        if was_current {
            // Another session with the same peer may carry on.
            link.current = last;
        }
        if was_current && last.is_none() {
            self.publish(key, SessionChange::Closed);
        }
        if last.is_none() {
            self.links.remove(&(key.0, peer));
        }
        self.peers.remove(&key);
    }

    /// A statically configured peer is in this state.
    pub(super) fn seen(&mut self, number: PeerNumber, name: &str, state: PeerState) {
        let before = self.fixed.insert(number, state).unwrap_or(PeerState::Waiting);
        let change = match state {
            PeerState::Open => SessionChange::Opened,
            PeerState::Silent => SessionChange::Silent,
            PeerState::Waiting => return,
        };
        if let Some(bus) = self.bus.as_ref().filter(|_| before != state) {
            bus.publish(Event::Session(Peer::named(name), change));
        }
    }

    /// The numbers of handshakes refused since the start, by reason.
    pub(super) fn refused(&mut self, counts: impl Iterator<Item = (&'static str, u64)>) {
        for (reason, total) in counts {
            let before = self.refused.insert(reason, total).unwrap_or(0);
            if let Some(bus) = self.bus.as_ref().filter(|_| total > before) {
                bus.publish(Event::Refused { reason, count: total - before });
            }
        }
    }

    /// A server has or assigns this tunnel address, and it is not used.
    pub(super) fn claimed(&mut self, server: PublicKey, refused: Option<Refused>) {
        let Some(refused) = refused else {
            self.claims.remove(&server);
            return;
        };
        if self.claims.insert(server, refused) != Some(refused) {
            let Refused { address, network } = refused;
            let name = self.names.get(&server).cloned();
            warn!(
                "{}: its tunnel address {address} is not used, since it lies in this host's network {network}",
                name.as_deref().unwrap_or("a server")
            );
            self.tell_of(
                Peer { name, key: Some(server) },
                SessionChange::AddressRefused { address, network },
            );
        }
    }

    /// What keeps peers from a session at present, if people have to mend it.
    pub(super) fn troubled(&mut self, troubles: Vec<Troubled>) {
        let before = std::mem::replace(&mut self.troubles, troubles);
        for trouble in self.troubles.iter().filter(|trouble| !before.iter().any(|old| old.is(trouble))) {
            warn!("{}", trouble.text);
            let name = self.peer_name(trouble.origin, &trouble.peer).map(str::to_owned);
            self.tell_of(Peer { name, key: Some(trouble.peer) }, trouble.change);
        }
    }

    /// The path to a peer has changed; `None`: it is not known to whom.
    pub(super) fn path(&self, name: Option<&str>, change: PathChange) {
        if let Some(bus) = &self.bus {
            bus.publish(Event::Path(name.map(Peer::named), change));
        }
    }

    fn publish(&self, key: Key, change: SessionChange) {
        let name = self.name_of(key).map(str::to_owned);
        self.tell_of(Peer { name, key: self.peers.get(&key).copied() }, change);
    }

    fn tell_of(&self, peer: Peer, change: SessionChange) {
        if let Some(bus) = &self.bus {
            bus.publish(Event::Session(peer, change));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClientId;

    /// Descriptions of the events since the last call.
    fn told(bus: &Bus, seen: &mut usize) -> Vec<String> {
        let all = bus.history();
        let new = all[*seen..].iter().map(|record| match &record.event {
            Event::Session(peer, change) => format!("{} {change:?}", peer.name.as_deref().unwrap_or("-")),
            Event::Refused { reason, count } => format!("{reason} {count}"),
            other => format!("{other:?}"),
        });
        let new = new.collect();
        *seen = all.len();
        new
    }

    #[test]
    fn sessions_open_change_their_keys_and_close() {
        let bus = Arc::new(Bus::new(|| 0));
        let (key, mut seen) = (PublicKey::from_bytes([7; 32]), 0);
        let mut observer = Observer::new([(key, "office".to_owned())].into());
        observer.tell(Arc::clone(&bus));
        let session = |n| (OriginId::Client(ClientId(0)), SessionId(n));
        observer.installed(session(1), Some(key));
        assert!(told(&bus, &mut seen).is_empty(), "nothing has come through it");
        observer.routed(session(1), true);
        observer.routed(session(1), true);
        assert_eq!(told(&bus, &mut seen), ["office Opened"]);
        observer.installed(session(2), Some(key));
        observer.routed(session(2), true);
        observer.removed(session(1));
        assert_eq!(told(&bus, &mut seen), ["office Rekeyed"]);
        observer.removed(session(2));
        observer.removed(session(2));
        assert_eq!(told(&bus, &mut seen), ["office Closed"]);
        observer.adopted(session(3), key);
        observer.installed(session(4), Some(key));
        observer.removed(session(3));
        assert!(told(&bus, &mut seen).is_empty(), "another one carries on");
        observer.removed(session(4));
        assert_eq!(told(&bus, &mut seen), ["office Closed"]);
    }

    #[test]
    fn a_name_is_the_one_at_the_time_and_outlives_the_registration() {
        let bus = Arc::new(Bus::new(|| 0));
        let (key, mut seen) = (PublicKey::from_bytes([7; 32]), 0);
        let mut observer = Observer::default();
        observer.tell(Arc::clone(&bus));
        let session = |n| (OriginId::Server, SessionId(n));
        observer.name(key, "laptop".to_owned());
        observer.installed(session(1), Some(key));
        observer.routed(session(1), true);
        observer.name(key, "old-laptop".to_owned());
        observer.installed(session(2), Some(key));
        observer.routed(session(2), true);
        observer.forget(&key);
        assert_eq!(observer.name_of(session(2)), Some("old-laptop"), "its sessions are ending");
        observer.removed(session(1));
        observer.removed(session(2));
        assert_eq!(told(&bus, &mut seen), ["laptop Opened", "old-laptop Rekeyed", "old-laptop Closed"]);
        observer.installed(session(3), Some(key));
        assert_eq!(observer.name_of(session(3)), None, "nobody remembers it");
    }

    #[test]
    fn peers_and_refusals_are_told_when_they_change() {
        let bus = Arc::new(Bus::new(|| 0));
        let (mut observer, mut seen) = (Observer::default(), 0);
        observer.tell(Arc::clone(&bus));
        for state in
            [PeerState::Waiting, PeerState::Open, PeerState::Open, PeerState::Silent, PeerState::Open]
        {
            observer.seen(PeerNumber(1), "laptop", state);
        }
        assert_eq!(told(&bus, &mut seen), ["laptop Opened", "laptop Silent", "laptop Opened"]);
        observer.refused([("too_many", 3)].into_iter());
        observer.refused([("too_many", 3)].into_iter());
        observer.refused([("too_many", 5)].into_iter());
        assert_eq!(told(&bus, &mut seen), ["too_many 3", "too_many 2"]);
    }

    #[test]
    fn a_refused_address_is_told_once_until_it_changes() {
        let (bus, key, mut seen) = (Arc::new(Bus::new(|| 0)), PublicKey::from_bytes([7; 32]), 0);
        let mut observer = Observer::new([(key, "office".to_owned())].into());
        observer.tell(Arc::clone(&bus));
        let refused =
            |n| Refused { address: [192, 168, 1, n].into(), network: "192.168.1.0/24".parse().unwrap() };
        for address in [Some(1), Some(1), Some(2), None, Some(2)] {
            observer.claimed(key, address.map(refused));
        }
        let line = |n| format!("office AddressRefused {{ address: 192.168.1.{n}, network: 192.168.1.0/24 }}");
        assert_eq!(told(&bus, &mut seen), [line(1), line(2), line(2)]);
    }

    #[test]
    fn what_people_have_to_mend_is_told_when_it_begins() {
        let (bus, key, mut seen) = (Arc::new(Bus::new(|| 0)), PublicKey::from_bytes([7; 32]), 0);
        let mut observer = Observer::new([(key, "laptop".to_owned())].into());
        observer.tell(Arc::clone(&bus));
        let trouble = |change, text: &str| {
            vec![Troubled { origin: OriginId::Server, peer: key, change, text: text.to_owned() }]
        };
        let in_use = |text| trouble(SessionChange::KeyInUse, text);
        for troubles in [in_use("a"), in_use("b"), vec![], in_use("a")] {
            observer.troubled(troubles);
        }
        observer.troubled(trouble(SessionChange::OtherVersion, "c"));
        assert_eq!(told(&bus, &mut seen), ["laptop KeyInUse", "laptop KeyInUse", "laptop OtherVersion"]);
    }
}
