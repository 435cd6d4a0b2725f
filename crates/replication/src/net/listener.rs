//! Takes connections in, with their handshakes beside each other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::warn;

use super::{accept, Identity, Link, NetError, Purpose};
use crate::coordinator::NodeName;

/// Handshakes at once; a cluster has a handful of nodes. Connections beyond wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;
/// After an error of `accept` itself: out of descriptors, mostly.
const REST: Duration = Duration::from_millis(200);

pub struct Listener {
    socket: TcpListener,
    identity: Identity,
    handshakes: JoinSet<Result<(Link, NodeName, Purpose), NetError>>,
}

impl Listener {
    pub async fn bind(address: &str, identity: Identity) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { socket, identity, handshakes: JoinSet::new() })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The next connection that has proved itself. What is dropped half-way loses none.
    pub async fn accept(&mut self) -> (Link, NodeName, Purpose) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Ok(link)) = done {
                        return link;
                    }
                }
                accepted = self.socket.accept(), if self.handshakes.len() < HANDSHAKES_MAX => match accepted {
                    Ok((stream, _)) => {
                        let identity = self.identity.clone();
                        self.handshakes.spawn(async move { accept(stream, &identity).await });
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept links of other nodes");
                        tokio::time::sleep(REST).await;
                    }
                },
            }
        }
    }
}
