//! Noticing that somebody has changed the tunnel device: its ends, their addresses, the routes into it.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::task::JoinHandle;

use super::error::{Error, Result};
use super::netlink::Link;
use super::tunnel::{TunnelInfo, peer_name};

/// What is announced: links, addresses, routes, routing rules.
const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The kernel's announcements of changes, from the moment of opening on.
pub struct Watch {
    /// `None`: announcements were lost, or one could not be read.
    announcements: Pin<Box<dyn Stream<Item = Option<RouteNetlinkMessage>> + Send>>,
    connection: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn open() -> Result<Self> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .map_err(|cause| Error::Netlink { action: "listen to changes of links".to_owned(), cause })?;
        let announcements = messages.map(|(message, _)| match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(message),
            _ => None,
        });
        Ok(Self { announcements: Box::pin(announcements), connection: tokio::spawn(connection) })
    }

    /// Waits until the tunnel device `name`, which was last seen as `info`, may have changed, or what concerns the `mark` of
    /// mtd's own packets. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Netlink`] when the kernel announces nothing any more.
    pub async fn changed(&mut self, name: &str, info: Option<TunnelInfo>, mark: Option<u32>) -> Result<()> {
        while let Some(announcement) = self.announcements.next().await {
            if announcement.is_none_or(|message| concerns(message, name, info, mark)) {
                return Ok(());
            }
        }
        let cause = std::io::ErrorKind::ConnectionAborted.into();
        Err(Error::Netlink { action: "go on listening to changes of links".to_owned(), cause })
    }
}

/// Whether an announcement is about one of the ends of the device, or the rules and the table for a mark.
fn concerns(message: RouteNetlinkMessage, name: &str, info: Option<TunnelInfo>, mark: Option<u32>) -> bool {
    let is_end = |index: u32| info.is_some_and(|info| [info.ifindex, info.peer_ifindex].contains(&index));
    let is_link = |link: LinkMessage| {
        let link = Link::from(link);
        is_end(link.index) || link.name == name || link.name == peer_name(name)
    };
    let is_route = |route: RouteMessage| {
        route.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::Oif(index) => is_end(*index),
            RouteAttribute::Table(table) => Some(*table) == mark,
            _ => false,
        })
    };
    let is_rule = |rule: RuleMessage| {
        rule.attributes.iter().any(|attribute| match attribute {
            RuleAttribute::FwMark(number) => Some(*number) == mark,
            _ => false,
        })
    };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => is_link(link),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            is_end(address.header.index)
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => is_route(route),
        RouteNetlinkMessage::NewRule(rule) | RouteNetlinkMessage::DelRule(rule) => is_rule(rule),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::link::LinkAttribute;

    use super::*;

    const INFO: TunnelInfo = TunnelInfo { ifindex: 7, peer_ifindex: 6, mac: [2; 6] };

    fn link(index: u32, name: &str) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link
    }

    fn address(index: u32) -> AddressMessage {
        let mut address = AddressMessage::default();
        address.header.index = index;
        address
    }

    fn route(index: u32) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.attributes.push(RouteAttribute::Oif(index));
        route
    }

    #[test]
    fn only_what_is_about_the_device_counts() {
        let ours = |message| concerns(message, "mtd0", Some(INFO), Some(28_020));
        for (index, name) in [(7, "mtd0"), (6, "mtd0x"), (9, "mtd0"), (9, "mtd0x"), (7, "renamed")] {
            assert!(ours(RouteNetlinkMessage::NewLink(link(index, name))), "{index} {name}");
            assert!(ours(RouteNetlinkMessage::DelLink(link(index, name))), "{index} {name}");
        }
        for index in [6, 7] {
            assert!(ours(RouteNetlinkMessage::DelAddress(address(index))));
            assert!(ours(RouteNetlinkMessage::DelRoute(route(index))));
        }
        assert!(!ours(RouteNetlinkMessage::NewLink(link(2, "eth0"))));
        assert!(!ours(RouteNetlinkMessage::NewAddress(address(2))));
        assert!(!ours(RouteNetlinkMessage::NewRoute(route(2))));
        assert!(!ours(RouteNetlinkMessage::NewRoute(RouteMessage::default())));
        assert!(!concerns(RouteNetlinkMessage::NewRoute(route(7)), "mtd0", None, None));
        let rule = |mark| {
            let mut rule = RuleMessage::default();
            rule.attributes.push(RuleAttribute::FwMark(mark));
            rule
        };
        assert!(ours(RouteNetlinkMessage::DelRule(rule(28_020))));
        assert!(!ours(RouteNetlinkMessage::DelRule(rule(51_820))));
        let mut end = RouteMessage::default();
        end.attributes.push(RouteAttribute::Table(28_020));
        assert!(ours(RouteNetlinkMessage::DelRoute(end)));
    }
}
