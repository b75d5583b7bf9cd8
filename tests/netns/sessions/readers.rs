//! Clients that request everything that can be read, all at once, and never read the answers: nothing else is affected.

use std::io::{self, BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::control::DROPS_PATH;
use mtd_tests::inject::{Injector, Interface};
use mtd_tests::packet::{Path, tcp_syn};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::world::{Inner, Role, World};
use super::{metrics, web};

/// Number of readers of each kind.
const READERS: usize = 8;

/// Number of drop events, of which a reader of the control socket must lose some: the controller keeps 1,024 for it, the
/// socket some hundreds.
const EVENTS: u64 = 2_000;

/// Time for these events: at 100 events a second on one CPU they take 20 s.
const PATIENCE: Duration = Duration::from_mins(1);

/// Frames of the scan, and the pause between them: far more than are reported as events.
const BURST: u16 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// A reader that sends a request and never reads.
fn ask<S: io::Write>(mut stream: S, path: &str) -> io::Result<S> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    Ok(stream)
}

/// Sends frames that must be dropped, until `stop` is set.
fn scan(world: &World, stop: &AtomicBool) -> Result<()> {
    let (scanner, server) = (&world.topology().scanner, world.host(Role::Server));
    let injector = Injector::open(&scanner.netns, &scanner.ifname)?;
    let mac = Interface::resolve(&server.netns, &server.ifname)?.mac;
    let dark = (u128::from(server.prefix.network()) | 0xdead).into();
    let path = Path::new(injector.interface().mac, mac, scanner.address, dark);
    while !stop.load(Ordering::Relaxed) {
        for port in 0..BURST {
            injector.send(&tcp_syn(&path, 40_000, port, 1))?;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[test]
fn readers_that_never_read_hold_nobody_up_while_events_pour_in() -> Result<()> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    let [metrics, web] = [metrics::METRICS, web::PLACE];
    world.setup_mut(Role::Server).extra =
        format!("[metrics]\nlisten = \"{metrics}\"\n[web]\nlisten = \"{web}\"\n");
    world.start_all()?;
    world.wait_open()?;
    let link = web::link(&world)?;
    let token = link.split('#').nth(1).context("no token")?;
    let socket = world.instance(Role::Server)?.socket();
    let followers: Vec<UnixStream> =
        (0..READERS).map(|_| ask(UnixStream::connect(&socket)?, DROPS_PATH)).collect::<io::Result<_>>()?;
    let others = world.netns(Role::Server).enter(|| {
        let kinds = |_| {
            let asks = TcpStream::connect(metrics).and_then(|stream| ask(stream, "/metrics"));
            [asks, TcpStream::connect(metrics), web::absent_reader(token)]
        };
        (0..READERS).flat_map(kinds).collect::<io::Result<Vec<_>>>()
    })??;

    let load = world.load(Role::Client, Inner::V6)?;
    let (stop, world) = (&AtomicBool::new(false), &world);
    thread::scope(|scope| {
        let scan = scope.spawn(|| scan(world, stop));
        // The controller must answer each time: otherwise this ends in an error.
        let told = wait_until("drops to be told", PATIENCE, || {
            let status = world.status(Role::Server)?;
            ensure!(status.pid.is_some(), "the data plane answers, not the controller");
            let dropped: u64 = status.drops.values().sum();
            ensure!(!scan.is_finished(), "the scan has ended");
            let suppressed = status.frames.events_suppressed;
            Ok(suppressed > 0 && dropped - suppressed > EVENTS)
        });
        stop.store(true, Ordering::Relaxed);
        scan.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        told
    })?;
    let report = load.stop()?;
    println!("{report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())?;
    let peer = world.peer(Role::Server)?;
    ensure!(peer.slots_ahead >= 50, "{peer:?}");

    // The readers were connected all the time. They have lost events, and are told so.
    drop(others);
    for follower in followers {
        follower.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut lines = BufReader::new(follower).lines();
        let lost = lines.find(|line| line.as_ref().map_or(true, |line| line.contains("{\"lost\":")));
        lost.context("the stream ended")?.context("no line about lost events")?;
    }
    Ok(())
}
