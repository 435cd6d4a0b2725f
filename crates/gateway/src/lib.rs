//! The only client sockets of the house: listeners, the accept loop, and one driver task per connection.
//!
//! The gateway sees bytes on one side and two traits on the other: a [`broker_api::ProtocolSession`] that is told what happened and
//! answers what to do, and a [`broker_api::CoreSession`] that takes turns and hands out events. Keep-alive clocks, back-pressure,
//! coalesced writes and the graceful close are written here once, for every protocol.
//!
//! * [`ListenUrl`] is what a user writes, [`bind`] makes sockets of it, [`Gateway::listen`] accepts on them.
//! * [`Service`] is what is spoken there, and [`Front`] what comes before it ([`Proxy`], [`Tls`]); `opening` bounds what strangers begin. Where the first bytes have to say it, `greet` reads them (`detect`, WebSocket's handshake).
//! * `driver` is the connection: read turn, event turn, clock, one write (see its drawing).
//! * [`Transport`] is what carries the bytes: a socket, or layers over one.
//! * `input` and `output` hold what a connection keeps between polls: a torn tail, and what the socket would not take. An idle
//!   connection has neither; the large buffers belong to the thread (`scratch`).

mod accept;
mod config;
mod detect;
mod driver;
mod fuzz;
mod greet;
mod input;
mod listener;
mod opening;
mod output;
mod proxy;
mod scratch;
mod service;
mod slots;
mod timer;
mod tls;
mod transport;
mod turned_away;
mod url;

pub use accept::Gateway;
pub use config::Config;
pub use detect::{claims, detect, Claim, Detected};
pub use driver::Connection;
pub use fuzz::{certificate_fuzz, proxy_fuzz};
pub use listener::{bind, BindError, Bound};
pub use opening::Front;
pub use proxy::{Network, Proxy, ProxyVersion};
pub use service::{Service, Spoken, Web};
pub use slots::{Slot, Slots, Stats};
pub use tls::{ClientAuth, MinVersion, Tls, TlsError, TlsSettings, UserFrom};
pub use transport::{Layer, Transport};
pub use turned_away::TurnedAway;
pub use url::{Endpoint, ListenUrl, UrlError};
