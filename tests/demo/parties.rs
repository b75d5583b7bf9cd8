//! The parties on the server's Ethernet, and the meaning of frames between them.

use std::net::Ipv6Addr;

use anyhow::Result;
use ipnet::Ipv6Net;
use mtd_tests::inject::Interface;
use mtd_tests::netns::Netns;

use crate::network::Network;
use crate::view::{Packet, ethernet};

/// The parties on the server's link, by their addresses.
#[derive(Debug, Clone)]
pub(crate) struct Parties {
    /// Ethernet address of the server.
    pub(crate) server_mac: [u8; 6],
    /// Ethernet address of the router on the server's link.
    pub(crate) router_mac: [u8; 6],
    /// Ethernet address of the stranger.
    pub(crate) stranger_mac: [u8; 6],
    /// The stranger's address on the link.
    pub(crate) stranger: Ipv6Addr,
    /// The server's protected prefix.
    pub(crate) server: Ipv6Net,
    /// The protected prefixes of the registered clients.
    pub(crate) clients: Vec<Ipv6Net>,
}

impl Parties {
    /// The parties of a network.
    ///
    /// # Errors
    /// When an interface cannot be looked up.
    pub(crate) fn of(network: &Network) -> Result<Self> {
        let mac =
            |netns: &Netns, ifname: &str| Ok::<_, anyhow::Error>(Interface::resolve(netns, ifname)?.mac);
        let topology = &network.base;
        let (server, scanner) = (&topology.server, &topology.scanner);
        Ok(Self {
            server_mac: mac(&server.netns, &server.ifname)?,
            router_mac: mac(&topology.router, &server.gateway_ifname)?,
            stranger_mac: mac(&scanner.netns, &scanner.ifname)?,
            stranger: scanner.address,
            server: server.prefix,
            clients: network.clients().map(|host| host.prefix).collect(),
        })
    }

    /// Whether a frame that the stranger sent is a probe: any frame to the server itself, or a multicast question about a
    /// protected address.
    pub(crate) fn is_probe(&self, frame: &[u8]) -> bool {
        let Some((destination, source)) = ethernet(frame) else { return false };
        source == self.stranger_mac
            && (destination == self.server_mac
                || Packet::parse(frame)
                    .and_then(|packet| packet.solicited())
                    .is_some_and(|target| self.server.contains(&target)))
    }

    /// Whether a frame that the server sent tells a stranger anything. It does if it goes to the stranger, if it is an
    /// ICMPv6 error, or if it is anything other than an mtd packet from the protected prefix to a registered client.
    /// Answers to replayed packets count too, although they go to the client whose address the packet carries. Answers to
    /// the router's own neighbour solicitations do not count, nor do announcements to the router.
    pub(crate) fn is_reply(&self, frame: &[u8]) -> bool {
        let Some((destination, source)) = ethernet(frame) else { return false };
        if source != self.server_mac {
            return false;
        }
        if destination == self.stranger_mac {
            return true;
        }
        let Some(packet) = Packet::parse(frame) else { return false };
        if packet.destination == self.stranger || packet.is_icmpv6_error() {
            return true;
        }
        let advertised = packet.advertised().is_some_and(|target| self.server.contains(&target));
        // Protected addresses are announced to the router by solicitations, which the router alone gets.
        let announced = packet.solicited().is_some() && self.server.contains(&packet.source);
        if advertised || announced {
            return destination != self.router_mac;
        }
        self.server.contains(&packet.source)
            && !(packet.udp_ports().is_some() && self.client_at(&packet.destination).is_some())
    }

