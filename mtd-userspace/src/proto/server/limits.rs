//! Limits on the work that the server does, in total and for each client.

use std::collections::HashMap;

use mtd_common::bytes::part;

use crate::model::BootNs;
use crate::proto::exchange::SessionId;

/// Number of requests that are remembered.
const MAX_RECENT: usize = 200_000;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Ns for one token.
    interval: u64,
    burst: u64,
    tokens: u64,
    refilled: BootNs,
}

impl Bucket {
    /// A full bucket, which gains one token every `interval` ns.
    pub(super) fn new(interval: u64, burst: u64) -> Self {
        Self { interval: interval.max(1), burst, tokens: burst, refilled: BootNs::NEVER }
    }

    /// Takes a token. False if there is none.
    pub(super) fn take(&mut self, now: BootNs) -> bool {
        let gained = now.since(self.refilled) / self.interval;
        self.tokens = self.tokens.saturating_add(gained).min(self.burst);
        self.refilled = self.refilled + gained * self.interval;
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

/// Recent requests, identified by half of their ephemeral keys, and the sessions that they led to. Only authentic ones: to
/// find a key with the same half as another's is as hard as breaking one.
#[derive(Debug)]
pub(super) struct Recent {
    /// Ns for which each is remembered at least.
    memory: u64,
    turned: BootNs,
    young: HashMap<[u8; 16], SessionId>,
    old: HashMap<[u8; 16], SessionId>,
}

impl Recent {
    pub(super) fn new(memory: u64) -> Self {
        Self { memory, turned: BootNs::NEVER, young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get(&self, ephemeral: &[u8; 32]) -> Option<SessionId> {
        let half = half(ephemeral);
        self.young.get(&half).or_else(|| self.old.get(&half)).copied()
    }

    /// Whether there is room for another request.
    pub(super) fn has_room(&self) -> bool {
        self.young.len() + self.old.len() < MAX_RECENT
    }

    /// Remembers a request.
    pub(super) fn insert(&mut self, ephemeral: [u8; 32], id: SessionId) {
        self.young.insert(half(&ephemeral), id);
    }

    /// Forgets requests that are too old to be accepted again.
    pub(super) fn forget(&mut self, now: BootNs) {
        if now.since(self.turned) >= self.memory {
            self.turned = now;
            self.old = std::mem::take(&mut self.young);
        }
    }
}

const fn half(ephemeral: &[u8; 32]) -> [u8; 16] {
    *part::<0, 16, 32>(ephemeral)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(100, 3);
        assert_eq!((0..10).filter(|_| bucket.take(BootNs(1000))).count(), 3);
        assert!(!bucket.take(BootNs(1099)));
        assert!(bucket.take(BootNs(1100)));
        assert!(!bucket.take(BootNs(1100)));
        assert_eq!((0..10).filter(|_| bucket.take(BootNs(1_000_000))).count(), 3);
    }

    #[test]
    fn requests_are_remembered_long_enough_and_not_for_ever() {
        let mut recent = Recent::new(90);
        recent.forget(BootNs(1000));
        recent.insert([1; 32], SessionId(7));
        recent.forget(BootNs(1089));
        recent.forget(BootNs(1090));
        assert_eq!(recent.get(&[1; 32]), Some(SessionId(7)), "90 are not over since it came");
        recent.forget(BootNs(1180));
        assert_eq!(recent.get(&[1; 32]), None);
    }
}
