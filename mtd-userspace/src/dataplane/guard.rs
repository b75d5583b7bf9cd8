//! Protection of operators from locking themselves out: the policy, the allow rules, and the time to confirm in.

use mtd_common::abi::GuardSettings;
use mtd_common::abi::guard::{FLAG_LENIENT, FLAG_MONITOR};
use mtd_common::allow::MAX_ALLOW;

use crate::model::{Allow, Guard, Policy};

/// The form that it has in the settings of the programs.
impl Guard {
    /// The settings of the programs.
    pub(super) fn settings(&self) -> GuardSettings {
        let mut value = GuardSettings {
            flags: 0,
            allow_count: self.allow.len().min(MAX_ALLOW) as u32,
            confirm_until: self.confirm_until,
            ..GuardSettings::default()
        };
        if self.policy == Policy::Monitor {
            value.flags |= FLAG_MONITOR;
        }
        if self.policy == Policy::Monitor || self.confirm_until != 0 || !self.allow.is_empty() {
            value.flags |= FLAG_LENIENT;
        }
        for (element, rule) in value.allow.iter_mut().zip(&self.allow) {
            *element = rule.element();
        }
        value
    }

    /// The guard that the settings of the programs describe.
    pub(super) fn read(value: &GuardSettings) -> Self {
        Self {
            policy: if value.flags & FLAG_MONITOR == 0 { Policy::Dark } else { Policy::Monitor },
            allow: value
                .allow
                .iter()
                .take(value.allow_count as usize)
                .filter_map(Allow::of_element)
                .collect(),
            confirm_until: value.confirm_until,
            unconfirmed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_asked_for_only_where_there_is_something() {
        let rule: Allow = "2001:db8:f::7 tcp/22".parse().unwrap();
        let dark = Guard::default();
        let monitor = Guard { policy: Policy::Monitor, ..Guard::default() };
        let allow = Guard { allow: vec![rule; MAX_ALLOW], ..Guard::default() };
        let unconfirmed = Guard { confirm_until: 5, ..Guard::default() };
        for (guard, lenient) in
            [(&allow, true), (&monitor, true), (&unconfirmed, true), (&dark, false), (&allow, true)]
        {
            let value = guard.settings();
            assert_eq!(Guard::read(&value), *guard);
            assert_eq!(value.is_lenient(), lenient, "{guard:?}");
            for now in [0, 4, 5, 6] {
                assert_eq!(guard.enforces(now), value.enforces(now), "{guard:?} at {now}");
            }
        }
        assert!(
            dark.enforces(0) && !monitor.enforces(0) && unconfirmed.enforces(4) && !unconfirmed.enforces(5)
        );
        assert_eq!((dark.left(1), unconfirmed.left(1)), (None, Some(Duration::from_nanos(4))));
        assert!(unconfirmed.is_over(5) && !unconfirmed.is_over(4) && !dark.is_over(u64::MAX));
    }
}
