//! Requests about registered clients.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};

use super::Shared;
use crate::control::NewPeer;
use crate::http::{Refusal, answer, read};
use crate::keys::PublicKey;
use crate::registry;

pub(super) async fn list(State(shared): State<Shared>) -> Response {
    answer(shared.source.peers().await)
}

pub(super) async fn add(State(shared): State<Shared>, body: Body) -> Response {
    match new_peer(body).await {
        Ok((name, key)) => answer(shared.source.add_peer(name, key).await),
        Err(refusal) => refusal.into_response(),
    }
}

pub(super) async fn remove(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    match registry::check_name(&name) {
        Ok(()) => answer(shared.source.remove_peer(name).await),
        Err(error) => Refusal::from(error).into_response(),
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
