//! Facts that the sections of a file share, and the checks that several of them need.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;

use super::{Located, Problems};
use crate::model::{Fault, LinkMode};

/// A value that must be unique in the file, with the name of its key.
pub type Claim<T> = (&'static str, Located<T>);

/// The own protected prefixes.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// Those that are valid on their own, surplus ones included.
    pub listed: Vec<Located<Ipv6Net>>,
    /// Whether all listed prefixes are valid, and not too many.
    pub complete: bool,
    /// Place of the value that makes the prefix follow the interface.
    pub follow_at: Option<usize>,
}

/// The slots of some sessions.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Their length.
    pub period: Duration,
    /// The owner of the slots, for messages.
    pub whose: &'static str,
    /// Its place in the text.
    pub at: usize,
}

/// Facts that the sections of one file share ([`Part::tell`](super::Part::tell)).
#[derive(Debug, Default)]
pub struct Facts {
    /// The underlay interface.
    pub interface: Option<Located<String>>,
    /// The own protected prefixes.
    pub prefixes: Prefixes,
    /// How packets for the prefixes reach this host.
    pub link: LinkMode,
    /// Own tunnel addresses that are valid on their own.
    pub addresses: Vec<Located<IpNet>>,
    /// Whether all listed addresses are valid.
    pub addresses_complete: bool,
    /// Length of a rendezvous window.
    pub window: Duration,
    /// Names of the other ends.
    pub names: Vec<Claim<String>>,
    /// Public keys of the other ends.
    pub public_keys: Vec<Claim<[u8; 32]>>,
    /// Inner networks of the other ends.
    pub networks: Vec<Claim<IpNet>>,
    /// Single addresses of statically configured peers.
    pub peer_addresses: HashSet<IpAddr>,
    /// Slots that have to be loaded ahead.
    pub slots: Vec<Slots>,
    /// Number of sessions that the file itself defines.
    pub sessions: usize,
    /// Sections that need the own key: their headers, and their places in the text.
    pub needs_key: Vec<(&'static str, usize)>,
    /// Places of peers that need to know the own prefix.
    pub needs_prefix: Vec<usize>,
}

impl Facts {
    /// The own prefixes up to the limit: surplus ones are reported elsewhere.
    pub fn own_prefixes(&self) -> &[Located<Ipv6Net>] {
        &self.prefixes.listed[..self.prefixes.listed.len().min(MAX_PREFIXES)]
    }

    /// The own prefix that contains `address`.
    pub fn prefix_around(&self, address: IpAddr) -> Option<Ipv6Net> {
        let inside = |prefix: &&Located<Ipv6Net>| IpNet::V6(prefix.value).contains(&address);
        self.own_prefixes().iter().find(inside).map(|prefix| prefix.value)
    }

    /// The own prefix of sessions that do not choose one; `None`: that of the interface.
    pub fn default_prefix(&self) -> Option<Ipv6Net> {
        self.prefixes.listed.first().map(|prefix| prefix.value)
    }

    /// Longest slot that has to be loaded ahead; zero if there are none.
    pub fn longest_period(&self) -> Duration {
        self.slots.iter().map(|slots| slots.period).max().unwrap_or_default()
    }

    /// Checks an own prefix that a session chooses.
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

    /// Checks the other ends, whichever section defines them: names, keys and networks must be unique.
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

/// Reports each value that equals an earlier one, in the order of the file; `fault` is called with the value and the line of
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
