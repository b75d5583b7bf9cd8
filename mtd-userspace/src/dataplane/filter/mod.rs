//! Policies in the maps of the programs, and which session has which.

mod compile;

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData};
use mtd_common::abi::filter::{Mask, Policy, PolicyNumber, RuleKey};

use self::compile::compile;
use super::error::{Error, errno};
use super::maps::{shared, typed};
use super::shared::Shared;
use crate::model::Filter;

/// Session by index → number of its policy.
pub(super) const SESSION_POLICY: &str = "SESSION_POLICY";
/// Number → policy.
pub(super) const POLICIES: &str = "POLICIES";
/// Addresses and ports → rules of a policy.
pub(super) const FILTER_RULES: &str = "FILTER_RULES";

/// The policies in the maps. One is written as a whole, then sessions are given its number; it is never changed. A number is
/// never used twice.
pub struct Policies {
    sessions: Shared<PolicyNumber>,
    written: HashMap<MapData, u32, Policy>,
    rules: LpmTrie<MapData, RuleKey, Mask>,
    /// The highest number so far.
    last: u32,
    /// The elements of each policy in the map of rules.
    keys: BTreeMap<u32, Vec<Key<RuleKey>>>,
}

impl Policies {
    /// The maps of an object, with the policies of an earlier controller if they are its maps.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut found = Self {
            sessions: shared(ebpf, SESSION_POLICY)?,
            written: typed(ebpf, POLICIES)?,
            rules: typed(ebpf, FILTER_RULES)?,
            last: 0,
            keys: BTreeMap::new(),
        };
        for number in found.written.keys() {
            found.keys.insert(number.map_err(Error::map(POLICIES))?, Vec::new());
        }
        for key in found.rules.keys() {
            let key = key.map_err(Error::map(FILTER_RULES))?;
            let number = u32::from_be_bytes(*mtd_common::bytes::part::<0, 4, 24>(&key.data()));
            found.keys.entry(number).or_default().push(key);
        }
        found.last = found.keys.last_key_value().map_or(0, |(number, _)| *number);
        Ok(found)
    }

    /// The numbers of all policies.
    pub fn numbers(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    /// Writes the policy of a filter. Returns its number.
    ///
    /// # Errors
    /// When there is no room; then nothing is left of it.
    pub fn add(&mut self, filter: &Filter) -> Result<u32, Error> {
        let compiled = compile(filter);
        self.last += 1;
        let number = self.last;
        let written = self.write(number, &compiled);
        written.inspect_err(|_| {
            // The error to report is the first one.
            let _ = self.remove(number);
        })?;
        Ok(number)
    }

    fn write(&mut self, number: u32, compiled: &compile::Compiled) -> Result<(), Error> {
        let keys = self.keys.entry(number).or_default();
        for (length, key, mask) in compiled.rules(number) {
            let key = Key::new(length, key);
            keys.push(key);
            self.rules.insert(&key, mask, 0).map_err(full(FILTER_RULES))?;
        }
        // Last: a policy that is there is whole.
        self.written.insert(number, compiled.policy, 0).map_err(full(POLICIES))
    }

    /// Removes a policy that no session has, and that no program can be at work with any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, number: u32) -> Result<(), Error> {
        let missing = |error: &aya::maps::MapError| {
            matches!(error, aya::maps::MapError::KeyNotFound) || errno(error) == Some(libc::ENOENT)
        };
        match self.written.remove(&number) {
            Err(error) if !missing(&error) => return Err(Error::map(POLICIES)(error)),
            _ => {}
        }
        for key in self.keys.remove(&number).unwrap_or_default() {
            match self.rules.remove(&key) {
                Err(error) if !missing(&error) => return Err(Error::map(FILTER_RULES)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives a session a policy: by one write, so that no packet finds something in between.
    ///
    /// # Errors
    /// When `index` is not below the capacity.
    pub fn assign(&mut self, index: u32, number: u32) -> Result<(), Error> {
        let written = self.sessions.write(index, number.into());
        if written { Ok(()) } else { Err(Error::NoElement(SESSION_POLICY, index)) }
    }

    /// The number of a session's policy, if it has one.
    pub fn of(&self, index: u32) -> Option<u32> {
        self.sessions.read(index).map(|number| number as u32)
    }
}

/// The error of a map that has no room.
fn full(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Error {
    move |error| match errno(&error) {
        Some(libc::E2BIG | libc::ENOSPC) => Error::Filters,
        _ => Error::map(map)(error),
    }
}
