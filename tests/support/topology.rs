//! The small network in which mtd is tried: a client, a router, a server, and a scanner on the server's Ethernet.
//!
//! ```text
//!  client ──── 2001:db8:c::/64 ──── router ══ bridge: 2001:db8:5::/64 ══╦══ server
//!  client2 ─── 2001:db8:d::/64 ──────┘                                  ╚══ scanner
//! ```
//! On every link the router is `::1` and the host `::2`; the scanner is `2001:db8:5::3`. All hosts have a default route
//! through the router. Protected prefixes: [`CLIENT_SITE`], [`CLIENT2_SITE`] and [`SERVER_SITE`] cut to the wanted length.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv6Net};

use crate::link::{Veth, Via, default_route};
use crate::netns::Netns;

/// Addresses from which the client's protected prefix is cut.
pub const CLIENT_SITE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 1, 0xa1, 0xa2, 0, 0);
/// Addresses from which the second client's protected prefix is cut.
pub const CLIENT2_SITE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd, 1, 0xa1, 0xa2, 0, 0);
/// Addresses from which the server's protected prefix is cut.
pub const SERVER_SITE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x5, 1, 0xa1, 0xa2, 0, 0);

const LINK_LEN: u8 = 64;
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// How packets for a protected prefix reach its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// The router (and the scanner, for the server's prefix) has a route through the host's link address.
    Routed,
    /// The prefix is connected: the router (and the scanner) solicits every address on the link.
    OnLink,
}

/// Options of [`Topology::standard`].
#[derive(Debug, Clone)]
pub struct TopologyOptions {
    /// How protected prefixes are reached.
    pub delivery: Delivery,
    /// Length of the protected prefixes of client and second client, 64 to 120.
    pub client_prefix_len: u8,
    /// Length of the protected prefix of the server, 64 to 120.
    pub server_prefix_len: u8,
    /// MTU of all links, in bytes.
    pub mtu: u32,
    /// Whether there is a second client.
    pub second_client: bool,
}

impl Default for TopologyOptions {
    /// Routed /64 prefixes, MTU 1500, one client.
    fn default() -> Self {
        Self {
            delivery: Delivery::Routed,
            client_prefix_len: 64,
            server_prefix_len: 64,
            mtu: 1500,
            second_client: false,
        }
    }
}

/// A host with a protected prefix.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub netns: Netns,
    /// Its underlay interface: where mtd attaches.
    pub ifname: String,
    /// Its static address on the link.
    pub address: Ipv6Addr,
    /// Its protected prefix; no address of it is configured anywhere.
    pub prefix: Ipv6Net,
    /// The router's address on the link, the host's default gateway.
    pub gateway: Ipv6Addr,
    /// The router's layer-3 interface towards the host: the cable's end, or the bridge on the server's link.
    pub gateway_ifname: String,
    /// The router's end of the host's cable. A capture here sees everything that enters or leaves the host, including
    /// frames that an XDP program drops, which a capture on the host's own interface does not see.
    pub tap_ifname: String,
}

/// A stranger on the server's Ethernet segment.
#[derive(Debug)]
pub struct Scanner {
    /// Its namespace.
    pub netns: Netns,
    /// Its interface on the server's link.
    pub ifname: String,
    /// Its address on the server's link.
    pub address: Ipv6Addr,
    /// The router's end of the scanner's cable.
    pub tap_ifname: String,
}

/// The network of the picture above. Dropping it ends the processes in its namespaces and removes the namespaces.
#[derive(Debug)]
pub struct Topology {
    /// The client.
    pub client: Host,
    /// The second client, if asked for.
    pub client2: Option<Host>,
    /// The server.
    pub server: Host,
    /// The stranger on the server's link.
    pub scanner: Scanner,
    /// The router between them.
    pub router: Netns,
}

impl Topology {
    /// Builds the network and returns when every host reaches its router.
    ///
    /// # Errors
    /// When a prefix length is out of range, or the kernel refuses something.
    pub fn standard(options: &TopologyOptions) -> Result<Self> {
        let router = Netns::new("router")?;
        router.enable_forwarding()?;
        let client = Site { tag: "client", short: "cl", group: 0xc, addresses: CLIENT_SITE }
            .build(&router, options)?;
        let client2 = if options.second_client {
            let site = Site { tag: "client2", short: "cl2", group: 0xd, addresses: CLIENT2_SITE };
            Some(site.build(&router, options)?)
        } else {
            None
        };
        let (server, scanner) = server_link(&router, options)?;
        let topology = Self { client, client2, server, scanner, router };
        topology.add_prefix_routes(options.delivery)?;
        topology.wait_ready()?;
        Ok(topology)
    }

