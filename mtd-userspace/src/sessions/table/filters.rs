//! The filters of the installed sessions: which policy each one has, and the change from one set of filters to another while
//! packets pass.

use std::collections::HashMap;
use std::sync::Arc;

use mtd_common::abi::MODE_INTRODUCTION;

use super::{GRACE, Maps, Table};
use crate::dataplane::Error;
use crate::keys::PublicKey;
use crate::model::{BootNs, Filter, PeerNumber, SessionIndex};
use crate::sessions::installed::{Installed, Peer};

/// Whose sessions a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A peer of the configuration.
    Configured(PeerNumber),
    /// The other end of negotiated sessions.
    Negotiated(PublicKey),
}

impl From<&Peer> for Whose {
    fn from(peer: &Peer) -> Self {
        match peer {
            Peer::Configured(number) => Self::Configured(*number),
            Peer::Negotiated(_, key) => Self::Negotiated(*key),
        }
    }
}

/// The filters of a table.
#[derive(Default)]
pub(super) struct Filters {
    wanted: HashMap<Whose, Arc<Filter>>,
    /// The policies in the maps. Equal filters share one.
    numbers: HashMap<Arc<Filter>, u32>,
    /// Policies that no session has any more, and since when.
    retired: Vec<(u32, BootNs)>,
}

impl Filters {
    /// The number of the policy of somebody's sessions. `None`: they have no filter.
    pub(super) fn policy(&self, whose: Whose, mode: u32) -> Option<u32> {
        let filter = self.wanted.get(&whose).filter(|_| mode != MODE_INTRODUCTION)?;
        // 0 is no policy's number: nothing passes.
        Some(self.numbers.get(filter).copied().unwrap_or_default())
    }
}

impl<M: Maps> Table<M> {
    /// The filters in force.
    pub(in crate::sessions) const fn filters(&self) -> &HashMap<Whose, Arc<Filter>> {
        &self.filters.wanted
    }

    /// The filter of an installed session.
    pub(in crate::sessions) fn filter(&self, installed: &Installed) -> Option<&Filter> {
        self.filters.wanted.get(&installed.whose).filter(|_| installed.policy.is_some()).map(Arc::as_ref)
    }

    /// Puts these filters into force. First every new policy is written as a whole; then each session goes over to its own by
    /// one write, so that no packet passes without a filter, and none is lost.
    ///
    /// # Errors
    /// When there is no room; then nothing is changed.
    pub(in crate::sessions) fn set_filters(
        &mut self,
        wanted: HashMap<Whose, Arc<Filter>>,
        now: BootNs,
    ) -> Result<(), Error> {
        let mut numbers = HashMap::new();
        let mut added = Vec::new();
        for filter in wanted.values() {
            if numbers.contains_key(filter) {
                continue;
            }
            let known = self.filters.numbers.get(filter).copied();
            let number = known.map_or_else(|| self.maps.add_policy(filter), Ok);
            let number = number.inspect_err(|_| {
                for number in &added {
                    // The error to report is the first one.
                    let _ = self.maps.remove_policy(*number);
                }
            })?;
            if known.is_none() {
                added.push(number);
            }
            numbers.insert(Arc::clone(filter), number);
        }
        let before = std::mem::replace(&mut self.filters.numbers, numbers);
        self.filters.wanted = wanted;
        for index in (0..self.installed.len()).map(|index| SessionIndex(index as u32)) {
            self.go_over(index)?;
        }
        let gone = before.into_iter().filter(|(filter, _)| !self.filters.numbers.contains_key(filter));
        self.filters.retired.extend(gone.map(|(_, number)| (number, now)));
        Ok(())
    }

    /// Gives an installed session the policy that it should have.
    fn go_over(&mut self, index: SessionIndex) -> Result<(), Error> {
        let Some(installed) = self.installed[index.position()].as_mut() else { return Ok(()) };
        let policy = self.filters.policy(installed.whose, installed.session.mode);
        let before = std::mem::replace(&mut installed.policy, policy);
        if before == policy {
            return Ok(());
        }
        if let Some(policy) = policy {
            self.maps.assign_policy(index, policy)?;
        }
        if before.is_some() == policy.is_some() {
            Ok(())
        } else {
            self.maps.set_session(index, installed.element())
        }
    }

    /// Removes the policies that an earlier controller left, once its sessions have others.
    pub(in crate::sessions) fn retire_policies(&mut self, now: BootNs) {
        let known: Vec<u32> = self.filters.numbers.values().copied().collect();
        let others = self.maps.policies().into_iter().filter(|number| !known.contains(number));
        self.filters.retired.extend(others.map(|number| (number, now)));
    }

