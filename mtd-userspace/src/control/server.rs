//! The controller's end of the control socket.

mod guard;
mod peers;

use std::convert::Infallible;
use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{
    CONFIRM_PATH, ControlError, DROPS_PATH, DropLine, PEERS_PATH, POLICY_PATH, RELOAD_PATH, Refusal,
    STATUS_PATH,
};
use crate::keys::PublicKey;
use crate::metrics;
use crate::model::Enforcement;
use crate::status::{self, Registered, Reload, Status};

/// Connections served at a time; later ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Connections that wait.
const BACKLOG: i32 = 64;
/// Followers of the drop events at a time: less than the connections, so that a status can be had at any time.
const MAX_FOLLOWERS: usize = 32;
/// How long a client may take for the head of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a request is buffered, in bytes; also how much of an answer.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long answers may go on after the shutdown began.
const GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The future of [`Source::status`].
pub type StatusFuture<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Status>> + Send + 'a>>;

/// The future of [`Source::metrics`].
pub type MetricsFuture<'a> = Pin<Box<dyn Future<Output = anyhow::Result<String>> + Send + 'a>>;

/// The future of a request that may be refused.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Where the server gets what it tells, and who does what clients ask for. A source without registered clients
/// refuses what is about them.
pub trait Source: Send + Sync + 'static {
    /// The status as of now. An error is shown to the client, with its causes.
    fn status(&self) -> StatusFuture<'_>;

    /// The metrics, in the text format of Prometheus.
    fn metrics(&self) -> MetricsFuture<'_> {
        Box::pin(async { Ok(metrics::render(&self.status().await?)) })
    }

    /// The dropped packets from now on. A receiver that lags loses events; the sender never waits. The stream of a
    /// client ends when the sender is dropped.
    fn subscribe(&self) -> broadcast::Receiver<Arc<status::Drop>>;

    /// The registered clients.
    fn peers(&self) -> Answer<'_, Registered> {
        Box::pin(async { Err(Refusal::not_a_server()) })
    }

    /// Registers a client. The name and key are possible ones; whether they are free, the source has to check.
    fn add_peer(&self, _name: String, _key: PublicKey) -> Answer<'_, status::Client> {
        Box::pin(async { Err(Refusal::not_a_server()) })
    }

    /// Removes a registered client and ends its session. The answer says who it was.
    fn remove_peer(&self, _name: String) -> Answer<'_, status::Client> {
        Box::pin(async { Err(Refusal::not_a_server()) })
    }

    /// Reads the registry again: ends the sessions of those who may no longer come, and touches no others.
    fn reload(&self) -> Answer<'_, Reload> {
        Box::pin(async { Err(Refusal::not_a_server()) })
    }

    /// Keeps what is enforced. Refuses when it is too late.
    fn confirm(&self) -> Answer<'_, status::Guard>;

    /// Changes what is enforced.
    fn set_policy(&self, asked: Enforcement) -> Answer<'_, status::Guard>;
}

/// A bound control socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: SocketFile,
}

impl Listener {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// Removes the socket's file, unless another one has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

/// Binds the control socket, mode 0600. Its folder is made, mode 0755, if it is missing. A stale socket is replaced.
///
/// Clients that connect wait until [`serve`] runs. The caller holds the lock of the instance: of two calls that race
/// for one path, the later one wins.
///
/// # Errors
/// [`ControlError::AlreadyRunning`] when the socket is served, [`ControlError::NotASocket`] when something else is
/// there, otherwise those of the file system.
pub fn bind(path: &Path) -> Result<Listener, ControlError> {
    make_parent(path)?;
    refuse_live(path)?;
    // Made under another name and then renamed: no moment at which clients find a socket that does not listen.
    let mut temporary_name = path.file_name().unwrap_or_default().to_owned();
    temporary_name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ControlError::io("cannot remove the left-over", &temporary, error));
        }
        _ => {}
    }
    let address =
        UnixAddr::new(&temporary).map_err(|_| ControlError::PathTooLong { path: path.to_owned() })?;
    let socket = listen(&address).map_err(|e| ControlError::io("cannot bind the socket", path, e.into()))?;
    let metadata = fs::symlink_metadata(&temporary)
        .map_err(|error| ControlError::io("cannot read the socket", &temporary, error))?;
    let mut file = SocketFile { path: temporary, device: metadata.dev(), inode: metadata.ino() };
    fs::rename(&file.path, path).map_err(|error| ControlError::io("cannot make the socket", path, error))?;
    path.clone_into(&mut file.path);
    Ok(Listener { socket: UnixListener::from(socket), file })
}

