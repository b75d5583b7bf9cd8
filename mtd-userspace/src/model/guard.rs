//! The enforcement at the protected prefixes: the present state, and requested changes.

use std::time::Duration;

use super::{Allow, Policy};

/// How the programs handle packets that are not valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whether they are dropped.
    pub policy: Policy,
    /// Exceptions that pass all the same, at most [`MAX_ALLOW`].
    pub allow: Vec<Allow>,
    /// Boot time in ns from which on they pass whatever the policy is; 0: never.
    pub confirm_until: u64,
    /// Nothing is enforced because nobody confirmed the last enforcement, whatever was configured. Not part of what the
    /// programs know.
    pub unconfirmed: bool,
}

impl Guard {
    /// Whether packets are dropped at boot time `now` (ns).
    pub fn enforces(&self, now: u64) -> bool {
        self.policy == Policy::Dark && !self.is_over(now)
    }

    /// Whether the time to confirm is over without a confirmation, at boot time `now` (ns).
    pub const fn is_over(&self, now: u64) -> bool {
        self.confirm_until != 0 && now >= self.confirm_until
    }

    /// The time that is left to confirm in at boot time `now` (ns); zero when it is over. `None`: there is nothing to
    /// confirm.
    pub fn left(&self, now: u64) -> Option<Duration> {
        (self.confirm_until != 0).then(|| Duration::from_nanos(self.confirm_until.saturating_sub(now)))
    }
}

/// A request to make prefixes dark, or to change the policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Enforcement {
    /// The policy; `None`: that of the configuration, or the one in force.
    pub policy: Option<Policy>,
    /// Time after which nothing is enforced any more, unless somebody confirms; `None`: there is nothing to confirm, except
    /// what was pending before.
    pub confirm_within: Option<Duration>,
    /// Even if it cuts the caller's own connection.
    pub force: bool,
    /// An operator is there, and may try again what nobody confirmed the last time. A service manager may not.
    pub again: bool,
}

impl Enforcement {
    /// The enforcement at a start at boot time `now` (ns), given the `earlier` one. If the last one was `unconfirmed`, nothing
    /// is enforced, unless it still waits for its confirmation, or somebody has decided.
    pub fn begin(
        &self,
        configured: Option<Policy>,
        allow: Vec<Allow>,
        earlier: Option<&Guard>,
        unconfirmed: bool,
        now: u64,
    ) -> Guard {
        let waits = earlier.is_some_and(|guard| guard.enforces(now));
        if unconfirmed && !waits && !self.is_decided() {
            return Guard { policy: Policy::Monitor, allow, confirm_until: 0, unconfirmed: true };
        }
        self.decide(configured, allow, earlier, now)
    }

    /// Whether it is asked for by somebody who knows that it was not confirmed the last time.
    const fn is_decided(&self) -> bool {
        match (self.policy, self.confirm_within) {
            (None, None) => false,
            (Some(_), None) => true,
            (_, Some(_)) => self.again,
        }
    }

    /// The enforcement from boot time `now` (ns) on, given the `earlier` one. A pending confirmation stays pending; an
    /// expired one begins anew.
    pub fn decide(
        &self,
        configured: Option<Policy>,
        allow: Vec<Allow>,
        earlier: Option<&Guard>,
        now: u64,
    ) -> Guard {
        let policy = self.policy.or(configured).or(earlier.map(|guard| guard.policy)).unwrap_or_default();
        let pending = earlier.filter(|guard| !guard.is_over(now)).map_or(0, |guard| guard.confirm_until);
        let asked = self.confirm_within.map(|within| now.saturating_add(within.as_nanos() as u64));
        Guard { policy, allow, confirm_until: asked.unwrap_or(pending), unconfirmed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    fn within(seconds: u64) -> Enforcement {
        Enforcement { confirm_within: Some(Duration::from_secs(seconds)), ..Enforcement::default() }
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_the_file_before_what_was() {
        let earlier = Guard { policy: Policy::Monitor, ..Guard::default() };
        let decide = |policy, file, earlier| {
            let asked = Enforcement { policy, ..Enforcement::default() };
            asked.decide(file, Vec::new(), earlier, NOW).policy
        };
        assert_eq!(decide(None, None, None), Policy::Dark);
        assert_eq!(decide(None, None, Some(&earlier)), Policy::Monitor);
        assert_eq!(decide(None, Some(Policy::Dark), Some(&earlier)), Policy::Dark);
        assert_eq!(decide(Some(Policy::Monitor), Some(Policy::Dark), None), Policy::Monitor);
    }

    #[test]
    fn what_nobody_confirmed_is_enforced_again_only_by_decision() {
        let begin = |asked: Enforcement, earlier: Option<&Guard>, unconfirmed| {
            asked.begin(Some(Policy::Dark), Vec::new(), earlier, unconfirmed, NOW)
        };
        let policy = Enforcement { policy: Some(Policy::Dark), ..Enforcement::default() };
        assert!(begin(Enforcement::default(), None, false).enforces(NOW));
        // The unit of a service manager, and one with a time to confirm: they would try for ever.
        let over = Guard { confirm_until: NOW, ..Guard::default() };
        for asked in [
            Enforcement::default(),
            within(60),
            Enforcement { confirm_within: within(60).confirm_within, ..policy },
        ] {
            for earlier in [None, Some(&over)] {
                let guard = begin(asked, earlier, true);
                assert!(guard.unconfirmed && !guard.enforces(NOW) && guard.confirm_until == 0, "{asked:?}");
            }
        }
        // Decisions, and an operator who tries again.
        assert_eq!(begin(policy, None, true), Guard::default());
        let again = Enforcement { again: true, ..within(60) };
        assert_eq!(begin(again, None, true).confirm_until, NOW + 60_000_000_000);
        // It is in force, and waits or is confirmed.
        for confirm_until in [0, NOW + 5] {
            let earlier = Guard { confirm_until, ..Guard::default() };
            assert_eq!(begin(Enforcement::default(), Some(&earlier), true), earlier);
        }
    }

    #[test]
    fn what_waits_to_be_confirmed_goes_on_waiting() {
        let decide = |asked: Enforcement, earlier: Option<&Guard>| {
            asked.decide(None, Vec::new(), earlier, NOW).confirm_until
        };
        let until = |confirm_until| Guard { confirm_until, ..Guard::default() };
        assert_eq!(decide(Enforcement::default(), None), 0);
        assert_eq!(decide(within(60), None), NOW + 60_000_000_000);
        assert_eq!(decide(Enforcement::default(), Some(&until(NOW + 5))), NOW + 5);
        assert_eq!(decide(within(1), Some(&until(NOW + 5))), NOW + 1_000_000_000);
        // Nobody confirmed: the same as if it had been detached.
        assert_eq!(decide(Enforcement::default(), Some(&until(NOW))), 0);
    }
}
