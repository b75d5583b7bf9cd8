//! The network of the demonstration: that of the tests, with more clients, IPv4 everywhere, and a private DHT at the
//! router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mtd_tests::dht::PrivateDht;
use mtd_tests::link::{Veth, Via, default_route};
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Delivery, Host, Topology, TopologyOptions};

/// Nodes of the private DHT.
pub(crate) const DHT_NODES: u32 = 20;

/// Maximum number of registered clients, limited by the numbers of their links.
pub(crate) const MOST_CLIENTS: u8 = 8;

/// The first node's address; the others follow. All are addresses reserved for benchmarks of networks (RFC 2544).
const FIRST_NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Number of the server's link, as the third group of its addresses.
const SERVER_LINK: u8 = 0x5;
/// Number of the first client's link; the links of the others follow.
const FIRST_CLIENT_LINK: u8 = 0xc;
/// Number of the uninvited client's link.
const UNINVITED_LINK: u8 = FIRST_CLIENT_LINK + MOST_CLIENTS;

const MTU: u32 = 1500;
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// All hosts. Dropping this ends the DHT, then the processes on the hosts, and removes the hosts.
#[derive(Debug)]
pub(crate) struct Network {
    /// The nodes, at the router.
    pub(crate) dht: PrivateDht,
    /// A host whose owner knows the server's public key but is not registered.
    pub(crate) uninvited: Host,
    /// Router, server, stranger and the first client.
    pub(crate) base: Topology,
    more_clients: Vec<Host>,
}

impl Network {
    /// Builds the network, with `clients` clients that will be registered.
    ///
    /// # Errors
    /// When the kernel refuses something, or the DHT's nodes do not find each other.
    pub(crate) fn build(clients: u8, delivery: Delivery) -> Result<Self> {
        let base = Topology::standard(&TopologyOptions { delivery, mtu: MTU, ..TopologyOptions::default() })?;
        let router = &base.router;
        let more_clients = (1..clients)
            .map(|n| client(router, &format!("client{}", n + 1), FIRST_CLIENT_LINK + n, delivery))
            .collect::<Result<Vec<_>>>()?;
        let uninvited = client(router, "uninvited", UNINVITED_LINK, delivery)?;
        add_v4(router, &base.server, SERVER_LINK)?;
        for (n, host) in (0..).zip([&base.client].into_iter().chain(&more_clients)) {
            add_v4(router, host, FIRST_CLIENT_LINK + n)?;
        }
        add_v4(router, &uninvited, UNINVITED_LINK)?;
        for host in more_clients.iter().chain([&uninvited]) {
            router.wait_usable(&host.tap_ifname, READY_TIMEOUT)?;
            host.netns.wait_usable(&host.ifname, READY_TIMEOUT)?;
            host.netns.wait_reachable(IpAddr::V6(host.gateway), READY_TIMEOUT)?;
        }
        let dht = PrivateDht::in_namespace(router, FIRST_NODE, DHT_NODES)?;
        Ok(Self { dht, uninvited, base, more_clients })
    }

    /// The hosts of the clients that will be registered.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &Host> {
        [&self.base.client].into_iter().chain(&self.more_clients)
    }
}

/// A host on a link of its own with the router.
fn client(router: &Netns, tag: &str, link: u8, delivery: Delivery) -> Result<Host> {
    let group = u16::from(link);
    let address = |host| Ipv6Addr::new(0x2001, 0xdb8, group, 0, 0, 0, 0, host);
    let prefix = Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, group, 1, 0, 0, 0, 0), 64)?;
    let netns = Netns::new(tag)?;
    let veth = Veth::connect((&netns, "cl"), (router, "rc"), MTU)?;
    for (netns, ifname, host) in [(router, &veth.right, 1), (&netns, &veth.left, 2)] {
        netns.set_up(ifname)?;
        netns.add_address(ifname, Ipv6Net::new(address(host), 64)?.into())?;
    }
    netns.add_route(default_route(), Via::Gateway(address(1).into()))?;
    let via = match delivery {
        Delivery::Routed => Via::Gateway(address(2).into()),
        Delivery::OnLink => Via::Interface(&veth.right),
    };
    router.add_route(prefix.into(), via)?;
    Ok(Host {
        netns,
        ifname: veth.left,
        address: address(2),
        prefix,
        gateway: address(1),
        gateway_ifname: veth.right.clone(),
        tap_ifname: veth.right,
    })
}

/// Gives a host IPv4 and a route through the router, since the DHT speaks only IPv4.
fn add_v4(router: &Netns, host: &Host, link: u8) -> Result<()> {
    let address = |last| Ipv4Addr::new(198, 18, link, last);
    let net = |last| Ipv4Net::new(address(last), 24).map(IpNet::V4);
    router.add_address(&host.gateway_ifname, net(1)?)?;
    host.netns.add_address(&host.ifname, net(2)?)?;
    host.netns.add_route(IpNet::V4(Ipv4Net::default()), Via::Gateway(address(1).into()))
}
