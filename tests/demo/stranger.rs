//! The stranger: probes from the server's own Ethernet segment, made by nmap and by hand. It probes the server's
//! introduction from the first handshake on, and the sessions for as long as the traffic runs.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use mtd_tests::inject::Injector;
use mtd_tests::topology::{Host, Scanner, Topology};

use crate::link::{Counters, Introduction};
use crate::nmap::{Scan, Scans};
use crate::parties::Parties;
use crate::probes::{Forger, Kind, Tally};

/// Time between two salvos of probes made by hand.
const SALVO_EVERY: Duration = Duration::from_millis(250);

/// How often the stranger looks for a new handshake.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One salvo out of this number also goes to the introduction.
const INTRODUCTION_EVERY: usize = 8;

/// How old a captured packet must be before it is replayed, so that the original has arrived.
const REPLAY_AGE: Duration = Duration::from_millis(100);

/// Packets remembered for late replays.
const REMEMBERED: usize = 64;

/// The stranger's report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Probes made by hand, by kind.
    pub(crate) by_hand: Tally,
    /// The finished scans of nmap.
    pub(crate) nmap: Vec<Scan>,
}

/// A running stranger. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct Stranger {
    scan: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Report>>>,
}

impl Stranger {
    /// Starts to wait for handshakes, and to probe the introduction at each. From `counters` the stranger learns the
    /// server's present address and takes packets to replay, as if it could read the traffic on the server's cable.
    ///
    /// # Errors
    /// When no raw socket can be opened, or no thread started.
    pub(crate) fn start(
        topology: &Topology,
        parties: &Parties,
        counters: &Counters,
        period: Duration,
    ) -> Result<Self> {
        let Topology { server, scanner, .. } = topology;
        let work = Work::new(server, scanner, parties, counters, period)?;
        let stop = Arc::new(AtomicBool::new(false));
        let scan = Arc::new(AtomicBool::new(false));
        let flags = (Arc::clone(&scan), Arc::clone(&stop));
        let thread =
            thread::Builder::new().name("stranger".to_owned()).spawn(move || work.run(&flags.0, &flags.1))?;
        Ok(Self { scan, stop, thread: Some(thread) })
    }

    /// From now on, the stranger uses all of its probes.
    pub(crate) fn scan(&self) {
        self.scan.store(true, Ordering::SeqCst);
    }

    /// Ends the probing (nmap too) and reports.
    ///
    /// # Errors
    /// When a probe could not be sent, or nmap could not be run.
    pub(crate) fn stop(mut self) -> Result<Report> {
        self.finish().unwrap_or_else(|| Ok(Report::default()))
    }

    fn finish(&mut self) -> Option<Result<Report>> {
        self.stop.store(true, Ordering::SeqCst);
        let outcome = self.thread.take()?.join();
        Some(
            outcome
                .unwrap_or_else(|_| Err(anyhow!("the stranger's thread panicked")))
                .context("the stranger"),
        )
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.finish() {
            eprintln!("{error:#}");
        }
    }
}

struct Work {
    injector: Injector,
    forger: Forger,
    scans: Scans,
    counters: Counters,
    /// How long after an address was seen it is certainly dead: three slots.
    dead_after: Duration,
    remembered: Vec<(Instant, Vec<u8>)>,
    /// Number of handshakes whose introduction was probed.
    greeted: usize,
    tally: Tally,
}

impl Work {
    fn new(
        server: &Host,
        scanner: &Scanner,
        parties: &Parties,
        counters: &Counters,
        period: Duration,
    ) -> Result<Self> {
        Ok(Self {
            injector: Injector::open(&scanner.netns, &scanner.ifname)?,
            forger: Forger::new(parties, server.prefix),
            scans: Scans::new(&scanner.netns)?,
            counters: counters.clone(),
            dead_after: 3 * period,
            remembered: Vec::new(),
            greeted: 0,
            tally: Tally::default(),
        })
    }

    fn run(mut self, scan: &AtomicBool, stop: &AtomicBool) -> Result<Report> {
        while !scan.load(Ordering::SeqCst) && sleep_until(Instant::now() + LOOK_EVERY, stop) {
            self.greet()?;
        }
        let mut due = Instant::now();
        for salvo in 0_usize.. {
            if !sleep_until(due, stop) {
                break;
            }
            due = Instant::now() + SALVO_EVERY;
            self.greet()?;
            // There is nothing to probe before the first handshake.
            let (current, introduction) = {
                let seen = self.counters.seen();
                (seen.current, seen.introductions.last().cloned())
            };
            let (Some((address, port)), Some(introduction)) = (current, introduction) else { continue };
            self.scans.advance(address, introduction.endpoint.0)?;
            self.search()?;
            self.knock(address, port)?;
            self.tamper(salvo)?;
            if salvo.is_multiple_of(INTRODUCTION_EVERY) {
                self.intrude(&introduction, salvo)?;
            }
        }
        Ok(Report { by_hand: self.tally, nmap: self.scans.finish() })
    }

