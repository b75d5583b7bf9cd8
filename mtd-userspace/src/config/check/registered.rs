//! Rules for `[rendezvous]`, `[listen]`, `[[client]]` and `[[server]]`.

use std::collections::HashSet;
use std::net::IpAddr;

use humantime::format_duration;
use ipnet::IpNet;

use super::{each_once, own_prefixes};
use crate::config::document::default_pool;
use crate::config::error::Problems;
use crate::config::section::Located;
use crate::config::tables::{FileFields, ListenFields, RootFields};
use crate::config::{DEFAULT_EXPIRE, DEFAULT_REKEY, DEFAULT_WINDOW, MIN_REKEY_MARGIN};
use crate::model::Fault;

/// What must hold for servers with registered clients, and for the servers that this host connects to.
pub(super) fn registered(file: &FileFields, problems: &mut Problems) {
    let FileFields { root, listen, clients, servers, .. } = file;
    check_identity(file, problems);
    if let Some(listen) = listen {
        check_pool(root, listen, problems);
        check_times(file, listen, problems);
    } else if let Some(client) = clients.first() {
        let remedy = "add a line [listen], or leave the clients out";
        problems.add(client.at, "client", Fault::new("this host does not listen for clients", remedy));
    }
    let prefixes = listen.iter().map(|listen| ("listen.local_prefix", &listen.local_prefix));
    let prefixes = prefixes.chain(servers.iter().map(|server| ("server.local_prefix", &server.local_prefix)));
    for (key, prefix) in prefixes {
        super::check_local_prefix(root, key, prefix.as_ref(), problems);
    }
    let keys = clients.iter().filter_map(|client| Some(("client.public_key", client.public_key.as_ref()?)));
    let keys = keys
        .chain(servers.iter().filter_map(|server| Some(("server.public_key", server.public_key.as_ref()?))));
    each_once(keys, problems, |_, line| {
        Fault::new(format!("is in line {line} already"), "write the other end's own public key")
    });
    check_client_addresses(file, problems);
}

fn check_identity(file: &FileFields, problems: &mut Problems) {
    let needs = file.listen.iter().map(|listen| ("[listen]", listen.at));
    let needs = needs.chain(file.servers.iter().map(|server| ("[[server]]", server.at)));
    let Some((header, _)) = needs.min_by_key(|(_, at)| *at) else { return };
    if !file.root.has_private_key_file {
        let what = format!("is missing; {header} needs the own key");
        let remedy = "add a line such as private_key_file = \"private.key\" at the top, and make the key: \
                      (umask 077; mtd genkey > private.key)";
        problems.add(0, "private_key_file", Fault::new(what, remedy));
    }
}

fn check_pool(root: &RootFields, listen: &ListenFields, problems: &mut Problems) {
    const EXAMPLE: &str = "pool = [\"fd00:6d74::/64\", \"10.66.0.0/24\"]";
    let Some(networks) = &listen.pool else {
        let own: Vec<_> = root.addresses.iter().map(|net| net.value).collect();
        if root.addresses_complete && default_pool(&own).networks().next().is_none() {
            let what = "is missing, and no network of address has room for clients";
            problems.add(listen.at, "listen.pool", Fault::new(what, format!("add a line such as {EXAMPLE}")));
        }
        return;
    };
    for (index, Located { value: net, at }) in networks.iter().enumerate() {
        let family = |net: &IpNet| matches!(net, IpNet::V4(_));
        let name = if family(net) { "IPv4" } else { "IPv6" };
        if networks[..index].iter().any(|other| family(&other.value) == family(net)) {
            let what = format!("{net} is a second {name} network");
            problems.add(*at, "listen.pool", Fault::new(what, "keep one network of each family"));
        }
        if root.addresses_complete && !root.addresses.iter().any(|own| family(&own.value) == family(net)) {
            let what = format!("{net}: this host has no {name} address that such clients could reach");
            let remedy = format!("add one to address, or take {net} out");
            problems.add(*at, "listen.pool", Fault::new(what, remedy));
        }
        let overlaps = |prefix: IpNet| prefix.contains(net) || net.contains(&prefix);
        if let Some(prefix) = own_prefixes(root).iter().find(|prefix| overlaps(IpNet::V6(prefix.value))) {
            let what = format!("{net} overlaps the protected prefix {}", prefix.value);
            let remedy = "write a network of the tunnel's own, such as fd00:6d74::/64";
            problems.add(*at, "listen.pool", Fault::new(what, remedy));
        }
    }
}

