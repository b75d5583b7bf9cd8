//! The prefixes that an interface is in, and what is in the way where it is in none.

use std::fmt;
use std::fs;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use mtd_common::address::SINGLE_ADDRESS;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::error::Result;
use super::links::routes_through;
use super::netlink::Netlink;

/// Length of the prefixes that hosts give themselves addresses in (RFC 4291, section 2.5.1).
const USUAL_LENGTH: u8 = 64;

/// The longest prefix that moving addresses are taken from unasked. In one of this length with a thousand hosts, a random
/// address is another host's once in four million; a slot is over before anybody notices. In much longer ones it is not
/// so rare.
const MAX_LENGTH: u8 = 96;

/// An IPv6 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    /// The address, with the length of its prefix: 128 where a DHCP server gave it, and the prefix is known from elsewhere.
    pub(super) net: Ipv6Net,
    /// Its preferred lifetime is over (RFC 4862, section 5.5.4): new connections should not use it.
    pub(super) deprecated: bool,
    /// It is still being checked for duplicates (RFC 4862, section 5.4), and must not be used yet.
    pub(super) tentative: bool,
    /// Another host has it.
    pub(super) duplicate: bool,
}

impl Address {
    const fn is_usable(&self) -> bool {
        !self.tentative && !self.duplicate
    }

    const fn is_global(&self) -> bool {
        let address = self.net.addr();
        !address.is_unicast_link_local() && !address.is_loopback() && !address.is_multicast()
    }
}

/// A prefix on the link of an interface, in which the host has an address; or that address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix: a /64, or a longer one where the link has such a one. With 128 bits, the host's own address: no route says
    /// that more of its prefix is on the link, or that is too long, so that ports alone can move.
    pub net: Ipv6Net,
    /// The preferred lifetime of an address in it is not over. A network that is renumbered lets that of the old prefix end
    /// while the addresses still work (RFC 4192).
    pub preferred: bool,
}

/// Why there is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// IPv6 is off on the interface.
    Disabled,
    /// The interface has no IPv6 address beyond those of the link.
    NoAddress,
    /// Its addresses are still being checked for duplicates.
    Tentative,
    /// Another host has this address.
    Duplicate(Ipv6Addr),
}

impl Lack {
    /// What is wrong and the way out, for the operator.
    pub const fn of<'a>(&'a self, interface: &'a str) -> impl fmt::Display + 'a {
        Explained { lack: self, interface }
    }
}

struct Explained<'a> {
    lack: &'a Lack,
    interface: &'a str,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.interface;
        match self.lack {
            Lack::Disabled => write!(
                f,
                "IPv6 is off on {name}, so it has no address: `sysctl -w net/ipv6/conf/{name}/disable_ipv6=0` (the kernel \
                 also sets this by itself if accept_dad is 2 and another host has the link-local address)"
            ),
            Lack::NoAddress => write!(
                f,
                "{name} has no global IPv6 address: does a router advertise a prefix here, or DHCPv6 give an address? Look \
                 with `ip -6 address show dev {name}`"
            ),
            Lack::Tentative => {
                write!(
                    f,
                    "the IPv6 addresses of {name} are still being checked for duplicates (a second or two)"
                )
            }
            Lack::Duplicate(address) => write!(
                f,
                "another host on the link has the address {address} of {name} (duplicate address detection has failed): \
                 give one of the two another address"
            ),
        }
    }
}

/// Looks for the prefixes of an interface with these addresses: those to be chosen first come first. Routes are asked for
/// only where an address does not tell its prefix.
pub(super) async fn find(
    netlink: &Netlink,
    (index, name): (u32, &str),
    addresses: &[Address],
) -> Result<std::result::Result<Vec<Prefix>, Lack>> {
    let tells = |address: &&Address| address.net.prefix_len() <= USUAL_LENGTH || !address.is_global();
    let on_link = if addresses.iter().all(|address| tells(&address)) {
        Vec::new()
    } else {
        let routes = routes_through(netlink, index).await?;
        routes.iter().filter_map(|route| on_link_of(route, index)).collect()
    };
    Ok(decide(addresses, &on_link).map_err(|lack| if ipv6_is_off(name) { Lack::Disabled } else { lack }))
}

