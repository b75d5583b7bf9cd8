//! Which of the interface's prefixes this host uses, where it follows them (requirement MT-45).
//!
//! A state machine: it is told the prefixes that there are, and whether anything comes through the present one. A better
//! prefix is taken at once, unless prefixes come and go: then it must first have been there for a while. The prefix in use
//! is left when it is gone, or when nothing comes through it and another one has not been tried.

use std::collections::{BTreeMap, VecDeque};

use ipnet::Ipv6Net;

use crate::device::Prefix;
use crate::model::BootNs;

/// In ns.
const SECOND: u64 = 1_000_000_000;

/// Moves further back than this do not count, in ns.
const MEMORY: u64 = 300 * SECOND;

/// Moves that cost no wait: a network that is renumbered, a cable that is plugged in elsewhere.
const FREE_MOVES: usize = 3;

/// The longest time for which a prefix must have been there, in ns: to replace one that is there too …
const MAX_REST: u64 = 128 * SECOND;
/// … and where there is none at all.
const MAX_REST_WITHOUT: u64 = 8 * SECOND;

/// How long nothing may come through a prefix before another one is tried, in ns: two of the client's pauses, so that it has
/// tried more than once. Twice as long each time, up to …
const PATIENCE: u64 = 15 * SECOND;
/// … this, which is enough for a client whose clock is wrong to try all times.
const MAX_PATIENCE: u64 = 60 * SECOND;

/// For how long a prefix through which nothing came is not preferred, in ns.
const DISTRUST: u64 = 300 * SECOND;

/// A choice of a prefix.
#[derive(Debug, Default)]
pub(super) struct Place {
    present: Option<Ipv6Net>,
    /// Prefixes that are there: whether they are preferred, and since when that is so.
    seen: BTreeMap<Ipv6Net, (bool, BootNs)>,
    /// When this host has moved.
    moves: VecDeque<BootNs>,
    /// Prefixes through which nothing came, and when that was found.
    failed: BTreeMap<Ipv6Net, BootNs>,
    /// Since when nothing has come through the present one.
    blamed: Option<BootNs>,
    /// How many prefixes were left one after the other since nothing came through them.
    tried: u32,
}

impl Place {
    /// A host that is in `present`.
    pub(super) fn at(present: Option<Ipv6Net>) -> Self {
        Self { present, ..Self::default() }
    }

    /// Chooses one of `prefixes`, of which the first is the best. `blamed`: sessions are wanted, and nothing comes through
    /// the present prefix.
    pub(super) fn choose(&mut self, prefixes: &[Prefix], blamed: bool, now: BootNs) -> Option<Ipv6Net> {
        self.note(prefixes, blamed, now);
        let present = self.present.filter(|present| self.seen.contains_key(present));
        let chosen = match present {
            None => self.best(prefixes, self.rest().min(MAX_REST_WITHOUT), now),
            Some(present) => {
                let gave_up = self.gives_up(prefixes, now);
                if gave_up {
                    self.failed.insert(present, now);
                    self.tried += 1;
                }
                let rest = if gave_up { 0 } else { self.rest() };
                // Among equals, it stays where it is.
                let better = self
                    .best(prefixes, rest, now)
                    .filter(|best| self.rank(prefixes, *best) < self.rank(prefixes, present));
                better.or(Some(present))
            }
        };
        if chosen != self.present {
            self.blamed = None;
            if chosen.is_some() {
                self.moves.push_back(now);
            }
            self.present = chosen;
        }
        chosen
    }

    fn note(&mut self, prefixes: &[Prefix], blamed: bool, now: BootNs) {
        self.seen.retain(|net, _| prefixes.iter().any(|prefix| prefix.net == *net));
        for prefix in prefixes {
            let seen = self.seen.entry(prefix.net).or_insert((prefix.preferred, now));
            if seen.0 != prefix.preferred {
                *seen = (prefix.preferred, now);
            }
        }
        let seen = &self.seen;
        self.failed.retain(|net, at| seen.contains_key(net) && now.since(*at) < DISTRUST);
        while self.moves.front().is_some_and(|at| now.since(*at) >= MEMORY) {
            self.moves.pop_front();
        }
        if !blamed {
            self.blamed = None;
            if self.present.is_some_and(|present| !self.failed.contains_key(&present)) {
                self.tried = 0;
            }
        } else if self.blamed.is_none() {
            self.blamed = Some(now);
        }
    }

    /// For how long a prefix must have been there, in ns.
    fn rest(&self) -> u64 {
        match self.moves.len().checked_sub(FREE_MOVES) {
            None => 0,
            Some(more) => ((2 * SECOND) << more.min(6)).min(MAX_REST),
        }
    }

    /// Whether another prefix is to be tried since nothing comes through this one.
    fn gives_up(&self, prefixes: &[Prefix], now: BootNs) -> bool {
        let patience = (PATIENCE << self.tried.min(2)).min(MAX_PATIENCE);
        prefixes.len() > 1 && self.blamed.is_some_and(|since| now.since(since) >= patience)
    }

    /// The best prefix that has been there for so long.
    fn best(&self, prefixes: &[Prefix], rest: u64, now: BootNs) -> Option<Ipv6Net> {
        let long = |net: &Ipv6Net| self.seen.get(net).is_some_and(|(_, since)| now.since(*since) >= rest);
        prefixes.iter().map(|prefix| prefix.net).filter(long).min_by_key(|net| self.rank(prefixes, *net))
    }

