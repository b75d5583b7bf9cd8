//! The command line's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{
    CONFIRM_PATH, ControlError, DROPS_PATH, EVENTS_PATH, Farewell, NewPeer, NewPolicy, PEERS_PATH,
    POLICY_PATH, RELOAD_PATH, STATUS_PATH, owner,
};
use crate::rendezvous::{INTRODUCTIONS_PATH, IntroductionDocument};
use crate::status::{Client, Guard, Registered, Reload, SCHEMA, Status};

/// How long a controller may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a controller may take to read the registry again, which may have some hundred thousand files.
const RELOAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest answer that is read, in bytes: enough for tens of thousands of peers.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest line of the stream of events, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Asks the controller behind `socket` for its status.
///
/// # Errors
/// [`ControlError::NotRunning`] when there is no socket or nobody serves it, [`ControlError::PermissionDenied`],
/// [`ControlError::Timeout`] after five seconds, or an answer that cannot be used.
pub async fn status(socket: &Path) -> Result<Status, ControlError> {
    document(socket, ANSWER_TIMEOUT, Method::GET, STATUS_PATH).await
}

/// Asks the controller behind `socket` for the registered clients.
///
/// # Errors
/// As [`status`]; [`ControlError::Refused`] when the controller takes no clients.
pub async fn peers(socket: &Path) -> Result<Registered, ControlError> {
    document(socket, ANSWER_TIMEOUT, Method::GET, PEERS_PATH).await
}

/// Asks the controller behind `socket` for the introductions of a client. `name` must be a valid name.
///
/// # Errors
/// As [`status`]; [`ControlError::Refused`] when there is no such client.
pub async fn introduction(socket: &Path, name: &str) -> Result<IntroductionDocument, ControlError> {
    document(socket, ANSWER_TIMEOUT, Method::GET, &format!("{INTRODUCTIONS_PATH}/{name}")).await
}

/// Has the controller behind `socket` register a client.
///
/// # Errors
/// As [`status`]; [`ControlError::Refused`] when the name or the key is not acceptable.
pub async fn add_peer(socket: &Path, peer: &NewPeer) -> Result<Client, ControlError> {
    in_time(socket, ANSWER_TIMEOUT, async {
        let exchange = Exchange::send(socket, Method::POST, PEERS_PATH, json(socket, peer)?).await?;
        parse(socket, &collect(socket, exchange.answer).await?)
    })
    .await
}

/// Has the controller behind `socket` remove a registered client, and tell it so. `name` must be a valid name.
///
/// # Errors
/// As [`status`]; [`ControlError::Refused`] when there is no such client.
pub async fn remove_peer(socket: &Path, name: &str, farewell: &Farewell) -> Result<Client, ControlError> {
    let path = format!("{PEERS_PATH}/{name}");
    in_time(socket, ANSWER_TIMEOUT, async {
        let exchange = Exchange::send(socket, Method::DELETE, &path, json(socket, farewell)?).await?;
        parse(socket, &collect(socket, exchange.answer).await?)
    })
    .await
}

/// Has the controller behind `socket` read the registry again.
///
/// # Errors
/// As [`status`], with a time-out of a minute.
pub async fn reload(socket: &Path) -> Result<Reload, ControlError> {
    document(socket, RELOAD_TIMEOUT, Method::POST, RELOAD_PATH).await
}

/// Has the controller behind `socket` make the present enforcement permanent.
///
/// # Errors
/// As [`status`]; [`ControlError::Refused`] when the time to confirm is over.
pub async fn confirm(socket: &Path) -> Result<Guard, ControlError> {
    document(socket, ANSWER_TIMEOUT, Method::POST, CONFIRM_PATH).await
}

/// Has the controller behind `socket` change the enforcement.
///
/// # Errors
/// As [`status`].
pub async fn set_policy(socket: &Path, policy: &NewPolicy) -> Result<Guard, ControlError> {
    in_time(socket, ANSWER_TIMEOUT, async {
        let exchange = Exchange::send(socket, Method::POST, POLICY_PATH, json(socket, policy)?).await?;
        parse(socket, &collect(socket, exchange.answer).await?)
    })
    .await
}

/// Requests a document that names its schema. Sends no body.
async fn document<T: DeserializeOwned>(
    socket: &Path,
    patience: Duration,
    method: Method,
    path: &str,
) -> Result<T, ControlError> {
    in_time(socket, patience, async {
        let exchange = Exchange::send(socket, method, path, Bytes::new()).await?;
        let body = collect(socket, exchange.answer).await?;
        let Schema { schema } = parse(socket, &body)?;
        if schema != SCHEMA {
            let problem = format!("schema {schema} instead of {SCHEMA}");
            return Err(ControlError::unintelligible(socket, &problem));
        }
        parse(socket, &body)
    })
    .await
}

