//! WebSocket (RFC 6455) as a byte stream: what a session reads and writes is the same bytes as over a socket, and it does not know.
//!
//! * [`Menu`] is what can be had behind a door: [`Request::parse`] reads the head of an HTTP request, [`Menu::answer`] says which protocol
//!   it is and what to answer, or why not ([`Refusal`], an HTTP answer).
//! * [`WebSocket`] is the stream above another one. It holds no message and no frame: payload is unmasked where it was read, and what is
//!   written goes out between a header of ten bytes and nothing. So a message of any size, or without an end, costs no memory.
//! * `decode` and `encode` are its two directions without the I/O.
//!
//! Frame headers, opcodes, close codes and the handshake's digest are tungstenite's; its message machine, which gathers whole
//! messages in buffers of its own, is not used.

mod decode;
mod encode;
mod fuzz;
mod handshake;
mod origin;
mod stream;
mod utf8;

pub use decode::Fault;
pub use fuzz::{frames_fuzz, handshake_fuzz};
pub use handshake::{recognise, Accepted, Carried, Menu, Opening, Refusal, Request};
pub use origin::Origins;
pub use stream::{Config, WebSocket, GOING_AWAY, SERVICE_RESTART};
