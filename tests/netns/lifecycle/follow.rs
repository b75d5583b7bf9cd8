//! `mtd drops --follow --json` during a scan, and when its controller stops.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use mtd::status::DroppedPacket;
use mtd_tests::controller::mtd_program;
use mtd_tests::inject::{Injector, Interface};
use mtd_tests::packet::{Path, echo_request, tcp_syn, udp};
use mtd_tests::process::Running;
use mtd_tests::wait_until;
use nix::sys::signal::Signal;

use super::bench::{Bench, PATIENCE};

/// Number of probes of each kind. Together they stay below the burst of events to which the rate limit does not apply.
const PROBES: u16 = 20;

/// Destination port of the probes that are sent until the first event comes.
const FIRST: u16 = u16::MAX;

const SOURCE_PORT: u16 = 40_000;

#[test]
fn a_scan_is_seen_while_it_happens_and_the_stream_ends_with_the_controller() -> Result<()> {
    let bench = Bench::new()?;
    let mut controller = bench.start()?;
    let mut follower = follow(&bench)?;
    let mut interrupted = follow(&bench)?;
    let stranger = Stranger::new(&bench)?;
    let begin = SystemTime::now();
    // Drops from before the follower subscribed are not shown, so probes are repeated until one is.
    wait_until("the first event", PATIENCE, || {
        stranger.probe(FIRST)?;
        // This is below the rate at which events are limited.
        thread::sleep(Duration::from_millis(50));
        Ok(!events(&follower)?.is_empty() && !events(&interrupted)?.is_empty())
    })?;
    for nth in 1..=PROBES {
        stranger.probe(nth)?;
    }
    let last = |event: &DroppedPacket| event.destination_port == Some(PROBES);
    wait_until("the last events", PATIENCE, || {
        Ok(events(&follower)?.iter().filter(|event| last(event)).count() == 2)
    })?;
    let events = events(&follower)?;
    assert_events(&bench, &events, begin)?;

    let status = interrupted.terminate(Signal::SIGINT, PATIENCE)?;
    assert!(status.success(), "Ctrl-C is how it ends: {status}");
    assert_eq!(interrupted.stderr()?, "");

    controller.stop()?;
    let status = follower.wait(PATIENCE)?;
    assert_eq!(status.code(), Some(1), "{}", follower.log());
    assert_eq!(follower.stderr()?, format!("mtd: the controller for {} has stopped\n", bench.ifname()));
    Ok(())
}

fn assert_events(bench: &Bench, events: &[DroppedPacket], begin: SystemTime) -> Result<()> {
    let mut reasons = BTreeMap::new();
    let begin = begin.duration_since(SystemTime::UNIX_EPOCH)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let margin = Duration::from_millis(100);
    for event in events.iter().filter(|event| event.destination_port != Some(FIRST)) {
        let time = Duration::from_nanos(event.time_ns);
        assert!(begin <= time + margin && time <= now + margin, "{event:?}");
        assert_eq!(event.source, Some(IpAddr::V6(bench.topology.scanner.address)), "{event:?}");
        assert_eq!(event.destination, Some(target(bench)), "{event:?}");
        assert_eq!(event.direction, "receive");
        *reasons.entry(event.reason.as_str()).or_insert(0_u16) += 1;
    }
    assert_eq!(
        (reasons.get("tcp"), reasons.get("unknown_address")),
        (Some(&PROBES), Some(&PROBES)),
        "{reasons:?}"
    );
    // Echo requests have no port by which the first ones could be distinguished.
    assert!(reasons.get("icmpv6") >= Some(&PROBES) && reasons.len() == 3, "{reasons:?}");
    for (reason, header, length) in [("tcp", 6, 74), ("unknown_address", 17, 66), ("icmpv6", 58, 66)] {
        let event = events.iter().find(|event| event.reason == reason).context("no such event")?;
        assert_eq!((event.next_header, event.length), (Some(header), length), "{event:?}");
        let port = (reason != "icmpv6").then_some(SOURCE_PORT);
        assert_eq!(event.source_port, port, "{event:?}");
    }
    Ok(())
}

/// Starts `mtd drops --follow --json`.
fn follow(bench: &Bench) -> Result<Running> {
    let mut command = bench.netns().command(mtd_program()?)?;
    command.args(["drops", "--follow", "--json", "-i", bench.ifname()]);
    Running::spawn("mtd drops", command)
}

/// The events printed so far, in whole lines.
fn events(follower: &Running) -> Result<Vec<DroppedPacket>> {
    let text = follower.stdout()?;
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// An address of the prefix that no session has.
fn target(bench: &Bench) -> IpAddr {
    IpAddr::V6((u128::from(bench.topology.server.prefix.network()) | 0xdead).into())
}

struct Stranger {
    injector: Injector,
    path: Path,
}

impl Stranger {
    fn new(bench: &Bench) -> Result<Self> {
        let scanner = &bench.topology.scanner;
        let injector = Injector::open(&scanner.netns, &scanner.ifname)?;
        let server = Interface::resolve(bench.netns(), bench.ifname())?.mac;
        let IpAddr::V6(target) = target(bench) else { unreachable!("made of an IPv6 prefix") };
        let path = Path::new(injector.interface().mac, server, scanner.address, target);
        Ok(Self { injector, path })
    }

    /// A SYN and a datagram to port `port`, and an echo request.
    fn probe(&self, port: u16) -> Result<()> {
        self.injector.send(&tcp_syn(&self.path, SOURCE_PORT, port, 1))?;
        self.injector.send(&udp(&self.path, SOURCE_PORT, port, b"hi!!"))?;
        self.injector.send(&echo_request(&self.path, 1, port, b"ping"))
    }
}
