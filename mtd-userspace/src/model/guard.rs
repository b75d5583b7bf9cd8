//! What is enforced at the protected prefixes, and what somebody asks for.

use std::time::Duration;

use super::{Allow, Policy};

/// What the programs do with what is no valid packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whether it is dropped.
    pub policy: Policy,
    /// What passes all the same, at most [`MAX_ALLOW`].
    pub allow: Vec<Allow>,
    /// Boot time in ns from which on it passes whatever the policy is; 0: never.
    pub confirm_until: u64,
}

impl Guard {
    /// Whether it is dropped at boot time `now` (ns).
    pub fn enforces(&self, now: u64) -> bool {
        self.policy == Policy::Dark && !self.is_over(now)
    }

    /// Whether nobody has confirmed in time, at boot time `now` (ns).
    pub const fn is_over(&self, now: u64) -> bool {
        self.confirm_until != 0 && now >= self.confirm_until
    }

    /// The time that is left to confirm in at boot time `now` (ns); zero when it is over. `None`: nothing is to be
    /// confirmed.
    pub fn left(&self, now: u64) -> Option<Duration> {
        (self.confirm_until != 0).then(|| Duration::from_nanos(self.confirm_until.saturating_sub(now)))
    }
}

/// What somebody asks for who makes prefixes dark.
#[derive(Clone, Copy, Debug, Default)]
pub struct Enforcement {
    /// The policy; `None`: that of the configuration, or the one in force.
    pub policy: Option<Policy>,
    /// After this time nothing is enforced any more, unless somebody confirms; `None`: there is nothing to confirm,
    /// unless there was before.
    pub confirm_within: Option<Duration>,
    /// Also where it cuts the caller's own connection.
    pub force: bool,
}

impl Enforcement {
    /// What is to be enforced from boot time `now` (ns) on, where `earlier` was. What was waiting to be confirmed still is;
    /// what nobody confirmed in time begins anew.
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
        // Nobody confirmed: it is as if it had been detached.
        assert_eq!(decide(Enforcement::default(), Some(&until(NOW))), 0);
    }
}
