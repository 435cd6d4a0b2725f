//! HTTP for operators and for what watches over brokers: health, the state of a pair, and what can be asked of it.
//!
//! * [`House`] is what this crate needs of the process around it; `server` implements it.
//! * [`serve()`] accepts on one listening socket, within bounds.
//! * One resource per file: [`health`] and [`ha`]. What goes over the wire are plain structs of these files.
//!
//! Nothing here knows a message, a queue, a log or a protocol of clients.

mod access;
pub mod ha;
pub mod health;
mod house;
mod problem;
mod serve;

pub use access::{Account, Credentials, Denied};
pub use house::{BoxFuture, House, Refusal};
pub use serve::{serve, Limits};

use axum::Router;
use std::sync::Arc;

/// Everything that this crate answers.
pub fn router(house: Arc<dyn House>) -> Router {
    Router::new().merge(health::routes()).merge(ha::routes()).fallback(problem::not_found).with_state(house)
}
