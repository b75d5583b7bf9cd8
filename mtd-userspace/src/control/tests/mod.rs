//! Server and client over sockets in a temporary folder.

mod following;
mod serving;
mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mtd_common::DropReason;
use mtd_common::event::DropEvent;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::enforcement::Enforcer;
use super::*;
use crate::config::Config;
use crate::control::client::unconnected;
use crate::control::server::bind;
use crate::controller::reload::Reloader;
use crate::events::{Bus, Dropped, Event, Room};
use crate::http::{Reason, Refusal};
use crate::keys::{PublicKey, SecretKey};
use crate::model::{BootNs, Enforcement, Frames, UnixNs};
use crate::proto::clock::Reading;
use crate::registry::{Audience, Registrations};
use crate::sessions::Consequences;
use crate::status::{self, DroppedPacket, SCHEMA, SessionState, Status};
use crate::subsystem::{ReportFuture, Reports};

/// How many events the bus of the tests keeps for slow readers.
const EVENTS_KEPT: usize = 16;

/// Reports the sample, and counts the requests for it.
#[derive(Default)]
pub(crate) struct FakeReports {
    pub(crate) asked: AtomicUsize,
    failing: AtomicBool,
}

impl Reports for FakeReports {
    fn status(&self) -> ReportFuture<'_, anyhow::Result<Status>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            if self.failing.load(Ordering::Relaxed) {
                return Err(anyhow::anyhow!("no such map").context("cannot read the counters"));
            }
            Ok(sample())
        })
    }

    fn metrics(&self) -> ReportFuture<'_, anyhow::Result<String>> {
        Box::pin(async { Ok(crate::metrics::render(&self.status().await?, |_| ())) })
    }
}

/// Sessions that accept every change, and are open.
struct FakeSessions;

impl Audience for FakeSessions {
    fn apply(&self, _consequences: Consequences) {}

    fn set_filters(&self, _config: &Config<()>) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn client_states(&self) -> HashMap<PublicKey, SessionState> {
        HashMap::from([(open_client().public(), SessionState::Open)])
    }
}

/// The key of the client whose session is open.
fn open_client() -> SecretKey {
    SecretKey::from_bytes([9; 32])
}

struct FakeEnforcer;

impl Enforcer for FakeEnforcer {
    fn confirm(&self) -> Result<status::Guard, Refusal> {
        Err(Refusal::new(Reason::Conflict, "too late"))
    }

    fn set_policy(&self, asked: &Enforcement) -> Result<status::Guard, Refusal> {
        Ok(status::Guard {
            policy: asked.policy.unwrap_or_default().to_string(),
            confirm_seconds_left: asked.confirm_within.map(|within| within.as_secs_f64()),
            ..status::Guard::default()
        })
    }
}

pub(crate) fn sample() -> Status {
    Status {
        schema: SCHEMA,
        version: "0.1.0".to_owned(),
        pid: Some(42),
        uptime_seconds: 61.5,
        interface: "eth0".to_owned(),
        device: "mtd0".to_owned(),
        xdp: "native".to_owned(),
        link: "routed".to_owned(),
        prefixes: vec!["2001:db8:1::/64".parse().unwrap()],
        mtu: 1428,
        pins: "/sys/fs/bpf/mtd/eth0".into(),
        frames: Frames { accepted: 7, ..Frames::default() },
        drops: BTreeMap::from([("bad_tag".to_owned(), 3)]),
        ..Status::default()
    }
}

pub(crate) fn event(number: u64) -> DroppedPacket {
    DroppedPacket {
        time_ns: number,
        reason: "unknown_address".to_owned(),
        passed: false,
        direction: "receive".to_owned(),
        ifindex: 2,
        source: Some("2001:db8:2::1".parse().unwrap()),
        source_port: Some(4000),
        destination: Some("2001:db8:1::1".parse().unwrap()),
        destination_port: Some(5000),
        next_header: Some(17),
        length: 1404,
    }
}

/// The same dropped packet, as the programs report it.
fn packet() -> Event {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let packet = DropEvent {
        ifindex: 2,
        length: 1404,
        source: address("2001:db8:2::1"),
        destination: address("2001:db8:1::1"),
        source_port: 4000u16.to_be_bytes(),
        destination_port: 5000u16.to_be_bytes(),
        next_header: 17,
        ..DropEvent::default()
    };
    Event::Drop(Dropped { packet, reason: DropReason::UnknownAddress })
}

/// A server that runs until it is stopped.
pub(crate) struct Running {
    folder: TempDir,
    reports: Arc<FakeReports>,
    bus: Arc<Bus>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Running {
    /// Starts a server without registered clients.
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    /// Starts a server with the registered clients of a folder.
    pub(crate) fn with_clients(dir: &Path) -> Self {
        Self::with(Some(dir))
    }

    fn with(clients: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = bind(&folder.path().join("run/eth0.sock")).unwrap().ready().unwrap();
        let reports = Arc::new(FakeReports::default());
        let bus = Arc::new(Bus::with_backlog(|| 0, Room { drops: EVENTS_KEPT, rest: EVENTS_KEPT }));
        let registry =
            Registrations::of_folder(clients, Arc::new(Reading { boot: BootNs(0), wall: UnixNs(0) }));
        let reloader = Reloader::new(None, Arc::clone(&registry)).unwrap();
        let sessions: Arc<dyn Audience> = Arc::new(FakeSessions);
        let router = server::routes(reports.clone())
            .merge(events::routes(Arc::clone(&bus)))
            .merge(enforcement::routes(Arc::new(FakeEnforcer)))
            .merge(registry.router(Arc::clone(&sessions), Arc::clone(&bus)))
            .merge(reloader.router(sessions, Arc::clone(&bus)));
        let (stop, stopped) = oneshot::channel();
        let router = server::refusing(router);
        let server = tokio::spawn(async move {
            server::serve(&listener, router, async move { _ = stopped.await }).await.unwrap();
        });
        Self { folder, reports, bus, stop, server }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/eth0.sock")
    }

    pub(crate) fn send(&self, number: u64) {
        self.bus.publish_at(number, packet());
    }

    /// Number of clients that follow the events.
    pub(crate) fn followers(&self) -> usize {
        self.bus.subscribers()
    }

    /// Shuts down and waits for the end.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.server.await.unwrap();
    }

    /// Sends raw bytes, closes the sending half if `then_close`, and reads the answer to its end.
    async fn raw(&self, request: &[u8], then_close: bool) -> String {
        let (socket, request) = (self.socket(), request.to_vec());
        let exchange = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // Writing may fail, since the server may have refused and closed before it read everything.
            let _ = stream.write_all(&request);
            if then_close {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
                _ => String::from_utf8_lossy(&answer).into_owned(),
            }
        });
        exchange.await.unwrap()
    }

    async fn get(&self, path: &str) -> (String, serde_json::Value) {
        let answer = self.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(), false).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), serde_json::from_str(body).unwrap())
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

async fn next(lines: &mut client::Lines) -> Option<DropLine> {
    let line = timeout(Duration::from_secs(5), lines.next_line()).await.expect("no line came").unwrap();
    line.map(|line| serde_json::from_str(&line).unwrap())
}

/// Answers the next connection with these bytes.
fn answer_with(path: &Path, answer: String) {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
    });
}
