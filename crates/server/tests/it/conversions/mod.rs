//! Where protocols meet: what one publishes, the other consumes, over sockets of one broker. The rows are those of docs/conversions.md, and
//! each is had with transient and durable messages, from memory and, after the process was killed, from the log.

mod amqp;
mod from_amqp;
mod from_mqtt;
mod mqtt;
pub mod stomp;
mod topics;
mod ways;
mod with_stomp;

use super::*;
use ::mqtt::codec::{Qos, Version};
use amqp::Amqp;
use mqtt::Mqtt;

fn both(dir: &Path) -> Carrick {
    start(dir, &["--listen", "mqtt://127.0.0.1:0", "--listen", "amqp://127.0.0.1:0"])
}

/// How a row is had.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// The message: QoS 1, delivery mode 2.
    durable: bool,
    /// Who waits for it: a durable queue, a session that outlives its connection.
    kept: bool,
    /// kill -9 in between; the consumer is not there before.
    killed: bool,
}

const WAYS: [Way; 5] = [
    Way { durable: false, kept: false, killed: false },
    Way { durable: false, kept: true, killed: false },
    Way { durable: true, kept: false, killed: false },
    Way { durable: true, kept: true, killed: false },
    Way { durable: true, kept: true, killed: true },
];
