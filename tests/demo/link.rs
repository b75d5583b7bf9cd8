//! Counts on the server's Ethernet, from packet captures that are independent of mtd's own counters.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::netns::Netns;
use mtd_tests::topology::Topology;
use mtd_tests::traffic::contains_marker;

use crate::parties::Parties;
use crate::view::{Packet, ethernet};

/// Maximum number of addresses or ports that are kept: more than are used in a day of the shortest slots.
const MOST_KEPT: usize = 1 << 18;

/// Of this number of packets to the server, one is kept for the stranger to replay, …
const SAMPLE_EVERY: u64 = 16;
/// … and at most this number are kept.
const SAMPLES: usize = 64;

/// An address and UDP port from which the server was seen to send.
pub(crate) type Endpoint = (Ipv6Addr, u16);

/// The first packet that a client sent to the server. It begins a handshake, so its destination is the server's
/// introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// The present address and port of the server's introduction.
    pub(crate) endpoint: Endpoint,
    /// The frame.
    pub(crate) frame: Vec<u8>,
}

/// What was captured on the server's link so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Packets between the protected prefixes of server and clients, without those that the stranger forged.
    pub(crate) packets: u64,
    /// The address and port from which the server sent last.
    pub(crate) current: Option<Endpoint>,
    /// Packets that contain the marker, except those that the stranger sent.
    pub(crate) plaintext: u64,
    /// Frames that tell a stranger anything.
    pub(crate) replies: u64,
    /// The first of these frames.
    pub(crate) first_reply: Option<Vec<u8>>,
    /// The first packets of the clients so far, in the order in which they were sent.
    pub(crate) introductions: Vec<Introduction>,
    addresses: HashSet<Ipv6Addr>,
    ports: HashSet<u16>,
    /// By number of the client, the addresses from which the server sent to it, without introductions.
    sessions: BTreeMap<usize, HashSet<Ipv6Addr>>,
    begun: HashSet<usize>,
    to_server: u64,
    samples: VecDeque<(Instant, Vec<u8>)>,
}

impl Seen {
    /// Number of different protected addresses from which the server sent.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// Number of different UDP ports from which the server sent, at protected addresses.
    pub(crate) fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Number of different addresses from which the server sent in its session with a client.
    pub(crate) fn session_addresses(&self, client: usize) -> usize {
        self.sessions.get(&client).map_or(0, HashSet::len)
    }

    /// Packets from clients to the server, seen at least `age` ago, newest first.
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
        let Some(ports) = packet.udp_ports() else { return };
        if parties.server.contains(&packet.source) {
            if let Some(client) = parties.client_at(&packet.destination) {
                self.sent(client, (packet.source, ports.0));
            }
        } else if parties.server.contains(&packet.destination)
            && let Some(client) = parties.client_at(&packet.source)
        {
            self.received(client, (packet.destination, ports.1), data);
        }
    }

    /// Counts a packet that the server sent to a client from this endpoint.
    pub(crate) fn sent(&mut self, client: usize, from: Endpoint) {
        self.packets += 1;
        self.current = Some(from);
        keep(&mut self.addresses, from.0);
        keep(&mut self.ports, from.1);
        if self.introductions.iter().all(|introduction| introduction.endpoint.0 != from.0) {
            keep(self.sessions.entry(client).or_default(), from.0);
        }
    }

    /// Counts a packet that a client sent to this endpoint of the server.
    fn received(&mut self, client: usize, to: Endpoint, data: &[u8]) {
        self.packets += 1;
        if self.begun.insert(client) {
            self.introductions.push(Introduction { endpoint: to, frame: data.to_vec() });
        }
        self.to_server += 1;
        if self.to_server.is_multiple_of(SAMPLE_EVERY) {
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back((Instant::now(), data.to_vec()));
        }
    }
}

/// The captures of the demonstration.
#[derive(Debug)]
pub(crate) struct Captures {
    server_link: Capture,
    stranger_link: Capture,
    inside: Vec<(Capture, Arc<AtomicU64>)>,
    counters: Counters,
}

