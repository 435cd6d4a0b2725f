//! The codec against another one, and conversations with a session.

mod bounds;
mod codec;
mod oracle;
mod rig;
mod session_fuzz;
mod settings;
mod transcripts;
mod words;
