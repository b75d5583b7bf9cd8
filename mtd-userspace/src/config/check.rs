//! Rules between several values of a configuration.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use humantime::format_duration;
use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;

use super::document::{DEFAULT_DEVICE, PeerFields, RootFields};
use super::error::{Fault, Problems};
use super::section::Located;
use super::{DEFAULT_PERIOD, LinkMode, MIN_SLOTS_AHEAD, fields};

/// What must hold for the settings outside of the peers.
pub(super) fn root(root: &RootFields, peers: &[PeerFields], problems: &mut Problems) {
    check_prefixes(root, problems);
    check_device(root, problems);
    check_addresses(root, problems);
    check_horizon(root, peers, problems);
    if let Some(most) = &root.max_sessions
        && (most.value as usize) < peers.len()
    {
        let what = format!("{} sessions are fewer than the {} peers of this file", most.value, peers.len());
        problems.add(most.at, "max_sessions", Fault::new(what, format!("write at least {}", peers.len())));
    }
}

/// What must hold for the peers, each for itself and all together (requirement MT-27).
pub(super) fn peers(root: &RootFields, peers: &[PeerFields], problems: &mut Problems) {
    let own: HashSet<_> = root.addresses.iter().map(|net| net.value.addr()).collect();
    for peer in peers {
        check_seeds(peer, problems);
        check_peer_prefixes(root, peer, problems);
        check_inner_networks(&own, peer, problems);
    }
    let names = peers.iter().filter_map(|peer| peer.name.as_ref());
    each_once(names, "peer.name", problems, |name, line| {
        Fault::new(format!("{name} is the name of the peer in line {line} already"), "write another name")
    });
    let key_files = peers.iter().filter_map(|peer| peer.key_file.as_ref());
    each_once(key_files, "peer.key_file", problems, |path, line| {
        let what = format!("{} is the key file of the peer in line {line} already", path.display());
        Fault::new(what, "give each peer a key of its own, from mtd genpsk")
    });
    let networks = peers.iter().flat_map(|peer| &peer.allowed_ips);
    each_once(networks, "peer.allowed_ips", problems, |net, line| {
        let what = format!("{net} is in line {line} already");
        Fault::new(what, "leave it with the one peer whose packets may come from there")
    });
}

/// At most as many as the data plane has room for, and none inside another (requirement MT-06).
fn check_prefixes(root: &RootFields, problems: &mut Problems) {
    if let Some(surplus) = root.prefixes.get(MAX_PREFIXES) {
        let what = format!("more than {MAX_PREFIXES} prefixes");
        problems.add(surplus.at, "prefix", Fault::new(what, format!("keep at most {MAX_PREFIXES}")));
    }
    let prefixes = &root.prefixes[..root.prefixes.len().min(MAX_PREFIXES)];
    for (index, Located { value: prefix, at }) in prefixes.iter().enumerate() {
        let overlap =
            |other: &&Located<Ipv6Net>| prefix.contains(&other.value) || other.value.contains(prefix);
        if let Some(other) = prefixes[..index].iter().find(overlap) {
            let what = format!("{prefix} overlaps {}", other.value);
            problems.add(*at, "prefix", Fault::new(what, "keep the one that is routed to this host"));
        }
    }
}

fn check_device(root: &RootFields, problems: &mut Problems) {
    let Some(interface) = &root.interface else { return };
    let (device, at) = match &root.device {
        Some(device) => (device.value.as_str(), device.at),
        None => (DEFAULT_DEVICE, interface.at),
    };
    let inside = format!("{device}{}", fields::INSIDE_SUFFIX);
    if interface.value == device || interface.value == inside {
        let what = format!("mtd would create {device} and {inside}, one of which is the underlay interface");
        problems.add(
            at,
            "device",
            Fault::new(what, "write a name that no interface has, such as device = \"mtd1\""),
        );
    }
}

