//! The codec against another one, and conversations with a session.

mod bounds;
mod codec;
mod oracle;
mod replies;
mod rig;
mod session_fuzz;
mod settings;
mod transcripts;
mod words;
