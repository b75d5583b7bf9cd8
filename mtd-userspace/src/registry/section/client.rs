//! `[[client]]` in the configuration: clients that the file itself registers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use humantime::format_duration;
use ipnet::IpNet;

use super::listen::LISTEN;
use crate::keys::PublicKey;
use crate::keys::section::{PUBLIC_KEY, PUBLIC_KEY_EXAMPLE, public_key};
use crate::model::{Fault, Rule, TunnelAddresses, shown};
use crate::schema::common::{self, FILTER, NAME, SLOT};
use crate::schema::{
    self, Facts, Key, Kind, Located, Part, Problems, Schema, Section, Slots, each_once, value,
};

/// `[[client]]`.
pub const CLIENT: Schema = Schema {
    header: "[[client]]",
    path: "client.",
    help: "A registered client in this file, besides those in clients_dir. One [[client]] for each; only with [listen].",
    groups: &[&[
        Key::required(
            "name",
            NAME,
            r#""tablet""#,
            "Unique among peers, clients and servers, those in clients_dir included.",
        )
        .reloading(),
        Key::required("public_key", PUBLIC_KEY, PUBLIC_KEY_EXAMPLE, "The client's public key.")
            .from_requirement("MT-20")
            .reloading(),
        Key::required(
            "address",
            Kind::List("an address; at most one of each family"),
            r#"["fd00:6d74::77", "10.66.0.77"]"#,
            "Tunnel addresses that this client always gets, in the pool or not.",
        )
        .otherwise("free ones of the pool, the same each time")
        .reloading(),
        Key::required(
            "slot",
            SLOT,
            r#""20s""#,
            "Slot length of the sessions with this client, from the next keys on; at least the period of [listen]. With \
             longer slots, routers with a firewall or address translation in front of the client have fewer entries to keep.",
        )
        .otherwise("what the client wishes, from period to longest_slot of [listen]")
        .from_requirement("MT-04")
        .reloading(),
        FILTER,
    ]],
};

/// A client that the configuration file registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name, `[A-Za-z0-9._-]{1,32}`, unique among peers, clients and servers.
    pub name: String,
    /// Its public key, unique among clients and servers.
    pub public_key: PublicKey,
    /// Its fixed tunnel addresses; for a family without one, it gets one from the pool.
    pub addresses: TunnelAddresses,
    /// Slot length of its sessions, at least that of [`Listen::period`](super::Listen::period); `None`: as it wishes.
    pub slot: Option<Duration>,
    /// Which inner packets may pass; `None`: all.
    pub filter: Option<Vec<Rule>>,
}

#[derive(Debug)]
struct ClientFields {
    at: usize,
    name: Option<Located<String>>,
    public_key: Option<Located<PublicKey>>,
    addresses: Vec<Located<IpAddr>>,
    slot: Option<Located<Duration>>,
    filter: Option<Vec<Rule>>,
}

