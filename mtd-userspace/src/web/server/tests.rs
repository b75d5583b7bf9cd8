use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::control::tests::FakeReports;
use crate::http::Closing;

/// A running web view, and the means to stop it.
struct Served {
    address: SocketAddr,
    token: String,
    folder: TempDir,
    stop: oneshot::Sender<()>,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let view = View::bind("[::1]:0".parse().unwrap(), &folder.path().join("eth0.web")).unwrap();
        let address = view.bound.address();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move { view.serve(&FakeReports::default(), async { _ = stopped.await }).await });
        let link = std::fs::read_to_string(folder.path().join("eth0.web")).unwrap();
        let token = link.trim_end().split('#').nth(1).unwrap().to_owned();
        Self { address, token, folder, stop }
    }

    /// A request for `path`, with these header lines after that of the host.
    fn get(&self, path: &str, lines: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", self.address)
    }

    fn events(&self) -> String {
        self.get("/events", &format!("Authorization: Bearer {}\r\n", self.token))
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// The whole answer to a request.
    async fn ask(&self, request: &str) -> String {
        let mut answer = Vec::new();
        // A server that refuses a request before all of it has arrived resets the connection: what came before that counts.
        let _ = self.send(request).await.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.unwrap();
        assert_ne!(n, 0, "ended after {read}");
        read += str::from_utf8(&chunk[..n]).unwrap();
    }
    read
}

#[tokio::test]
async fn every_file_of_the_page_is_served_and_refers_to_no_other_site() {
    let served = Served::new();
    for (path, kind, text) in page::FILES {
        let answer = served.ask(&served.get(path, "")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        assert_eq!(body, *text);
        // XML namespaces look like addresses but are not.
        let addresses = text.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "\"//", "url(", "@import"] {
            assert!(!addresses.contains(foreign), "{foreign} in {path}");
        }
    }
    let reasons = served.ask(&served.get("/reasons.json", "")).await;
    assert!(reasons.contains("\"bad_tag\":\""), "{reasons}");
}

#[tokio::test]
async fn every_answer_is_kept_from_other_sites() {
    let served = Served::new();
    let foreign = "GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n".to_owned();
    for request in [served.get("/", ""), served.get("/none", ""), served.get("/events", ""), foreign] {
        let answer = served.ask(&request).await;
        assert!(
            answer.contains("content-security-policy: default-src 'none'; script-src 'self';"),
            "{answer}"
        );
        assert!(answer.contains("frame-ancestors 'none'"), "{answer}");
        for header in [
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(answer.contains(header), "{header} is not in {answer}");
        }
        assert!(!answer.contains("access-control"), "{answer}");
    }
}

#[tokio::test]
async fn names_that_point_here_are_not_enough() {
    let served = Served::new();
    let port = served.address.port();
    for (host, code) in [
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("localhost".to_owned(), 421),
        (format!("localhost:{}", port ^ 1), 421),
        (format!("attacker.example:{port}"), 421),
        (format!("localhost:{port}.attacker.example"), 421),
        (format!("localhost:{port}\r\nHost: attacker.example"), 421),
        (String::new(), 421),
    ] {
        let answer = served.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{host} -> {answer}");
    }
    let none = served.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert!(none.starts_with("HTTP/1.0 421 "), "{none}");
}

#[tokio::test]
async fn only_the_token_admits_to_events() {
    let served = Served::new();
    let token = &served.token;
    for lines in [
        String::new(),
        "Authorization: Bearer \r\n".to_owned(),
        format!("Authorization: Bearer {}\r\n", &token[1..]),
        format!("Authorization: Bearer {}\r\n", token.chars().rev().collect::<String>()),
        format!("Authorization: Basic {token}\r\n"),
        format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"),
        format!("Cookie: token={token}\r\n"),
    ] {
        let answer = served.ask(&served.get("/events", &lines)).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{lines} -> {answer}");
        assert!(!answer.contains("sample"), "{answer}");
    }
    let in_address = served.ask(&served.get(&format!("/events?token={token}"), "")).await;
    assert!(in_address.starts_with("HTTP/1.1 401 "), "{in_address}");

    let mut stream = served.send(&served.events()).await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-type: text/event-stream"),
        "{head}"
    );
    // Two samples, one after the other, in the form that pages expect.
    for _ in 0..2 {
        let event = read_until(&mut stream, "}\n").await;
        assert!(event.contains("event: sample\ndata: {\"time_ms\":"), "{event}");
        assert!(event.contains("\"interface\":\"eth0\""), "{event}");
    }
}