/// The results of [`Captures`] at the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captured {
    /// Packets with the marker at each client's end of the tunnel.
    pub(crate) marked_inside: Vec<u64>,
    /// Frames that the captures missed. If there are any, the counts are not complete.
    pub(crate) missed: u64,
}

/// Live counts of [`Captures`], which stay readable after the end of the captures.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    seen: Arc<Mutex<Seen>>,
    probes: Arc<AtomicU64>,
}

impl Captures {
    /// Starts captures at the server's end and at the stranger's end of their link.
    ///
    /// # Errors
    /// When a capture cannot be started.
    pub(crate) fn start(topology: &Topology, parties: &Parties) -> Result<Self> {
        let counters = Counters { seen: Arc::default(), probes: Arc::default() };
        let options = CaptureOptions::default();
        let (seen, who) = (Arc::clone(&counters.seen), parties.clone());
        let on_server_link = move |frame: &Frame| lock(&seen).take(&who, frame);
        let (probes, who) = (Arc::clone(&counters.probes), parties.clone());
        let on_stranger_link = move |frame: &Frame| count_if(&probes, who.is_probe(&frame.data));
        let Topology { router, server, scanner, .. } = topology;
        Ok(Self {
            server_link: Capture::start_with(router, &server.tap_ifname, &options, on_server_link)?,
            stranger_link: Capture::start_with(router, &scanner.tap_ifname, &options, on_stranger_link)?,
            inside: Vec::new(),
            counters,
        })
    }

    /// Also captures inside the tunnel, at a client's device `tunnel`, where the marker must be seen. Otherwise its absence
    /// from the link would mean nothing.
    ///
    /// # Errors
    /// When the capture cannot be started.
    pub(crate) fn add_inside(&mut self, client: &Netns, tunnel: &str) -> Result<()> {
        let marked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&marked);
        let on_inside = move |frame: &Frame| count_if(&count, contains_marker(&frame.data));
        let capture = Capture::start_with(client, tunnel, &CaptureOptions::default(), on_inside)?;
        self.inside.push((capture, marked));
        Ok(())
    }

    /// Live counts.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Processes the frames that are queued, and ends.
    ///
    /// # Errors
    /// When receiving had failed.
    pub(crate) fn stop(self) -> Result<Captured> {
        let mut captured = Captured::default();
        for capture in [self.server_link, self.stranger_link] {
            captured.missed += capture.stop()?.kernel_drops;
        }
        for (capture, marked) in self.inside {
            captured.missed += capture.stop()?.kernel_drops;
            captured.marked_inside.push(marked.load(Ordering::Relaxed));
        }
        Ok(captured)
    }
}

impl Counters {
    /// What was captured on the server's link so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Probes that the stranger has sent so far.
    pub(crate) fn probes(&self) -> u64 {
        self.probes.load(Ordering::Relaxed)
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
    use mtd_tests::packet::udp;
    use mtd_tests::traffic::MARKER;

    use super::*;
    use crate::parties::tests::{ROUTER, SERVER, STRANGER, address, parties, path};

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
        assert_eq!((seen.session_addresses(0), seen.session_addresses(1)), (3, 0));
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

    #[test]
    fn what_a_client_sends_to_first_is_the_introduction_and_no_session() {
        let (parties, mut seen) = (parties(), Seen::default());
        let mut take = |data: Vec<u8>| seen.take(&parties, &Frame { data, ..Frame::default() });
        for (client, session) in
            [("2001:db8:c:1::8", "2001:db8:5:1::c"), ("2001:db8:d:1::8", "2001:db8:5:1::d")]
        {
            for door in ["2001:db8:5:1::a", session] {
                take(udp(&path((ROUTER, SERVER), client, door), 9, 7000, b"sealed"));
                take(udp(&path((SERVER, ROUTER), door, client), 7000, 9, b"sealed"));
            }
        }
        let doors: Vec<_> = seen.introductions.iter().map(|introduction| introduction.endpoint).collect();
        assert_eq!(doors, [(address("2001:db8:5:1::a"), 7000); 2]);
        assert_eq!((seen.addresses(), seen.session_addresses(0), seen.session_addresses(1)), (3, 1, 1));
    }
}