    /// All hosts with a protected prefix: the clients, then the server.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [Some(&self.client), self.client2.as_ref(), Some(&self.server)].into_iter().flatten()
    }

    /// Limits packets from the router to the protected prefix of a host, which it reaches by a gateway, to `mtu` bytes. The
    /// router answers longer packets with Packet Too Big.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_path_mtu(&self, host: &Host, mtu: u32) -> Result<()> {
        let (prefix, via) = (host.prefix.to_string(), host.address.to_string());
        let mtu = mtu.to_string();
        let route =
            ["-6", "route", "replace", &prefix, "via", &via, "dev", &host.gateway_ifname, "mtu", &mtu];
        self.router.run(&route).map(drop)
    }

    fn add_prefix_routes(&self, delivery: Delivery) -> Result<()> {
        for host in self.hosts() {
            let via = match delivery {
                Delivery::Routed => Via::Gateway(IpAddr::V6(host.address)),
                Delivery::OnLink => Via::Interface(&host.gateway_ifname),
            };
            self.router.add_route(IpNet::V6(host.prefix), via)?;
        }
        let via = match delivery {
            Delivery::Routed => Via::Gateway(IpAddr::V6(self.server.address)),
            Delivery::OnLink => Via::Interface(&self.scanner.ifname),
        };
        self.scanner.netns.add_route(IpNet::V6(self.server.prefix), via)
    }

    fn wait_ready(&self) -> Result<()> {
        for host in self.hosts() {
            self.router.wait_usable(&host.tap_ifname, READY_TIMEOUT)?;
            self.router.wait_usable(&host.gateway_ifname, READY_TIMEOUT)?;
            host.netns.wait_usable(&host.ifname, READY_TIMEOUT)?;
            host.netns.wait_reachable(IpAddr::V6(host.gateway), READY_TIMEOUT)?;
        }
        self.router.wait_usable(&self.scanner.tap_ifname, READY_TIMEOUT)?;
        self.scanner.netns.wait_usable(&self.scanner.ifname, READY_TIMEOUT)?;
        self.scanner.netns.wait_reachable(IpAddr::V6(self.server.address), READY_TIMEOUT)
    }
}

/// A host on a link of its own with the router.
struct Site {
    tag: &'static str,
    short: &'static str,
    /// Third group of the link's prefix.
    group: u16,
    /// Addresses from which the protected prefix is cut.
    addresses: Ipv6Addr,
}

impl Site {
    fn build(&self, router: &Netns, options: &TopologyOptions) -> Result<Host> {
        let prefix = protected_prefix(self.addresses, options.client_prefix_len)?;
        let netns = Netns::new(self.tag)?;
        let veth = Veth::connect((&netns, self.short), (router, "rc"), options.mtu)?;
        let gateway = link_address(self.group, 1);
        let address = link_address(self.group, 2);
        configure(router, &veth.right, gateway)?;
        configure(&netns, &veth.left, address)?;
        netns.add_route(default_route(), Via::Gateway(IpAddr::V6(gateway)))?;
        let ports = (veth.right.clone(), veth.right);
        Ok(Host {
            netns,
            ifname: veth.left,
            address,
            prefix,
            gateway,
            gateway_ifname: ports.0,
            tap_ifname: ports.1,
        })
    }
}

/// The shared Ethernet: server and scanner on a bridge of the router.
fn server_link(router: &Netns, options: &TopologyOptions) -> Result<(Host, Scanner)> {
    const GROUP: u16 = 0x5;
    let prefix = protected_prefix(SERVER_SITE, options.server_prefix_len)?;
    let (server, scanner) = (Netns::new("server")?, Netns::new("scanner")?);
    let server_veth = Veth::connect((&server, "sv"), (router, "rs"), options.mtu)?;
    let scanner_veth = Veth::connect((&scanner, "scan"), (router, "rx"), options.mtu)?;
    let bridge = router.add_bridge("br", &[&server_veth.right, &scanner_veth.right])?;
    let gateway = link_address(GROUP, 1);
    router.add_address(&bridge, link_net(gateway))?;
    for (netns, ifname, host) in [(&server, &server_veth.left, 2), (&scanner, &scanner_veth.left, 3)] {
        configure(netns, ifname, link_address(GROUP, host))?;
        netns.add_route(default_route(), Via::Gateway(IpAddr::V6(gateway)))?;
    }
    let server = Host {
        netns: server,
        ifname: server_veth.left,
        address: link_address(GROUP, 2),
        prefix,
        gateway,
        gateway_ifname: bridge,
        tap_ifname: server_veth.right,
    };
    let scanner = Scanner {
        netns: scanner,
        ifname: scanner_veth.left,
        address: link_address(GROUP, 3),
        tap_ifname: scanner_veth.right,
    };
    Ok((server, scanner))
}

fn configure(netns: &Netns, ifname: &str, address: Ipv6Addr) -> Result<()> {
    netns.set_up(ifname)?;
    netns.add_address(ifname, link_net(address))
}

fn link_address(group: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, group, 0, 0, 0, 0, host)
}

fn link_net(address: Ipv6Addr) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, LINK_LEN))
}

fn protected_prefix(site: Ipv6Addr, len: u8) -> Result<Ipv6Net> {
    ensure!((64..=120).contains(&len), "a protected prefix of length {len} does not fit here: use 64 to 120");
    Ok(Ipv6Net::new(site, len).context("bad prefix length")?.trunc())
}