fn listen(address: &UnixAddr) -> nix::Result<OwnedFd> {
    let socket = stream_socket()?;
    // The mode that the kernel gives to the file; to change it after the bind would leave a moment between.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(socket.as_raw_fd(), address)?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

fn stream_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn make_parent(path: &Path) -> Result<(), ControlError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    match DirBuilder::new().mode(0o755).create(parent) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(|error| ControlError::io("cannot make the folder", parent, error))?,
    }
    // Whatever the umask: without root one shall learn that root is needed, not that nothing runs.
    fs::set_permissions(parent, Permissions::from_mode(0o755))
        .map_err(|error| ControlError::io("cannot set the mode of", parent, error))
}

/// Fails unless the path is free or has a socket that nobody serves.
fn refuse_live(path: &Path) -> Result<(), ControlError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ControlError::io("cannot read", path, error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let address = UnixAddr::new(path).map_err(|_| ControlError::PathTooLong { path: path.to_owned() })?;
    match stream_socket().and_then(|probe| socket::connect(probe.as_raw_fd(), &address)) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // EAGAIN: somebody listens, and their queue is full.
        Ok(()) | Err(Errno::EAGAIN) => Err(ControlError::AlreadyRunning { socket: path.to_owned() }),
        Err(Errno::EPROTOTYPE) => Err(ControlError::NotASocket { path: path.to_owned() }),
        Err(error) => Err(ControlError::io("cannot connect to", path, error.into())),
    }
}

/// Serves until `shutdown` is ready: then the socket's file is removed, the streams of events end, and answers under
/// way get a second to finish. What clients do, or fail to do, never ends it and never slows the source.
///
/// # Errors
/// When the socket cannot be handed to the runtime.
pub async fn serve(
    listener: Listener,
    source: Arc<dyn Source>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ControlError> {
    let Listener { socket, file } = listener;
    let socket = tokio::net::UnixListener::from_std(socket)
        .map_err(|error| ControlError::io("cannot serve the socket", &file.path, error))?;
    let (close, closing) = watch::channel(false);
    let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
    let router = router(Shared { source, followers, closing: closing.clone() });
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, router.clone(), closing.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection at the control socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((file, socket));
    close.send_replace(true);
    // Connections that are not done by then are aborted when their set is dropped.
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// One request and its answer over a stream. Ready when the answer is read, or the peer breaks the rules.
pub(crate) fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    router: Router,
) -> http1::Connection<TokioIo<S>, TowerToHyperService<Router>> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

async fn converse(stream: UnixStream, router: Router, mut closing: watch::Receiver<bool>) {
    let mut connection = pin!(connection(stream, router));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ended(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the control socket broke");
    }
}

/// Ready when the server shuts down.
async fn ended(closing: &mut watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = closing.wait_for(|closing| *closing).await;
}

#[derive(Clone)]
struct Shared {
    source: Arc<dyn Source>,
    followers: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route(STATUS_PATH, get(get_status))
        .route(metrics::server::PATH, get(get_metrics))
        .route(DROPS_PATH, get(get_drop_events))
        .route(PEERS_PATH, get(peers::list).post(peers::add))
        .route(&format!("{PEERS_PATH}/{{name}}"), delete(peers::remove))
        .route(RELOAD_PATH, post(peers::reload))
        .route(CONFIRM_PATH, post(guard::confirm))
        .route(POLICY_PATH, post(guard::set_policy))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        })
        .with_state(shared)
}

fn refuse(code: StatusCode, message: &str) -> Response {
    (code, Json(serde_json::json!({ "error": message }))).into_response()
}

async fn get_status(State(shared): State<Shared>) -> Response {
    match shared.source.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
    }
}

async fn get_metrics(State(shared): State<Shared>) -> Response {
    metrics::server::respond(&*shared.source).await
}

async fn get_drop_events(State(shared): State<Shared>) -> Response {
    let Ok(permit) = shared.followers.try_acquire_owned() else {
        let message = format!("{MAX_FOLLOWERS} clients follow the drop events already; end one of them");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &message);
    };
    let feed = Feed { events: shared.source.subscribe(), closing: shared.closing, _permit: permit };
    let lines = futures_util::stream::unfold(feed, Feed::next);
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// One client's stream of events.
struct Feed {
    events: broadcast::Receiver<Arc<status::Drop>>,
    closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let received = tokio::select! {
            biased;
            () = ended(&mut self.closing) => return None,
            received = self.events.recv() => received,
        };
        let line = match received {
            Ok(event) => line(&*event),
            Err(RecvError::Lagged(lost)) => line(&DropLine::Lost { lost }),
            Err(RecvError::Closed) => return None,
        };
        match line {
            Ok(line) => Some((Ok(line), self)),
            Err(error) => {
                tracing::error!(%error, "cannot encode a drop event");
                None
            }
        }
    }
}

fn line(value: &impl Serialize) -> serde_json::Result<Bytes> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}
