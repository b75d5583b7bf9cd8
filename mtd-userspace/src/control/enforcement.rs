//! Requests that confirm or change what is enforced.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::{Deserialize, Serialize};

use super::{CONFIRM_PATH, POLICY_PATH};
use crate::events::Event;
use crate::http::{Reason, Refusal, answer, read};
use crate::model::{Enforcement, Policy};
use crate::status::Guard;
use crate::subsystem::Context;

/// The body of `POST /v1/policy`: the requested enforcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPolicy {
    /// `dark` or `monitor`.
    pub policy: String,
    /// Time in ms after which nothing is enforced any more, unless somebody confirms.
    pub confirm_within_ms: Option<u64>,
}

/// Carries out the requests.
pub(super) trait Enforcer: Send + Sync + 'static {
    /// Makes the present enforcement permanent. Refuses when it is too late.
    fn confirm(&self) -> Result<Guard, Refusal>;

    /// Changes the enforcement.
    fn set_policy(&self, asked: &Enforcement) -> Result<Guard, Refusal>;
}

impl Enforcer for Context {
    fn confirm(&self) -> Result<Guard, Refusal> {
        let too_late = |error: anyhow::Error| Refusal::new(Reason::Conflict, format!("{error:#}"));
        let document = self.sessions().confirm().map_err(too_late)?;
        self.note.clear()?;
        self.bus.publish(Event::Enforcement(self.sessions().guard().clone()));
        Ok(document)
    }

    fn set_policy(&self, asked: &Enforcement) -> Result<Guard, Refusal> {
        if asked.policy == Some(Policy::Dark) && asked.confirm_within.is_some() {
            // Before it can lock anybody out.
            self.note.write()?;
        }
        let document = self.sessions().set_policy(asked)?;
        if asked.policy == Some(Policy::Dark) && document.confirm_seconds_left.is_none() {
            self.note.clear()?;
        }
        self.bus.publish(Event::Enforcement(self.sessions().guard().clone()));
        Ok(document)
    }
}

/// The routes of these requests.
pub(super) fn routes(enforcer: Arc<dyn Enforcer>) -> Router {
    Router::new().route(CONFIRM_PATH, post(confirm)).route(POLICY_PATH, post(set_policy)).with_state(enforcer)
}

async fn confirm(State(enforcer): State<Arc<dyn Enforcer>>) -> Response {
    answer(enforcer.confirm())
}

async fn set_policy(State(enforcer): State<Arc<dyn Enforcer>>, body: Body) -> Response {
    answer(new_policy(body).await.and_then(|asked| enforcer.set_policy(&asked)))
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
        again: true,
    })
}
