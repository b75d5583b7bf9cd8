//! Requests about registered clients.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Shared, refuse};
use crate::control::{NewPeer, Reason, Refusal};
use crate::keys::PublicKey;
use crate::registry;

/// Longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 4096;
/// How long a client may take for the body of its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn list(State(shared): State<Shared>) -> Response {
    answer(shared.source.peers().await)
}

pub(super) async fn add(State(shared): State<Shared>, body: Body) -> Response {
    match new_peer(body).await {
        Ok((name, key)) => answer(shared.source.add_peer(name, key).await),
        Err(refusal) => refuse_as(&refusal),
    }
}

pub(super) async fn remove(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    match registry::check_name(&name) {
        Ok(()) => answer(shared.source.remove_peer(name).await),
        Err(error) => refuse_as(&error.into()),
    }
}

pub(super) async fn reload(State(shared): State<Shared>) -> Response {
    answer(shared.source.reload().await)
}

/// The client that a body asks to register: a possible name, a usable key.
async fn new_peer(body: Body) -> Result<(String, PublicKey), Refusal> {
    let NewPeer { name, public_key } = read(body, "new peer").await?;
    registry::check_name(&name)?;
    Ok((name, registry::parse_key(&public_key)?))
}

/// What the body of a request says; `what` names it.
pub(super) async fn read<T: DeserializeOwned>(body: Body, what: &str) -> Result<T, Refusal> {
    let invalid = |message: String| Refusal::new(Reason::Invalid, message);
    let body = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY_BYTES)).await;
    let body = body
        .map_err(|_| invalid("the body of the request did not come in time".to_owned()))?
        .map_err(|_| invalid(format!("the body of the request is longer than {MAX_BODY_BYTES} bytes")))?;
    serde_json::from_slice(&body)
        .map_err(|error| invalid(format!("the body of the request is not a {what}: {error}")))
}

pub(super) fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => refuse_as(&refusal),
    }
}

pub(super) fn refuse_as(refusal: &Refusal) -> Response {
    let code = match refusal.reason {
        Reason::Invalid => StatusCode::BAD_REQUEST,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::Conflict => StatusCode::CONFLICT,
        Reason::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(code, &refusal.message)
}
