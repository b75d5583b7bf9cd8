//! What the demonstration counts on the server's Ethernet: independent captures, nothing that mtd counts.

use std::collections::{HashSet, VecDeque};
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::Ipv6Net;
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::inject::Interface;
use mtd_tests::netns::Netns;
use mtd_tests::topology::Topology;
use mtd_tests::traffic::contains_marker;

use crate::view::{Packet, ethernet};

/// Addresses or ports kept; more than a day of the shortest slots uses.
const MOST_KEPT: usize = 1 << 18;

/// One of so many packets to the server is kept for the stranger to replay …
const SAMPLE_EVERY: u64 = 16;
/// … and so many are kept.
const SAMPLES: usize = 64;

/// Who is who on the server's link.
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
    /// The client's protected prefix.
    pub(crate) client: Ipv6Net,
}

impl Parties {
    /// The parties of a topology.
    ///
    /// # Errors
    /// When an interface cannot be looked up.
    pub(crate) fn of(topology: &Topology) -> Result<Self> {
        let mac =
            |netns: &Netns, ifname: &str| Ok::<_, anyhow::Error>(Interface::resolve(netns, ifname)?.mac);
        let (server, scanner) = (&topology.server, &topology.scanner);
        Ok(Self {
            server_mac: mac(&server.netns, &server.ifname)?,
            router_mac: mac(&topology.router, &server.gateway_ifname)?,
            stranger_mac: mac(&scanner.netns, &scanner.ifname)?,
            stranger: scanner.address,
            server: server.prefix,
            client: topology.client.prefix,
        })
    }

    /// Whether a frame that the stranger sent is one of its probes: any frame to the server itself, or a question
    /// to everybody who has a protected address.
    fn is_probe(&self, frame: &[u8]) -> bool {
        let Some((destination, source)) = ethernet(frame) else { return false };
        source == self.stranger_mac
            && (destination == self.server_mac
                || Packet::parse(frame)
                    .and_then(|packet| packet.solicited())
                    .is_some_and(|target| self.server.contains(&target)))
    }

    /// Whether a frame that the server sent tells a stranger anything: it goes to the stranger, or it is something
    /// else than a session packet to the peer from the protected prefix, or an ICMPv6 error. A replayed packet may
    /// be answered towards the peer, whose address it carries; that counts too. The router's own neighbour
    /// solicitations may be answered.
    fn is_reply(&self, frame: &[u8]) -> bool {
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
        if advertised {
            return destination != self.router_mac;
        }
        self.server.contains(&packet.source)
            && !(packet.udp_ports().is_some() && self.client.contains(&packet.destination))
    }
}

/// An address and UDP port that the server was seen to send from.
pub(crate) type Endpoint = (Ipv6Addr, u16);

/// What was seen on the server's link so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Packets between the two protected prefixes, the stranger's forgeries left out.
    pub(crate) packets: u64,
    /// The address and port that the server sent from last.
    pub(crate) current: Option<Endpoint>,
    /// Packets, of anybody but the stranger, that contain the marker.
    pub(crate) plaintext: u64,
    /// Frames that tell a stranger anything.
    pub(crate) replies: u64,
    /// The first of them.
    pub(crate) first_reply: Option<Vec<u8>>,
    addresses: HashSet<Ipv6Addr>,
    ports: HashSet<u16>,
    to_server: u64,
    samples: VecDeque<(Instant, Vec<u8>)>,
}

impl Seen {
    /// Different protected addresses that the server sent from.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// Different UDP ports that the server sent from, from protected addresses.
    pub(crate) fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Packets from the client to the server, seen at least `age` ago, newest first.
    pub(crate) fn samples(&self, age: Duration) -> impl Iterator<Item = &[u8]> {
        self.samples
            .iter()
            .rev()
            .filter(move |(seen, _)| seen.elapsed() >= age)
            .map(|(_, data)| data.as_slice())
    }

