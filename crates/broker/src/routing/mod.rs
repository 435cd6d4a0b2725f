//! Routing tables: who gets a message with this name, key or headers.
//!
//! Pure data structures, without queues, users or I/O. Readers take no lock: every table is a persistent tree behind an atomic
//! pointer, a change copies the path to what it changed (a few small nodes) and publishes the new root. So a change costs what its
//! own segments cost, however large the table is, and a reader sees each table as it was at one moment.
//!
//! - [`topic`]: names and patterns as lists of segments, in MQTT and AMQP spelling.
//! - [`trie`]: patterns to values; [`exact`]: whole keys to values.
//! - [`exchange`]: one file per exchange type over these, and the registry of types.
//! - [`generation`]: tells a route cache whether a remembered route may still be used.
//! - [`retained`]: the retained-message index, read by pattern in bounded pages.

pub mod exact;
pub mod exchange;
pub mod generation;
pub mod retained;
pub mod topic;
pub mod trie;

mod hamt;
mod published;

pub use generation::{Generations, Stamp};
pub use retained::{Cursor, Retained};
pub use topic::{Encoded, Name, Pattern, Syntax, TopicError};
pub use trie::{Dollar, Trie};

#[cfg(test)]
mod tests;
