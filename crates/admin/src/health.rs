//! `/health/live` and `/health/ready`: for supervisors and load balancers. No credentials: they tell no more than a refused connection would.

use crate::house::House;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Whether clients are served here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ready {
    pub ready: bool,
    /// As in `/api/ha`.
    pub role: String,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

pub fn routes() -> Router<Arc<dyn House>> {
    Router::new().route("/health/live", get(live)).route("/health/ready", get(ready))
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

async fn live() -> Json<Live> {
    Json(Live { live: true })
}

async fn ready(State(house): State<Arc<dyn House>>) -> (StatusCode, Json<Ready>) {
    let ready = house.ready();
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready))
}
