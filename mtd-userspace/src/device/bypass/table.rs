//! The table of its own: routes into the tunnel device, and behind them the end of everything else.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};

use super::{Bypass, FAMILIES, PROTOCOL};
use crate::device::error::{Error, Result};
use crate::device::netlink::{Netlink, answer};
use crate::device::route::{self, Route, family_of};

/// Metric of the route that ends everything: the highest that comes before the kernel's own.
const LAST: u32 = u32::MAX - 1;

/// Brings the table of an IP version to these routes into the device. Notes what was changed.
pub(super) async fn sync(
    netlink: &Netlink,
    (name, index): (&str, u32),
    (family, bypass): (AddressFamily, &Bypass),
    wanted: &BTreeMap<IpNet, Option<u32>>,
    changes: &mut Vec<String>,
) -> Result<()> {
    let number = bypass.number;
    let mut kept = BTreeMap::new();
    let mut ends = false;
    for route in own(netlink, family, number).await? {
        let destination = route.destination;
        if route.is_via(index) && route.is_direct() && wanted.contains_key(&destination) {
            kept.insert(destination, (route.mtu(), route.metric));
        } else if is_end(&route) && bypass.kill_switch {
            ends = true;
        } else {
            route::remove(netlink, name, route).await?;
            changes.push(format!("the route to {destination} in table {number} removed"));
        }
    }
    if bypass.kill_switch && !ends {
        end(netlink, family, number).await?;
        changes.push(format!("the route of the kill switch in table {number} set"));
    }
    for (&destination, &mtu) in wanted.iter().filter(|(net, _)| family_of(net) == family) {
        let there = kept.get(&destination);
        if there.is_some_and(|(found, _)| *found == mtu) {
            continue;
        }
        let metric = there.map(|(_, metric)| *metric);
        route::set(netlink, (name, index), (number, PROTOCOL), (destination, mtu), metric).await?;
        changes.push(format!("the route to {destination} in table {number} set"));
    }
    Ok(())
}

/// Removes mtd's routes from the table.
pub(super) async fn clear(
    netlink: &Netlink,
    family: AddressFamily,
    number: u32,
    changes: &mut Vec<String>,
) -> Result<()> {
    for route in own(netlink, family, number).await? {
        changes.push(format!("the route to {} in table {number} removed", route.destination));
        route::remove(netlink, "a table", route).await?;
    }
    Ok(())
}

/// Whether no route is in the table.
pub(super) async fn is_empty(netlink: &Netlink, number: u32) -> Result<bool> {
    for family in FAMILIES {
        if !route::table(netlink, family, number).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether only mtd's routes are in the table.
pub(super) async fn is_own(netlink: &Netlink, number: u32) -> Result<bool> {
    for family in FAMILIES {
        if route::table(netlink, family, number).await?.len() != own(netlink, family, number).await?.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn own(netlink: &Netlink, family: AddressFamily, number: u32) -> Result<Vec<Route>> {
    let mut routes = route::table(netlink, family, number).await?;
    routes.retain(|route| route.message.header.protocol == PROTOCOL);
    Ok(routes)
}

fn is_end(route: &Route) -> bool {
    route.destination.prefix_len() == 0 && route.message.header.kind == RouteType::Unreachable
}

/// Adds the route that ends what no other route of the table takes.
async fn end(netlink: &Netlink, family: AddressFamily, number: u32) -> Result<()> {
    let everything = match family {
        AddressFamily::Inet => IpNet::V4(Ipv4Net::default()),
        _ => IpNet::V6(Ipv6Net::default()),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unreachable;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(everything.addr())),
        RouteAttribute::Table(number),
        RouteAttribute::Priority(LAST),
    ];
    match answer(netlink.handle.route().add(message).execute()).await {
        Err(cause) if cause.raw_os_error() != Some(libc::EEXIST) => {
            Err(Error::Netlink { action: format!("make the kill switch's route in table {number}"), cause })
        }
        _ => Ok(()),
    }
}
