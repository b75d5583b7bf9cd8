//! When the names of the bootstrap nodes are resolved again: while nothing shows that the nodes behind them are the right
//! ones. A hotel's portal, or whoever hijacks names, may answer every question with an address of its own.

use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use crate::proto::backoff::Backoff;

/// Waits between the first checks: somebody may be about to log in at a portal.
const SOON: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(4) };

/// How many checks are made soon: some four minutes of them.
const SOON_CHECKS: u32 = 50;

/// Waits between all further checks.
const LATER: Backoff = Backoff { first: Duration::from_mins(1), longest: Duration::from_mins(1) };

/// Whether the nodes that this host asks may be the wrong ones, and when that is checked next.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    checks: u32,
    next: Option<Instant>,
}

impl Doubt {
    /// Nothing that came shows that the nodes are the right ones.
    pub(super) fn raise(&mut self, now: Instant, random: u64) {
        if self.next.is_none() {
            self.checks = 0;
            self.plan(now, random);
        }
    }

    /// Something came that only the right nodes can have.
    pub(super) const fn clear(&mut self) {
        self.next = None;
    }

    /// When to check next; `None`: there is no doubt.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// A check was made.
    pub(super) fn checked(&mut self, now: Instant, random: u64) {
        if self.next.is_some() {
            self.plan(now, random);
        }
    }

    fn plan(&mut self, now: Instant, random: u64) {
        self.checks = self.checks.saturating_add(1);
        let waits = if self.checks <= SOON_CHECKS { SOON } else { LATER };
        self.next = Some(now + waits.wait(self.checks, random));
    }
}

/// Whether names lead elsewhere now: to none of the addresses that they led to before. Some names have more addresses than
/// one answer contains, so that another selection means nothing.
pub(super) fn lead_elsewhere(before: &[SocketAddrV4], now: &[SocketAddrV4]) -> bool {
    !now.is_empty() && now.iter().all(|address| !before.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_doubt_names_are_checked_soon_then_rarely_and_without_doubt_never() {
        let (mut doubt, start) = (Doubt::default(), Instant::now());
        assert_eq!(doubt.next(), None);
        doubt.raise(start, 0);
        assert_eq!(doubt.next(), Some(start + Duration::from_secs(1)));
        // Raised again while there is doubt already, it delays nothing.
        doubt.raise(start + Duration::from_millis(900), 0);
        let mut times = Vec::new();
        while let Some(next) = doubt.next().filter(|_| times.len() < 60) {
            times.push((next - start).as_secs());
            doubt.checked(next, 0);
        }
        assert_eq!(times[..5], [1, 3, 7, 11, 15]);
        assert!(times[59] - times[58] == 60 && (180..260).contains(&times[49]), "{times:?}");
        doubt.clear();
        doubt.checked(start, 0);
        assert_eq!(doubt.next(), None);
        doubt.raise(start, 0);
        assert_eq!(doubt.next(), Some(start + Duration::from_secs(1)), "quick again");
    }

    #[tokio::test(start_paused = true)]
    async fn no_two_hosts_need_to_check_at_the_same_instant() {
        let (mut one, mut other, now) = (Doubt::default(), Doubt::default(), Instant::now());
        one.raise(now, 1);
        other.raise(now, 400_000_000);
        assert_ne!(one.next(), other.next());
    }

    #[test]
    fn names_lead_elsewhere_if_no_address_is_the_same() {
        let [a, b, c]: [SocketAddrV4; 3] =
            ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|text| text.parse().unwrap());
        assert!(lead_elsewhere(&[a], &[b]) && lead_elsewhere(&[], &[a]) && lead_elsewhere(&[a, b], &[c]));
        assert!(!lead_elsewhere(&[a, b], &[b, c]), "another selection of the same nodes");
        assert!(!lead_elsewhere(&[a], &[]) && !lead_elsewhere(&[], &[]), "nothing to turn to");
    }
}
