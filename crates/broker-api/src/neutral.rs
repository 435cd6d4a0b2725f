//! What a message says of itself, between the encodings of two protocols.

use std::borrow::Cow;

use crate::{HeaderView, Value};

/// The properties that several protocols have a word for, read out of one's encoding to be written in another's. Made only for a consumer
/// of another protocol, from [`crate::Head::origin`]. What the core knows itself is in the [`crate::Head`]: durability, priority, expiry.
///
/// Each protocol reads its own messages into this ([`HeaderView::neutral`]) and writes others' out of it, so that none knows another.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Neutral<'a> {
    pub content_type: Option<Cow<'a, [u8]>>,
    pub content_encoding: Option<Cow<'a, [u8]>>,
    /// Any bytes.
    pub correlation_id: Option<Cow<'a, [u8]>>,
    /// Where an answer is expected: a queue, by its name.
    pub reply_to: Option<Cow<'a, [u8]>>,
    /// The same in the topic space, as a routing key (see [`crate::spelling`]).
    pub reply_topic: Option<Cow<'a, [u8]>>,
    pub message_id: Option<Cow<'a, [u8]>>,
    /// What AMQP 0-9-1 calls the type.
    pub kind: Option<Cow<'a, [u8]>>,
    pub app_id: Option<Cow<'a, [u8]>>,
    /// Vouched for by the broker.
    pub user_id: Option<Cow<'a, [u8]>>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The time to live that the publisher gave the message.
    pub expiration_ms: Option<u64>,
    /// The publisher says that the payload is text in UTF-8.
    pub is_text: bool,
    /// In their order; names may repeat.
    pub headers: Vec<(Cow<'a, [u8]>, Value<'a>)>,
}

impl<'a> Neutral<'a> {
    /// By asking for one property after the other.
    pub fn read<V: HeaderView + ?Sized>(view: &V, origin: &'a [u8]) -> Neutral<'a> {
        let text = |name: &str| match view.property(origin, name.as_bytes()) {
            Some(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        };
        let mut headers = Vec::new();
        view.headers(origin, &mut |name, value| headers.push((Cow::Borrowed(name), value)));
        Neutral {
            content_type: text("content_type"),
            content_encoding: text("content_encoding"),
            correlation_id: text("correlation_id"),
            reply_to: text("reply_to"),
            reply_topic: None,
            message_id: text("message_id"),
            kind: text("type"),
            app_id: text("app_id"),
            user_id: text("user_id"),
            timestamp: match view.property(origin, b"timestamp") {
                Some(Value::Timestamp(secs)) => Some(secs),
                _ => None,
            },
            expiration_ms: text("expiration").and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()),
            is_text: false,
            headers,
        }
    }
}