fn check_times(file: &FileFields, listen: &ListenFields, problems: &mut Problems) {
    let window = file.rendezvous.window.as_ref().map_or(DEFAULT_WINDOW, |window| window.value);
    if let Some(grace) = &listen.introduction_grace
        && grace.value > window
    {
        let what = format!(
            "{} is longer than a window of the rendezvous ({})",
            format_duration(grace.value),
            format_duration(window)
        );
        let remedy = format!("write at most \"{}\"", format_duration(window));
        problems.add(grace.at, "listen.introduction_grace", Fault::new(what, remedy));
    }
    let rekey = listen.rekey_after.as_ref().map_or(DEFAULT_REKEY, |rekey| rekey.value);
    let expire = listen.expire_after.as_ref().map_or(DEFAULT_EXPIRE, |expire| expire.value);
    let Some(at) = listen.expire_after.as_ref().or(listen.rekey_after.as_ref()).map(|located| located.at)
    else {
        return;
    };
    if expire < rekey + MIN_REKEY_MARGIN {
        let what = format!(
            "{} is less than rekey_after ({}) and {} for the new keys to be agreed on",
            format_duration(expire),
            format_duration(rekey),
            format_duration(MIN_REKEY_MARGIN)
        );
        let remedy =
            format!("write at least expire_after = \"{}\"", format_duration(rekey + MIN_REKEY_MARGIN));
        problems.add(at, "listen.expire_after", Fault::new(what, remedy));
    }
}

fn check_client_addresses(file: &FileFields, problems: &mut Problems) {
    const KEY: &str = "client.address";
    let own: HashSet<IpAddr> = file.root.addresses.iter().map(|net| net.value.addr()).collect();
    let hosts = |net: &&Located<IpNet>| net.value.prefix_len() == net.value.max_prefix_len();
    let peers: HashSet<IpAddr> = file
        .peers
        .iter()
        .flat_map(|peer| peer.allowed_ips.iter().filter(hosts))
        .map(|net| net.value.addr())
        .collect();
    for client in &file.clients {
        for (index, Located { value: address, at }) in client.addresses.iter().enumerate() {
            let mut add = |what: String, remedy: &str| problems.add(*at, KEY, Fault::new(what, remedy));
            if client.addresses[..index].iter().any(|other| other.value.is_ipv4() == address.is_ipv4()) {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                add(format!("{address} is a second {family} address"), "keep one address of each family");
            }
            if own.contains(address) {
                add(format!("{address} is this host's own tunnel address"), "write another address");
            }
            if peers.contains(address) {
                add(format!("{address} is an address of a peer"), "write another address");
            }
            let inside = |prefix: &&Located<ipnet::Ipv6Net>| IpNet::V6(prefix.value).contains(address);
            if let Some(prefix) = own_prefixes(&file.root).iter().find(inside) {
                add(
                    format!("{address} lies in the protected prefix {}", prefix.value),
                    "write an address of the tunnel's own inner network, such as fd00:6d74::77",
                );
            }
        }
    }
    let addresses = file.clients.iter().flat_map(|client| client.addresses.iter().map(|a| (KEY, a)));
    each_once(addresses, problems, |address, line| {
        let what = format!("{address} is in line {line} already");
        Fault::new(what, "leave it with one client")
    });
}
