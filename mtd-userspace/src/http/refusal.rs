//! Refusals of requests.

use std::fmt::{self, Display};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// The reason why a request is not carried out: the controller answers with `{"error": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, which determines the HTTP status.
    pub reason: Reason,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// The kinds of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request makes no sense (400).
    Invalid,
    /// It names something that does not exist (404).
    NotFound,
    /// The path does not support the method (405).
    NoSuchMethod,
    /// It conflicts with the present state (409).
    Conflict,
    /// It failed inside the controller (500).
    Failed,
    /// Too many clients are doing the same already (503).
    Busy,
}

impl Reason {
    const fn code(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Refusal {
    /// A refusal with this reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// A refusal for a failure, with its causes.
impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Reason::Failed, format!("{error:#}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.reason.code(), Json(serde_json::json!({ "error": self.message }))).into_response()
    }
}
