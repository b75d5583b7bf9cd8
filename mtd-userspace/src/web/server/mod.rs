//! The server of the web view. Whatever a reader does, it can delay only other readers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use tokio::sync::Semaphore;

use super::feed::Feed;
use super::link::{Link, Token};
use super::page;
use crate::http::tcp::Bound;
use crate::http::{self, Limits, Patience, Progress};
use crate::remedy::{Doing, clause};
use crate::subsystem::{AfterEnd, Context, Reports, Subsystem};

/// Path of the events.
const EVENTS_PATH: &str = "/events";
/// The port of HTTP.
const HTTP_PORT: u16 = 80;
/// How many pages may follow the events at a time: fewer than the connections, so that a further page can still be loaded
/// and say that there are too many.
const MAX_FOLLOWERS: usize = 8;
/// How long a connection may go without progress. Events come once a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Size of the kernel's buffer for a reader that does not read, in bytes.
const SEND_BUFFER: u32 = 64 * 1024;
/// Limits for readers.
const LIMITS: Limits = Limits {
    name: "web view",
    connections: 16,
    patience: Patience::Progress(PATIENCE),
    grace: Duration::ZERO,
};

/// Headers of every answer. The page loads nothing from other sites, sends nothing to them, and is not shown inside other
/// pages; other sites cannot read an answer, and nothing is cached.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The web view: a bound address, and the link to it, whose file is removed when this is dropped.
pub struct View {
    bound: Bound,
    link: Link,
}

impl View {
    /// Binds the address and writes the link to a file. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address is taken, or the file cannot be written.
    pub fn bind(address: SocketAddr, link: &Path) -> anyhow::Result<Arc<Self>> {
        let bound = Bound::new(address, Some(SEND_BUFFER)).map_err(|error| {
            let way = clause(Doing::Listen("listen in [web]"), &error);
            anyhow::anyhow!("cannot serve the web view at {address}: {error}{way}")
        })?;
        let address = bound.address();
        let link = Link::establish(link, address)?;
        tracing::info!("web view at http://{address}/; mtd web prints the link");
        Ok(Arc::new(Self { bound, link }))
    }

    /// Serves until `shutdown` is ready, and then closes all connections at once.
    ///
    /// # Errors
    /// When the socket does not listen any more, or cannot.
    async fn serve(&self, reports: &dyn Reports, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let socket = self.bound.listener()?;
        let feed = Arc::new(Feed::new());
        let router = router(self.bound.address(), self.link.token().clone(), Arc::clone(&feed));
        let mut producer = pin!(feed.produce(reports));
        tokio::select! {
            ended = http::serve(&socket, router, LIMITS, shutdown) => ended,
            never = &mut producer => never,
        }
    }
}

impl Subsystem for View {
    fn name(&self) -> &'static str {
        "web view"
    }

    fn start(self: Arc<Self>, context: &Context) -> anyhow::Result<()> {
        let (reports, shutdown) = (Arc::clone(&context.reports), context.shutdown());
        context.tasks.spawn(self.name(), AfterEnd::Restart, move || {
            let (view, reports, shutdown) = (Arc::clone(&self), Arc::clone(&reports), shutdown.clone());
            async move { Ok(view.serve(&*reports, shutdown.begun()).await?) }
        });
        Ok(())
    }

    /// Removes the link, since nothing answers at its address any more.
    fn stop(&self) {
        self.link.remove();
    }
}

/// The state of the request handlers.
#[derive(Clone)]
struct Handler {
    token: Token,
    feed: Arc<Feed>,
    followers: Arc<Semaphore>,
    hosts: Arc<[String]>,
}

fn router(address: SocketAddr, token: Token, feed: Arc<Feed>) -> Router {
    let port = address.port();
    let own = address.to_string();
    let own = own.trim_end_matches(&format!(":{port}"));
    let names = ["localhost", "127.0.0.1", "[::1]", own];
    let mut hosts: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
    if port == HTTP_PORT {
        // Browsers omit this port.
        hosts.extend(names.map(str::to_owned));
    }
    let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
    let handler = Handler { token, feed, followers, hosts: hosts.into() };
    let mut router = Router::new()
        .route(EVENTS_PATH, get(follow))
        .route("/reasons.json", get(|| async { Json(page::reasons()) }));
    for &(path, kind, text) in page::FILES {
        router = router.route(path, get(async move || ([(header::CONTENT_TYPE, kind)], text)));
    }
    router
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page\n") })
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "only GET\n") })
        .layer(middleware::from_fn_with_state(handler.clone(), refuse_others))
        .with_state(handler)
}

/// Refuses requests for other host names: with DNS rebinding, the name of another site can resolve to this address.
async fn refuse_others(State(handler): State<Handler>, request: Request, next: Next) -> Response {
    let host = only(request.headers(), &header::HOST);
    let ours = host.is_some_and(|host| handler.hosts.iter().any(|ours| ours.as_bytes() == host.as_bytes()));
    let mut response = if ours {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, format!("the web view is at http://{}/\n", handler.hosts[0]))
            .into_response()
    };
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(headers);
    response
}

/// The events, for requests with the token.
async fn follow(
    State(handler): State<Handler>,
    Extension(progress): Extension<Progress>,
    headers: HeaderMap,
) -> Response {
    let shown =
        only(&headers, &header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if !shown.is_some_and(|shown| handler.token.admits(shown)) {
        let demand = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, demand, "open the link that mtd web prints\n").into_response();
    }
    let Ok(permit) = handler.followers.try_acquire_owned() else {
        let message = format!("{MAX_FOLLOWERS} pages are open already; close one of them\n");
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let events = Body::from_stream(handler.feed.follow(progress, permit));
    ([(header::CONTENT_TYPE, "text/event-stream")], events).into_response()
}

/// The header's value, if there is exactly one.
fn only<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests;
