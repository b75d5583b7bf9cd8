//! Bounded traffic with checked contents: one TCP connection ([`TcpFlow`]), a UDP stream ([`UdpStream`]), both of these in
//! both directions ([`Load`]), or many TCP connections with little traffic on each ([`Flows`]).
//!
//! The contents are a function of stream and position, so the receiving end knows every byte that must come. They contain
//! [`MARKER`] once in every UDP packet and in every [`BLOCK`] bytes of TCP, so that a capture shows whether they passed in
//! the clear.

mod flows;
mod load;
mod pattern;
mod tcp;
mod udp;

pub use flows::{Flows, FlowsReport};
pub use load::{Load, LoadReport, UDP_RATE};
pub use pattern::{BLOCK, MARKER, contains_marker};
pub use tcp::{TcpCounters, TcpFlow, TcpOptions, TcpReport};
pub use udp::{UdpCounters, UdpOptions, UdpReport, UdpStream};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longest uninterrupted sleep of a generator: bounds how long a stop takes.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// When to end: on request, and at a fixed time at the latest, so that a forgotten generator ends too.
#[derive(Debug)]
struct Stop {
    requested: AtomicBool,
    latest: Instant,
}

impl Stop {
    fn after(longest: Duration) -> Self {
        Self { requested: AtomicBool::new(false), latest: Instant::now() + longest }
    }

    fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    fn is_due(&self) -> bool {
        self.requested.load(Ordering::SeqCst) || Instant::now() >= self.latest
    }

    /// Sleeps until `time`; false if the end came first.
    fn sleep_until(&self, time: Instant) -> bool {
        loop {
            if self.is_due() {
                return false;
            }
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LONGEST_SLEEP));
        }
    }
}

/// The longest time between two arrivals.
#[derive(Debug)]
struct Stall {
    start: Instant,
    /// Time of the last arrival, microseconds since `start`.
    last: AtomicU64,
    longest: AtomicU64,
}

impl Stall {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0), longest: AtomicU64::new(0) }
    }

    fn arrival(&self) {
        let now = self.start.elapsed().as_micros() as u64;
        let previous = self.last.swap(now, Ordering::Relaxed);
        self.longest.fetch_max(now.saturating_sub(previous), Ordering::Relaxed);
    }

    /// The longest gap so far, including the present one.
    fn longest(&self) -> Duration {
        let open =
            (self.start.elapsed().as_micros() as u64).saturating_sub(self.last.load(Ordering::Relaxed));
        Duration::from_micros(self.longest.load(Ordering::Relaxed).max(open))
    }
}
