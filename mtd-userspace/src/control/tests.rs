//! Server and client over sockets in a temporary folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::control::client::unconnected;
use crate::control::server::{Answer, Source, StatusFuture, bind, serve};
use crate::http::{Reason, Refusal};
use crate::keys::{PublicKey, SecretKey};
use crate::model::{Enforcement, Frames};
use crate::registry::{Registry, RegistryError, Sources};
use crate::status::{Drop, Registered, Reload, SCHEMA, Status};

/// Events that the source of the tests keeps for slow readers.
const EVENTS_KEPT: usize = 16;

pub(crate) struct FakeSource {
    events: broadcast::Sender<Arc<Drop>>,
    failing: AtomicBool,
    /// The registered clients; `None`: this one is no server.
    registry: Option<(Sources, Mutex<Registry>)>,
}

impl FakeSource {
    pub(crate) fn new(registry: Option<(Sources, Mutex<Registry>)>) -> Self {
        Self { events: broadcast::channel(EVENTS_KEPT).0, failing: AtomicBool::new(false), registry }
    }

    fn with_registry<'a, T: Send + 'a>(
        &'a self,
        work: impl FnOnce(&Sources, &mut Registry) -> Result<T, RegistryError> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let (sources, registry) = self.registry.as_ref().ok_or_else(crate::registry::not_a_server)?;
            Ok(work(sources, &mut registry.lock().unwrap())?)
        })
    }
}

impl Source for FakeSource {
    fn status(&self) -> StatusFuture<'_> {
        Box::pin(async {
            if self.failing.load(Ordering::Relaxed) {
                return Err(anyhow::anyhow!("no such map").context("cannot read the counters"));
            }
            Ok(sample())
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Drop>> {
        self.events.subscribe()
    }

    fn peers(&self) -> Answer<'_, Registered> {
        self.with_registry(|_, registry| Ok(registry.document()))
    }

    fn add_peer(&self, name: String, key: PublicKey) -> Answer<'_, status::Client> {
        self.with_registry(move |_, registry| Ok(registry.add(&name, key)?.document()))
    }