    /// Probes the introduction once for each new handshake.
    fn greet(&mut self) -> Result<()> {
        let new: Vec<Introduction> =
            self.counters.seen().introductions.iter().skip(self.greeted).cloned().collect();
        self.greeted += new.len();
        for (nth, introduction) in new.iter().enumerate() {
            self.intrude(introduction, self.greeted + nth)?;
        }
        Ok(())
    }

    /// Sends the introduction unsolicited packets, and replays the beginning of a client's handshake, unchanged and changed.
    fn intrude(&mut self, introduction: &Introduction, round: usize) -> Result<()> {
        let (address, port) = introduction.endpoint;
        let mut frames: Vec<_> =
            self.forger.knocks(address, port)?.into_iter().map(|(_, frame)| frame).collect();
        frames.push(self.forger.readdressed(&introduction.frame));
        frames.extend(self.forger.alterations(&introduction.frame, round)?);
        for frame in frames {
            self.send(Kind::Introduction, &frame)?;
        }
        Ok(())
    }

    /// Sends multicast solicitations for addresses of the prefix that nobody has.
    fn search(&mut self) -> Result<()> {
        for _ in 0..2 {
            let target = self.forger.random_address()?;
            for frame in [self.forger.solicitation(target, false), self.forger.solicitation(target, true)] {
                self.send(Kind::Solicitation, &frame)?;
            }
        }
        Ok(())
    }

    /// Sends unsolicited packets to the live address and to a random one.
    fn knock(&mut self, live: Ipv6Addr, port: u16) -> Result<()> {
        for target in [live, self.forger.random_address()?] {
            for (kind, frame) in self.forger.knocks(target, port)? {
                self.send(kind, &frame)?;
            }
        }
        Ok(())
    }

    /// Sends captured packets: replayed at once, replayed later, and changed.
    fn tamper(&mut self, salvo: usize) -> Result<()> {
        let fresh = self.counters.seen().samples(REPLAY_AGE).next().map(<[u8]>::to_vec);
        let Some(fresh) = fresh else { return Ok(()) };
        let again = self.forger.readdressed(&fresh);
        self.send(Kind::Replay, &again)?;
        for frame in self.forger.alterations(&fresh, salvo)? {
            self.send(Kind::Altered, &frame)?;
        }
        let (at, age) = (salvo % REMEMBERED, self.dead_after);
        let late = self.remembered.iter().rev().find(|(seen, _)| seen.elapsed() >= age);
        if let Some(late) = late.map(|(_, frame)| frame.clone()) {
            self.send(Kind::Replay, &late)?;
        }
        if at < self.remembered.len() {
            self.remembered[at] = (Instant::now(), again);
        } else {
            self.remembered.push((Instant::now(), again));
        }
        Ok(())
    }

    fn send(&mut self, kind: Kind, frame: &[u8]) -> Result<()> {
        self.injector.send(frame)?;
        self.tally.add(kind);
        Ok(())
    }
}

/// Makes the link carry everything that the stranger sends to the protected prefix directly to the server.
///
/// Both sides get permanent neighbour entries for each other, so that the server has no reason to send anything to the
/// stranger, not even a neighbour solicitation to check its unprotected address.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn introduce(topology: &Topology, parties: &Parties) -> Result<()> {
    make_plain_switch(topology)?;
    let (server, scanner) = (&topology.server, &topology.scanner);
    let prefix = server.prefix.to_string();
    let gateway = server.address.to_string();
    scanner.netns.run(&["-6", "route", "replace", &prefix, "via", &gateway, "dev", &scanner.ifname])?;
    let known = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    for (netns, ifname, address, mac) in [
        (&scanner.netns, &scanner.ifname, server.address, parties.server_mac),
        (&server.netns, &server.ifname, scanner.address, parties.stranger_mac),
    ] {
        let (address, mac) = (address.to_string(), known(mac));
        netns.run(&["neigh", "replace", &address, "lladdr", &mac, "dev", ifname, "nud", "permanent"])?;
    }
    Ok(())
}

/// Makes the router's bridge a switch that handles only Ethernet. Otherwise bridge netfilter, where the kernel has it,
/// drops malformed IP packets, and VLAN tags pass the server's cable outside the frame, where no program sees them.
fn make_plain_switch(topology: &Topology) -> Result<()> {
    let router = &topology.router;
    for family in ["ip6tables", "iptables"] {
        let key = format!("net/bridge/bridge-nf-call-{family}");
        if router.sysctl(&key).is_ok() {
            router.set_sysctl(&key, "0")?;
        }
    }
    router.set_offload(&topology.server.tap_ifname, "txvlan", false)
}

/// Sleeps in short steps; false if the end came first.
fn sleep_until(due: Instant, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::SeqCst) {
            return false;
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(Duration::from_millis(20)));
    }
}
