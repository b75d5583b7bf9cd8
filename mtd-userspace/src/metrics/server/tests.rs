use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::control::tests::FakeReports;

/// A running metrics server, and the means to stop it.
struct Served {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Served {
    fn new() -> Self {
        let bound = bind("[::1]:0".parse().unwrap()).unwrap();
        let (address, listener) = (bound.address(), bound.listener().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            http::serve(&listener, router(Arc::new(FakeReports::default())), LIMITS, async {
                _ = stopped.await;
            })
            .await
        });
        Self { address, _stop: stop }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The whole answer to a request.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses a request before all of it has arrived resets the connection: what came before that counts.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn metrics_are_text_of_prometheus() {
    let answer = Served::new().ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("\nmtd_accepted_packets_total 7\n"), "{body}");
}

#[tokio::test]
async fn everything_else_is_refused() {
    let served = Served::new();
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        ("DELETE /v1/peers/x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), 431),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)), 431),
    ] {
        let answer = served.ask(&request).await;
        let expected = format!("HTTP/1.1 {code} ");
        assert!(answer.starts_with(&expected), "{} -> {answer}", &request[..request.len().min(40)]);
    }
}

#[tokio::test]
async fn readers_that_stall_are_cut_and_others_go_on_after_them() {
    let served = Served::new();
    let begun = Instant::now();
    let mut stalled = Vec::new();
    for _ in 0..LIMITS.connections {
        let mut stream = served.connect().await;
        stream.write_all(b"GET /metr").await.unwrap();
        stalled.push(stream);
    }
    let answer = served.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(begun.elapsed() <= PATIENCE + Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_an_error_with_a_way_out() {
    let served = Served::new();
    let error = bind(served.address).unwrap_err().to_string();
    assert!(error.contains("cannot serve metrics") && error.contains("[metrics]"), "{error}");
}
