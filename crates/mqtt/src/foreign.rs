//! Between MQTT 5's properties and other protocols': how others are told of our messages ([`Headers`]), and what our clients are told of
//! theirs ([`properties`]). The rules are RabbitMQ's (`mc_mqtt`, 3.13) and, where it loses what MQTT 5 could say, ours; they stand in
//! docs/conversions.md.

use std::borrow::Cow;

use broker_api::spelling::{key_of_topic, topic_of_key};
use broker_api::{HeaderView, Neutral, Value};

use crate::codec::props::{self, Content};
use crate::codec::{text, topic, PropertyId, VARINT_MAX};

/// Reads messages of [`crate::FORMAT_V5`]; those of [`crate::FORMAT_V3`] have nothing to read, but are published to topics too.
pub struct Headers;

impl HeaderView for Headers {
    /// User properties.
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        props::user_properties(origin).for_each(|(name, value)| each(name, Value::Bytes(Cow::Borrowed(value))));
    }

    fn property<'a>(&self, origin: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
        let wanted = match name {
            b"content_type" => PropertyId::ContentType,
            b"correlation_id" => PropertyId::CorrelationData,
            _ => return None,
        };
        props::iter(origin).find(|property| property.id == wanted).and_then(|property| match property.content {
            Content::Text(bytes) | Content::Binary(bytes) => Some(Value::Bytes(Cow::Borrowed(bytes))),
            _ => None,
        })
    }

    /// MQTT has none.
    fn arguments<'a>(&self, _: &'a [u8], _: &mut dyn FnMut(&'a [u8], Value<'a>)) {}

    fn neutral<'a>(&self, origin: &'a [u8]) -> Neutral<'a> {
        let mut neutral = Neutral::default();
        for property in props::iter(origin) {
            match (property.id, property.content) {
                (PropertyId::ContentType, Content::Text(text)) => neutral.content_type = Some(Cow::Borrowed(text)),
                (PropertyId::CorrelationData, Content::Binary(bytes)) => neutral.correlation_id = Some(Cow::Borrowed(bytes)),
                (PropertyId::ResponseTopic, Content::Text(topic)) => neutral.reply_topic = Some(Cow::Owned(key_of_topic(topic))),
                (PropertyId::MessageExpiryInterval, Content::Four(secs)) => neutral.expiration_ms = Some(u64::from(secs) * 1000),
                (PropertyId::PayloadFormatIndicator, Content::Byte(format)) => neutral.is_text = format == 1,
                (PropertyId::UserProperty, Content::Pair(name, value)) => {
                    neutral.headers.push((Cow::Borrowed(name), Value::Bytes(Cow::Borrowed(value))));
                }
                _ => {}
            }
        }
        neutral
    }

    fn separator(&self) -> u8 {
        b'/'
    }
}

/// A property section (without its length) that says what MQTT 5 can say of a message of another protocol. The time it has left is the
/// session's to write.
pub(crate) fn properties(neutral: &Neutral<'_>) -> Vec<u8> {
    let mut out = Section::default();
    if neutral.is_text {
        out.raw.extend_from_slice(&[PropertyId::PayloadFormatIndicator as u8, 1]);
    }
    if let Some(kind) = neutral.content_type.as_deref().filter(|kind| text::check(kind).is_ok()) {
        out.field(PropertyId::ContentType, kind);
    }
    if let Some(topic) = neutral.reply_topic.as_deref().map(topic_of_key).filter(|topic| topic::check_name(topic, None).is_ok()) {
        out.field(PropertyId::ResponseTopic, &topic);
    }
    if let Some(id) = &neutral.correlation_id {
        out.field(PropertyId::CorrelationData, id);
    }
    for (name, value) in &neutral.headers {
        if let Some(value) = in_text(value) {
            out.user(name, &value);
        }
    }
    // What has no property in MQTT, under the names of AMQP and STOMP, if the publisher has not taken them.
    let secs = neutral.timestamp.map(|secs| Cow::Owned(secs.to_string().into_bytes()));
    let others = [
        ("content-encoding", &neutral.content_encoding),
        ("message-id", &neutral.message_id),
        ("type", &neutral.kind),
        ("app-id", &neutral.app_id),
        ("timestamp", &secs),
    ];
    for (name, value) in others {
        let taken = || neutral.headers.iter().any(|(other, _)| **other == *name.as_bytes());
        if let Some(value) = value.as_ref().filter(|_| !taken()) {
            out.user(name.as_bytes(), value);
        }
    }
    out.raw
}

/// As RabbitMQ writes them, but floats in their shortest form. Tables and arrays have no text that both sides would agree on.
fn in_text<'a>(value: &'a Value<'_>) -> Option<Cow<'a, [u8]>> {
    let text = match value {
        Value::Bytes(bytes) => return Some(Cow::Borrowed(bytes)),
        Value::Void => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) | Value::Timestamp(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Encoded(_) => return None,
    };
    Some(Cow::Owned(text.into_bytes()))
}

/// Properties one after the other. What does not fit its field, or the section, is left out.
#[derive(Default)]
struct Section {
    raw: Vec<u8>,
}

/// Room that is left for what the session adds: expiry, alias, subscription identifiers.
const SECTION_MAX: usize = VARINT_MAX as usize / 2;

