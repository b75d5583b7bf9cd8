//! Why a request is not done.

use std::fmt::{self, Display};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why a request is not done: what a controller answers instead, as `{"error": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, from which the HTTP status follows.
    pub reason: Reason,
    /// What is wrong, and the way out.
    pub message: String,
}

/// The kinds of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request makes no sense (400).
    Invalid,
    /// It names something that is not there (404).
    NotFound,
    /// The path has no such method (405).
    NoSuchMethod,
    /// It does not go with what is there (409).
    Conflict,
    /// It should have worked (500).
    Failed,
    /// Too many do the same already (503).
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
    /// A refusal for this reason.
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

/// A failure, with its causes.
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
