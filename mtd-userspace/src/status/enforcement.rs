//! What is enforced.

use serde::{Deserialize, Serialize};

use super::SCHEMA;
use crate::model;

/// What is done to packets towards the prefixes that are no valid ones; the document of `POST /v1/confirm` and
/// `POST /v1/policy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `dark`: they are dropped, or `monitor`: they are counted and pass.
    pub policy: String,
    /// Whether they are dropped now: with `dark`, unless nobody confirmed in time.
    pub enforced: bool,
    /// What passes all the same, as in the configuration.
    pub allow: Vec<String>,
    /// Seconds that are left to confirm in, 0 when they are over; absent when nothing is to be confirmed.
    pub confirm_seconds_left: Option<f64>,
}

/// What controllers enforce that do not say: they know nothing but to drop.
impl Default for Guard {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            policy: "dark".to_owned(),
            enforced: true,
            allow: Vec::new(),
            confirm_seconds_left: None,
        }
    }
}

impl Guard {
    /// What there is to tell of it at boot time `now` (ns).
    pub fn of(guard: &model::Guard, now: u64) -> Self {
        Self {
            schema: SCHEMA,
            policy: guard.policy.to_string(),
            enforced: guard.enforces(now),
            allow: guard.allow.iter().map(ToString::to_string).collect(),
            confirm_seconds_left: guard.left(now).map(|left| left.as_secs_f64()),
        }
    }
}