    fn remove_peer(&self, name: String) -> Answer<'_, status::Client> {
        self.with_registry(move |_, registry| Ok(registry.remove(&name)?.document()))
    }

    fn reload(&self) -> Answer<'_, Reload> {
        self.with_registry(|sources, registry| Ok(registry.reload(sources.clone())?.document()))
    }

    fn confirm(&self) -> Answer<'_, status::Guard> {
        Box::pin(async { Err(Refusal::new(Reason::Conflict, "too late")) })
    }

    fn set_policy(&self, asked: Enforcement) -> Answer<'_, status::Guard> {
        Box::pin(async move {
            Ok(status::Guard {
                policy: asked.policy.unwrap_or_default().to_string(),
                confirm_seconds_left: asked.confirm_within.map(|within| within.as_secs_f64()),
                ..status::Guard::default()
            })
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

pub(crate) fn event(number: u64) -> Drop {
    Drop {
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

/// A server that runs until it is stopped.
pub(crate) struct Running {
    folder: TempDir,
    source: Arc<FakeSource>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ControlError>>,
}

impl Running {
    /// One without registered clients.
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    /// One with the registered clients of a folder.
    pub(crate) fn with_clients(dir: &Path) -> Self {
        let sources = Sources::of_folder(dir);
        let (registry, _) = Registry::load(sources.clone()).unwrap();
        Self::with(Some((sources, Mutex::new(registry))))
    }

    fn with(registry: Option<(Sources, Mutex<Registry>)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = bind(&folder.path().join("run/eth0.sock")).unwrap();
        let source = Arc::new(FakeSource::new(registry));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, source.clone(), async move {
            let _ = stopped.await;
        }));
        Self { folder, source, stop, server }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/eth0.sock")
    }

    pub(crate) fn send(&self, number: u64) {
        self.source.events.send(Arc::new(event(number))).unwrap();
    }

    /// Clients that follow the events.
    pub(crate) fn followers(&self) -> usize {
        self.source.events.receiver_count()
    }

    /// Shuts down and waits for the end.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.server.await.unwrap().unwrap();
    }

    /// Sends raw bytes, closes the sending half if asked to, and reads the answer to its end.
    async fn raw(&self, request: &[u8], then_close: bool) -> String {
        let (socket, request) = (self.socket(), request.to_vec());
        let exchange = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // The server may have refused and closed before it read everything.
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

async fn next(lines: &mut client::DropLines) -> Option<DropLine> {
    let line = timeout(Duration::from_secs(5), lines.next_line()).await.expect("no line came").unwrap();
    line.map(|line| serde_json::from_str(&line).unwrap())
}

#[tokio::test]
async fn the_status_arrives_as_it_was_sent() {
    let running = Running::start();
    let status = client::status(&running.socket()).await.unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap(), serde_json::to_value(sample()).unwrap());
    let (code, body) = running.get(STATUS_PATH).await;
    assert_eq!(code, "HTTP/1.1 200 OK");
    assert_eq!(body["interface"], "eth0");
}

#[tokio::test]
async fn only_the_owner_may_connect_and_nothing_is_left_behind() {
    let running = Running::start();
    let (socket, folder) = (running.socket(), running.folder.path().join("run"));
    assert_eq!((mode(&socket), mode(&folder)), (0o600, 0o755));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the socket");
    running.stop.send(()).unwrap();
    running.server.await.unwrap().unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[tokio::test]
async fn errors_are_json_and_reach_the_client() {
    let running = Running::start();
    let (code, body) = running.get("/v2/nothing").await;
    assert_eq!(
        (code.as_str(), body),
        ("HTTP/1.1 404 Not Found", serde_json::json!({"error": "no such path"}))
    );

    let answer = running.raw(b"POST /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("{\"error\":"), "{answer}");

    running.source.failing.store(true, Ordering::Relaxed);
    let error = client::status(&running.socket()).await.unwrap_err();
    assert!(matches!(&error, ControlError::Refused { message, .. }
        if message == "cannot read the counters: no such map"));
    assert_eq!(running.get(STATUS_PATH).await.0, "HTTP/1.1 500 Internal Server Error");
}

#[tokio::test]
async fn what_is_enforced_is_confirmed_and_changed() {
    let running = Running::start();
    let socket = running.socket();
    let error = client::confirm(&socket).await.unwrap_err();
    assert!(matches!(&error, ControlError::Refused { message, .. } if message == "too late"), "{error}");
    let policy = |policy: &str| NewPolicy { policy: policy.to_owned(), confirm_within_ms: Some(1500) };
    let guard = client::set_policy(&socket, &policy("monitor")).await.unwrap();
    assert_eq!((guard.policy.as_str(), guard.confirm_seconds_left), ("monitor", Some(1.5)));
    let error = client::set_policy(&socket, &policy("open")).await.unwrap_err().to_string();
    assert!(error.contains("no policy is called"), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn clients_are_registered_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_clients(dir.path());
    let socket = running.socket();
    let public_key = SecretKey::generate().unwrap().public().to_string();
    let peer = NewPeer { name: "laptop".to_owned(), public_key: public_key.clone() };
    let added = client::add_peer(&socket, &peer).await.unwrap();
    assert_eq!((added.name.as_str(), &added.public_key), ("laptop", &public_key));
    let file = dir.path().join("laptop.pub");
    assert_eq!(added.file.as_ref(), Some(&file));
    let registered = client::peers(&socket).await.unwrap();
    assert_eq!((registered.schema, registered.peers), (SCHEMA, vec![added.clone()]));

    let refused = |result: Result<status::Client, ControlError>, part: &str| match result {
        Err(ControlError::Refused { message, .. }) => assert!(message.contains(part), "{message}"),
        other => panic!("{other:?}"),
    };
    refused(client::add_peer(&socket, &peer).await, "laptop is registered already");
    let nameless = NewPeer { name: "a/b".to_owned(), ..peer.clone() };
    refused(client::add_peer(&socket, &nameless).await, "no name for a peer");
    let keyless = NewPeer { public_key: "topsecret".to_owned(), ..peer.clone() };
    refused(client::add_peer(&socket, &keyless).await, "that is no public key");
    refused(client::remove_peer(&socket, "desk").await, "no client desk");

    std::fs::rename(&file, dir.path().join("desk.pub")).unwrap();
    let reload = client::reload(&socket).await.unwrap();
    assert_eq!((reload.changed, reload.added.len(), reload.removed.len()), (vec!["desk".to_owned()], 0, 0));
    assert_eq!(client::remove_peer(&socket, "desk").await.unwrap().public_key, public_key);
    assert!(client::peers(&socket).await.unwrap().peers.is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_controller_that_is_no_server_says_so() {
    let running = Running::start();
    for result in [
        client::peers(&running.socket()).await.map(|_| ()),
        client::remove_peer(&running.socket(), "laptop").await.map(|_| ()),
        client::reload(&running.socket()).await.map(|_| ()),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(
            error.ends_with(
                "refused: this host does not listen for clients: its configuration has no [listen]"
            ),
            "{error}"
        );
    }
    assert_eq!(running.get(PEERS_PATH).await.0, "HTTP/1.1 409 Conflict");
}

#[tokio::test]
async fn requests_with_bad_bodies_and_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_clients(dir.path());
    let send = async |head: &str, body: &str| {
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = running.raw(request.as_bytes(), false).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body["error"].as_str().unwrap().to_owned())
    };
    let key = SecretKey::generate().unwrap().public();
    let long = format!("{{\"name\":\"a\",\"public_key\":\"{}\"}}", "A".repeat(5000));
    let extra = format!("{{\"name\":\"a\",\"public_key\":\"{key}\",\"admin\":true}}");
    for (head, body, code, part) in [
        ("POST /v1/peers", "", "400", "is not a new peer"),
        ("POST /v1/peers", "[]", "400", "is not a new peer"),
        ("POST /v1/peers", &extra, "400", "unknown field `admin`"),
        ("POST /v1/peers", &long, "400", "is longer than 4096 bytes"),
        ("PUT /v1/peers", "", "405", "no such method"),
        ("GET /v1/reload", "", "405", "no such method"),
        ("DELETE /v1/peers/..%2Fx", "", "400", "no name for a peer"),
        ("DELETE /v1/peers/x", "", "404", "no client x"),
        ("DELETE /v1/peers/", "", "404", "no such path"),
    ] {
        let (found, message) = send(head, body).await;
        assert_eq!(found, code, "{head} {body}: {message}");
        assert!(message.contains(part), "{head} {body}: {message}");
    }
    // A body that never comes holds nothing up for long.
    let begin = Instant::now();
    let answer =
        running.raw(b"POST /v1/peers HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{", false).await;
    assert!(answer.contains("did not come in time"), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn events_come_in_order_until_the_shutdown() {
    let running = Running::start();
    let mut lines = client::drops(&running.socket()).await.unwrap();
    for number in 0..5 {
        running.send(number);
    }
    for number in 0..5 {
        assert_eq!(next(&mut lines).await, Some(DropLine::Drop(event(number))));
    }
    // A cancelled wait loses nothing.
    assert!(timeout(Duration::from_millis(20), lines.next_line()).await.is_err());
    running.send(5);
    assert_eq!(next(&mut lines).await, Some(DropLine::Drop(event(5))));

    let begin = Instant::now();
    running.stop.send(()).unwrap();
    assert_eq!(next(&mut lines).await, None);
    running.server.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_millis(900), "the shutdown waited for a follower");
}

#[tokio::test]
async fn a_slow_reader_loses_events_and_is_told_how_many() {
    const SENT: u64 = 20_000;
    let running = Running::start();
    let mut slow = client::drops(&running.socket()).await.unwrap();
    let begin = Instant::now();
    for number in 0..SENT {
        running.send(number);
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "the sender waited for the reader");
    // Others are served meanwhile.
    client::status(&running.socket()).await.unwrap();

    let (mut received, mut lost, mut newest) = (0, 0, None);
    while newest != Some(SENT - 1) {
        match next(&mut slow).await.expect("the stream ended") {
            DropLine::Drop(drop) => {
                assert!(Some(drop.time_ns) > newest, "out of order");
                (received, newest) = (received + 1, Some(drop.time_ns));
            }
            DropLine::Lost { lost: more } => lost += more,
        }
    }
    assert!(lost > 0, "the reader was not slow");
    assert_eq!(received + lost, SENT);
}

#[tokio::test]
async fn followers_are_limited_and_leave_room_for_the_status() {
    let running = Running::start();
    let mut followers = Vec::new();
    let error = loop {
        assert!(followers.len() < 64, "no limit");
        match client::drops(&running.socket()).await {
            Ok(lines) => followers.push(lines),
            Err(error) => break error,
        }
    };
    assert_eq!(followers.len(), 32);
    assert!(error.to_string().contains("32 clients follow the drop events already"), "{error}");
    client::status(&running.socket()).await.unwrap();

    // One that went away makes room, though no event told the server so.
    followers.pop();
    let begin = Instant::now();
    while client::drops(&running.socket()).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(5), "the place was not freed");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn garbage_and_silence_do_not_harm_the_server() {
    let running = Running::start();
    let answer = running.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    let endless_path = [b"GET /".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let answer = running.raw(&endless_path, false).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let endless_header = [b"GET /v1/status HTTP/1.1\r\nx: ".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let answer = running.raw(&endless_header, false).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let body = [
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n".as_slice(),
        &vec![0; 1 << 20],
    ];
    running.raw(&body.concat(), false).await;
    assert_eq!(running.raw(b"", true).await, "");
    assert_eq!(running.raw(b"GET /v1/sta", true).await, "");

    // As many as are served at a time, none of which ever asks for anything: they are thrown out.
    let silent: Vec<_> = (0..64).map(|_| UnixStream::connect(running.socket()).unwrap()).collect();
    client::status(&running.socket()).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = bind(&path).unwrap();
    assert_eq!(first.path(), path);

    let error = bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::AlreadyRunning { .. }), "{error}");
    assert!(error.to_string().starts_with("another controller is running and answers at "), "{error}");
    assert!(path.exists(), "the refused one removed the socket");

    // One that is gone does not take its successor's socket with it.
    fs::remove_file(&path).unwrap();
    let second = bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn a_live_socket_with_a_full_queue_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    let listener = bind(&path).unwrap();
    let waiting: Vec<_> = (0..=64).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(matches!(bind(&path), Err(ControlError::AlreadyRunning { .. })));
    drop((waiting, listener));
}

#[test]
fn what_is_no_control_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (file, datagram) = (folder.path().join("file.sock"), folder.path().join("datagram.sock"));
    File::create(&file).unwrap();
    let _open = UnixDatagram::bind(&datagram).unwrap();
    for path in [&file, &datagram] {
        assert!(matches!(bind(path), Err(ControlError::NotASocket { .. })), "{}", path.display());
        assert!(path.exists());
    }
    let long = folder.path().join("a".repeat(120));
    assert!(matches!(bind(&long), Err(ControlError::PathTooLong { .. })));
    let nowhere = folder.path().join("a/b/eth0.sock");
    assert!(matches!(bind(&nowhere), Err(ControlError::Io { .. })));
}

#[tokio::test]
async fn a_missing_controller_is_told_from_a_missing_permission() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    for _ in 0..2 {
        let error = client::status(&path).await.unwrap_err();
        assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
        // The second time round it exists, and nobody serves it.
        drop(std::os::unix::net::UnixListener::bind(&path));
    }
    // Root may connect to everything, so the error of the system has to be made.
    let socket = Path::new(RUN_DIR).join("eth0@17.sock");
    let error = |errno: i32| unconnected(&socket, io::Error::from_raw_os_error(errno)).to_string();
    assert_eq!(error(libc::EACCES), "no permission for /run/mtd/eth0@17.sock; run as root (sudo)");
    assert_eq!(
        error(libc::ECONNREFUSED),
        "no controller is running for eth0; start one with `mtd run -c FILE`"
    );
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

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let cases = [
        (ok("{\"schema\":2,\"pid\":[]}"), "schema 2 instead of 1"),
        (ok("<html>"), "is not a controller's"),
        (ok("{\"schema\":1}"), "missing field"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}".to_owned(), "broke"),
        ("SSH-2.0-OpenSSH_9.6\r\n".to_owned(), "broke"),
        (String::new(), "broke"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned(), "refused: 500"),
    ];
    for (number, (answer, expected)) in cases.into_iter().enumerate() {
        let path = folder.path().join(number.to_string());
        answer_with(&path, answer.clone());
        let error = client::status(&path).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn broken_streams_of_events_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases = [
        (format!("{head}2\r\n{{}}\r\n0\r\n\r\n"), "half a line"),
        (format!("{head}20000\r\n{}\r\n", "a".repeat(0x20000)), "endless line"),
        (format!("{head}20\r\nab"), "broke"),
    ];
    for (number, (answer, expected)) in cases.into_iter().enumerate() {
        let path = folder.path().join(number.to_string());
        answer_with(&path, answer);
        let error = client::drops(&path).await.unwrap().next_line().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn a_controller_that_hangs_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eth0.sock");
    let _silent = bind(&path).unwrap();
    let (status, drops) = tokio::join!(client::status(&path), client::drops(&path));
    for error in [status.unwrap_err(), drops.unwrap_err()] {
        assert!(matches!(error, ControlError::Timeout { .. }), "{error}");
    }
}

#[test]
fn sockets_of_other_namespaces_are_left_out() {
    assert_eq!(own_interface("eth0", None).as_deref(), Some("eth0"));
    assert_eq!(own_interface("eth0@17", None), None);
    assert_eq!(own_interface("eth0@17", Some(17)).as_deref(), Some("eth0"));
    assert_eq!(own_interface("eth0@18", Some(17)), None);
    assert_eq!(own_interface("eth0", Some(17)), None);
    assert_eq!(own_interface("", None), None);
    assert_eq!(own_interface("eth0@x", None), None);

    let folder = tempfile::tempdir().unwrap();
    let own = |interface| Instance::of(interface).unwrap().name().to_owned();
    let stranger = format!("eth2@{}", u64::MAX);
    for name in [own("eth1") + ".sock", own("eth0") + ".sock", own("eth3") + ".lock", stranger + ".sock"] {
        File::create(folder.path().join(name)).unwrap();
    }
    let found = find_sockets(folder.path(), None).unwrap();
    let expected = ["eth0", "eth1"].map(|name| ControlSocket {
        interface: name.to_owned(),
        path: folder.path().join(own(name) + ".sock"),
    });
    assert_eq!(found, expected);

    let wanted = find_sockets(Path::new(RUN_DIR), Some("eth9")).unwrap();
    assert_eq!(wanted[0].path, Instance::of("eth9").unwrap().socket());
    assert!(find_sockets(&folder.path().join("missing"), None).unwrap().is_empty());
}
