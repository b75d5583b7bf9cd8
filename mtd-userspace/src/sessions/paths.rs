//! Path MTU of the outer paths to peers, as routers report it (RFC 8201).

use std::collections::HashMap;

use mtd_common::packet::OVERHEAD;

use crate::model::MIN_INNER_MTU;
use crate::model::{BootNs, PeerNumber};

/// What is known of the path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Longest outer packet in bytes.
    pub(super) outer: u32,
    /// When this is forgotten.
    until: BootNs,
}

impl Path {
    /// Longest inner packet in bytes. Never below the minimum of IPv6, whatever the path carries.
    pub(super) fn inner(self) -> u32 {
        self.outer.saturating_sub(OVERHEAD as u32).max(MIN_INNER_MTU.into())
    }

    /// Whether the path does not even carry inner packets of the minimum MTU of IPv6.
    pub(super) fn is_too_small(self) -> bool {
        self.inner() + OVERHEAD as u32 > self.outer
    }
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

    /// Notes that the path to a peer carries packets of up to `outer` bytes, while packets of up to `usual` bytes were sent.
    /// Returns whether that is less than was known before. A larger value is never believed: the message may be old, or
    /// forged to get packets lost.
    pub(super) fn note(&mut self, peer: PeerNumber, outer: u32, usual: u32, now: BootNs) -> bool {
        let before = self.known.get(&peer).map_or(usual, |path| path.outer);
        if outer > before || outer >= usual {
            return false;
        }
        self.known.insert(peer, Path { outer, until: now + self.lifetime });
        let less = outer < before;
        self.changed |= less;
        less
    }

    /// Forgets what is too old. Returns the peers concerned.
    pub(super) fn forget(&mut self, now: BootNs) -> Vec<PeerNumber> {
        let old: Vec<_> = self.known.extract_if(|_, path| path.until <= now).map(|(peer, _)| peer).collect();
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

    #[test]
    fn a_path_shrinks_at_once_and_grows_after_its_time() {
        let mut paths = Paths::new(100);
        assert!(paths.note(PeerNumber(1), 1400, USUAL, BootNs(0)) && paths.take_changed());
        assert!(!paths.note(PeerNumber(1), 1450, USUAL, BootNs(10)), "nobody tells of more");
        assert!(
            !paths.note(PeerNumber(1), 1400, USUAL, BootNs(50)) && !paths.take_changed(),
            "the same lasts longer"
        );
        assert!(paths.forget(BootNs(100)).is_empty());
        assert!(paths.note(PeerNumber(1), 1352, USUAL, BootNs(100)) && paths.take_changed());
        assert_eq!(paths.get(PeerNumber(1)).map(Path::inner), Some(1280));
        assert_eq!(paths.get(PeerNumber(2)), None);
        assert!(paths.note(PeerNumber(2), 1499, USUAL, BootNs(150)));
        assert!(paths.take_changed() && !paths.take_changed());
        assert_eq!(paths.forget(BootNs(200)), [PeerNumber(1)]);
        assert!(paths.take_changed());
        assert_eq!((paths.get(PeerNumber(1)), paths.all().count()), (None, 1));
        assert!(paths.note(PeerNumber(1), 1450, USUAL, BootNs(210)), "what is forgotten counts no more");
    }

    #[test]
    fn what_is_no_less_than_usual_is_nothing_to_remember() {
        let mut paths = Paths::new(100);
        assert!(
            !paths.note(PeerNumber(1), USUAL, USUAL, BootNs(0))
                && !paths.note(PeerNumber(1), u32::MAX, USUAL, BootNs(0))
        );
        assert!(!paths.take_changed() && paths.get(PeerNumber(1)).is_none());
    }

    #[test]
    fn inner_packets_never_get_shorter_than_ipv6_allows() {
        let path = |outer| Path { outer, until: BootNs(0) };
        assert_eq!((path(1352).inner(), path(1352).is_too_small()), (1280, false));
        assert_eq!((path(1351).inner(), path(1351).is_too_small()), (1280, true));
        assert_eq!((path(1280).inner(), path(1280).is_too_small()), (1280, true));
        assert_eq!((path(1499).inner(), path(1499).is_too_small()), (1427, false));
    }
}
