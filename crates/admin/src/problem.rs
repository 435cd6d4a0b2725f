//! Answers that say no: a status, and a JSON object with `error` (a word for programs) and `reason` (a sentence for people).

use crate::house::Refusal;
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde::Serialize;

#[derive(Serialize)]
pub struct Problem {
    #[serde(skip)]
    pub status: StatusCode,
    pub error: &'static str,
    pub reason: String,
}

impl Problem {
    pub fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Problem {
        Problem { status, error, reason: reason.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 7617, 2.
            let basic = header::HeaderValue::from_static("Basic realm=\"carrick\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::Conflict(reason) => Problem::new(StatusCode::CONFLICT, "conflict", reason),
            Refusal::Failed(reason) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "failed", reason),
            Refusal::NotHere(reason) => Problem::new(StatusCode::NOT_IMPLEMENTED, "not_here", reason),
        }
    }
}

pub async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path")
}
