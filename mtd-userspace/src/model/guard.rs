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
}

impl Enforcement {
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
        Guard { policy, allow, confirm_until: asked.unwrap_or(pending) }
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
