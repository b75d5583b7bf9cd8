//! A UDP stream of numbered packets at a steady rate, with a receiver that accounts for every packet.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::pattern::{HEADER_LEN, check, fill};
use super::{Stall, Stop};
use crate::netns::Netns;
use crate::packet_socket::set_option;

/// How long the receiver waits in one call.
const CALL_TIMEOUT: Duration = Duration::from_millis(50);

/// How long the last packets may take to arrive after the sender has stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Receive buffer with room for seconds of packets, so that a slow receiver does not look like loss in the network.
const BUFFER_BYTES: libc::c_int = 16 << 20;

const STREAM: u64 = 0x7564_7000;

/// Options of a [`UdpStream`].
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// Address of the receiver's namespace to bind and send to.
    pub receiver: IpAddr,
    /// Port to bind; 0 lets the kernel choose.
    pub port: u16,
    /// Packets per second.
    pub rate: u32,
    /// UDP payload bytes, 40 to 65,000.
    pub payload_len: usize,
    /// The stream stops by itself after this time.
    pub longest: Duration,
}

impl UdpOptions {
    /// 1,000 packets of 256 bytes per second, 10 minutes at most.
    pub fn to(receiver: IpAddr) -> Self {
        Self { receiver, port: 0, rate: 1000, payload_len: 256, longest: Duration::from_mins(10) }
    }
}

/// Live counters of a [`UdpStream`], packets.
#[derive(Debug, Default)]
pub struct UdpCounters {
    sent: AtomicU64,
    send_errors: AtomicU64,
    unique: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    foreign: AtomicU64,
}

/// The result of a [`UdpStream`], in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpReport {
    /// Numbers used by the sender, failed sends included.
    pub sent: u64,
    /// Sends that the sender's own kernel refused; counted as lost too.
    pub send_errors: u64,
    /// Different packets that arrived whole and unchanged.
    pub received: u64,
    /// Sent but never arrived: `sent - received`.
    pub lost: u64,
    /// Arrivals of a packet that had arrived before.
    pub duplicated: u64,
    /// Arrivals of a packet after a later one.
    pub reordered: u64,
    /// Arrivals that are not of this stream or were changed on the way.
    pub foreign: u64,
    /// Longest time without an arrival, from the start to the stop.
    pub longest_gap: Duration,
}

/// A running stream; stops when dropped.
#[derive(Debug)]
pub struct UdpStream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: Stop,
    sender_done: AtomicBool,
    counters: UdpCounters,
    stall: Stall,
}

impl UdpStream {
    /// Binds in the receiver's namespace and starts to send from the sender's.
    ///
    /// # Errors
    /// When the receiver's address cannot be bound, or an option is out of range.
    pub fn start(sender: &Netns, receiver: &Netns, options: &UdpOptions) -> Result<Self> {
        ensure!(options.rate > 0, "a stream of 0 packets per second shows nothing: use at least 1");
        ensure!(
            (HEADER_LEN..=65_000).contains(&options.payload_len),
            "payloads of {} bytes do not work: use {HEADER_LEN} to 65000",
            options.payload_len
        );
        let wanted = SocketAddr::new(options.receiver, options.port);
        let inbound = receiver
            .enter(|| UdpSocket::bind(wanted))?
            .with_context(|| format!("cannot bind {wanted} in {}", receiver.name()))?;
        inbound.set_read_timeout(Some(CALL_TIMEOUT))?;
        set_option(&inbound, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES)?;
        let destination = inbound.local_addr()?;
        let any = match destination {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        // Not connected, so that an ICMP error about an earlier packet does not make a later send fail.
        let outbound = sender.enter(|| UdpSocket::bind((any, 0)))?.context("no socket to send from")?;
        let shared = Arc::new(Shared {
            stop: Stop::after(options.longest),
            sender_done: AtomicBool::new(false),
            counters: UdpCounters::default(),
            stall: Stall::new(),
        });
        let mut stream = Self { shared, threads: Vec::new() };
        stream.spawn(move |shared| receive(&inbound, shared))?;
        let (rate, payload_len) = (options.rate, options.payload_len);
        stream.spawn(move |shared| send(&outbound, destination, rate, payload_len, shared))?;
        Ok(stream)
    }

    /// Live counters.
    pub fn counters(&self) -> &UdpCounters {
        &self.shared.counters
    }

    /// Stops sending, waits at most a second for packets in flight, and reports.
    ///
    /// # Errors
    /// When a thread of the stream panicked.
    pub fn stop(mut self) -> Result<UdpReport> {
        // Read before the stop, since the silence after it is no gap.
        let longest_gap = self.shared.stall.longest();
        self.finish()?;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = self.counters();
        let (sent, received) = (load(&counters.sent), load(&counters.unique));
        Ok(UdpReport {
            sent,
            send_errors: load(&counters.send_errors),
            received,
            lost: sent - received,
            duplicated: load(&counters.duplicated),
            reordered: load(&counters.reordered),
            foreign: load(&counters.foreign),
            longest_gap,
        })
    }

    fn spawn(&mut self, work: impl FnOnce(&Shared) + Send + 'static) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(thread::Builder::new().name("udp stream".to_owned()).spawn(move || work(&shared))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.shared.stop.request();
        let panicked = self.threads.drain(..).filter_map(|thread| thread.join().err()).count();
        if panicked == 0 { Ok(()) } else { Err(anyhow!("{panicked} thread(s) of the UDP stream panicked")) }
    }
}

impl Drop for UdpStream {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("{error:#}");
        }
    }
}

