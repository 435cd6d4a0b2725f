//! The core as the gateway sees it.

use crate::{EventBatch, Refusal, Turn, VhostName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    pub fn is_loopback(&self) -> bool {
        match self {
            Peer::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
            Peer::Unix => true,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(addr) => addr.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Who the transport has proven the peer to be before its protocol's first byte (TLS: by a client's certificate).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The user that it stands for, if there is one of this name: whom [`crate::LoginStep::Sasl`] logs in by the mechanism `EXTERNAL`.
    pub user: String,
}

#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub peer: Peer,
    pub identity: Option<Arc<Identity>>,
    pub protocol: &'static str,
    pub vhost: VhostName,
    /// Connections without credentials are let in as `anonymous`.
    pub allow_anonymous: bool,
}

impl ConnectionInfo {
    /// What operators know it by.
    pub fn name(&self) -> String {
        self.peer.to_string()
    }
}

pub trait Broker: Send + Sync {
    fn connect(&self, info: ConnectionInfo) -> Result<Box<dyn CoreSession>, Refusal>;
    /// Broker time in ms since the Unix epoch.
    fn now_ms(&self) -> u64;
    /// Is one let in from there without credentials, whatever [`ConnectionInfo::allow_anonymous`] says?
    fn trusts_anonymous(&self, _peer: &Peer) -> bool {
        false
    }
    /// Whether clients are served here now; for those who can be told before they have a session.
    fn serves(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// One connection's door to the core, used by its one task.
pub trait CoreSession: Send {
    /// Takes everything out of the turn, in order. Never blocks on the disk and never calls back into a protocol session.
    fn submit(&mut self, turn: &mut Turn);
    /// Waits for events (or for work that the core wants done in `swap`).
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Moves what is there into `into` (empty when called).
    fn swap(&mut self, into: &mut EventBatch);
    /// Bytes of deliveries that have reached the socket; the core's outbox budget comes back with them.
    fn written(&mut self, bytes: usize);
    /// The core holds as much for this connection as it may: stop reading until the next events.
    fn saturated(&self) -> bool;
    fn now_ms(&self) -> u64;
    /// The connection is closed; leases return, transient things end, as records. Idempotent; also done on drop.
    fn disconnect(&mut self);
}

impl<B: Broker + ?Sized> Broker for Arc<B> {
    fn connect(&self, info: ConnectionInfo) -> Result<Box<dyn CoreSession>, Refusal> {
        (**self).connect(info)
    }
    fn now_ms(&self) -> u64 {
        (**self).now_ms()
    }
    fn trusts_anonymous(&self, peer: &Peer) -> bool {
        (**self).trusts_anonymous(peer)
    }
    fn serves(&self) -> Result<(), Refusal> {
        (**self).serves()
    }
}