impl Section {
    fn has_room(&self, fields: &[&[u8]]) -> bool {
        let more: usize = fields.iter().map(|field| field.len() + 2).sum();
        fields.iter().all(|field| field.len() <= usize::from(u16::MAX)) && self.raw.len() + more < SECTION_MAX
    }

    fn field(&mut self, id: PropertyId, bytes: &[u8]) {
        if self.has_room(&[bytes]) {
            self.raw.push(id as u8);
            self.raw.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            self.raw.extend_from_slice(bytes);
        }
    }

    fn user(&mut self, name: &[u8], value: &[u8]) {
        let says = text::check(name).is_ok() && text::check(value).is_ok();
        if says && self.has_room(&[name, value]) && props::put_user(&mut self.raw, name, value).is_err() {
            debug_assert!(false, "its lengths were looked at");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Peer, PublishProperties};

    fn text(text: &str) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(text.as_bytes()))
    }

    fn users(raw: &[u8]) -> Vec<(String, String)> {
        let owned = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        props::user_properties(raw).map(|(name, value)| (owned(name), owned(value))).collect()
    }

    #[test]
    fn each_type_of_header_has_its_text() {
        let headers = [
            ("t", Value::Bool(true), "true"),
            ("i", Value::Int(-7), "-7"),
            ("u", Value::Uint(u64::MAX), "18446744073709551615"),
            ("f", Value::Float(1.5), "1.5"),
            ("g", Value::Float(1e300), "1e300"),
            ("T", Value::Timestamp(1_700_000_000), "1700000000"),
            ("S", Value::Bytes("grüße".as_bytes().into()), "grüße"),
            ("V", Value::Void, ""),
        ];
        let pairs = headers.iter().map(|(name, value, _)| (Cow::Borrowed(name.as_bytes()), value.clone())).collect();
        let raw = properties(&Neutral { headers: pairs, ..Neutral::default() });
        assert!(PublishProperties::parse(&raw, Peer::Server).is_ok());
        let expected: Vec<_> = headers.iter().map(|(name, _, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(users(&raw), expected);
    }

    #[test]
    fn what_is_no_mqtt_text_is_left_out_and_the_rest_stays() {
        let long = vec![b'x'; 70_000];
        let headers: Vec<(Cow<'_, [u8]>, Value<'_>)> = vec![
            (Cow::Borrowed(b"bytes"), Value::Bytes(b"\xff\xfe".as_slice().into())),
            (Cow::Borrowed(b"nul"), Value::Bytes(b"a\0b".as_slice().into())),
            (Cow::Borrowed(b"\xff"), Value::Void),
            (Cow::Borrowed(b"long"), Value::Bytes(long.as_slice().into())),
            (Cow::Borrowed(b"table"), Value::Encoded(b"F\0\0\0\0".as_slice().into())),
            (Cow::Borrowed(b"kept"), Value::Int(1)),
        ];
        let neutral = Neutral {
            headers,
            content_type: Some(Cow::Borrowed(b"\xff")),
            reply_topic: text("a.#.\0"),
            correlation_id: Some(Cow::Borrowed(&long)),
            ..Neutral::default()
        };
        let raw = properties(&neutral);
        assert!(PublishProperties::parse(&raw, Peer::Server).is_ok());
        assert_eq!(users(&raw), [("kept".to_owned(), "1".to_owned())]);
        assert_eq!(props::iter(&raw).count(), 1);
    }

    #[test]
    fn a_section_reads_back_as_what_it_was_made_of() {
        let neutral = Neutral {
            content_type: text("text/plain"),
            content_encoding: text("gzip"),
            correlation_id: Some(Cow::Borrowed(b"\x00\xff")),
            reply_topic: text("client.1%2E2.re"),
            message_id: text("m-1"),
            kind: text("reading"),
            app_id: text("app"),
            timestamp: Some(77),
            is_text: true,
            headers: vec![(Cow::Borrowed(b"type"), Value::Bytes(b"mine".as_slice().into()))],
            ..Neutral::default()
        };
        let raw = properties(&neutral);
        let read = PublishProperties::parse(&raw, Peer::Server).unwrap();
        assert_eq!(read.response_topic, Some(&b"client/1.2/re"[..]));
        let again = Headers.neutral(&raw);
        assert_eq!(again.content_type, neutral.content_type);
        assert_eq!(again.correlation_id, neutral.correlation_id);
        assert_eq!(again.reply_topic, neutral.reply_topic);
        assert!(again.is_text);
        let expected = [("type", "mine"), ("content-encoding", "gzip"), ("message-id", "m-1"), ("app-id", "app"), ("timestamp", "77")];
        assert_eq!(users(&raw), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(Headers.property(&raw, b"correlation_id"), Some(Value::Bytes(b"\x00\xff".as_slice().into())));
        assert_eq!(Headers.property(&raw, b"content_type"), Some(Value::Bytes(b"text/plain".as_slice().into())));
        assert_eq!(Headers.property(&raw, b"message_id"), None);
    }

    #[test]
    fn noise_is_read_as_nothing() {
        for noise in [&b""[..], b"\xff", b"\x26\x00\x01a", b"\x03\xff\xff"] {
            assert_eq!(Headers.neutral(noise), Neutral::default());
            Headers.headers(noise, &mut |_, _| panic!("a header"));
        }
    }
}