    /// The number of the registered client to which an address belongs.
    pub(crate) fn client_at(&self, address: &Ipv6Addr) -> Option<usize> {
        self.clients.iter().position(|prefix| prefix.contains(address))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use mtd_tests::packet::{Path, echo_request, neighbour_solicitation, tcp_syn, udp, with_vlan_tag};

    use super::*;

    pub(crate) const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    pub(crate) const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    pub(crate) const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 3];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 4];

    pub(crate) fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    pub(crate) fn parties() -> Parties {
        Parties {
            server_mac: SERVER,
            router_mac: ROUTER,
            stranger_mac: STRANGER,
            stranger: address("2001:db8:5::3"),
            server: "2001:db8:5:1::/64".parse().unwrap(),
            clients: ["2001:db8:c:1::/64", "2001:db8:d:1::/64"]
                .map(|prefix| prefix.parse().unwrap())
                .to_vec(),
        }
    }

    /// A path between two addresses, with the Ethernet addresses of the sender and the receiver.
    pub(crate) fn path(macs: ([u8; 6], [u8; 6]), source: &str, destination: &str) -> Path {
        Path::new(macs.0, macs.1, address(source), address(destination))
    }

    /// A neighbour advertisement, or an ICMPv6 message of another kind with an address in the same place.
    fn advertisement(path: &Path, kind: u8, target: &str) -> Vec<u8> {
        let mut frame = echo_request(path, 0, 0, &address(target).octets());
        frame[54] = kind;
        frame
    }

    #[test]
    fn session_packets_and_the_servers_own_business_are_no_replies() {
        let parties = parties();
        let session = path((SERVER, ROUTER), "2001:db8:5:1::7", "2001:db8:c:1::8");
        let own = path((SERVER, ROUTER), "2001:db8:5::2", "2001:db8:9::9");
        let answer = path((SERVER, ROUTER), "2001:db8:5:1::7", "2001:db8:5::1");
        let others = path((OTHER, STRANGER), "2001:db8:5::4", "2001:db8:5::3");
        let second = path((SERVER, ROUTER), "2001:db8:5:1::7", "2001:db8:d:1::8");
        for frame in [
            udp(&session, 1, 2, b"sealed"),
            udp(&second, 1, 2, b"sealed"),
            tcp_syn(&own, 1, 2, 3),
            advertisement(&answer, 136, "2001:db8:5:1::7"),
            advertisement(&answer, 135, "2001:db8:5::1"),
            udp(&others, 1, 2, b"from somebody else"),
            vec![0; 8],
        ] {
            assert!(!parties.is_reply(&frame), "{frame:02x?}");
        }
    }

    #[test]
    fn whatever_tells_a_stranger_something_is_a_reply() {
        let parties = parties();
        let to_stranger = path((SERVER, STRANGER), "2001:db8:5::2", "2001:db8:5::3");
        let around = path((SERVER, ROUTER), "2001:db8:5::2", "2001:db8:5::3");
        let to_peer = path((SERVER, ROUTER), "2001:db8:5:1::7", "2001:db8:c:1::8");
        let elsewhere = path((SERVER, ROUTER), "2001:db8:5:1::7", "2001:db8:9::9");
        let to_all = path((SERVER, [0x33, 0x33, 0, 0, 0, 1]), "2001:db8:5:1::7", "ff02::1");
        let error = path((SERVER, ROUTER), "2001:db8:5::2", "2001:db8:c:1::8");
        for frame in [
            tcp_syn(&to_stranger, 1, 2, 3),
            with_vlan_tag(&tcp_syn(&to_stranger, 1, 2, 3), 5),
            udp(&around, 1, 2, b"by the router"),
            tcp_syn(&to_peer, 1, 2, 3),
            echo_request(&to_peer, 1, 2, b""),
            udp(&elsewhere, 1, 2, b"to a forged source"),
            advertisement(&to_all, 136, "2001:db8:5:1::7"),
            advertisement(&to_all, 135, "2001:db8:5::1"),
            advertisement(&error, 1, "2001:db8:5:1::7"),
        ] {
            assert!(parties.is_reply(&frame), "{frame:02x?}");
        }
    }

    #[test]
    fn probes_are_what_the_stranger_sends_to_the_server_or_asks_about_it() {
        let parties = parties();
        let to_server = path((STRANGER, SERVER), "2001:db8:5::3", "2001:db8:5:1::7");
        let to_router = path((STRANGER, ROUTER), "2001:db8:5::3", "2001:db8:9::9");
        let ask = |target: &str| neighbour_solicitation(STRANGER, parties.stranger, address(target), None);
        let syn = tcp_syn(&to_server, 1, 2, 3);
        for probe in [&syn, &syn[..20].to_vec(), &with_vlan_tag(&syn, 5), &ask("2001:db8:5:1::7")] {
            assert!(parties.is_probe(probe), "{probe:02x?}");
        }
        let foreign = neighbour_solicitation(OTHER, parties.stranger, address("2001:db8:5:1::7"), None);
        for frame in [tcp_syn(&to_router, 1, 2, 3), ask("2001:db8:5::1"), foreign, vec![0; 8]] {
            assert!(!parties.is_probe(&frame), "{frame:02x?}");
        }
    }
}
