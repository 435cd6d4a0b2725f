//! MQTT 3.1, 3.1.1 and 5.0.
//!
//! The versions of the protocol are data, not copies: one codec and one session ask [`codec::Version`] where they differ.
//!
//! * [`codec`]: bytes to packets and back, pure.
//! * [`Mqtt`] is what the gateway is given: a recogniser, and a session for each connection.
//! * `session`: the conversation with one client, a file for each concern.
//! * `mapping`: the one file that knows both MQTT's words and the core's.
//! * `foreign`: properties from and to other protocols; [`Headers`] is how these, and exchanges, read ours.
//! * `error`: the table from the core's refusals to reason codes.

pub mod codec;

mod config;
mod error;
mod foreign;
mod fuzz;
mod mapping;
pub mod mutants;
mod protocol;
mod session;

#[doc(hidden)]
pub use fuzz::session_fuzz;

pub use config::{Config, ConfigError, Overrun, ServerReference, Unauthorized};
pub use foreign::Headers;
pub use mapping::{FORMAT_V3, FORMAT_V5};
pub use protocol::{Counters, Mqtt};
