//! What an operator can set about STOMP.

use std::time::Duration;

use thiserror::Error;

use crate::codec::Limits;
use crate::dialect::Dialect;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub dialect: Dialect,
    /// What the original refuses is refused; otherwise what does not conflict with it is taken.
    pub strict: bool,
    /// There is a queue for dead letters of all queues: a NACK from a client of ActiveMQ's dialect sends a message there, as ActiveMQ does.
    pub dead_letters: bool,
    /// What a frame may hold once its sender has logged in.
    pub limits: Limits,
    /// Subscriptions of a connection at a time.
    pub max_subscriptions: usize,
    /// Transactions of a connection that are open at a time.
    pub max_transactions: usize,
    /// From the connection to CONNECTED.
    pub connect_timeout: Duration,
    /// The shortest interval of heart-beats that is agreed to, either way.
    pub min_heart_beat: Duration,
    /// For how many intervals nothing may come from a client before it is given up.
    pub heart_beats_missed: u32,
    /// Deliveries that a subscription may have in hand whose client acknowledges and names no number; 0 is no bound. `None`: as the dialect
    /// has it.
    pub default_prefetch: Option<u32>,
    /// Queues are made when they are first named; otherwise one that is not there is an error.
    pub auto_create: bool,
    /// What CONNECTED says this is, in its `server` header.
    pub product: String,
    pub version: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            dialect: Dialect::RabbitMq,
            strict: false,
            dead_letters: false,
            limits: Limits { body: 32 << 20, ..Limits::default() },
            max_subscriptions: 1024,
            max_transactions: 256,
            connect_timeout: Duration::from_secs(10),
            // RabbitMQ counts in seconds.
            min_heart_beat: Duration::from_secs(1),
            heart_beats_missed: 2,
            default_prefetch: None,
            auto_create: true,
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
    /// Of a listener that speaks so.
    pub fn speaking(self, dialect: Dialect) -> Config {
        let (product, version) = match dialect {
            Dialect::RabbitMq => ("RabbitMQ", "3.13.7"),
            Dialect::ActiveMq => ("ActiveMQ", "5.18.3"),
        };
        Config { dialect, product: product.to_owned(), version: version.to_owned(), ..self }
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
        range("connect_timeout (ms)", self.connect_timeout.as_millis() as u64, 100, 3_600_000)?;
        range("min_heart_beat (ms)", self.min_heart_beat.as_millis() as u64, 10, 3_600_000)?;
        range("heart_beats_missed", self.heart_beats_missed.into(), 1, 100)
    }

    /// What an ActiveMQ hands out unasked to a client that acknowledges is 1000 messages; RabbitMQ knows no bound.
    pub(crate) fn prefetch(&self) -> u32 {
        self.default_prefetch.unwrap_or(match self.dialect {
            Dialect::RabbitMq => 0,
            Dialect::ActiveMq => 1000,
        })
    }

    /// Of the first frame, whose sender is not known yet: names and a password.
    pub(crate) fn opening(&self) -> Limits {
        Limits { headers: self.limits.headers.min(64), body: 8192, ..self.limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_said() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(Config::default().speaking(Dialect::ActiveMq).check(), Ok(()));
        let wrong = [
            ("max_body_size", Config { limits: Limits::default(), ..Config::default() }),
            ("max_headers", Config { limits: Limits { headers: 1, ..Config::default().limits }, ..Config::default() }),
            ("max_subscriptions", Config { max_subscriptions: 0, ..Config::default() }),
            ("max_transactions", Config { max_transactions: 1 << 20, ..Config::default() }),
            ("connect_timeout (ms)", Config { connect_timeout: Duration::ZERO, ..Config::default() }),
            ("min_heart_beat (ms)", Config { min_heart_beat: Duration::ZERO, ..Config::default() }),
            ("heart_beats_missed", Config { heart_beats_missed: 0, ..Config::default() }),
        ];
        for (what, config) in wrong {
            assert_eq!(config.check().map_err(|error| error.what), Err(what));
        }
    }

    #[test]
    fn prefetch_is_as_the_dialect_has_it_unless_it_is_set() {
        let of = |dialect, default_prefetch| Config { default_prefetch, ..Config::default().speaking(dialect) }.prefetch();
        assert_eq!((of(Dialect::RabbitMq, None), of(Dialect::ActiveMq, None)), (0, 1000));
        assert_eq!((of(Dialect::RabbitMq, Some(7)), of(Dialect::ActiveMq, Some(0))), (7, 0));
    }
}
