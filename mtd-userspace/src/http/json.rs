//! JSON in requests and answers.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Closing, Reason, Refusal};

/// Longest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 4096;
/// How long a client may take for the body of its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the body of a request as JSON; `what` names the expected content in refusals.
///
/// # Errors
/// When the body is too long, too slow, or not as expected.
pub async fn read<T: DeserializeOwned>(body: Body, what: &str) -> Result<T, Refusal> {
    let invalid = |message: String| Refusal::new(Reason::Invalid, message);
    let body = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY_BYTES)).await;
    let body = body
        .map_err(|_| invalid("the body of the request did not come in time".to_owned()))?
        .map_err(|_| invalid(format!("the body of the request is longer than {MAX_BODY_BYTES} bytes")))?;
    serde_json::from_slice(&body)
        .map_err(|error| invalid(format!("the body of the request is not a {what}: {error}")))
}

/// The answer to a request that may be refused.
pub fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// An answer with one JSON value per line, sent as `values` yields them. The answer ends when `values` does, or when the
/// server stops; until then `held` is kept alive.
pub fn lines<T: Serialize + 'static>(
    values: impl Stream<Item = T> + Send + 'static,
    closing: Closing,
    held: impl Send + 'static,
) -> Response {
    let lines = values.take_until(closing.ended()).map(move |value| {
        let _held = &held;
        line(&value).inspect_err(|error| tracing::error!(%error, "cannot write an event as JSON"))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn line(value: &impl Serialize) -> serde_json::Result<Bytes> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}
