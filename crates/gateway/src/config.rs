//! What an operator can set about client connections.

use crate::Network;
use serde::Deserialize;

/// `[gateway]` in the configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections over all listeners; one more is told so in its protocol's words and closed, or closed at once when 64 are being told. 0 = no
    /// limit but the descriptors.
    pub max_connections: usize,
    /// Pending connections that the kernel queues per listener.
    pub backlog: u16,
    /// How long a stop waits for clients to take their good-bye.
    pub shutdown_secs: u16,
    /// How long a connection may take until it is clear what it speaks: a PROXY header, TLS's handshake, the first bytes on `any://`,
    /// WebSocket's handshake.
    pub handshake_timeout_secs: u16,
    /// Connections, over all listeners, that may be busy with that at a time. When one more comes, the oldest makes room.
    pub max_handshakes: usize,
    /// Whose PROXY headers are taken, on listeners that take any. Empty: everybody's who gets that far.
    pub proxy_from: Vec<Network>,
    /// A client that has not taken what waits for it for so long is disconnected. 0 = never.
    pub slow_consumer_timeout_secs: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_connections: 0,
            backlog: 1024,
            shutdown_secs: 5,
            handshake_timeout_secs: 10,
            max_handshakes: 2048,
            proxy_from: Vec::new(),
            slow_consumer_timeout_secs: 0,
        }
    }
}