    /// The place of a prefix in the order, lower ones first: one that has failed after one that has not, and of those the one
    /// that has failed longest ago; then as RFC 6724 has it.
    fn rank(&self, prefixes: &[Prefix], net: Ipv6Net) -> (u64, bool, bool) {
        let failed = self.failed.get(&net).map_or(0, |at| at.0.max(1));
        let preferred = prefixes.iter().any(|prefix| prefix.net == net && prefix.preferred);
        (failed, !preferred, net.addr().is_unique_local())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "2001:db8:1::/64";
    const NEW: &str = "2001:db8:2::/64";

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    fn prefix(text: &str, preferred: bool) -> Prefix {
        Prefix { net: net(text), preferred }
    }

    /// A host and its time, in half seconds.
    struct World {
        place: Place,
        now: BootNs,
        blamed: bool,
        moves: usize,
    }

    impl World {
        fn new() -> Self {
            Self { place: Place::default(), now: BootNs(1000 * SECOND), blamed: false, moves: 0 }
        }

        fn look(&mut self, prefixes: &[Prefix]) -> Option<Ipv6Net> {
            self.now = self.now + SECOND / 2;
            let before = self.place.present;
            let chosen = self.place.choose(prefixes, self.blamed, self.now);
            self.moves += usize::from(chosen != before);
            chosen
        }

        /// Looks at prefixes for so many seconds.
        fn run(&mut self, seconds: u64, prefixes: &[Prefix]) -> Option<Ipv6Net> {
            (0..2 * seconds).map(|_| self.look(prefixes)).last().flatten()
        }
    }

    #[test]
    fn a_better_prefix_is_taken_at_once() {
        let mut world = World::new();
        assert_eq!(world.look(&[]), None);
        assert_eq!(world.look(&[prefix(OLD, true)]), Some(net(OLD)));
        // Equals are not moved between, whatever their order.
        assert_eq!(world.look(&[prefix(NEW, true), prefix(OLD, true)]), Some(net(OLD)));
        assert_eq!(world.look(&[prefix(NEW, true), prefix(OLD, false)]), Some(net(NEW)));
        assert_eq!(world.look(&[prefix(OLD, false)]), Some(net(OLD)), "deprecated is better than none");
        assert_eq!(world.look(&[]), None);
    }

    #[test]
    fn a_global_prefix_is_better_than_a_unique_local_one() {
        let mut world = World::new();
        let local = prefix("fd00:1::/64", true);
        assert_eq!(world.look(&[local]), Some(local.net));
        assert_eq!(world.look(&[prefix(OLD, true), local]), Some(net(OLD)));
        assert_eq!(world.look(&[local, prefix(OLD, false)]), Some(local.net));
    }

    #[test]
    fn both_deprecated_is_no_reason_to_move() {
        let mut world = World::new();
        world.look(&[prefix(OLD, true)]);
        world.run(60, &[prefix(NEW, false), prefix(OLD, false)]);
        assert_eq!(world.place.present, Some(net(OLD)));
    }

    #[test]
    fn a_prefix_that_flaps_is_not_followed() {
        let mut world = World::new();
        world.run(10, &[prefix(OLD, true)]);
        world.moves = 0;
        for _ in 0..300 {
            world.run(1, &[prefix(OLD, false), prefix(NEW, true)]);
            world.run(1, &[prefix(OLD, true), prefix(NEW, false)]);
        }
        assert!(world.moves <= 6, "moved {} times in ten minutes", world.moves);
        // Calm, and in the end it moves.
        assert_eq!(world.run(130, &[prefix(OLD, false), prefix(NEW, true)]), Some(net(NEW)));
    }

    #[test]
    fn a_single_prefix_that_flaps_is_waited_for() {
        let mut world = World::new();
        world.run(10, &[prefix(OLD, true)]);
        world.moves = 0;
        for _ in 0..300 {
            world.run(1, &[]);
            world.run(1, &[prefix(OLD, true)]);
        }
        assert!(world.moves <= 20, "moved {} times in ten minutes", world.moves);
        assert_eq!(world.run(9, &[prefix(OLD, true)]), Some(net(OLD)));
    }

    #[test]
    fn where_nothing_comes_through_another_one_is_tried() {
        let mut world = World::new();
        let both = [prefix(OLD, true), prefix(NEW, false)];
        world.look(&both);
        world.blamed = true;
        assert_eq!(world.run(14, &both), Some(net(OLD)));
        assert_eq!(world.run(2, &both), Some(net(NEW)));
        // Through that one something comes, so it stays there, until the better one is worth another try.
        world.blamed = false;
        assert_eq!(world.run(200, &both), Some(net(NEW)));
        assert_eq!(world.run(120, &both), Some(net(OLD)));
        // Nothing comes through either: it goes from one to the other, and not often.
        world.blamed = true;
        world.moves = 0;
        world.run(300, &both);
        assert!((4..=12).contains(&world.moves), "moved {} times in five minutes", world.moves);
        // With one alone there is nothing to try.
        world.moves = 0;
        world.run(120, &[both[0]]);
        assert!(world.moves <= 1);
    }
}
