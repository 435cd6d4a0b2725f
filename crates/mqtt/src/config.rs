//! What an operator can set about MQTT. Every bound of a session stands here; what a v5 client needs to know of it goes into CONNACK.

use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

use thiserror::Error;

use crate::codec::topic::LEVELS_MAX;
use crate::codec::{Qos, Version};

/// What happens when a v5 client has more unacknowledged publishes under way than our Receive Maximum allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overrun {
    /// DISCONNECT 147 (MQTT 5.0, 3.3.4).
    #[default]
    Strict,
    /// Reading stops until acknowledgements are out, as with a client of an older version. For clients that cannot count.
    Tolerant,
}

/// What happens to a client that publishes or subscribes where it may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unauthorized {
    /// v5: reason 135 on the acknowledgement. Before: the acknowledgement of a publish says nothing (3.1.1, 3.3.5), a SUBACK 0x80.
    #[default]
    Acknowledge,
    /// The connection is closed, in v5 with 135.
    Disconnect,
}

/// Where clients are sent when this broker goes down (MQTT 5.0, 4.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReference {
    /// `host`, `host:port`, or several of them with spaces between.
    pub servers: String,
    /// For good (157) rather than for the moment (156).
    pub moved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Versions that may connect; others get "unacceptable protocol version".
    pub accept_versions: Vec<Version>,
    /// Largest packet that a client may send, in bytes, fixed header included. Announced in CONNACK.
    pub max_packet_size: u32,
    /// The same for CONNECT, which comes from somebody unknown.
    pub max_connect_size: u32,
    /// Unacknowledged QoS 1 and 2 publishes of one v5 client. Announced in CONNACK.
    pub receive_maximum: NonZeroU16,
    pub receive_maximum_overrun: Overrun,
    /// Unacknowledged work of one connection, in any version, at which reading stops until some of it is done.
    pub max_pending: u32,
    /// Unacknowledged deliveries to one client, whatever it would accept.
    pub max_inflight: NonZeroU16,
    /// The same in bytes of payloads: at so many nothing more is sent until some is acknowledged, whatever the size of the last one.
    pub max_inflight_bytes: Option<NonZeroU64>,
    /// Topic aliases that a client may set, and the most that we set towards one. Announced in CONNACK.
    pub topic_alias_maximum: u16,
    /// Highest QoS of publishes, wills and subscriptions. Announced in CONNACK.
    pub max_qos: Qos,
    /// Announced in CONNACK.
    pub retain_available: bool,
    /// Longest keep alive in seconds; 0 = none. v5 clients are given this one instead of a longer one, others are refused as Mosquitto does.
    pub max_keepalive_secs: u16,
    /// Longest time that a session outlives its connection; `None` = as long as the client asks.
    pub max_session_expiry_secs: Option<u32>,
    pub max_topic_levels: NonZeroU16,
    /// Largest SUBSCRIBE or UNSUBSCRIBE, in bytes: each filter in it costs many times its own size.
    pub max_subscribe_size: u32,
    /// Whether a client may leave the choice of its id to us.
    pub allow_empty_client_id: bool,
    /// What such ids start with.
    pub auto_id_prefix: String,
    /// MQTT 3.1 limits client ids to 23 characters, which nobody else enforces.
    pub strict_client_id: bool,
    /// From the connection to the end of the login.
    pub connect_timeout: Duration,
    pub unauthorized: Unauthorized,
    /// Refuse (153) payloads that are said to be UTF-8 and are not.
    pub check_payload_format: bool,
    /// Answer to Request Response Information: this, the client id and a slash. `None` = no answer.
    pub response_prefix: Option<String>,
    pub server_reference: Option<ServerReference>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            accept_versions: Version::ALL.to_vec(),
            max_packet_size: 16 * 1024 * 1024,
            max_connect_size: 256 * 1024,
            receive_maximum: NonZeroU16::new(1024).expect("not zero"),
            receive_maximum_overrun: Overrun::Strict,
            max_pending: 65_535,
            max_inflight: NonZeroU16::new(1024).expect("not zero"),
            max_inflight_bytes: None,
            topic_alias_maximum: 64,
            max_qos: Qos::ExactlyOnce,
            retain_available: true,
            max_keepalive_secs: 0,
            max_session_expiry_secs: None,
            max_topic_levels: LEVELS_MAX,
            max_subscribe_size: 256 * 1024,
            allow_empty_client_id: true,
            auto_id_prefix: "auto-".to_owned(),
            strict_client_id: false,
            connect_timeout: Duration::from_secs(10),
            unauthorized: Unauthorized::Acknowledge,
            check_payload_format: false,
            response_prefix: None,
            server_reference: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    #[error("accept_versions is empty: name at least one of 3.1, 3.1.1 and 5.0")]
    NoVersion,
    #[error("{what} is {value}; it must be between {min} and {max}")]
    OutOfRange { what: &'static str, value: u64, min: u64, max: u64 },
    #[error("{what} is {len} bytes long and would not fit; at most {max}")]
    TooLong { what: &'static str, len: usize, max: usize },
}

impl Config {
    /// Says what cannot work, before the first client does.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.accept_versions.is_empty() {
            return Err(ConfigError::NoVersion);
        }
        let range = |what, value: u64, min: u64, max: u64| match value {
            value if (min..=max).contains(&value) => Ok(()),
            value => Err(ConfigError::OutOfRange { what, value, min, max }),
        };
        let largest = u64::from(crate::codec::VARINT_MAX) + 5;
        range("max_packet_size", u64::from(self.max_packet_size), 128, largest)?;
        range("max_connect_size", u64::from(self.max_connect_size), 128, largest)?;
        range("max_subscribe_size", u64::from(self.max_subscribe_size), 128, 16 * 1024 * 1024)?;
        range("max_pending", u64::from(self.max_pending), 16, 1 << 20)?;
        range("connect_timeout (ms)", self.connect_timeout.as_millis() as u64, 100, 3_600_000)?;
        let short = |what, text: &str, max: usize| match text.len() {
            len if len > max => Err(ConfigError::TooLong { what, len, max }),
            _ => Ok(()),
        };
        short("auto_id_prefix", &self.auto_id_prefix, 1024)?;
        short("response_prefix", self.response_prefix.as_deref().unwrap_or(""), 1024)?;
        short("server_reference", self.server_reference.as_ref().map_or("", |reference| &reference.servers), 4096)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let none = Config { accept_versions: Vec::new(), ..Config::default() };
        assert_eq!(none.check(), Err(ConfigError::NoVersion));
        let tiny = Config { max_packet_size: 1, ..Config::default() };
        assert!(tiny.check().unwrap_err().to_string().contains("max_packet_size is 1"));
        let long = Config { auto_id_prefix: "x".repeat(2000), ..Config::default() };
        assert!(long.check().unwrap_err().to_string().contains("auto_id_prefix"));
    }
}
