//! The controller's end of the control socket.

mod guard;
mod peers;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use futures_util::stream;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    CONFIRM_PATH, ControlError, DROPS_PATH, DropLine, PEERS_PATH, POLICY_PATH, RELOAD_PATH, STATUS_PATH,
};
use crate::http::unix::{self, Listener};
use crate::http::{self, Closing, Limits, Patience, Reason, Refusal, answer};
use crate::keys::PublicKey;
use crate::metrics;
use crate::model::Enforcement;
use crate::registry::not_a_server;
use crate::status::{self, Registered, Reload, Status};

/// What clients may take.
const LIMITS: Limits = Limits {
    name: "control socket",
    connections: 64,
    patience: Patience::Endless,
    grace: Duration::from_secs(1),
};
/// Followers of the drop events at a time: less than the connections, so that a status can be had at any time.
const MAX_FOLLOWERS: usize = 32;

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
        Box::pin(async { Err(not_a_server()) })
    }

    /// Registers a client. The name and key are possible ones; whether they are free, the source has to check.
    fn add_peer(&self, _name: String, _key: PublicKey) -> Answer<'_, status::Client> {
        Box::pin(async { Err(not_a_server()) })
    }

    /// Removes a registered client and ends its session. The answer says who it was.
    fn remove_peer(&self, _name: String) -> Answer<'_, status::Client> {
        Box::pin(async { Err(not_a_server()) })
    }

    /// Reads the registry again: ends the sessions of those who may no longer come, and touches no others.
    fn reload(&self) -> Answer<'_, Reload> {
        Box::pin(async { Err(not_a_server()) })
    }

    /// Keeps what is enforced. Refuses when it is too late.
    fn confirm(&self) -> Answer<'_, status::Guard>;

    /// Changes what is enforced.
    fn set_policy(&self, asked: Enforcement) -> Answer<'_, status::Guard>;
}

/// Binds the control socket: see [`unix::bind`]. The caller holds the lock of the instance.
///
/// # Errors
/// [`ControlError::AlreadyRunning`] when the socket is served, [`ControlError::NotASocket`] when something else is
/// there, otherwise those of the file system.
pub fn bind(path: &Path) -> Result<Listener, ControlError> {
    unix::bind(path).map_err(Into::into)
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
    let listener = listener.ready()?;
    let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
    http::serve(&listener, router(Shared { source, followers }), LIMITS, shutdown).await;
    Ok(())
}

#[derive(Clone)]
struct Shared {
    source: Arc<dyn Source>,
    followers: Arc<Semaphore>,
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
        .fallback(|| async { Refusal::new(Reason::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Reason::NoSuchMethod, "this path has no such method")
        })
        .with_state(shared)
}

async fn get_status(State(shared): State<Shared>) -> Response {
    answer(shared.source.status().await.map_err(Refusal::from))
}

async fn get_metrics(State(shared): State<Shared>) -> Response {
    metrics::server::respond(&*shared.source).await
}

async fn get_drop_events(State(shared): State<Shared>, Extension(closing): Extension<Closing>) -> Response {
    let Ok(permit) = shared.followers.try_acquire_owned() else {
        let message = format!("{MAX_FOLLOWERS} clients follow the drop events already; end one of them");
        return Refusal::new(Reason::Busy, message).into_response();
    };
    http::lines(stream::unfold(shared.source.subscribe(), next), closing, permit)
}

type Events = broadcast::Receiver<Arc<status::Drop>>;

async fn next(mut events: Events) -> Option<(DropLine, Events)> {
    let line = match events.recv().await {
        Ok(event) => DropLine::Drop((*event).clone()),
        Err(RecvError::Lagged(lost)) => DropLine::Lost { lost },
        Err(RecvError::Closed) => return None,
    };
    Some((line, events))
}
