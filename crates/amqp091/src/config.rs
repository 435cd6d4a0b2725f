//! What an operator can set about AMQP 0-9-1. The defaults are RabbitMQ's.

use std::time::Duration;

use thiserror::Error;

use crate::codec::FRAME_MIN_SIZE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest frame, announced in connection.tune. Clients may ask for less, down to 4096.
    pub frame_max: u32,
    /// Channels of a connection, announced in connection.tune.
    pub channel_max: u16,
    /// Heartbeat interval in seconds that is suggested to clients; 0 = none.
    pub heartbeat_secs: u16,
    /// From the connection to connection.open.
    pub handshake_timeout: Duration,
    /// Largest body.
    pub max_message_size: u64,
    /// Consumers that a channel may have at a time.
    pub consumer_max_per_channel: Option<u32>,
    /// The core takes a declaration of a queue that is there as a quorum queue for one of that type: what it refuses nevertheless is named
    /// accordingly.
    pub relaxed_redeclare: bool,
    /// What connection.start says this is; client libraries choose their behaviour by it.
    pub product: String,
    pub version: String,
    pub cluster_name: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat_secs: 60,
            handshake_timeout: Duration::from_secs(10),
            max_message_size: 128 << 20,
            consumer_max_per_channel: None,
            relaxed_redeclare: false,
            product: "RabbitMQ".to_owned(),
            version: "3.13.7".to_owned(),
            cluster_name: "carrick".to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} is {value}; it must be between {min} and {max}")]
pub struct ConfigError {
    /// A setting; of a text its length in bytes counts.
    pub what: &'static str,
    pub value: u64,
    pub min: u64,
    pub max: u64,
}

impl Config {
    /// Says what cannot work, before the first client does.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |what, value: u64, min: u64, max: u64| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError { what, value, min, max }),
        };
        range("frame_max", self.frame_max.into(), FRAME_MIN_SIZE.into(), 16 << 20)?;
        range("channel_max", self.channel_max.into(), 1, 65_535)?;
        // All three stand in connection.start, which must fit the smallest frame.
        for (what, text) in [("product", &self.product), ("version", &self.version), ("cluster_name", &self.cluster_name)] {
            range(what, text.len() as u64, 1, 128)?;
        }
        range("max_message_size", self.max_message_size, 1, 512 << 20)?;
        range("handshake_timeout (ms)", self.handshake_timeout.as_millis() as u64, 100, 3_600_000)
    }
}