/// The events of the controller behind `socket`: those that it has kept or, with `follow`, all that happen after this
/// function has returned.
///
/// # Errors
/// As [`status`].
pub async fn events(socket: &Path, follow: bool) -> Result<Lines, ControlError> {
    let path = if follow { format!("{EVENTS_PATH}?follow=true") } else { EVENTS_PATH.to_owned() };
    lines(socket, &path).await
}

/// Follows the controller behind `socket`: yields all packets that it drops after this function has returned.
///
/// # Errors
/// As [`status`].
pub async fn drops(socket: &Path) -> Result<Lines, ControlError> {
    lines(socket, DROPS_PATH).await
}

async fn lines(socket: &Path, path: &str) -> Result<Lines, ControlError> {
    let request = Exchange::send(socket, Method::GET, path, Bytes::new());
    let exchange = in_time(socket, ANSWER_TIMEOUT, request).await?;
    Ok(Lines { exchange, socket: socket.to_owned(), buffer: BytesMut::new() })
}

/// The lines of an answer, as they arrive. Dropping this closes the connection.
#[derive(Debug)]
pub struct Lines {
    exchange: Exchange,
    socket: PathBuf,
    buffer: BytesMut,
}

impl Lines {
    /// The next line, without its line break: JSON, possibly with fields that a newer controller added. `None` when the
    /// controller ended the stream, as it does when it stops. Cancel-safe: no line is lost.
    ///
    /// # Errors
    /// When the connection broke, or the answer is not text in lines of reasonable length.
    pub async fn next_line(&mut self) -> Result<Option<String>, ControlError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(searched + end + 1);
                let text = std::str::from_utf8(&line[..line.len() - 1]);
                return text
                    .map(|text| Some(text.to_owned()))
                    .map_err(|error| ControlError::unintelligible(&self.socket, &error));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE_BYTES {
                return Err(ControlError::unintelligible(&self.socket, &"endless line"));
            }
            match self.exchange.answer.body_mut().frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(ControlError::broken(&self.socket, error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ControlError::unintelligible(&self.socket, &"half a line at the end")),
            }
        }
    }
}

/// One request and the head of its answer.
#[derive(Debug)]
struct Exchange {
    answer: Response<Incoming>,
    /// Drives the connection; aborted on drop.
    _connection: JoinSet<()>,
}

impl Exchange {
    async fn send(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| unconnected(socket, error))?;
        let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| ControlError::broken(socket, error))?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // The error also reaches whoever waits for the answer or its body.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let request = request.map_err(|error| ControlError::broken(socket, error))?;
        let answer =
            sender.send_request(request).await.map_err(|error| ControlError::broken(socket, error))?;
        if answer.status() == StatusCode::OK {
            return Ok(Self { answer, _connection: task });
        }
        let code = answer.status();
        let body = collect(socket, answer).await?;
        let message =
            serde_json::from_slice(&body).map_or_else(|_| code.to_string(), |Refusal { error }| error);
        Err(ControlError::Refused { socket: socket.to_owned(), message })
    }
}

/// The error for a connection that could not be made.
pub(super) fn unconnected(socket: &Path, error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning { owner: owner(socket) }
        }
        io::ErrorKind::InvalidInput => ControlError::PathTooLong { path: socket.to_owned() },
        // The queue of connections is full.
        io::ErrorKind::WouldBlock => timed_out(socket, ANSWER_TIMEOUT),
        _ => ControlError::io("cannot connect to", socket, error),
    }
}

fn timed_out(socket: &Path, patience: Duration) -> ControlError {
    ControlError::Timeout { socket: socket.to_owned(), seconds: patience.as_secs() }
}

async fn in_time<T>(
    socket: &Path,
    patience: Duration,
    work: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    timeout(patience, work).await.unwrap_or_else(|_| Err(timed_out(socket, patience)))
}

async fn collect(socket: &Path, answer: Response<Incoming>) -> Result<Bytes, ControlError> {
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| ControlError::broken(socket, error))
}

fn json(socket: &Path, value: &impl Serialize) -> Result<Bytes, ControlError> {
    serde_json::to_vec(value).map(Into::into).map_err(|error| ControlError::broken(socket, error))
}

fn parse<'a, T: Deserialize<'a>>(socket: &Path, body: &'a [u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| ControlError::unintelligible(socket, &error))
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}
