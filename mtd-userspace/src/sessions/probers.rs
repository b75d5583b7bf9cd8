//! The probers of the paths to all peers, and which session each peer's probes go through.

use std::collections::BTreeMap;
use std::ops::Bound;

use mtd_common::address::Network;

use super::Key;
use crate::model::{BootNs, PeerNumber};
use crate::proto::path_probe::Prober;

/// Probes that may go out in one tick, of all peers together: 500 a second.
pub(super) const PER_TICK: usize = 50;

/// The prober of the path to one peer.
pub(super) struct Probing {
    /// The session that the probes go through.
    pub(super) key: Key,
    /// The networks of both ends: with others, the path is another one.
    ends: [Network; 2],
    pub(super) prober: Prober,
}

/// All probers.
#[derive(Default)]
pub(super) struct Probers {
    /// Boxed: nodes of the map are half empty.
    all: BTreeMap<PeerNumber, Box<Probing>>,
    /// The peer that had its turn last.
    last: Option<PeerNumber>,
}

impl Probers {
    /// This session carries a peer's traffic now, between these networks. `prober` is for a peer that has none.
    pub(super) fn set_carrier(
        &mut self,
        peer: PeerNumber,
        key: Key,
        ends: [Network; 2],
        now: BootNs,
        prober: Prober,
    ) {
        let probing = self.all.entry(peer).or_insert_with(|| Box::new(Probing { key, ends, prober }));
        probing.key = key;
        if probing.ends != ends {
            probing.ends = ends;
            probing.prober.restart(now);
        }
    }

    /// The peers whose probers have work, in turn: those that had none last time come first.
    pub(super) fn due(&self, now: BootNs) -> Vec<PeerNumber> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let until = self.last.map_or(Bound::Excluded(PeerNumber(0)), Bound::Included);
        let order =
            self.all.range((after, Bound::Unbounded)).chain(self.all.range((Bound::Unbounded, until)));
        order.filter(|(_, probing)| probing.prober.wake() <= now).map(|(peer, _)| *peer).collect()
    }

    /// The prober of a peer, which has its turn.
    pub(super) fn turn(&mut self, peer: PeerNumber) -> Option<&mut Probing> {
        self.last = Some(peer);
        self.all.get_mut(&peer).map(Box::as_mut)
    }

    /// The prober of a peer.
    pub(super) fn get(&self, peer: PeerNumber) -> Option<&Prober> {
        self.all.get(&peer).map(|probing| &probing.prober)
    }

    /// The same, to be told something.
    pub(super) fn get_mut(&mut self, peer: PeerNumber) -> Option<&mut Prober> {
        self.all.get_mut(&peer).map(|probing| &mut probing.prober)
    }

    /// There are no sessions with a peer any more.
    pub(super) fn remove(&mut self, peer: PeerNumber) {
        self.all.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::exchange::SessionId;
    use crate::proto::path_probe::Seen;
    use crate::sessions::OriginId;

    fn ends(last: u8) -> [Network; 2] {
        [1, last].map(|byte| Network { prefix: [byte; 16], length: 64 })
    }

    #[test]
    fn every_peer_has_its_turn() {
        let mut probers = Probers::default();
        let key = (OriginId::Server, SessionId(1));
        for peer in 1..=5 {
            probers.set_carrier(PeerNumber(peer), key, ends(2), BootNs(1), Prober::new(1500, 10, BootNs(1)));
        }
        assert_eq!(probers.due(BootNs(1)), [1, 2, 3, 4, 5].map(PeerNumber));
        assert!(probers.turn(PeerNumber(3)).is_some());
        assert_eq!(probers.due(BootNs(1)), [4, 5, 1, 2, 3].map(PeerNumber));
        probers.remove(PeerNumber(3));
        assert_eq!(probers.due(BootNs(1)), [4, 5, 1, 2].map(PeerNumber));
        assert!(probers.due(BootNs(0)).is_empty());
    }

    #[test]
    fn a_new_session_between_the_same_networks_changes_nothing() {
        let mut probers = Probers::default();
        let (peer, now) = (PeerNumber(1), BootNs(1));
        let prober = || Prober::new(1500, 10, now);
        probers.set_carrier(peer, (OriginId::Server, SessionId(1)), ends(2), now, prober());
        let seen = Seen { most: 1500, long: 0, heard: true };
        let probes = probers.get_mut(peer).unwrap().poll(seen, now, &mut || 7);
        assert_eq!(probes.len(), 1);
        probers.set_carrier(peer, (OriginId::Server, SessionId(2)), ends(2), now, prober());
        assert!(probers.get_mut(peer).unwrap().handle_answer(7, BootNs(2)));
        assert!(probers.get(peer).unwrap().answers());
        probers.set_carrier(peer, (OriginId::Server, SessionId(3)), ends(3), now, prober());
        assert_eq!(probers.due(now), [peer], "it has moved: the search begins again");
    }
}
