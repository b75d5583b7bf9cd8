//! `GET /metrics` over TCP, for Prometheus. What readers do, or fail to do, slows nothing but other readers.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::CONTENT_TYPE;
use crate::control::server::Source;
use crate::http::{self, Limits, Patience};

/// Path of the metrics, also at the control socket.
pub const PATH: &str = "/metrics";

/// How long a connection may last: asking, and reading the answer. Prometheus itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What readers may take.
const LIMITS: Limits =
    Limits { name: "metrics", connections: 16, patience: Patience::Whole(PATIENCE), grace: Duration::ZERO };

/// Binds the address. Within a tokio runtime.
///
/// # Errors
/// It is not one of this host, or taken.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    http::tcp::listen(address, None).map_err(|error| {
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
    http::serve(&listener, router(source), LIMITS, shutdown).await;
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
