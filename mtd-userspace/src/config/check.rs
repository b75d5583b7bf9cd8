//! Rules between several values of a configuration.

mod registered;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use humantime::format_duration;
use ipnet::{IpNet, Ipv6Net};
use mtd_common::abi::MAX_PREFIXES;
use mtd_common::allow::MAX_ALLOW;

use super::document::DEFAULT_DEVICE;
use super::error::Problems;
use super::section::Located;
use super::tables::{FileFields, MetricsFields, PeerFields, RootFields};
use super::{DEFAULT_PERIOD, MIN_SLOTS_AHEAD, fields};

use crate::model::{Fault, LinkMode};

/// What must hold for the file.
pub(super) fn file(file: &FileFields, problems: &mut Problems) {
    let FileFields { root, clients, servers, peers, .. } = file;
    check_prefixes(root, problems);
    check_follow(file, problems);
    check_allow(root, problems);
    check_device(root, problems);
    check_addresses(root, problems);
    check_horizon(file, problems);
    check_metrics(root, file.metrics.as_ref(), problems);
    let others = peers.len() + servers.len() + clients.len();
    if let Some(most) = &root.max_sessions
        && (most.value as usize) < others
    {
        let what = format!(
            "{} sessions are fewer than the {others} peers, servers and clients of this file",
            most.value
        );
        problems.add(most.at, "max_sessions", Fault::new(what, format!("write at least {others}")));
    }
    check_peers(root, peers, problems);
    registered::registered(file, problems);
    let names = peers.iter().map(|peer| ("peer.name", &peer.name));
    let names = names.chain(servers.iter().map(|server| ("server.name", &server.name)));
    let names = names.chain(clients.iter().map(|client| ("client.name", &client.name)));
    let names = names.filter_map(|(key, name)| Some((key, name.as_ref()?)));
    each_once(names, problems, |name, line| {
        Fault::new(format!("{name} is a name in line {line} already"), "write another name")
    });
    let networks = peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(|net| ("peer.allowed_ips", net)));
    let networks = networks.chain(
        servers.iter().flat_map(|server| server.allowed_ips.iter().map(|net| ("server.allowed_ips", net))),
    );
    each_once(networks, problems, |net, line| {
        let what = format!("{net} is in line {line} already");
        Fault::new(what, "leave it with the one whose packets may come from there")
    });
}

/// What must hold for the peers, each for itself and all together (requirement MT-27).
fn check_peers(root: &RootFields, peers: &[PeerFields], problems: &mut Problems) {
    let own: HashSet<_> = root.addresses.iter().map(|net| net.value.addr()).collect();
    for peer in peers {
        check_seeds(peer, problems);
        check_peer_prefixes(root, peer, problems);
        check_inner_networks(&own, peer, problems);
    }
    let key_files = peers.iter().filter_map(|peer| Some(("peer.key_file", peer.key_file.as_ref()?)));
    each_once(key_files, problems, |path, line| {
        let what = format!("{} is the key file of the peer in line {line} already", path.display());
        Fault::new(what, "give each peer a key of its own, from mtd genpsk")
    });
}

/// The own prefixes that count: surplus ones are a problem already.
fn own_prefixes(root: &RootFields) -> &[Located<Ipv6Net>] {
    &root.prefixes[..root.prefixes.len().min(MAX_PREFIXES)]
}

/// The prefix of the interface is for a host whose prefix changes, and for those that find it by rendezvous.
fn check_follow(file: &FileFields, problems: &mut Problems) {
    let Some(at) = file.root.follow_at else { return };
    if file.root.link != LinkMode::Shared {
        let what = format!(
            "the prefix of the interface is shared with other hosts, and link is \"{}\"",
            file.root.link
        );
        let remedy =
            "add a line link = \"shared\", or write the protected prefix itself, such as 2001:db8:1::/64";
        problems.add(at, "prefix", Fault::new(what, remedy));
    }
    if let Some(peer) = file.peers.first() {
        let what = format!(
            "the prefix of the interface may change, and the peer in line {} needs to know it",
            problems.line(peer.at)
        );
        problems.add(at, "prefix", Fault::new(what, "write the prefix itself, or leave the [[peer]] out"));
    }
}

/// At most as many as the data plane has room for, and none inside another (requirement MT-06).
fn check_prefixes(root: &RootFields, problems: &mut Problems) {
    if let Some(surplus) = root.prefixes.get(MAX_PREFIXES) {
        let what = format!("more than {MAX_PREFIXES} prefixes");
        problems.add(surplus.at, "prefix", Fault::new(what, format!("keep at most {MAX_PREFIXES}")));
    }
    let prefixes = own_prefixes(root);
    for (index, Located { value: prefix, at }) in prefixes.iter().enumerate() {
        let overlap =
            |other: &&Located<Ipv6Net>| prefix.contains(&other.value) || other.value.contains(prefix);
        if let Some(other) = prefixes[..index].iter().find(overlap) {
            let what = format!("{prefix} overlaps {}", other.value);
            problems.add(*at, "prefix", Fault::new(what, "keep the one that is routed to this host"));
        }
    }
}

