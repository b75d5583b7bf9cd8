//! The traffic of the demonstration: TCP connections and UDP streams through the session of each client.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mtd_tests::netns::Netns;
use mtd_tests::traffic::{TcpFlow, TcpOptions, TcpReport, UdpOptions, UdpReport, UdpStream};

use crate::sites::Tunnel;

/// Payload bytes a second of each TCP connection, in each direction.
const TCP_RATE: u64 = 128 << 10;

/// Packets a second of each UDP stream.
const UDP_RATE: u32 = 500;

/// How much longer than planned the generators may run before they end by themselves.
const RESERVE: Duration = Duration::from_mins(5);

/// Running traffic; stops when dropped.
#[derive(Debug)]
pub(crate) struct Flows {
    tcp: Vec<TcpFlow>,
    udp: Vec<UdpStream>,
}

/// The generators' counts so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// TCP connections.
    pub(crate) connections: usize,
    /// TCP connections that broke.
    pub(crate) broken: usize,
    /// Payload bytes that arrived over TCP.
    pub(crate) tcp_bytes: u64,
    /// UDP packets sent.
    pub(crate) udp_sent: u64,
    /// UDP packets that arrived.
    pub(crate) udp_received: u64,
    /// How much has arrived in each direction of each connection and stream.
    arrivals: Vec<u64>,
}

/// The generators' reports at the end.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    /// One for each connection.
    pub(crate) tcp: Vec<TcpReport>,
    /// One for each stream.
    pub(crate) udp: Vec<UdpReport>,
}

impl Flows {
    /// Starts traffic through the tunnel for each client, given by its namespace and tunnel addresses: a TCP connection to
    /// the server over IPv6 and one over IPv4, a UDP stream to the server over IPv6 and one back over IPv4.
    ///
    /// # Errors
    /// When a connection cannot be opened.
    pub(crate) fn start(
        server: &Netns,
        addresses: &Tunnel,
        clients: &[(&Netns, Tunnel)],
        duration: Duration,
    ) -> Result<Self> {
        let longest = duration + RESERVE;
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for &(client, own) in clients {
            for to in [addresses.v6.into(), addresses.v4.into()] {
                let options = TcpOptions { longest, bytes_per_second: TCP_RATE, ..TcpOptions::to(to) };
                tcp.push(TcpFlow::start(client, server, &options).context("TCP through the tunnel")?);
            }
            let options = |to| UdpOptions { longest, rate: UDP_RATE, ..UdpOptions::to(to) };
            udp.push(UdpStream::start(client, server, &options(addresses.v6.into()))?);
            udp.push(UdpStream::start(server, client, &options(own.v4.into()))?);
        }
        Ok(Self { tcp, udp })
    }

    /// The counts so far.
    pub(crate) fn progress(&self) -> Progress {
        let mut progress = Progress { connections: self.tcp.len(), ..Progress::default() };
        for counters in self.tcp.iter().map(TcpFlow::counters) {
            let arrived = [counters.received_by_server(), counters.received_by_client()];
            progress.broken += usize::from(counters.broken().is_some());
            progress.tcp_bytes += arrived.iter().sum::<u64>();
            progress.arrivals.extend(arrived);
        }
        for counters in self.udp.iter().map(UdpStream::counters) {
            progress.udp_sent += counters.sent();
            progress.udp_received += counters.received();
            progress.arrivals.push(counters.received());
        }
        progress
    }

    /// Stops sending, waits for data in flight, and reports.
    ///
    /// # Errors
    /// When a generator failed.
    pub(crate) fn stop(self) -> Result<Reports> {
        Ok(Reports {
            tcp: self.tcp.into_iter().map(TcpFlow::stop).collect(),
            udp: self.udp.into_iter().map(UdpStream::stop).collect::<Result<_>>()?,
        })
    }
}

/// Counts the slots that all traffic survived: consecutive spans of one period in each of which something arrived in every
/// direction of every connection and stream. Wherever the slots begin, each such span contains a change of addresses.
#[derive(Debug)]
pub(crate) struct Pulse {
    period: Duration,
    span_end: Instant,
    at_start: Vec<u64>,
    lived: u32,
    spans: u32,
}

impl Pulse {
    /// Starts with a span that begins now.
    pub(crate) fn new(period: Duration, now: Instant, progress: &Progress) -> Self {
        Self { period, span_end: now + period, at_start: progress.arrivals.clone(), lived: 0, spans: 0 }
    }

    /// Takes the present counts; to be called often. If the end of a span is noticed more than a period late, the span
    /// merges with the next one.
    pub(crate) fn tick(&mut self, now: Instant, progress: &Progress) {
        if now < self.span_end {
            return;
        }
        let alive = self.at_start.iter().zip(&progress.arrivals).all(|(before, after)| after > before);
        self.lived += u32::from(alive);
        while self.span_end <= now {
            self.span_end += self.period;
            self.spans += 1;
        }
        self.at_start.clone_from(&progress.arrivals);
    }

    /// Number of slots that all traffic survived.
    pub(crate) fn lived(&self) -> u32 {
        self.lived
    }

    /// Number of slots that have passed.
    pub(crate) fn passed(&self) -> u32 {
        self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn arrived(arrivals: [u64; 2]) -> Progress {
        Progress { arrivals: arrivals.to_vec(), ..Progress::default() }
    }

    #[test]
    fn a_slot_counts_when_everything_arrived_in_it() {
        let start = Instant::now();
        let at = |tenths: u32| start + tenths * PERIOD / 10;
        let mut pulse = Pulse::new(PERIOD, start, &arrived([0, 0]));
        pulse.tick(at(9), &arrived([5, 5]));
        assert_eq!((pulse.lived(), pulse.passed()), (0, 0), "not over yet");
        pulse.tick(at(10), &arrived([6, 6]));
        assert_eq!((pulse.lived(), pulse.passed()), (1, 1));
        pulse.tick(at(20), &arrived([7, 6]));
        assert_eq!((pulse.lived(), pulse.passed()), (1, 2), "nothing arrived on the second");
        pulse.tick(at(30), &arrived([8, 7]));
        assert_eq!((pulse.lived(), pulse.passed()), (2, 3));
        pulse.tick(at(61), &arrived([9, 8]));
        assert_eq!((pulse.lived(), pulse.passed()), (3, 6), "slots nobody looked at do not count");
    }
}
