//! Conversations with a session, as its driver and its core see them.

mod client;
mod core;
mod driver;
mod exchange;
mod fuzz;
mod printer;
mod script;
mod transcripts;
