//! Requests about what is enforced.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use super::Shared;
use crate::control::NewPolicy;
use crate::http::{Reason, Refusal, answer, read};
use crate::model::{Enforcement, Policy};

pub(super) async fn confirm(State(shared): State<Shared>) -> Response {
    answer(shared.source.confirm().await)
}

pub(super) async fn set_policy(State(shared): State<Shared>, body: Body) -> Response {
    match new_policy(body).await {
        Ok(asked) => answer(shared.source.set_policy(asked).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn new_policy(body: Body) -> Result<Enforcement, Refusal> {
    let NewPolicy { policy, confirm_within_ms } = read(body, "policy").await?;
    let known = Policy::CHOICES.iter().find(|(word, _)| *word == policy);
    let Some((_, policy)) = known else {
        return Err(Refusal::new(Reason::Invalid, format!("no policy is called {policy:?}")));
    };
    Ok(Enforcement {
        policy: Some(*policy),
        confirm_within: confirm_within_ms.map(Duration::from_millis),
        force: false,
    })
}