fn check_addresses(root: &RootFields, problems: &mut Problems) {
    for Located { value: net, at } in &root.addresses {
        let inside = |prefix: &&Located<Ipv6Net>| IpNet::V6(prefix.value).contains(&net.addr());
        if let Some(prefix) = root.prefixes.iter().take(MAX_PREFIXES).find(inside) {
            let what = format!("{} lies in the protected prefix {}", net.addr(), prefix.value);
            let remedy = "write an address of the tunnel's own inner network, such as fd00:6d74::1/64";
            problems.add(*at, "address", Fault::new(what, remedy));
        }
    }
    let addresses: Vec<Located<IpAddr>> =
        root.addresses.iter().map(|net| Located { value: net.value.addr(), at: net.at }).collect();
    each_once(addresses.iter(), "address", problems, |address, line| {
        Fault::new(format!("{address} is in line {line} already"), "keep one of them")
    });
}

/// Requirement MT-05 needs the previous, the current and the next slot.
fn check_horizon(root: &RootFields, peers: &[PeerFields], problems: &mut Problems) {
    let Some(horizon) = &root.horizon else { return };
    let period = |peer: &PeerFields| peer.period.as_ref().map_or(DEFAULT_PERIOD, |period| period.value);
    let Some(longest) = peers.iter().max_by_key(|peer| period(peer)) else { return };
    let least = period(longest) * MIN_SLOTS_AHEAD;
    if horizon.value < least {
        let what = format!(
            "{} is less than {MIN_SLOTS_AHEAD} slots of {} (the peer in line {})",
            format_duration(horizon.value),
            format_duration(period(longest)),
            problems.line(longest.at)
        );
        problems.add(
            horizon.at,
            "horizon",
            Fault::new(what, format!("write at least \"{}\"", format_duration(least))),
        );
    }
}

fn check_seeds(peer: &PeerFields, problems: &mut Problems) {
    if let (Some(own), Some(other)) = (&peer.seed, &peer.peer_seed)
        && own.value == other.value
    {
        let remedy = "give each end 64 random bits of its own; what is seed here is peer_seed there";
        problems.add(other.at, "peer.peer_seed", Fault::new("is the same as seed", remedy));
    }
}

fn check_peer_prefixes(root: &RootFields, peer: &PeerFields, problems: &mut Problems) {
    let own = &root.prefixes[..root.prefixes.len().min(MAX_PREFIXES)];
    let is_own = |net| own.iter().any(|own| own.value == net);
    if let Some(Located { value, at }) = peer.local_prefix
        && root.prefixes_complete
        && !is_own(value)
    {
        let own: Vec<_> = own.iter().map(|own| own.value.to_string()).collect();
        let what = format!("{value} is not a protected prefix of this host");
        problems.add(
            at,
            "peer.local_prefix",
            Fault::new(what, format!("write one of prefix: {}", own.join(", "))),
        );
    }
    if let Some(Located { value, at }) = peer.prefix
        && root.link == LinkMode::Routed
        && is_own(value)
    {
        let what = format!("{value} is routed to this host, so the peer cannot have it");
        let remedy = "write the peer's own prefix, or set link = \"on-link\" if both hosts are on that link";
        problems.add(at, "peer.prefix", Fault::new(what, remedy));
    }
}

fn check_inner_networks(own: &HashSet<IpAddr>, peer: &PeerFields, problems: &mut Problems) {
    for Located { value: net, at } in &peer.allowed_ips {
        let is_host = net.prefix_len() == net.max_prefix_len();
        if is_host && own.contains(&net.addr()) {
            let what = format!("{net} is this host's own tunnel address");
            problems.add(*at, "peer.allowed_ips", Fault::new(what, "write the peer's inner addresses"));
        }
    }
}

/// Reports each value that an earlier one equals; `fault` is given the value and the line of the earlier one.
fn each_once<'a, T: Eq + Hash + 'a>(
    values: impl Iterator<Item = &'a Located<T>>,
    key: &str,
    problems: &mut Problems,
    fault: impl Fn(&T, usize) -> Fault,
) {
    let mut seen = HashMap::new();
    for Located { value, at } in values {
        match seen.entry(value) {
            Entry::Vacant(entry) => _ = entry.insert(*at),
            Entry::Occupied(entry) => {
                let line = problems.line(*entry.get());
                problems.add(*at, key, fault(value, line));
            }
        }
    }
}
