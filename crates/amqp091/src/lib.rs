//! AMQP 0-9-1 with the extensions of RabbitMQ, and with its habits.
//!
//! * [`codec`]: bytes to frames, methods and contents and back, pure.
//! * [`Amqp`] is what the gateway is given: a recogniser, and a session for each connection.
//! * `session`: the conversation with one client, a file for each concern.
//! * `mapping`, `arguments`: what a message and a queue are here, and what they are to the core.
//! * `error`: the table from the core's refusals to codes and texts.
//! * [`Firehose`]: what traced publishes and deliveries look like.
//! * `foreign`: what messages of other protocols say of themselves, in AMQP's words.
//! * [`Headers`]: how exchanges read headers and arguments of this protocol.

pub mod codec;

mod arguments;
mod config;
mod error;
mod firehose;
mod foreign;
mod fuzz;
mod headers;
mod mapping;
mod protocol;
mod session;

pub use arguments::{exchange_spec, queue_spec, ExchangeFlags, QueueFlags};
pub use config::{Config, ConfigError};
pub use error::{Code, Fault};
pub use firehose::Firehose;
pub use fuzz::session_fuzz;
pub use headers::Headers;
pub use mapping::FORMAT;
pub use protocol::Amqp;