impl UdpCounters {
    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Different packets received so far. Packets in flight are counted by [`UdpCounters::sent`] but not yet here.
    pub fn received(&self) -> u64 {
        self.unique.load(Ordering::Relaxed)
    }
}

fn send(socket: &UdpSocket, destination: SocketAddr, rate: u32, payload_len: usize, shared: &Shared) {
    let mut payload = vec![0; payload_len];
    let start = Instant::now();
    for index in 0_u64.. {
        // Counted from the start, not from the last packet, so that a late wake-up does not lower the rate.
        let due = start + Duration::from_nanos(index.saturating_mul(1_000_000_000) / u64::from(rate));
        if !shared.stop.sleep_until(due) {
            break;
        }
        fill(STREAM, index, &mut payload);
        shared.counters.sent.fetch_add(1, Ordering::Relaxed);
        if socket.send_to(&payload, destination).is_err() {
            shared.counters.send_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
    shared.sender_done.store(true, Ordering::SeqCst);
}

fn receive(socket: &UdpSocket, shared: &Shared) {
    let counters = &shared.counters;
    let mut buffer = vec![0; 64 << 10];
    let mut scratch = Vec::new();
    let mut seen = Seen::default();
    let mut drain_until = None;
    loop {
        if shared.sender_done.load(Ordering::SeqCst) {
            let all = counters.received() + counters.send_errors.load(Ordering::Relaxed) >= counters.sent();
            if all || Instant::now() >= *drain_until.get_or_insert_with(|| Instant::now() + DRAIN_TIMEOUT) {
                return;
            }
        }
        let count = match socket.recv(&mut buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => {
                thread::sleep(CALL_TIMEOUT);
                continue;
            }
        };
        let known = check(STREAM, &buffer[..count], &mut scratch).filter(|&index| index < counters.sent());
        let counter = match known.map(|index| seen.arrival(index)) {
            None => &counters.foreign,
            Some(Arrival::Next) => &counters.unique,
            Some(Arrival::Late) => {
                counters.reordered.fetch_add(1, Ordering::Relaxed);
                &counters.unique
            }
            Some(Arrival::Again) => &counters.duplicated,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        shared.stall.arrival();
    }
}

enum Arrival {
    Next,
    Late,
    Again,
}

/// The numbers that have arrived, one bit each.
#[derive(Default)]
struct Seen {
    words: Vec<u64>,
    next: u64,
}

impl Seen {
    fn arrival(&mut self, index: u64) -> Arrival {
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit != 0 {
            return Arrival::Again;
        }
        self.words[word] |= bit;
        if index < self.next {
            return Arrival::Late;
        }
        self.next = index + 1;
        Arrival::Next
    }
}
