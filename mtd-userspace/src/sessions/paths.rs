//! Path MTU of the outer paths to peers: what routers report (RFC 8201), and what probes find (RFC 8899).

use std::collections::HashMap;

use ipnet::IpNet;
use mtd_common::packet::OVERHEAD;

use crate::model::MIN_INNER_MTU;
use crate::model::{BootNs, PeerNumber};
use crate::status::PathSource;

/// What is known of a path that carries less than the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Longest outer packet in bytes.
    pub(super) outer: u32,
    /// How that is known.
    pub(super) source: PathSource,
    /// It carries less than any path of IPv6 has to.
    pub(super) too_small: bool,
    /// When this is forgotten; `None`: probes try the path again.
    until: Option<BootNs>,
}

impl Path {
    /// Longest inner packet in bytes.
    pub(super) const fn longest(self) -> u32 {
        self.outer.saturating_sub(OVERHEAD as u32)
    }

    /// The MTU of a route to this network: the kernel uses none below the minimum of IPv6 for IPv6, so that the send program
    /// cuts what is longer.
    pub(super) fn inner(self, network: IpNet) -> u32 {
        match network {
            IpNet::V4(_) => self.longest(),
            IpNet::V6(_) => self.longest().max(MIN_INNER_MTU.into()),
        }
    }
}

/// How the knowledge of a path has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It carries this much less than before.
    Narrower(Path),
    /// It carries this much more than before, but less than the interface.
    Wider(Path),
    /// It carries what the interface carries.
    Full,
}

/// The known paths, by number of the peer ([`mtd_common::abi::Session::peer`]).
#[derive(Debug)]
pub(super) struct Paths {
    /// Time in ns for which a report is believed.
    lifetime: u64,
    known: HashMap<PeerNumber, Path>,
    changed: bool,
}

impl Paths {
    /// Reports are forgotten after `lifetime` ns: the route may have changed, and routers never report a larger MTU.
    pub(super) fn new(lifetime: u64) -> Self {
        Self { lifetime, known: HashMap::new(), changed: false }
    }

    /// Notes that a router has reported that the path to a peer carries packets of up to `outer` bytes, while packets of up to
    /// `usual` bytes were sent. Returns whether that is less than was known before. A larger value is never believed: the
    /// message may be old, or forged to get packets lost.
    pub(super) fn note(&mut self, peer: PeerNumber, outer: u32, usual: u32, now: BootNs) -> bool {
        let before = self.known.get(&peer).map_or(usual, |path| path.outer);
        if outer > before || outer >= usual {
            return false;
        }
        let less = outer < before;
        // What probes have found needs no report, and is not forgotten.
        if less || self.known.get(&peer).is_some_and(|path| path.until.is_some()) {
            let until = Some(now + self.lifetime);
            self.known.insert(peer, Path { outer, source: PathSource::Told, too_small: false, until });
        }
        self.changed |= less;
        less
    }

    /// Notes what probes have found; `usual` is what the interface carries.
    pub(super) fn found(
        &mut self,
        peer: PeerNumber,
        outer: u32,
        too_small: bool,
        usual: u32,
    ) -> Option<Change> {
        if outer >= usual {
            let changed = self.known.remove(&peer).is_some();
            self.changed |= changed;
            return changed.then_some(Change::Full);
        }
        let path = Path { outer, source: PathSource::Probed, too_small, until: None };
        let before = self.known.insert(peer, path);
        let known = before.map_or(usual, |before| before.outer);
        self.changed |= known != outer;
        match outer.cmp(&known) {
            std::cmp::Ordering::Less => Some(Change::Narrower(path)),
            std::cmp::Ordering::Greater => Some(Change::Wider(path)),
            // It may be too small only now.
            std::cmp::Ordering::Equal => {
                (before.is_some_and(|before| before.too_small) != too_small).then_some(Change::Narrower(path))
            }
        }
    }

    /// There are no sessions with a peer any more, so that nothing is probed.
    pub(super) fn abandon(&mut self, peer: PeerNumber, now: BootNs) {
        if let Some(path) = self.known.get_mut(&peer) {
            path.until.get_or_insert(now + self.lifetime);
        }
    }

    /// Forgets what is too old. Returns the peers concerned.
    pub(super) fn forget(&mut self, now: BootNs) -> Vec<PeerNumber> {
        let over = |path: &mut Path| path.until.is_some_and(|until| until <= now);
        let old: Vec<_> = self.known.extract_if(|_, path| over(path)).map(|(peer, _)| peer).collect();
        self.changed |= !old.is_empty();
        old
    }