/// The prefixes of an interface with these addresses and routes, in the order of RFC 6724, section 5, as far as it does not
/// depend on the destination: addresses that are preferred before deprecated ones (rule 3), global before unique local ones
/// (rule 6, since the other end is a global address).
fn decide(addresses: &[Address], on_link: &[Ipv6Net]) -> std::result::Result<Vec<Prefix>, Lack> {
    let mut found: Vec<Prefix> = Vec::new();
    let mut lack = Lack::NoAddress;
    for address in addresses.iter().filter(|address| address.is_global()) {
        if !address.is_usable() {
            lack = match lack {
                _ if address.duplicate => Lack::Duplicate(address.net.addr()),
                Lack::NoAddress => Lack::Tentative,
                other => other,
            };
            continue;
        }
        let net = prefix_of(address.net, on_link);
        match found.iter_mut().find(|prefix| prefix.net == net) {
            // A temporary address is deprecated every day (RFC 8981), and its prefix is not.
            Some(prefix) => prefix.preferred |= !address.deprecated,
            None => found.push(Prefix { net, preferred: !address.deprecated }),
        }
    }
    // Where addresses can move, ports need not move alone.
    if found.iter().any(|prefix| !is_single(prefix.net)) {
        found.retain(|prefix| !is_single(prefix.net));
    }
    if found.is_empty() {
        return Err(lack);
    }
    found.sort_by_key(|prefix| (!prefix.preferred, prefix.net.addr().is_unique_local()));
    Ok(found)
}

const fn is_single(net: Ipv6Net) -> bool {
    net.prefix_len() == SINGLE_ADDRESS
}

/// The prefix of an address: by its own length, or else by the route that says what is on the link; or the address alone.
fn prefix_of(address: Ipv6Net, on_link: &[Ipv6Net]) -> Ipv6Net {
    let by_route =
        || on_link.iter().filter(|net| net.contains(&address.addr())).map(Ipv6Net::prefix_len).min();
    let length = match address.prefix_len() {
        length @ ..=USUAL_LENGTH => length,
        length => by_route().unwrap_or(length),
    };
    let length = if length > MAX_LENGTH { SINGLE_ADDRESS } else { length.max(USUAL_LENGTH) };
    around(address.addr(), length)
}

/// The prefix of this length, at most 128, around an address.
fn around(address: Ipv6Addr, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, length).trunc()
}

/// What a route says to be on the link of an interface.
fn on_link_of(route: &RouteMessage, index: u32) -> Option<Ipv6Net> {
    let header = &route.header;
    if header.kind != RouteType::Unicast
        || header.table == libc::RT_TABLE_LOCAL
        || header.source_prefix_length != 0
        || header.destination_prefix_length == 0
    {
        return None;
    }
    let (mut destination, mut here) = (None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = Some(*address),
            RouteAttribute::Oif(found) => here = *found == index,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                return None;
            }
            _ => {}
        }
    }
    let net = Ipv6Net::new(destination?, header.destination_prefix_length).ok()?.trunc();
    let elsewhere = net.addr().is_unicast_link_local() || net.addr().is_multicast();
    (here && !elsewhere && net.prefix_len() < 128).then_some(net)
}