    /// Removes the policies that no program can be at work with any more.
    pub(super) fn wipe_policies(&mut self, now: BootNs) -> Result<(), Error> {
        for (number, _) in self.filters.retired.extract_if(.., |(_, since)| now.since(*since) >= GRACE) {
            self.maps.remove_policy(number)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mtd_common::abi::{DirectionKeys, FLAG_FILTER};
    use mtd_common::address::{End, Network};

    use super::*;
    use crate::model::{Reading, Reject, UnixNs};
    use crate::proto::exchange::SessionId;
    use crate::proto::session::{Keys, Role, Session};
    use crate::sessions::tests::memory::Memory;
    use crate::sessions::{NewSession, OriginId};

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Reading {
        Reading { boot: BootNs(seconds * SECOND), wall: UnixNs((1_800_000_000 + seconds) * SECOND) }
    }

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn install(table: &mut Table<Memory>, n: u8, now: Reading) -> SessionIndex {
        let end = |n| End { network: Network { prefix: [n; 16], length: 64 }, seed: [n; 8] };
        let keys = |n| Keys(DirectionKeys { seal: [n; 32], mask: [n; 16] });
        let new = NewSession {
            id: SessionId(n.into()),
            session: Arc::new(Session::for_test(end(n), end(n + 100), keys(n), keys(n + 50), 3 * SECOND, 0)),
            offset: now.offset(),
            started: now.boot,
            peer: Peer::Negotiated(Role::Server, key(n)),
            local: [[1; 16], [0; 16]],
            remote: [[n; 16], [0; 16]],
            networks: None,
            state: None,
            translated: false,
            resting: false,
        };
        table.install(OriginId::Server, new, None, now).unwrap();
        table.get((OriginId::Server, SessionId(n.into()))).unwrap().index()
    }

    fn filter(rule: &str) -> Arc<Filter> {
        Arc::new(Filter { rules: vec![rule.parse().unwrap()], reject: Reject::Drop })
    }

    fn wanted(rules: &[(u8, &str)]) -> HashMap<Whose, Arc<Filter>> {
        rules.iter().map(|(n, rule)| (Whose::Negotiated(key(*n)), filter(rule))).collect()
    }

    /// The rule of a session's policy, as the programs see it.
    fn rule(table: &Table<Memory>, index: SessionIndex) -> Option<String> {
        let has_flag = table.maps.sessions[index.position()].flags & FLAG_FILTER != 0;
        let number = has_flag.then(|| table.maps.assigned[&index])?;
        Some(table.maps.policies[&number].rules[0].to_string())
    }

    #[test]
    fn each_session_has_its_own_filter_and_equal_ones_share_a_policy() {
        let mut table = Table::new(Memory::new(), 60 * SECOND);
        table.set_filters(wanted(&[(1, "allow"), (2, "allow"), (3, "deny")]), at(1).boot).unwrap();
        let [one, two, three, four] = [1, 2, 3, 4].map(|n| install(&mut table, n, at(1)));
        let rules = |table: &Table<Memory>| [one, two, three, four].map(|index| rule(table, index));
        let some = |rule: &str| Some(rule.to_owned());
        assert_eq!(rules(&table), [some("allow"), some("allow"), some("deny"), None]);
        assert_eq!(table.maps.policies.len(), 2);

        table.set_filters(wanted(&[(1, "allow"), (2, "allow udp"), (4, "deny")]), at(2).boot).unwrap();
        assert_eq!(rules(&table), [some("allow"), some("allow udp"), None, some("deny")]);
        table.set_filters(wanted(&[(2, "allow tcp")]), at(3).boot).unwrap();
        assert_eq!(rules(&table), [None, some("allow tcp"), None, None]);
        assert_eq!(table.maps.policies.len(), 4, "a program may be at work with them");
        table.wipe(at(4).boot).unwrap();
        assert_eq!(table.maps.policies.len(), 1);

        // Out of use and back, it has it still.
        let session = (OriginId::Server, SessionId(2));
        table.rest(session, at(5)).unwrap();
        table.resume(session, at(5).offset(), (1, 0), at(6)).unwrap();
        assert_eq!(rule(&table, two), some("allow tcp"));
    }

    #[test]
    fn what_an_earlier_controller_left_is_removed_later() {
        let mut maps = Memory::new();
        let old = maps.add_policy(&filter("allow")).unwrap();
        let mut table = Table::new(maps, 60 * SECOND);
        table.set_filters(wanted(&[(1, "allow")]), at(1).boot).unwrap();
        let index = install(&mut table, 1, at(1));
        table.retire_policies(at(1).boot);
        assert_ne!(table.maps.assigned[&index], old);
        table.wipe(at(2).boot).unwrap();
        assert_eq!(table.maps.policies.keys().collect::<Vec<_>>(), [&table.maps.assigned[&index]]);
    }
}
