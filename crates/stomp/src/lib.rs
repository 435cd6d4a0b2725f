//! STOMP 1.0, 1.1 and 1.2, with the destinations, headers and habits of RabbitMQ's plug-in, or of ActiveMQ.
//!
//! * [`codec`]: bytes to frames and back, pure.
//! * [`Stomp`] is what the gateway is given: a recogniser, and a session for each connection.
//! * `session`: the conversation with one client, a file for each concern.
//! * `destination`: what stands in a `destination` header, as an address.
//! * [`Dialect`]: whose destinations, headers and error texts these are.
//! * `arguments`: headers of SUBSCRIBE and SEND that say what a queue is.
//! * `headers`, `mapping`: what a message says of itself, kept, shown to STOMP clients and to other protocols.
//! * `error`: the table from the core's refusals to ERROR frames.

pub mod codec;

mod arguments;
mod config;
mod destination;
mod dialect;
mod error;
mod headers;
mod map;
mod mapping;
mod protocol;
mod session;

pub use config::{Config, ConfigError};
pub use destination::{BadDestination, Destination};
pub use dialect::Dialect;
pub use error::Fault;
pub use headers::{Headers, FORMAT};
pub use protocol::Stomp;
pub use session::fuzz::session_fuzz;
