//! The controller's end of the control socket: a listener, and the routes of all features.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;

use super::{ControlError, STATUS_PATH, enforcement, events};
use crate::http::unix::{self, Listener, ReadyListener};
use crate::http::{self, Limits, Patience, Reason, Refusal, answer};
use crate::metrics;
use crate::subsystem::{AfterEnd, Context, Reports, Shutdown};

/// Limits for clients.
const LIMITS: Limits = Limits {
    name: "control socket",
    connections: 64,
    patience: Patience::Endless,
    grace: Duration::from_secs(1),
};

/// Binds the control socket: see [`unix::bind`]. The caller must hold the lock of the instance.
///
/// # Errors
/// [`ControlError::AlreadyRunning`] when the socket is served, [`ControlError::NotASocket`] when something else is
/// there, otherwise those of the file system.
pub fn bind(path: &Path) -> Result<Listener, ControlError> {
    unix::bind(path).map_err(Into::into)
}

/// Serves the requests about the controller as a whole, and those of the `features`.
///
/// # Errors
/// When the socket cannot be handed to the runtime.
pub fn start(listener: Listener, features: Router, context: &Context) -> Result<(), ControlError> {
    let listener = Arc::new(listener.ready()?);
    let router = routes(Arc::clone(&context.reports))
        .merge(events::routes(Arc::clone(&context.bus)))
        .merge(enforcement::routes(Arc::new(context.clone())))
        .merge(features);
    let router = refusing(router);
    let shutdown = context.shutdown();
    context.tasks.spawn("control socket", AfterEnd::StopController, move || {
        let (listener, router, shutdown) = (Arc::clone(&listener), router.clone(), shutdown.clone());
        async move { Ok(serve(&listener, router, shutdown.begun()).await?) }
    });
    Ok(())
}

/// Serves nothing but the status, while the controller waits for its interface. The future ends after `shutdown` has begun.
///
/// # Errors
/// When the socket cannot be handed to the runtime.
pub fn serve_alone(
    listener: Listener,
    reports: Arc<dyn Reports>,
    shutdown: Shutdown,
) -> Result<impl Future<Output = io::Result<()>> + Send + 'static, ControlError> {
    let listener = listener.ready()?;
    let refuse = || async {
        let text = "the controller waits for its interface, and has nothing else to tell: see `mtd status`";
        Refusal::new(Reason::Conflict, text)
    };
    let router = Router::new().route(STATUS_PATH, get(get_status)).with_state(reports).fallback(refuse);
    Ok(async move { serve(&listener, router, shutdown.begun()).await })
}

/// Serves until `shutdown` is ready. Then the socket's file is removed, streams of events end, and answers under way have a
/// second to finish. Nothing that a client does ends the server or slows down anything else.
///
/// # Errors
/// When the socket does not listen any more.
pub(super) async fn serve(
    listener: &ReadyListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    http::serve(listener, router, LIMITS, shutdown).await
}

/// Status and metrics.
pub(super) fn routes(reports: Arc<dyn Reports>) -> Router {
    Router::new()
        .route(STATUS_PATH, get(get_status))
        .route(metrics::server::PATH, get(metrics::server::answer))
        .with_state(reports)
}

/// Refuses all other requests in JSON.
pub(super) fn refusing(router: Router) -> Router {
    router.fallback(|| async { Refusal::new(Reason::NotFound, "no such path") }).method_not_allowed_fallback(
        || async { Refusal::new(Reason::NoSuchMethod, "this path has no such method") },
    )
}

async fn get_status(State(reports): State<Arc<dyn Reports>>) -> Response {
    answer(reports.status().await.map_err(Refusal::from))
}
