//! The loop that accepts connections, and what one connection may take.

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
/// How much of a request is buffered, in bytes; also how much of an answer.
const BUFFER_BYTES: usize = 16 * 1024;
/// Pause after a failed accept (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is listened at.
pub trait Accept: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Nobody shall connect any more.
    fn close(&self) {}
}

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What is served, for the log.
    pub name: &'static str,
    /// Connections at a time; later ones wait in the kernel's queue.
    pub connections: usize,
    /// How long one connection may last.
    pub patience: Patience,
    /// How long answers may go on after the shutdown began.
    pub grace: Duration,
}

/// How long a connection may last once its head has come.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// As long as it likes.
    Endless,
    /// So long in all: asking, and reading the answer.
    Whole(Duration),
    /// So long without [`Progress`].
    Progress(Duration),
}

impl Patience {
    /// Ready when it is over.
    async fn over(self, progress: &Progress) {
        match self {
            Self::Endless => pending().await,
            Self::Whole(limit) => sleep(limit).await,
            Self::Progress(limit) => while timeout(limit, progress.0.notified()).await.is_ok() {},
        }
    }
}

/// Handlers of endless answers take it as an extension, and note when more of the answer is asked for.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Notify>);

impl Progress {
    /// The reader has asked for more.
    pub fn note(&self) {
        self.0.notify_one();
    }
}

/// Handlers of endless answers take it as an extension, and end with the server.
#[derive(Clone, Debug)]
pub struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Ready when the server shuts down.
    pub async fn ended(mut self) {
        // An error means that the server is gone.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

/// Serves until `shutdown` is ready: then nobody can connect any more, endless answers end, and the others get the
/// time of grace to finish. What clients do, or fail to do, never ends it.
pub async fn serve<A: Accept>(
    listener: &A,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
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
                Err(error) => {
                    tracing::warn!(%error, "{}: cannot accept a connection", limits.name);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    listener.close();
    close.send_replace(true);
    // Connections that are not done by then are aborted when their set is dropped.
    let _ = timeout(limits.grace, async { while connections.join_next().await.is_some() {} }).await;
}

/// One request and its answer, within the limits.
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
    /// That of a server which never shuts down.
    pub(crate) fn never() -> Self {
        let (sender, closing) = watch::channel(false);
        std::mem::forget(sender);
        Self(closing)
    }
}
