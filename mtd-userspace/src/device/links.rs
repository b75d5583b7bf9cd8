//! Who is reached how by a link, from the routes.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::error::Result;
use super::netlink::{Netlink, collect};

/// Most routers of a link that are taken into account.
const MAX_ROUTERS: usize = 4;

/// The IPv6 routes through one link, in all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkRoutes {
    /// The routers on the link that a route leads to, at most four.
    pub routers: Vec<Ipv6Addr>,
    /// Destinations, and whether they are on the link itself.
    routes: Vec<(Ipv6Net, bool)>,
}

impl LinkRoutes {
    /// Looks at the routes through the link with this ifindex.
    ///
    /// # Errors
    /// [`super::Error::Netlink`].
    pub async fn inspect(ifindex: u32) -> Result<Self> {
        Ok(Self::of(ifindex, &routes_through(&Netlink::open()?, ifindex).await?))
    }

    fn of(ifindex: u32, messages: &[RouteMessage]) -> Self {
        let mut found = Self::default();
        for message in messages.iter().filter(|message| message.header.kind == RouteType::Unicast) {
            let Some((destination, hops)) = parse(ifindex, message) else { continue };
            for gateway in hops {
                if let Some(router) = gateway
                    && !found.routers.contains(&router)
                    && found.routers.len() < MAX_ROUTERS
                {
                    found.routers.push(router);
                }
                found.routes.push((destination, gateway.is_none()));
            }
        }
        found
    }

    /// Whether an address is on the link itself, by the longest route to it.
    pub fn is_on_link(&self, address: Ipv6Addr) -> bool {
        let matching = self.routes.iter().filter(|(net, _)| net.contains(&address));
        matching.max_by_key(|(net, _)| net.prefix_len()).is_some_and(|(_, on_link)| *on_link)
    }

    /// Whether any global address is on the link itself.
    pub fn has_neighbours(&self) -> bool {
        let local = |net: &Ipv6Net| net.addr().is_unicast_link_local() || net.addr().is_multicast();
        self.routes.iter().any(|(net, on_link)| *on_link && net.prefix_len() > 0 && !local(net))
    }
}

/// The IPv6 routes through the link with this ifindex, in all tables: that of a VRF has a table of its own.
pub(super) async fn routes_through(netlink: &Netlink, ifindex: u32) -> Result<Vec<RouteMessage>> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = AddressFamily::Inet6;
    // The kernel filters: a router may have very many routes.
    filter.attributes = vec![RouteAttribute::Oif(ifindex)];
    collect("list the routes on the link", netlink.handle.route().get(filter).execute()).await
}

/// The destination of a route, and its gateways through the link (`None`: without one).
fn parse(ifindex: u32, message: &RouteMessage) -> Option<(Ipv6Net, Vec<Option<Ipv6Addr>>)> {
    // A default route carries no destination attribute.
    let mut destination = Ipv6Addr::UNSPECIFIED;
    let mut hops = Vec::new();
    let (mut through, mut gateway) = (false, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = *address,
            RouteAttribute::Oif(index) => through = *index == ifindex,
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(*address),
            RouteAttribute::MultiPath(paths) => {
                for path in paths.iter().filter(|path| path.interface_index == ifindex) {
                    hops.push(path.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(*address),
                        _ => None,
                    }));
                }
            }
            _ => {}
        }
    }
    if through {
        hops.push(gateway);
    }
    let destination = Ipv6Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some((destination, hops))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    const LINK: u32 = 3;

    fn route(destination: &str, gateway: Option<&str>, ifindex: u32) -> RouteMessage {
        let destination: Ipv6Net = destination.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = destination.prefix_len();
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.addr().into()));
        }
        message.attributes.push(RouteAttribute::Oif(ifindex));
        let gateway = gateway.map(|text| text.parse::<Ipv6Addr>().unwrap());
        message.attributes.extend(gateway.map(|address| RouteAttribute::Gateway(address.into())));
        message
    }

    #[test]
    fn routers_and_neighbours_are_told_apart_by_the_longest_route() {
        let mut multipath = route("2001:db8:77::/48", None, 9);
        multipath.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
        let hop = |ifindex, gateway: &str| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = ifindex;
            let gateway: Ipv6Addr = gateway.parse().unwrap();
            hop.attributes.push(RouteAttribute::Gateway(gateway.into()));
            hop
        };
        multipath.attributes.push(RouteAttribute::MultiPath(vec![hop(LINK, "fe80::2"), hop(9, "fe80::9")]));
        let mut unreachable = route("2001:db8:66::/48", None, LINK);
        unreachable.header.kind = RouteType::Unreachable;
        let messages = [
            route("::/0", Some("fe80::1"), LINK),
            route("2001:db8:5::/64", None, LINK),
            route("2001:db8:5::8000:0:0:0/80", Some("2001:db8:5::3"), LINK),
            route("2001:db8:6::/64", None, 9),
            route("fe80::/64", None, LINK),
            multipath,
            unreachable,
        ];
        let found = LinkRoutes::of(LINK, &messages);
        let routers = ["fe80::1", "2001:db8:5::3", "fe80::2"].map(|text| text.parse::<Ipv6Addr>().unwrap());
        assert_eq!(found.routers, routers);
        let on_link = |text: &str| found.is_on_link(text.parse().unwrap());
        assert!(on_link("2001:db8:5::77"));
        for other in ["2001:db8:5:0:8000::1", "2001:db8:6::1", "2001:db8:66::1", "2001:db8:9::1"] {
            assert!(!on_link(other), "{other}");
        }
        assert!(found.has_neighbours());
        let alone =
            LinkRoutes::of(LINK, &[route("::/0", Some("fe80::1"), LINK), route("fe80::/64", None, LINK)]);
        assert!(!alone.has_neighbours());
    }
}