    fn take(&mut self, parties: &Parties, frame: &Frame) {
        let data = frame.data.as_slice();
        if ethernet(data).is_none_or(|(_, source)| source == parties.stranger_mac) {
            return;
        }
        if contains_marker(data) {
            self.plaintext += 1;
        }
        if parties.is_reply(data) {
            self.replies += 1;
            self.first_reply.get_or_insert_with(|| data.to_vec());
        }
        let Some(packet) = Packet::parse(data) else { return };
        let Some((port, _)) = packet.udp_ports() else { return };
        if parties.server.contains(&packet.source) && parties.client.contains(&packet.destination) {
            self.packets += 1;
            self.current = Some((packet.source, port));
            keep(&mut self.addresses, packet.source);
            keep(&mut self.ports, port);
        } else if parties.client.contains(&packet.source) && parties.server.contains(&packet.destination) {
            self.packets += 1;
            self.to_server += 1;
            if self.to_server.is_multiple_of(SAMPLE_EVERY) {
                if self.samples.len() == SAMPLES {
                    self.samples.pop_front();
                }
                self.samples.push_back((Instant::now(), data.to_vec()));
            }
        }
    }
}

/// The captures of the demonstration.
#[derive(Debug)]
pub(crate) struct Captures {
    server_link: Capture,
    stranger_link: Capture,
    inside: Capture,
    counters: Counters,
}

/// Live counts of [`Captures`]; they stay readable after its end.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    seen: Arc<Mutex<Seen>>,
    probes: Arc<AtomicU64>,
    marked_inside: Arc<AtomicU64>,
}

impl Captures {
    /// Starts to watch the server's end and the stranger's end of their link, and the client's end of the tunnel
    /// (device `tunnel`), where the marker must show: without that, not finding it on the link would mean nothing.
    ///
    /// # Errors
    /// When a capture cannot be started.
    pub(crate) fn start(topology: &Topology, parties: &Parties, tunnel: &str) -> Result<Self> {
        let counters =
            Counters { seen: Arc::default(), probes: Arc::default(), marked_inside: Arc::default() };
        let options = CaptureOptions::default();
        let (seen, who) = (Arc::clone(&counters.seen), parties.clone());
        let on_server_link = move |frame: &Frame| lock(&seen).take(&who, frame);
        let (probes, who) = (Arc::clone(&counters.probes), parties.clone());
        let on_stranger_link = move |frame: &Frame| count_if(&probes, who.is_probe(&frame.data));
        let marked = Arc::clone(&counters.marked_inside);
        let on_inside = move |frame: &Frame| count_if(&marked, contains_marker(&frame.data));
        let (router, client) = (&topology.router, &topology.client.netns);
        Ok(Self {
            server_link: Capture::start_with(router, &topology.server.tap_ifname, &options, on_server_link)?,
            stranger_link: Capture::start_with(
                router,
                &topology.scanner.tap_ifname,
                &options,
                on_stranger_link,
            )?,
            inside: Capture::start_with(client, tunnel, &options, on_inside)?,
            counters,
        })
    }

    /// Live counts.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes in what is queued, ends, and returns how many frames the captures missed: with any, their counts are
    /// not complete.
    ///
    /// # Errors
    /// When receiving had failed.
    pub(crate) fn stop(self) -> Result<u64> {
        let mut missed = 0;
        for capture in [self.server_link, self.stranger_link, self.inside] {
            missed += capture.stop()?.kernel_drops;
        }
        Ok(missed)
    }
}

impl Counters {
    /// What was seen on the server's link so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Probes that the stranger has sent so far.
    pub(crate) fn probes(&self) -> u64 {
        self.probes.load(Ordering::Relaxed)
    }