impl ClientFields {
    fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self {
            at: table.at(),
            name: table.required("name", problems, schema::name),
            public_key: table.required("public_key", problems, public_key),
            addresses: table.optional_list("address", problems, host_address),
            slot: table.duration("slot", problems),
            filter: common::filter(table, problems),
        }
    }

    fn build(self) -> Option<Client> {
        let mut addresses = TunnelAddresses::default();
        for address in self.addresses {
            match address.value {
                IpAddr::V6(v6) => addresses.v6 = Some(v6),
                IpAddr::V4(v4) => addresses.v4 = Some(v4),
            }
        }
        let (name, public_key) = (self.name?.value, self.public_key?.value);
        Some(Client { name, public_key, addresses, slot: value(self.slot), filter: self.filter })
    }

    /// The maps are made for the shortest slots of [listen].
    fn check_slot(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(slot) = &self.slot else { return };
        let listen = facts.slots.iter().find(|slots| slots.whose == LISTEN.header);
        if let Some(shortest) = listen.filter(|listen| slot.value < listen.period) {
            let shortest = format_duration(shortest.period);
            let what =
                format!("{} is shorter than period of [listen] ({shortest})", format_duration(slot.value));
            problems.add(slot.at, "client.slot", Fault::new(what, format!("write at least \"{shortest}\"")));
        }
    }

    fn check_addresses(&self, own: &HashSet<IpAddr>, facts: &Facts, problems: &mut Problems<'_>) {
        for (index, Located { value: address, at }) in self.addresses.iter().enumerate() {
            let mut add =
                |what: String, remedy: &str| problems.add(*at, "client.address", Fault::new(what, remedy));
            if self.addresses[..index].iter().any(|other| other.value.is_ipv4() == address.is_ipv4()) {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                add(format!("{address} is a second {family} address"), "keep one address of each family");
            }
            if own.contains(address) {
                add(format!("{address} is this host's own tunnel address"), "write another address");
            }
            if facts.peer_addresses.contains(address) {
                add(format!("{address} is an address of a peer"), "write another address");
            }
            if let Some(prefix) = facts.prefix_around(*address) {
                add(
                    format!("{address} lies in the protected prefix {prefix}"),
                    "write an address of the tunnel's own inner network, such as fd00:6d74::77",
                );
            }
        }
    }
}

/// The settings of all `[[client]]`.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<ClientFields>,
    /// Whether there is a `[listen]`.
    listens: bool,
}

impl Clients {
    /// Reads each `[[client]]`. `listens`: there is a `[listen]`.
    pub fn read(tables: &[Section<'_, '_>], listens: bool, problems: &mut Problems<'_>) -> Self {
        let clients = tables.iter().map(|table| ClientFields::read(table, problems)).collect();
        Self { clients, listens }
    }

    /// The clients; `None` when something is missing, which has been reported.
    pub fn build(self) -> Option<Vec<Client>> {
        self.clients.into_iter().map(ClientFields::build).collect()
    }
}

impl Part for Clients {
    fn tell(&self, facts: &mut Facts) {
        for client in &self.clients {
            facts.names.extend(client.name.iter().map(|name| ("client.name", name.clone())));
            let key = client.public_key.iter().map(|key| key.clone().map(|key| *key.as_bytes()));
            facts.public_keys.extend(key.map(|key| ("client.public_key", key)));
            let slot = client.slot.iter();
            facts.slots.extend(slot.map(|slot| Slots {
                period: slot.value,
                whose: CLIENT.header,
                at: slot.at,
            }));
        }
        facts.sessions += self.clients.len();
    }

    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        if let (Some(client), false) = (self.clients.first(), self.listens) {
            let remedy = "add a line [listen], or leave the clients out";
            problems.add(client.at, "client", Fault::new("this host does not listen for clients", remedy));
        }
        let own: HashSet<IpAddr> = facts.addresses.iter().map(|net| net.value.addr()).collect();
        for client in &self.clients {
            client.check_addresses(&own, facts, problems);
            client.check_slot(facts, problems);
        }
        let addresses = self.clients.iter().flat_map(|client| &client.addresses);
        each_once(addresses.map(|address| ("client.address", address)), problems, |address, line| {
            Fault::new(format!("{address} is in line {line} already"), "leave it with one client")
        });
    }
}

/// A single address that a client gets.
fn host_address(text: &str) -> Result<IpAddr, Fault> {
    const EXAMPLE: &str = "fd00:6d74::77 or 10.66.0.77";
    let address = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => address,
        (_, Ok(net)) if net.prefix_len() == net.max_prefix_len() => net.addr(),
        (_, Ok(net)) => {
            let what = format!("{text} is a network; a client gets single addresses");
            return Err(Fault::new(what, format!("write {}", net.addr())));
        }
        _ => {
            let what = format!("\"{}\" is not an address", shown(text));
            return Err(Fault::new(what, format!("write it like {EXAMPLE}")));
        }
    };
    schema::check_unicast(address, EXAMPLE)?;
    Ok(address)
}
