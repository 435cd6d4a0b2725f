//! MQTT 3.1, 3.1.1 and 5.0.
//!
//! The versions of the protocol are data, not copies: one codec and one session ask [`codec::Version`] where they differ.

pub mod codec;
