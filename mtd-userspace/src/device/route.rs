//! The routes into a device.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};

use super::error::{Error, Result};
use super::netlink::{Netlink, answer, collect};
use crate::model::is_everything;

/// The metric the kernel gives an IPv6 route that asks for none (`IP6_RT_PRIO_USER`); IPv4's is 0.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// Gives a device exactly the `wanted` routes in the main table, with these MTUs in bytes, next to those that the kernel made
/// for its addresses (`connected`), or that stand for those which somebody has removed. Routes in other tables are the
/// operator's. A route whose MTU changes is there all the while. Notes what was changed.
pub(super) async fn sync(
    netlink: &Netlink,
    name: &str,
    index: u32,
    (wanted, connected): (&BTreeMap<IpNet, Option<u32>>, &[IpNet]),
    changes: &mut Vec<String>,
) -> Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut table = table(netlink, family, MAIN).await?;
        let mut kept = BTreeMap::new();
        for route in table.extract_if(.., |route| route.is_via(index)) {
            let destination = route.destination;
            let is_wanted = wanted.contains_key(&destination) || connected.contains(&destination);
            if route.is_direct() && is_wanted {
                kept.insert(destination, (route.mtu(), route.metric));
            } else if route.message.header.protocol != RouteProtocol::Kernel {
                remove(netlink, name, route).await?;
                changes.push(format!("the route to {destination} removed"));
            }
        }
        for (&destination, &mtu) in wanted.iter().filter(|(net, _)| family_of(net) == family) {
            if let Some(rival) = table.iter().find(|route| route.wins_over_ours(destination)) {
                let holder = rival.holder(netlink).await?;
                return Err(Error::RouteConflict { name: name.to_owned(), destination, holder });
            }
            match kept.get(&destination) {
                Some((found, _)) if *found == mtu => {}
                there => {
                    let metric = there.map(|(_, metric)| *metric);
                    set(netlink, (name, index), (MAIN, STATIC), (destination, mtu), metric).await?;
                    changes.push(format!("the route to {destination} set"));
                }
            }
        }
        let lost = |net: &&IpNet| !kept.contains_key(*net) && !wanted.contains_key(*net);
        for &destination in connected.iter().filter(|net| family_of(net) == family).filter(lost) {
            // Another device may have the same network connected, and goes first.
            if !table.iter().any(|route| route.wins_over_ours(destination)) {
                set(netlink, (name, index), (MAIN, STATIC), (destination, None), None).await?;
                changes.push(format!("the route to {destination} set"));
            }
        }
    }
    Ok(())
}

/// The table of most routes.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// The table of the host's own addresses.
const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

/// The networks that this host reaches by other ways than the device `name`: those of its routes, without default routes
/// and those that reject, and its own addresses. Networks of other routing tables than the main one do not count.
///
/// # Errors
/// [`Error::Netlink`].
pub async fn networks_elsewhere(name: &str) -> Result<Vec<IpNet>> {
    let netlink = Netlink::open()?;
    let index = netlink.link(name).await?.map(|link| link.index);
    let mut networks = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut routes = table(&netlink, family, MAIN).await?;
        routes.extend(table(&netlink, family, LOCAL).await?);
        routes.retain(|route| route.leads_elsewhere(index));
        networks.extend(routes.into_iter().map(|route| route.destination));
    }
    Ok(networks.into_iter().collect())
}

/// Who has made a route of mtd's in the main table.
const STATIC: RouteProtocol = RouteProtocol::Static;

/// A route of one of the host's tables.
pub(super) struct Route {
    pub(super) destination: IpNet,
    pub(super) metric: u32,
    /// The output devices: several for a multipath route, none for `blackhole` and its like.
    devices: Vec<u32>,
    pub(super) message: RouteMessage,
}

impl Route {
    pub(super) fn is_via(&self, index: u32) -> bool {
        self.devices == [index]
    }

