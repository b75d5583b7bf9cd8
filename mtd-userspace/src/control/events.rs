//! Requests for events: dropped packets alone, or all events. Events become JSON here.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{DROPS_PATH, EVENTS_PATH};
use crate::dataplane::boot_time;
use crate::events::{Bus, Event, Kind, Received, Record, Subscriber};
use crate::http::{self, Closing, Reason, Refusal};
use crate::status::{DropLine, DroppedPacket, EventDocument, EventLine};

/// How many clients may follow events at a time: fewer than the connections of the socket, so that a request for the status
/// is always served.
const MAX_FOLLOWERS: usize = 32;

#[derive(Clone)]
struct Handler {
    bus: Arc<Bus>,
    followers: Arc<Semaphore>,
}

/// The parameters of the query string.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    follow: bool,
}

/// The routes of these requests.
pub(super) fn routes(bus: Arc<Bus>) -> Router {
    Router::new()
        .route(DROPS_PATH, get(drops))
        .route(EVENTS_PATH, get(events))
        .with_state(Handler { bus, followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)) })
}

async fn drops(State(handler): State<Handler>, Extension(closing): Extension<Closing>) -> Response {
    let Ok(permit) = handler.followers.try_acquire_owned() else { return too_many("drop events") };
    let lines = stream::unfold(handler.bus.subscribe(Some(Kind::Drop)), next_drop);
    http::lines(lines, closing, permit)
}

async fn next_drop(mut events: Subscriber) -> Option<(DropLine, Subscriber)> {
    loop {
        let line = match events.next().await {
            Received::Lost(lost) => DropLine::Lost { lost },
            Received::Event(record) => match &record.event {
                Event::Drop(dropped) => {
                    DropLine::Drop(DroppedPacket::new(&dropped.packet, dropped.reason, record.time_ns))
                }
                _ => continue,
            },
        };
        return Some((line, events));
    }
}

async fn events(
    State(handler): State<Handler>,
    Extension(closing): Extension<Closing>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let Handler { bus, followers } = handler;
    match asked {
        Err(rejection) => Refusal::new(Reason::Invalid, rejection.body_text()).into_response(),
        Ok(Query(Asked { follow: false })) => {
            let lines: Vec<_> = bus.history().iter().map(|record| line(record)).collect();
            http::lines(stream::iter(lines), closing, ())
        }
        Ok(Query(Asked { follow: true })) => {
            let Ok(permit) = followers.try_acquire_owned() else { return too_many("events") };
            let lines = stream::unfold(bus.subscribe(None), async |mut events| {
                let line = match events.next().await {
                    Received::Lost(lost) => EventLine::Lost { lost },
                    Received::Event(record) => line(&record),
                };
                Some((line, events))
            });
            http::lines(lines, closing, permit)
        }
    }
}

fn line(record: &Record) -> EventLine {
    EventLine::Event(Box::new(EventDocument::new(record, boot_time())))
}

fn too_many(what: &str) -> Response {
    let message = format!("{MAX_FOLLOWERS} clients follow the {what} already; end one of them");
    Refusal::new(Reason::Busy, message).into_response()
}
