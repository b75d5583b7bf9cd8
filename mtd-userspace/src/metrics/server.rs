//! `GET /metrics` over TCP, for Prometheus. What readers do, or fail to do, slows nothing but other readers.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::CONTENT_TYPE;
use crate::control::server::{self, Source};

/// Path of the metrics, also at the control socket.
pub const PATH: &str = "/metrics";

/// Connections served at a time; later ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may last: asking, and reading the answer. Prometheus itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the address.
///
/// # Errors
/// It is not one of this host, or taken.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot serve metrics at {address}: {error}; choose another address with listen in [metrics]"
        )
    })
}

/// Serves until `shutdown` is ready. Connections that are not done by then are cut.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn Source>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let router = router(source);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    match timeout(PATIENCE, server::connection(stream, router)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke"),
        Err(_) => tracing::debug!("a reader of metrics was too slow"),
    }
}

fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route(PATH, get(answer))
        .fallback(|| async { (StatusCode::NOT_FOUND, "metrics are at /metrics\n") })
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "only GET\n") })
        .with_state(source)
}

async fn answer(State(source): State<Arc<dyn Source>>) -> Response {
    respond(&*source).await
}

/// The answer to a request for metrics.
pub(crate) async fn respond(source: &dyn Source) -> Response {
    match source.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
