//! Enforcement at the protected prefixes.

use serde::{Deserialize, Serialize};

use super::SCHEMA;
use crate::model;

/// How packets towards the prefixes that are not valid are handled; the document of `POST /v1/confirm` and `POST
/// /v1/policy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `dark`: they are dropped, or `monitor`: they are counted and pass.
    pub policy: String,
    /// Whether they are dropped now: with `dark`, unless nobody confirmed in time.
    pub enforced: bool,
    /// The allow rules, as in the configuration.
    pub allow: Vec<String>,
    /// Whether nothing is enforced because nobody confirmed the last enforcement.
    #[serde(default)]
    pub unconfirmed: bool,
    /// Seconds that are left to confirm in, 0 when they are over; absent when there is nothing to confirm.
    pub confirm_seconds_left: Option<f64>,
}

/// The enforcement of controllers that do not report it: they always drop.
impl Default for Guard {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            policy: "dark".to_owned(),
            enforced: true,
            allow: Vec::new(),
            unconfirmed: false,
            confirm_seconds_left: None,
        }
    }
}

impl Guard {
    /// The document at boot time `now` (ns).
    pub fn of(guard: &model::Guard, now: u64) -> Self {
        Self {
            schema: SCHEMA,
            policy: guard.policy.to_string(),
            enforced: guard.enforces(now),
            allow: guard.allow.iter().map(ToString::to_string).collect(),
            unconfirmed: guard.unconfirmed,
            confirm_seconds_left: guard.left(now).map(|left| left.as_secs_f64()),
        }
    }
}