    /// Packets with the marker at the client's end of the tunnel.
    pub(crate) fn marked_inside(&self) -> u64 {
        self.marked_inside.load(Ordering::Relaxed)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_if(counter: &AtomicU64, counts: bool) {
    counter.fetch_add(u64::from(counts), Ordering::Relaxed);
}

fn keep<T: Eq + std::hash::Hash>(set: &mut HashSet<T>, value: T) {
    if set.len() < MOST_KEPT {
        set.insert(value);
    }
}

#[cfg(test)]
mod tests {
    use mtd_tests::packet::{Path, echo_request, neighbour_solicitation, tcp_syn, udp, with_vlan_tag};
    use mtd_tests::traffic::MARKER;

    use super::*;

    const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 3];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 4];

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn parties() -> Parties {
        Parties {
            server_mac: SERVER,
            router_mac: ROUTER,
            stranger_mac: STRANGER,
            stranger: address("2001:db8:5::3"),
            server: "2001:db8:5:1::/64".parse().unwrap(),
            client: "2001:db8:c:1::/64".parse().unwrap(),
        }
    }

    /// A path between two addresses, with the Ethernet addresses of the sender and the receiver.
    fn path(macs: ([u8; 6], [u8; 6]), source: &str, destination: &str) -> Path {
        Path::new(macs.0, macs.1, address(source), address(destination))
    }

    /// A neighbour advertisement, or an ICMPv6 message of another kind with an address in its place.
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
        for frame in [
            udp(&session, 1, 2, b"sealed"),
            tcp_syn(&own, 1, 2, 3),
            advertisement(&answer, 136, "2001:db8:5:1::7"),
            neighbour_solicitation(SERVER, address("2001:db8:5::2"), address("2001:db8:5::1"), None),
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

    #[test]
    fn only_the_session_moves_the_server_and_forgeries_do_not_count() {
        let (parties, mut seen) = (parties(), Seen::default());
        let mut take = |data: Vec<u8>| seen.take(&parties, &Frame { data, ..Frame::default() });
        for n in 1..=3_u16 {
            let from = format!("2001:db8:5:1::{n}");
            take(udp(&path((SERVER, ROUTER), &from, "2001:db8:c:1::8"), 2000 + n % 2, 9, b"sealed"));
            take(udp(&path((ROUTER, SERVER), "2001:db8:c:1::8", &from), 9, 2000 + n, b"sealed"));
        }
        take(udp(&path((STRANGER, SERVER), "2001:db8:c:1::8", "2001:db8:5:1::f"), 9, 9, MARKER));
        take(udp(&path((STRANGER, SERVER), "2001:db8:5:1::f", "2001:db8:c:1::8"), 9, 9, MARKER));
        assert_eq!((seen.packets, seen.plaintext, seen.replies), (6, 0, 0));
        assert_eq!((seen.addresses(), seen.ports()), (3, 2));
        assert_eq!(seen.current, Some((address("2001:db8:5:1::3"), 2001)));
        let clear = path((ROUTER, SERVER), "2001:db8:c:1::8", "2001:db8:5:1::3");
        seen.take(&parties, &Frame { data: udp(&clear, 9, 9, MARKER), ..Frame::default() });
        assert_eq!(seen.plaintext, 1);
    }

    #[test]
    fn the_newest_old_enough_samples_come_first_and_few_are_kept() {
        let (parties, mut seen) = (parties(), Seen::default());
        let session = path((ROUTER, SERVER), "2001:db8:c:1::8", "2001:db8:5:1::3");
        let last = SAMPLE_EVERY * (SAMPLES as u64 + 10);
        for n in 1..=last {
            seen.take(&parties, &Frame { data: udp(&session, 9, 9, &n.to_be_bytes()), ..Frame::default() });
        }
        let samples: Vec<&[u8]> = seen.samples(Duration::ZERO).collect();
        assert_eq!(samples.len(), SAMPLES);
        assert!(samples[0].ends_with(&last.to_be_bytes()));
        assert!(seen.samples(Duration::from_hours(1)).next().is_none());
    }
}