#[tokio::test]
async fn nothing_but_get_is_answered() {
    let served = Served::new();
    let host = served.address;
    for (request, code) in [
        (served.get("/v1/status", ""), 404),
        (served.get("/../../etc/passwd", ""), 404),
        (format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"), 405),
        (format!("POST /events HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"), 405),
        (format!("OPTIONS /events HTTP/1.1\r\nHost: {host}\r\nOrigin: http://attacker.example\r\n\r\n"), 405),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (served.get("/", &format!("X: {}\r\n", "x".repeat(20_000))), 431),
    ] {
        let answer = served.ask(&request).await;
        let expected = format!("HTTP/1.1 {code} ");
        assert!(answer.starts_with(&expected), "{} -> {answer}", &request[..request.len().min(40)]);
    }
}

#[tokio::test]
async fn followers_are_limited_and_pages_are_served_beside_them() {
    let served = Served::new();
    let mut followers = Vec::new();
    for _ in 0..MAX_FOLLOWERS {
        let mut stream = served.send(&served.events()).await;
        read_until(&mut stream, "event: sample").await;
        followers.push(stream);
    }
    let refused = served.ask(&served.events()).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("close one"), "{refused}");
    assert!(served.ask(&served.get("/", "")).await.starts_with("HTTP/1.1 200 "));
    followers.pop();
    loop {
        let mut stream = served.send(&served.events()).await;
        if read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn readers_that_stall_are_cut_and_others_go_on() {
    let served = Served::new();
    let mut reader = served.send(&served.events()).await;
    read_until(&mut reader, "event: sample").await;
    let begun = Instant::now();
    let mut stalled = Vec::new();
    for _ in 0..LIMITS.connections {
        stalled.push(served.send("GET /eve").await);
    }
    assert!(served.ask(&served.get("/", "")).await.starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() <= PATIENCE + Duration::from_secs(2), "{:?}", begun.elapsed());
    // The page has missed nothing meanwhile.
    read_until(&mut reader, "event: sample").await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_takes_nothing_is_cut_and_one_that_reads_is_not() {
    let feed = Arc::new(Feed::new());
    let folder = tempfile::tempdir().unwrap();
    let address = "[::1]:1".parse().unwrap();
    let link = Link::establish(&folder.path().join("eth0.web"), address).unwrap();
    let text = std::fs::read_to_string(folder.path().join("eth0.web")).unwrap();
    let token = text.trim_end().split('#').nth(1).unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
    let router = router(address, link.token().clone(), Arc::clone(&feed));
    let producer = tokio::spawn(async move { feed.produce(&FakeReports::default()).await });
    // One stream has room for less than a sample, and nobody reads from it.
    let converse_with = |room| {
        let (near, far) = duplex(room);
        (tokio::spawn(http::converse(near, router.clone(), LIMITS, Closing::never())), far)
    };
    let (absent, mut unread) = converse_with(256);
    let (present, mut read) = converse_with(1 << 20);
    for stream in [&mut unread, &mut read] {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    timeout(Duration::from_mins(1), absent).await.expect("it is never cut").unwrap();
    assert!(!present.is_finished());
    producer.abort();
}

#[tokio::test]
async fn the_end_takes_readers_and_the_link_along() {
    let served = Served::new();
    let mut reader = served.send(&served.events()).await;
    read_until(&mut reader, "event: sample").await;
    served.stop.send(()).unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut rest)).await.expect("it goes on");
    assert!(!served.folder.path().join("eth0.web").exists());
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_an_error_with_a_way_out() {
    let served = Served::new();
    let other = served.folder.path().join("other.web");
    let error = View::bind(served.address, &other).err().unwrap().to_string();
    assert!(error.contains("cannot serve the web view") && error.contains("[web]"), "{error}");
}