    /// Whether the route hands packets to its device without a gateway.
    pub(super) fn is_direct(&self) -> bool {
        self.message.header.kind == RouteType::Unicast
            && !self
                .message
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)))
    }

    /// Its own MTU in bytes, if it has one.
    pub(super) fn mtu(&self) -> Option<u32> {
        let metrics = self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        });
        metrics.into_iter().flatten().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
    }

    /// Whether this route, of another device, would take the packets of a route that mtd makes. A route with a higher
    /// metric would not: that is how a default route is overridden on purpose.
    fn wins_over_ours(&self, destination: IpNet) -> bool {
        self.destination == destination && self.metric <= default_metric(&destination)
    }

    /// Whether a network in particular is reached by this route, and not through the device with this index.
    fn leads_elsewhere(&self, index: Option<u32>) -> bool {
        let delivers = matches!(self.message.header.kind, RouteType::Unicast | RouteType::Local);
        delivers && !is_everything(&self.destination) && !index.is_some_and(|index| self.is_via(index))
    }

    /// The name of the device that holds the route, or its kind if it has no device.
    async fn holder(&self, netlink: &Netlink) -> Result<String> {
        let kind = self.message.header.kind;
        let Some(&index) = self.devices.first().filter(|_| kind == RouteType::Unicast) else {
            return Ok(format!("a route of type {kind:?}").to_lowercase());
        };
        let links =
            collect("look up a route's device", netlink.handle.link().get().match_index(index).execute());
        let name = links.await?.into_iter().next().map(|link| super::netlink::Link::from(link).name);
        Ok(name.unwrap_or_else(|| format!("interface number {index}")))
    }
}

/// The routes of a table without a type of service.
pub(super) async fn table(netlink: &Netlink, family: AddressFamily, table: u32) -> Result<Vec<Route>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes.push(RouteAttribute::Table(table));
    let messages = collect("list the routes", netlink.handle.route().get(message).execute()).await?;
    Ok(messages.into_iter().filter_map(|message| parse(message, table)).collect())
}

fn parse(message: RouteMessage, table: u32) -> Option<Route> {
    let header = &message.header;
    if table_of(&message) != table || header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    // A default route carries no destination attribute.
    let mut address: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut metric = 0;
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => address = (*destination).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(destination)) => address = (*destination).into(),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    let destination = IpNet::new(address, header.destination_prefix_length).ok()?;
    Some(Route { destination, metric, devices, message })
}

/// The number of a route's table.
fn table_of(message: &RouteMessage) -> u32 {
    let number = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    });
    number.unwrap_or_else(|| message.header.table.into())
}

/// Adds a route, or gives the one that is there with this metric another MTU (bytes).
pub(super) async fn set(
    netlink: &Netlink,
    (name, index): (&str, u32),
    (table, protocol): (u32, RouteProtocol),
    (destination, mtu): (IpNet, Option<u32>),
    there: Option<u32>,
) -> Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(&destination);
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.protocol = protocol;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(destination.network().into()),
        RouteAttribute::Oif(index),
        RouteAttribute::Table(table),
    ];
    message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    let mut request = netlink.handle.route().add(message);
    if let Some(metric) = there {
        request.message_mut().attributes.push(RouteAttribute::Priority(metric));
        request = request.replace();
    }
    match answer(request.execute()).await {
        Ok(()) => Ok(()),
        // Another process was faster: the table had no such route a moment ago.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Err(Error::RouteConflict {
            name: name.to_owned(),
            destination,
            holder: "another device".to_owned(),
        }),
        Err(cause) => Err(Error::Netlink { action: format!("route {destination} through {name}"), cause }),
    }
}

pub(super) async fn remove(netlink: &Netlink, name: &str, mut route: Route) -> Result<()> {
    let destination = route.destination;
    // Only what identifies the route: statistics and cache data of a dump are no valid request.
    route.message.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Table(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
        )
    });
    match answer(netlink.handle.route().del(route.message).execute()).await {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(Error::Netlink {
            action: format!("remove the route to {destination} from {name}"),
            cause: error,
        }),
        _ => Ok(()),
    }
}

