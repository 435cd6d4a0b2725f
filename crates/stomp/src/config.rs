//! What an operator can set about STOMP.

use std::time::Duration;

use thiserror::Error;

use crate::codec::Limits;
use crate::dialect::Dialect;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub dialect: Dialect,
    /// What a frame may hold once its sender has logged in.
    pub limits: Limits,
    /// Subscriptions of a connection at a time.
    pub max_subscriptions: usize,
    /// Transactions of a connection that are open at a time.
    pub max_transactions: usize,
    /// From the connection to CONNECTED.
    pub connect_timeout: Duration,
    /// What CONNECTED says this is, in its `server` header.
    pub product: String,
    pub version: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            dialect: Dialect::RabbitMq,
            limits: Limits { body: 32 << 20, ..Limits::default() },
            max_subscriptions: 1024,
            max_transactions: 256,
            connect_timeout: Duration::from_secs(10),
            product: "RabbitMQ".to_owned(),
            version: "3.13.7".to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} is {value}; it must be between {min} and {max}")]
pub struct ConfigError {
    pub what: &'static str,
    pub value: u64,
    pub min: u64,
    pub max: u64,
}

impl Config {
    /// Of a listener that speaks as an ActiveMQ does.
    pub fn activemq(self) -> Config {
        Config { dialect: Dialect::ActiveMq, product: "ActiveMQ".to_owned(), version: "5.18.3".to_owned(), ..self }
    }

    /// Says what cannot work, before the first client does.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |what, value: u64, min: u64, max: u64| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError { what, value, min, max }),
        };
        range("max_body_size", self.limits.body as u64, 1, 60 << 20)?;
        range("max_headers", self.limits.headers as u64, 10, 10_000)?;
        range("max_header_size", self.limits.header as u64, 256, 1 << 20)?;
        range("max_subscriptions", self.max_subscriptions as u64, 1, 1 << 20)?;
        range("max_transactions", self.max_transactions as u64, 1, 4096)?;
        range("connect_timeout (ms)", self.connect_timeout.as_millis() as u64, 100, 3_600_000)
    }

    /// Of the first frame, whose sender is not known yet: names and a password.
    pub(crate) fn opening(&self) -> Limits {
        Limits { headers: self.limits.headers.min(64), body: 8192, ..self.limits }
    }
}
