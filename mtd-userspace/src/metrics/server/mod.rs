//! `GET /metrics` over TCP, for Prometheus. Whatever a reader does, it can delay only other readers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::CONTENT_TYPE;
use crate::http::tcp::Bound;
use crate::http::{self, Limits, Patience};
use crate::remedy::{Doing, clause};
use crate::subsystem::{AfterEnd, Context, Reports, Subsystem};

/// Path of the metrics, also at the control socket.
pub const PATH: &str = "/metrics";

/// How long a connection may last, for the request and the answer. Prometheus itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Limits for readers.
const LIMITS: Limits =
    Limits { name: "metrics", connections: 16, patience: Patience::Whole(PATIENCE), grace: Duration::ZERO };

/// Binds the address. Must be called within a tokio runtime.
///
/// # Errors
/// When the address is not one of this host, or is in use.
pub fn bind(address: SocketAddr) -> anyhow::Result<Bound> {
    Bound::new(address, None).map_err(|error| {
        let way = clause(Doing::Listen("listen in [metrics]"), &error);
        anyhow::anyhow!("cannot serve metrics at {address}: {error}{way}")
    })
}

/// The metrics server, bound to an address.
pub struct Server(Arc<Bound>);

impl Server {
    /// Binds the address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn bind(address: SocketAddr) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self(Arc::new(bind(address)?))))
    }
}

impl Subsystem for Server {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let (router, shutdown) = (router(Arc::clone(&context.reports)), context.shutdown());
        context.tasks.spawn(self.name(), AfterEnd::Restart, move || {
            let (bound, router, shutdown) = (Arc::clone(&self.0), router.clone(), shutdown.clone());
            async move {
                let listener = bound.listener()?;
                Ok(http::serve(&listener, router, LIMITS, shutdown.begun()).await?)
            }
        });
        Ok(())
    }
}

fn router(reports: Arc<dyn Reports>) -> Router {
    Router::new()
        .route(PATH, get(answer))
        .fallback(|| async { (StatusCode::NOT_FOUND, "metrics are at /metrics\n") })
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "only GET\n") })
        .with_state(reports)
}

/// The answer to a request for metrics.
pub(crate) async fn answer(State(reports): State<Arc<dyn Reports>>) -> Response {
    match reports.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