/// At most as many as the data plane has room for, and none twice.
fn check_allow(root: &RootFields, problems: &mut Problems) {
    if let Some(surplus) = root.allow.get(MAX_ALLOW) {
        let what = format!("more than {MAX_ALLOW} rules");
        problems.add(surplus.at, "allow", Fault::new(what, "name whole networks instead of hosts"));
    }
    each_once(root.allow.iter().map(|rule| ("allow", rule)), problems, |rule, line| {
        Fault::new(format!("{rule} is in line {line} already"), "keep one of them")
    });
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
        if let Some(prefix) = own_prefixes(root).iter().find(inside) {
            let what = format!("{} lies in the protected prefix {}", net.addr(), prefix.value);
            let remedy = "write an address of the tunnel's own inner network, such as fd00:6d74::1/64";
            problems.add(*at, "address", Fault::new(what, remedy));
        }
    }
    let addresses: Vec<Located<IpAddr>> =
        root.addresses.iter().map(|net| Located { value: net.value.addr(), at: net.at }).collect();
    each_once(addresses.iter().map(|address| ("address", address)), problems, |address, line| {
        Fault::new(format!("{address} is in line {line} already"), "keep one of them")
    });
}

/// Requirement MT-05 needs the previous, the current and the next slot.
fn check_horizon(file: &FileFields, problems: &mut Problems) {
    let Some(horizon) = &file.root.horizon else { return };
    let period = |period: &Option<Located<Duration>>| period.as_ref().map_or(DEFAULT_PERIOD, |p| p.value);
    let periods = file.peers.iter().map(|peer| (period(&peer.period), "the peer", peer.at));
    let periods =
        periods.chain(file.listen.iter().map(|listen| (period(&listen.period), "[listen]", listen.at)));
    // Of equal ones the first.
    let Some((longest, whose, at)) = periods.min_by_key(|(period, _, _)| std::cmp::Reverse(*period)) else {
        return;
    };
    let least = longest * MIN_SLOTS_AHEAD;
    if horizon.value < least {
        let what = format!(
            "{} is less than {MIN_SLOTS_AHEAD} slots of {} ({whose} in line {})",
            format_duration(horizon.value),
            format_duration(longest),
            problems.line(at)
        );
        problems.add(
            horizon.at,
            "horizon",
            Fault::new(what, format!("write at least \"{}\"", format_duration(least))),
        );
    }
}

/// In a protected prefix nobody could read them or, where the prefix is shared, strangers could.
fn check_metrics(root: &RootFields, metrics: Option<&MetricsFields>, problems: &mut Problems) {
    let Some(Located { value: listen, at }) = metrics.and_then(|metrics| metrics.listen.as_ref()) else {
        return;
    };
    let inside = |prefix: &&Located<Ipv6Net>| IpNet::V6(prefix.value).contains(&listen.ip());
    if let Some(prefix) = own_prefixes(root).iter().find(inside) {
        let what = format!("{} lies in the protected prefix {}", listen.ip(), prefix.value);
        let remedy = "write an address that strangers do not reach, such as [::1]:24633";
        problems.add(*at, "metrics.listen", Fault::new(what, remedy));
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
    check_local_prefix(root, "peer.local_prefix", peer.local_prefix.as_ref(), problems);
    if let Some(Located { value, at }) = peer.prefix
        && root.link == LinkMode::Routed
        && own_prefixes(root).iter().any(|own| own.value == value)
    {
        let what = format!("{value} is routed to this host, so the peer cannot have it");
        let remedy = "write the peer's own prefix, or set link = \"on-link\" if both hosts are on that link";
        problems.add(at, "peer.prefix", Fault::new(what, remedy));
    }
}

fn check_local_prefix(
    root: &RootFields,
    key: &str,
    prefix: Option<&Located<Ipv6Net>>,
    problems: &mut Problems,
) {
    let Some(Located { value, at }) = prefix else { return };
    if root.follow_at.is_some() {
        let what = format!("{value} cannot be chosen: prefix is that of the interface");
        problems.add(*at, key, Fault::new(what, "leave the line out"));
        return;
    }
    let own = own_prefixes(root);
    if root.prefixes_complete && !own.iter().any(|own| own.value == *value) {
        let own: Vec<_> = own.iter().map(|own| own.value.to_string()).collect();
        let what = format!("{value} is not a protected prefix of this host");
        problems.add(*at, key, Fault::new(what, format!("write one of prefix: {}", own.join(", "))));
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

/// Reports each value, in the order of the file, that an earlier one equals; `fault` is given the value and the line of
/// the earlier one. Each value comes with the name of its key.
fn each_once<'a, T: Eq + Hash + 'a>(
    values: impl Iterator<Item = (&'static str, &'a Located<T>)>,
    problems: &mut Problems,
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