pub(super) fn family_of(net: &IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn default_metric(net: &IpNet) -> u32 {
    match net {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => IPV6_DEFAULT_METRIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: AddressFamily, prefix_len: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.destination_prefix_length = prefix_len;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
    }

    fn main(message: RouteMessage) -> Option<Route> {
        parse(message, MAIN)
    }

    #[test]
    fn default_routes_rejections_and_our_own_routes_are_no_networks_elsewhere() {
        let route = |net: &str, kind| {
            let net: IpNet = net.parse().unwrap();
            let attributes = vec![RouteAttribute::Destination(net.network().into()), RouteAttribute::Oif(2)];
            let mut message = message(family_of(&net), net.prefix_len(), attributes);
            message.header.kind = kind;
            main(message).unwrap()
        };
        for (net, kind, index, elsewhere) in [
            ("192.168.1.0/24", RouteType::Unicast, Some(3), true),
            ("192.168.1.0/24", RouteType::Unicast, None, true),
            ("192.168.1.0/24", RouteType::Unicast, Some(2), false),
            ("fd00::5/128", RouteType::Local, Some(3), true),
            ("10.0.0.0/8", RouteType::Unreachable, Some(3), false),
            ("0.0.0.0/0", RouteType::Unicast, Some(3), false),
            ("128.0.0.0/1", RouteType::Unicast, Some(3), false),
            ("2000::/3", RouteType::Unicast, Some(3), false),
        ] {
            assert_eq!(route(net, kind).leads_elsewhere(index), elsewhere, "{net} {kind:?}");
        }
    }

    #[test]
    fn default_route_has_no_destination_attribute() {
        let route = main(message(AddressFamily::Inet6, 0, vec![RouteAttribute::Oif(3)])).unwrap();
        assert_eq!(route.destination, "::/0".parse::<IpNet>().unwrap());
        assert!(route.is_via(3) && route.is_direct());
    }

    #[test]
    fn a_lower_or_equal_metric_wins() {
        let net: IpNet = "fd00:2::/64".parse().unwrap();
        let rival = |metric| {
            let attributes = vec![
                RouteAttribute::Destination(net.network().into()),
                RouteAttribute::Oif(2),
                RouteAttribute::Priority(metric),
            ];
            main(message(AddressFamily::Inet6, 64, attributes)).unwrap()
        };
        assert!(rival(256).wins_over_ours(net));
        assert!(rival(1024).wins_over_ours(net));
        assert!(!rival(1025).wins_over_ours(net));
        assert!(!rival(256).wins_over_ours("fd00:2::/65".parse().unwrap()));
    }

    #[test]
    fn multipath_and_gateway_routes_are_not_direct_routes_of_one_device() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 1)));
        let route = main(message(AddressFamily::Inet, 0, vec![RouteAttribute::Oif(3), gateway])).unwrap();
        assert!(route.is_via(3) && !route.is_direct());
        let mut hops = vec![netlink_packet_route::route::RouteNextHop::default(); 2];
        hops[0].interface_index = 3;
        hops[1].interface_index = 4;
        let route = main(message(AddressFamily::Inet, 0, vec![RouteAttribute::MultiPath(hops)])).unwrap();
        assert!(!route.is_via(3));
        assert_eq!(route.devices, [3, 4]);
    }

    #[test]
    fn routes_of_other_tables_and_services_are_ignored() {
        let mut other_table = message(AddressFamily::Inet, 0, Vec::new());
        other_table.header.table = 100;
        assert!(main(other_table).is_none());
        let mut with_tos = message(AddressFamily::Inet, 0, Vec::new());
        with_tos.header.tos = 16;
        assert!(main(with_tos).is_none());
    }
}