/// Whether IPv6 is off on an interface of the calling thread's network namespace, so that nothing leaves by it.
pub fn ipv6_is_off(name: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"))
        .is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteHeader;

    use super::*;

    const USED: Address = Address {
        net: Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7), 64),
        deprecated: false,
        tentative: false,
        duplicate: false,
    };

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Address {
        Address { net: net(text), ..USED }
    }

    fn preferred(text: &str) -> Prefix {
        Prefix { net: net(text), preferred: true }
    }

    #[test]
    fn an_address_of_dhcpv6_gets_its_prefix_from_the_route_on_the_link() {
        let single = at("2001:db8:1::7/128");
        for (route, prefix) in [
            ("2001:db8:1::/64", "2001:db8:1::/64"),
            // All of a wider one is on the link: what other hosts take for theirs is found by /64.
            ("2001:db8::/32", "2001:db8:1::/64"),
            ("2001:db8:1::/80", "2001:db8:1::/80"),
        ] {
            assert_eq!(decide(&[single], &[net(route)]), Ok(vec![preferred(prefix)]));
        }
    }

    #[test]
    fn where_addresses_cannot_move_the_own_one_is_used_alone() {
        let (single, alone) = (at("2001:db8:1::7/128"), preferred("2001:db8:1::7/128"));
        assert_eq!(decide(&[single], &[]), Ok(vec![alone]));
        assert_eq!(decide(&[single], &[net("2001:db8:2::/64")]), Ok(vec![alone]));
        assert_eq!(decide(&[single], &[net("2001:db8:1::/112")]), Ok(vec![alone]));
        assert_eq!(decide(&[at("2001:db8:1::7/112")], &[]), Ok(vec![alone]));
        let old = Address { deprecated: true, ..at("2001:db8:2::7/64") };
        let moving = Prefix { net: net("2001:db8:2::/64"), preferred: false };
        assert_eq!(decide(&[single, old], &[]), Ok(vec![moving]), "even one that is going");
    }

    #[test]
    fn addresses_tell_their_prefix_where_routes_do_not() {
        // A router that advertises a prefix as not on the link: the address has its length, and there is no route.
        assert_eq!(decide(&[USED], &[]), Ok(vec![preferred("2001:db8:1::/64")]));
    }

    #[test]
    fn deprecated_addresses_come_last_and_unique_local_ones_after_global_ones() {
        let old = Address { deprecated: true, ..at("2001:db8:1::7/64") };
        let local = at("fd00:1::7/64");
        let found = decide(&[old, local, at("2001:db8:2::7/64")], &[]).unwrap();
        let expected = [
            preferred("2001:db8:2::/64"),
            preferred("fd00:1::/64"),
            Prefix { net: net("2001:db8:1::/64"), preferred: false },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_prefix_outlives_its_temporary_addresses() {
        let temporary = Address { deprecated: true, ..at("2001:db8:1::dead/64") };
        for addresses in [[temporary, USED], [USED, temporary]] {
            assert_eq!(decide(&addresses, &[]), Ok(vec![preferred("2001:db8:1::/64")]));
        }
    }

    #[test]
    fn what_may_not_be_used_is_not_used_and_named() {
        assert_eq!(decide(&[at("fe80::1/64")], &[]), Err(Lack::NoAddress));
        let tentative = Address { tentative: true, ..USED };
        assert_eq!(decide(&[tentative], &[]), Err(Lack::Tentative));
        let duplicate = Address { tentative: true, duplicate: true, ..USED };
        assert_eq!(decide(&[tentative, duplicate], &[]), Err(Lack::Duplicate(USED.net.addr())));
        assert_eq!(decide(&[duplicate, at("2001:db8:2::7/64")], &[]), Ok(vec![preferred("2001:db8:2::/64")]));
        let text = Lack::NoAddress.of("eth0").to_string();
        assert!(text.contains("`ip -6 address show dev eth0`"), "{text}");
    }

    #[test]
    fn only_routes_without_a_router_say_what_is_on_the_link() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.destination_prefix_length = 64;
        let destination = RouteAddress::Inet6(net("2001:db8:1::/64").addr());
        route.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Oif(3)];
        assert_eq!(on_link_of(&route, 3), Some(net("2001:db8:1::/64")));
        assert_eq!(on_link_of(&route, 4), None);
        let mut routed = route.clone();
        routed.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet6("fe80::1".parse().unwrap())));
        assert_eq!(on_link_of(&routed, 3), None);
        route.header.table = libc::RT_TABLE_LOCAL;
        assert_eq!(on_link_of(&route, 3), None);
    }
}
