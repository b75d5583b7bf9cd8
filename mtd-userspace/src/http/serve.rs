//! The loop that accepts connections, and the limits of one connection.

use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a client may take for the head of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Buffer size for a request, and for an answer, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;
/// Pause after a failed accept (usually, no file descriptors are left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The failure of a server whose socket does not listen any more.
const ENDED: &str = "somebody has ended listening at its socket, as ss -K does";

/// A listener.
pub trait Accept: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Stops listening.
    fn close(&self) {}
}

/// The limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The name of the server, for the log.
    pub name: &'static str,
    /// Maximum number of connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// How long one connection may last.
    pub patience: Patience,
    /// How long answers may go on after the shutdown begins.
    pub grace: Duration,
}

/// How long a connection may last after its head has arrived.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// For any length of time.
    Endless,
    /// At most this long in all, for the request and the answer.
    Whole(Duration),
    /// At most this long without [`Progress`].
    Progress(Duration),
}

impl Patience {
    /// Ready when the time is over.
    async fn over(self, progress: &Progress) {
        match self {
            Self::Endless => pending().await,
            Self::Whole(limit) => sleep(limit).await,
            Self::Progress(limit) => while timeout(limit, progress.0.notified()).await.is_ok() {},
        }
    }
}

/// Progress of an endless answer. Handlers take it as an extension, and call it when more of the answer is requested.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Notify>);

impl Progress {
    /// More of the answer was requested.
    pub fn note(&self) {
        self.0.notify_one();
    }
}

/// The end of the server. Handlers of endless answers take it as an extension, and end their answers then.
#[derive(Clone, Debug)]
pub struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Ready when the server shuts down.
    pub async fn ended(mut self) {
        // An error means that the server has ended.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

/// Serves until `shutdown` is ready. Then no new connections are accepted, endless answers end, and the other answers have
/// `limits.grace` to finish. Nothing that a client does ends the server.
///
/// # Errors
/// When the socket does not listen any more: somebody with the right to do so has ended that (`ss -K`).
pub async fn serve<A: Accept>(
    listener: &A,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (close, closing) = watch::channel(false);
    let closing = Closing(closing);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok(stream) => {
                    connections.spawn(converse(stream, router.clone(), limits, closing.clone()));
                }
                Err(error) if has_ended(&error) => return Err(io::Error::new(error.kind(), ENDED)),
                Err(error) => {
                    tracing::warn!(%error, "{}: cannot accept a connection", limits.name);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    listener.close();
    close.send_replace(true);
    // Connections that are not finished by then are aborted when the set is dropped.
    let _ = timeout(limits.grace, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Whether a failed accept says that the socket does not listen (accept(2): EINVAL). Other failures pass by themselves.
fn has_ended(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Serves one request, within the limits.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    router: Router,
    limits: Limits,
    closing: Closing,
) {
    let progress = Progress::default();
    let router = router.layer(Extension(progress.clone())).layer(Extension(closing.clone()));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .keep_alive(false)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let (mut ended, mut over) = (pin!(closing.ended()), pin!(limits.patience.over(&progress)));
    let mut closed = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "{}: a connection broke", limits.name);
                }
                return;
            }
            () = ended.as_mut(), if !closed => {
                closed = true;
                connection.as_mut().graceful_shutdown();
            }
            () = over.as_mut() => return tracing::debug!("{}: a client was too slow", limits.name),
        }
    }
}

#[cfg(test)]
impl Closing {
    /// For a server that never shuts down.
    pub(crate) fn never() -> Self {
        let (sender, closing) = watch::channel(false);
        std::mem::forget(sender);
        Self(closing)
    }
}