    /// What is known of the path to a peer; `None`: as far as is known, it carries whatever the interface carries.
    pub(super) fn get(&self, peer: PeerNumber) -> Option<Path> {
        self.known.get(&peer).copied()
    }

    /// Everything that is known.
    pub(super) fn all(&self) -> impl Iterator<Item = Path> + '_ {
        self.known.values().copied()
    }

    /// Whether something has changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: u32 = 1500;
    const PEER: PeerNumber = PeerNumber(1);

    fn outer(paths: &Paths) -> Option<u32> {
        paths.get(PEER).map(|path| path.outer)
    }

    #[test]
    fn a_path_shrinks_at_once_and_grows_after_its_time() {
        let mut paths = Paths::new(100);
        assert!(paths.note(PEER, 1400, USUAL, BootNs(0)) && paths.take_changed());
        assert!(!paths.note(PEER, 1450, USUAL, BootNs(10)), "nobody tells of more");
        assert!(!paths.note(PEER, 1400, USUAL, BootNs(50)) && !paths.take_changed(), "the same lasts longer");
        assert!(paths.forget(BootNs(100)).is_empty());
        assert!(paths.note(PEER, 1352, USUAL, BootNs(100)) && paths.take_changed());
        assert_eq!(paths.get(PEER).map(Path::longest), Some(1280));
        assert_eq!(paths.get(PeerNumber(2)), None);
        assert!(paths.note(PeerNumber(2), 1499, USUAL, BootNs(150)));
        assert!(paths.take_changed() && !paths.take_changed());
        assert_eq!(paths.forget(BootNs(200)), [PEER]);
        assert!(paths.take_changed());
        assert_eq!((paths.get(PEER), paths.all().count()), (None, 1));
        assert!(paths.note(PEER, 1450, USUAL, BootNs(210)), "what is forgotten counts no more");
    }

    #[test]
    fn what_is_no_less_than_usual_is_nothing_to_remember() {
        let mut paths = Paths::new(100);
        assert!(!paths.note(PEER, USUAL, USUAL, BootNs(0)) && !paths.note(PEER, u32::MAX, USUAL, BootNs(0)));
        assert_eq!(paths.found(PEER, USUAL, false, USUAL), None);
        assert!(!paths.take_changed() && paths.get(PEER).is_none());
    }

    #[test]
    fn what_probes_find_replaces_reports_and_lasts_until_they_find_something_else() {
        let mut paths = Paths::new(100);
        assert!(paths.note(PEER, 1300, USUAL, BootNs(0)));
        let change = paths.found(PEER, 1400, false, USUAL);
        assert!(matches!(change, Some(Change::Wider(path)) if path.outer == 1400), "{change:?}");
        assert!(paths.forget(BootNs(1_000)).is_empty(), "it is no report any more");
        assert!(!paths.note(PEER, 1400, USUAL, BootNs(1_000)), "what is known");
        assert_eq!(paths.get(PEER).map(|path| path.source), Some(PathSource::Probed));
        assert!(paths.note(PEER, 1350, USUAL, BootNs(1_000)), "what is not");
        assert_eq!(paths.found(PEER, 1350, false, USUAL), None);
        assert!(matches!(paths.found(PEER, 1300, false, USUAL), Some(Change::Narrower(_))));
        assert_eq!(paths.found(PEER, USUAL, false, USUAL), Some(Change::Full));
        assert_eq!(outer(&paths), None);
        let smallest = paths.found(PEER, 1280, true, USUAL);
        assert!(matches!(smallest, Some(Change::Narrower(path)) if path.too_small), "{smallest:?}");
        assert!(paths.take_changed() && !paths.take_changed());
        paths.abandon(PEER, BootNs(2_000));
        paths.abandon(PEER, BootNs(2_050));
        assert!(paths.forget(BootNs(2_099)).is_empty());
        assert_eq!(paths.forget(BootNs(2_100)), [PEER]);
    }

    #[test]
    fn inner_ipv4_packets_get_as_short_as_the_path_needs_and_ipv6_ones_no_shorter_than_ipv6_allows() {
        let path = |outer| Path { outer, source: PathSource::Probed, too_small: false, until: None };
        let networks = ["fd00::/64".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        for (outer, expected) in
            [(1499, [1427, 1427]), (1352, [1280, 1280]), (1351, [1280, 1279]), (1280, [1280, 1208])]
        {
            assert_eq!(networks.map(|network| path(outer).inner(network)), expected, "{outer}");
        }
    }
}
