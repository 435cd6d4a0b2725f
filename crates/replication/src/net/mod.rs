//! Frames over an authenticated connection between the machines of one cluster.
//!
//! * [`Link`]: a connection that both sides have proved themselves on. [`Link::dial`] and [`accept`] make one; [`Link::split`] gives the halves.
//! * [`Listener`]: accepts, with handshakes beside each other, bounded.
//! * [`Identity`]: who this node is and how it proves it: a shared secret, certificates, or both.
//! * [`Redial`]: how long to wait before the next try.
//! * `frame`: `length u32 | kind u8 | body`, little-endian, at most [`BODY_MAX`].
//! * `handshake`: four frames, drawn in that file.
//!
//! The shared secret proves who opened the connection. It does not hide or sign what follows: between machines whose network others
//! can write to, configure certificates (TLS 1.3) as well.

mod error;
mod frame;
mod handshake;
mod identity;
mod link;
mod listener;
mod redial;
mod tls;

#[cfg(test)]
mod tests;

pub use error::NetError;
pub use frame::{fuzz as frames_fuzz, BODY_MAX};
pub use handshake::Purpose;
pub use identity::{Identity, Secret};
pub use link::{accept, Link, Reader, Writer};
pub use listener::Listener;
pub use redial::Redial;
pub use tls::{TlsError, TlsFiles};
