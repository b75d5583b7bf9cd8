//! Round trips of small UDP packets: over bare veth, through mtd and through other tunnels, and near the edges of slots.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use mtd_tests::cleanup;
use serde_json::{Map, Value};

use crate::measure::Section;
use crate::openvpn;
use crate::ways::{BORINGTUN, WIREGUARD_GO, Way, or_left_out};

pub(crate) const ABOUT: &str = "\
Round trips of UDP packets with 64 bytes of payload, one after the other, between two ordinary sockets on a veth cable
between two network namespaces. `mtd_encrypt_edge` are the exchanges of `mtd_encrypt` that began within 50 ms of the
beginning of a slot, `mtd_encrypt_away` all others.";

const PAYLOAD: usize = 64;

/// Number of exchanges before each measurement, which do not count.
const WARM_UP: u32 = 500;

/// Length of one measurement.
const SAMPLE: Duration = Duration::from_secs(1);

/// Length of one measurement of mtd in its usual mode: two slots, so that it contains two slot edges.
const TWO_SLOTS: Duration = Duration::from_secs(6);

/// An exchange counts as one at a slot edge if it begins within this time of the beginning of a slot.
const EDGE: Duration = Duration::from_millis(50);

/// How long an answer may take before the packet counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// The case with which the others are compared.
const BASE: &str = "veth";

/// The way whose exchanges near slot edges are compared with those away from them.
const ENCRYPT: &str = "mtd_encrypt";

/// The section `latency` of the results.
///
/// # Errors
/// When something cannot be set up, or a packet gets lost. A tunnel in user space that cannot run here is left out.
pub(crate) fn run(rounds: u32) -> Result<Section> {
    let mut ways = vec![
        (BASE, Way::bare("lat")?),
        (ENCRYPT, Way::mtd("encrypt")?),
        ("mtd_authenticate", Way::mtd("authenticate")?),
        ("mtd_filtered", Way::mtd_filtered()?),
    ];
    for (name, program) in [("wireguard_go", WIREGUARD_GO), ("boringtun", BORINGTUN)] {
        ways.extend(or_left_out(name, Way::wireguard(program)).map(|way| (name, way)));
    }
    ways.extend(or_left_out("openvpn", openvpn::way()).map(|way| ("openvpn", way)));
    let echoes: Vec<Echo> = ways.iter().map(|(_, way)| Echo::start(way)).collect::<Result<_>>()?;
    let mut all: Vec<(&'static str, Exchanges)> =
        ways.iter().map(|(name, _)| (*name, Exchanges::default())).collect();
    let (mut edge, mut away) = (Exchanges::default(), Exchanges::default());
    for round in 1..=rounds {
        for (((name, way), echo), (_, exchanges)) in ways.iter().zip(&echoes).zip(&mut all) {
            let length = if *name == ENCRYPT { TWO_SLOTS } else { SAMPLE };
            let found = echo.exchange(way, length).with_context(|| (*name).to_owned())?;
            ensure!(!cleanup::interrupted(), "ended by a signal; everything is cleaned up");
            if let Some(slots) = way.slots.filter(|_| *name == ENCRYPT) {
                let at_edge = |at: &Duration| slots.distance_to_edge(*at) <= EDGE;
                edge.add_round(found.iter().filter(|(at, _)| at_edge(at)));
                away.add_round(found.iter().filter(|(at, _)| !at_edge(at)));
            }
            exchanges.add_round(found.iter());
            eprintln!(
                "round {round} of {rounds}: {name:24} {:8.2} µs",
                exchanges.medians[round as usize - 1]
            );
        }
    }
    all.extend([("mtd_encrypt_edge", edge), ("mtd_encrypt_away", away)]);
    let base = all.iter().find(|(name, _)| *name == BASE).map(|(_, exchanges)| exchanges.percentile(500));
    let base = base.context("no base")?;
    Ok(all.iter().map(|(name, exchanges)| (*name, exchanges.values(base))).collect())
}

/// The times of the exchanges of one case, in µs.
#[derive(Default)]
struct Exchanges {
    times: Vec<f64>,
    /// The median of each round.
    medians: Vec<f64>,
}

impl Exchanges {
    fn add_round<'a>(&mut self, found: impl Iterator<Item = &'a (Duration, Duration)>) {
        let mut round: Vec<f64> = found.map(|(_, took)| took.as_secs_f64() * 1e6).collect();
        round.sort_by(f64::total_cmp);
        self.medians.push(percentile(&round, 500));
        self.times.extend(round);
        self.times.sort_by(f64::total_cmp);
    }

    fn percentile(&self, thousandths: usize) -> f64 {
        percentile(&self.times, thousandths)
    }

    fn values(&self, base: f64) -> Map<String, Value> {
        let median = self.percentile(500);
        let least = self.medians.iter().copied().fold(f64::MAX, f64::min);
        let most = self.medians.iter().copied().fold(f64::MIN, f64::max);
        let values = [
            ("p50_us", median),
            ("p99_us", self.percentile(990)),
            ("p999_us", self.percentile(999)),
            ("added_p50_us", median - base),
            ("spread", (most - least) / median),
            ("exchanges", self.times.len() as f64),
        ];
        values.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect()
    }
}

/// The value that this number of thousandths of the sorted values do not exceed.
fn percentile(sorted: &[f64], thousandths: usize) -> f64 {
    let place = (sorted.len() * thousandths).div_ceil(1_000);
    sorted.get(place.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// A thread on the right host that sends every packet back.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    to: SocketAddr,
}

impl Echo {
    fn start(way: &Way) -> Result<Self> {
        let address = way.address;
        let socket = way.right.netns.enter(move || UdpSocket::bind((address, 0)))??;
        let to = socket.local_addr()?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2 * PAYLOAD];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // If sending fails, the other end notices that the packet is missing.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread), to })
    }

    /// Makes one exchange after the other for `length`. Returns when each began (since 1970), and how long it took.
    fn exchange(&self, way: &Way, length: Duration) -> Result<Vec<(Duration, Duration)>> {
        let socket = way.left.netns.enter(|| UdpSocket::bind("[::]:0"))??;
        socket.connect(self.to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        for number in 0..WARM_UP {
            exchange(&socket, number)?;
        }
        let start = Instant::now();
        let mut found = Vec::new();
        while start.elapsed() < length {
            let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
            found.push((at, exchange(&socket, WARM_UP + found.len() as u32)?));
        }
        Ok(found)
    }
}

/// Sends one packet and waits for the answer. Returns the time of the round trip.
fn exchange(socket: &UdpSocket, number: u32) -> Result<Duration> {
    let mut packet = [0x5a; PAYLOAD];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    let mut answer = [0; 2 * PAYLOAD];
    let start = Instant::now();
    socket.send(&packet)?;
    let length = match socket.recv(&mut answer) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("packet {number} was lost"),
        Err(error) => return Err(error.into()),
    };
    let took = start.elapsed();
    ensure!(answer[..length] == packet, "another packet than number {number} came back");
    Ok(took)
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, that has been printed already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times: Vec<f64> = (1..=1_000).map(f64::from).collect();
        for thousandths in [500, 990, 999, 1_000] {
            assert!((percentile(&times, thousandths) - thousandths as f64).abs() < 1e-9);
        }
        assert!((percentile(&[7.0], 1) - 7.0).abs() < 1e-9 && percentile(&[], 500).is_nan());
    }
}
