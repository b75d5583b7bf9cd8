//! What the sections of a file need to know of each other, and the checks that several of them share.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;

use super::{Located, Problems};
use crate::model::{Fault, LinkMode};

/// A value that no two places of the file may have, with the name of its key.
pub type Claim<T> = (&'static str, Located<T>);

/// The own protected prefixes.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// Those without a problem of their own, surplus ones included.
    pub listed: Vec<Located<Ipv6Net>>,
    /// Whether that is all that the file lists, and not too many.
    pub complete: bool,
    /// Where the prefix is said to be that of the interface.
    pub follow_at: Option<usize>,
}

/// The slots of some sessions.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Their length.
    pub period: Duration,
    /// Whose they are, in messages.
    pub whose: &'static str,
    /// Where that stands.
    pub at: usize,
}

/// What the sections of one file tell each other ([`Part::tell`](super::Part::tell)).
#[derive(Debug, Default)]
pub struct Facts {
    /// The underlay interface.
    pub interface: Option<Located<String>>,
    /// The own protected prefixes.
    pub prefixes: Prefixes,
    /// How packets for them reach this host.
    pub link: LinkMode,
    /// Own tunnel addresses without a problem of their own.
    pub addresses: Vec<Located<IpNet>>,
    /// Whether these are all that the file lists.
    pub addresses_complete: bool,
    /// Length of a rendezvous window.
    pub window: Duration,
    /// Names of the other ends.
    pub names: Vec<Claim<String>>,
    /// Public keys of the other ends.
    pub public_keys: Vec<Claim<[u8; 32]>>,
    /// Inner networks of the other ends.
    pub networks: Vec<Claim<IpNet>>,
    /// Single addresses that statically configured peers have.
    pub peer_addresses: HashSet<IpAddr>,
    /// Slots that have to be loaded ahead.
    pub slots: Vec<Slots>,
    /// Sessions that the file itself names.
    pub sessions: usize,
    /// Sections that need the own key: their headers, and where they stand.
    pub needs_key: Vec<(&'static str, usize)>,
    /// Where peers stand that have to know the own prefix.
    pub needs_prefix: Vec<usize>,
}

impl Facts {
    /// The own prefixes that count: surplus ones are a problem already.
    pub fn own_prefixes(&self) -> &[Located<Ipv6Net>] {
        &self.prefixes.listed[..self.prefixes.listed.len().min(MAX_PREFIXES)]
    }

    /// The own prefix that has `address` in it.
    pub fn prefix_around(&self, address: IpAddr) -> Option<Ipv6Net> {
        let inside = |prefix: &&Located<Ipv6Net>| IpNet::V6(prefix.value).contains(&address);
        self.own_prefixes().iter().find(inside).map(|prefix| prefix.value)
    }

    /// The own prefix of sessions that choose none; `None`: that of the interface.
    pub fn default_prefix(&self) -> Option<Ipv6Net> {
        self.prefixes.listed.first().map(|prefix| prefix.value)
    }

    /// Longest slot that has to be loaded ahead; zero where there are none.
    pub fn longest_period(&self) -> Duration {
        self.slots.iter().map(|slots| slots.period).max().unwrap_or_default()
    }

    /// What must hold for an own prefix that a session chooses.
    pub fn check_local_prefix(
        &self,
        key: &str,
        prefix: Option<&Located<Ipv6Net>>,
        problems: &mut Problems<'_>,
    ) {
        let Some(Located { value, at }) = prefix else { return };
        if self.prefixes.follow_at.is_some() {
            let what = format!("{value} cannot be chosen: prefix is that of the interface");
            problems.add(*at, key, Fault::new(what, "leave the line out"));
            return;
        }
        let own = self.own_prefixes();
        if self.prefixes.complete && !own.iter().any(|own| own.value == *value) {
            let own: Vec<_> = own.iter().map(|own| own.value.to_string()).collect();
            let what = format!("{value} is not a protected prefix of this host");
            problems.add(*at, key, Fault::new(what, format!("write one of prefix: {}", own.join(", "))));
        }
    }

    /// What must hold for the other ends, whichever section names them: none has what another one has.
    pub fn check(&self, problems: &mut Problems<'_>) {
        each_once(claims(&self.public_keys), problems, |_, line| {
            Fault::new(format!("is in line {line} already"), "write the other end's own public key")
        });
        each_once(claims(&self.names), problems, |name, line| {
            Fault::new(format!("{name} is a name in line {line} already"), "write another name")
        });
        each_once(claims(&self.networks), problems, |net, line| {
            let what = format!("{net} is in line {line} already");
            Fault::new(what, "leave it with the one whose packets may come from there")
        });
    }
}

fn claims<T>(claims: &[Claim<T>]) -> impl Iterator<Item = (&'static str, &Located<T>)> {
    claims.iter().map(|(key, located)| (*key, located))
}

/// Reports each value, in the order of the file, that an earlier one equals; `fault` is given the value and the line of
/// the earlier one. Each value comes with the name of its key.
pub fn each_once<'a, T: Eq + Hash + 'a>(
    values: impl Iterator<Item = (&'static str, &'a Located<T>)>,
    problems: &mut Problems<'_>,
    fault: impl Fn(&T, usize) -> Fault,
) {
    let mut values: Vec<_> = values.collect();
    values.sort_by_key(|(_, located)| located.at);
    let mut seen = HashMap::new();
    for (key, Located { value, at }) in values {
        match seen.entry(value) {
            Entry::Vacant(entry) => _ = entry.insert(*at),
            Entry::Occupied(entry) => {
                let line = problems.line(*entry.get());
                problems.add(*at, key, fault(value, line));
            }
        }
    }
}
