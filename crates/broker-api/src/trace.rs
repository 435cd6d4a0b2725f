//! What happens to messages, told to who looks on: each publish and each delivery of a virtual host as a message of its own.

use crate::{Batch, Delivery, Head, QueueName};

/// Something that happened to one message.
pub struct Traced<'a> {
    pub what: TracedAs<'a>,
    pub vhost: &'a str,
    /// See [`crate::ConnectionInfo::name`]; empty where the broker itself publishes.
    pub connection: &'a str,
    /// See [`crate::Control::Owner`].
    pub channel: u16,
    pub user: &'a str,
    pub batch: &'a Batch,
    pub head: &'a Head,
}

pub enum TracedAs<'a> {
    /// It was routed to these queues.
    Published { queues: &'a [QueueName] },
    /// It was handed out of this queue.
    Delivered { queue: &'a QueueName, delivery: &'a Delivery },
}

/// How it is told; the body is the message's own.
pub struct Spelled {
    pub key: Vec<u8>,
    /// As in a head.
    pub origin: Vec<u8>,
    pub format: u8,
    pub separator: u8,
}

/// Writes the messages that tell of others. Given to the core by who knows a protocol for them.
pub trait Tracer: Send + Sync {
    /// The exchange that they go to. Its own messages are never told of.
    fn exchange(&self) -> &'static str;
    fn spell(&self, traced: &Traced<'_>) -> Spelled;
}
