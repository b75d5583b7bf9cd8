//! Which own addresses are announced when, and at which rate. It has no notion of sockets.

use std::collections::HashMap;

use mtd_common::abi::TokenBucket;

use crate::model::BootNs;
use crate::sessions::Key;

const SECOND: u64 = 1_000_000_000;

/// Solicitations a second, over all sessions: what fills a router's neighbour table. Linux routers hold 1,024 entries by
/// default, and may throw out those that are older than five seconds.
const RATE: u64 = 100;

/// Solicitations at once. In one round no more addresses are derived than may be announced.
pub(super) const BURST: u64 = 200;

/// Time in ns after which an address that is still in use is announced again: routers forget what is not used, after a minute
/// at the least.
const AGAIN: u64 = 20 * SECOND;

/// Most time in ns by which an address is announced before its slot begins.
const EARLIEST: u64 = 8 * SECOND;

/// Time in ns between an announcement and the first question of the router whether it is true (RFC 4861:
/// `DELAY_FIRST_PROBE_TIME`, 5 s), with a margin. The address must be live by then.
const UNQUESTIONED: u64 = 4 * SECOND;

/// How long before its slot an address is announced, in ns, with slots of this length: early, so that it is known while the
/// controller is away for a moment, but not so early that the router's question comes before the address is live.
pub(super) fn ahead(period: u64) -> u64 {
    period.saturating_add(UNQUESTIONED).min(EARLIEST)
}

/// What was announced.
#[derive(Default)]
pub(super) struct Plan {
    /// When, and the last round in which the address was still of interest.
    announced: HashMap<(Key, u64), (BootNs, u64)>,
    round: u64,
    bucket: TokenBucket,
}

impl Plan {
    /// Begins a round, in which [`Plan::is_due`] is asked for all addresses.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// Whether an address has to be announced.
    pub(super) fn is_due(&mut self, key: Key, slot: u64, now: BootNs) -> bool {
        match self.announced.get_mut(&(key, slot)) {
            Some((at, round)) => {
                *round = self.round;
                now.since(*at) >= AGAIN
            }
            None => true,
        }
    }

    /// Whether one more solicitation may be sent.
    pub(super) fn may_send(&mut self, now: BootNs) -> bool {
        self.bucket.take(now.0, SECOND / RATE, BURST)
    }

    /// Notes that an address was announced.
    pub(super) fn announced(&mut self, key: Key, slot: u64, now: BootNs) {
        self.announced.insert((key, slot), (now, self.round));
    }

    /// Ends a round: forgets what is not of interest any more.
    pub(super) fn end(&mut self) {
        let present = self.round;
        self.announced.retain(|_, (_, round)| *round == present);
    }

    /// Forgets all that was announced: the neighbours are others now.
    pub(super) fn start_over(&mut self) {
        self.announced.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::exchange::SessionId;
    use crate::sessions::OriginId;

    const KEY: Key = (OriginId::Server, SessionId(1));

    #[test]
    fn an_address_is_announced_once_and_again_as_long_as_it_is_in_use() {
        let (mut plan, begin) = (Plan::default(), BootNs(1_000 * SECOND));
        let at = |plan: &mut Plan, seconds| {
            let now = begin + seconds * SECOND;
            plan.begin();
            let due = plan.is_due(KEY, 7, now);
            if due {
                plan.announced(KEY, 7, now);
            }
            plan.end();
            due
        };
        assert!(at(&mut plan, 0));
        assert!(!at(&mut plan, 1) && !at(&mut plan, 19));
        assert!(at(&mut plan, 20));
        plan.start_over();
        assert!(at(&mut plan, 21), "to other neighbours");
        // Two rounds without it: it is forgotten.
        plan.begin();
        plan.end();
        assert!(plan.announced.is_empty());
    }

    #[test]
    fn no_more_is_sent_than_a_routers_table_holds() {
        let (mut plan, begin) = (Plan::default(), BootNs(1_000 * SECOND));
        let sent = (0..10_000).filter(|ms| plan.may_send(begin + ms * SECOND / 1_000)).count() as u64;
        assert!((RATE * 10..=RATE * 10 + BURST).contains(&sent), "{sent} in ten seconds");
    }

    #[test]
    fn the_routers_question_comes_when_the_address_is_live() {
        for seconds in [1, 2, 3, 5, 10, 60, 3_600] {
            let period = seconds * SECOND;
            // An address is live from one slot before its own.
            assert!(ahead(period) < period + 5 * SECOND, "{seconds} s");
            assert!(ahead(period) >= 5 * SECOND, "{seconds} s");
        }
    }
}
