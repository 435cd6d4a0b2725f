//! Messages of other protocols as AMQP says them. The rules are RabbitMQ's for MQTT (`mc_mqtt`, 3.13) and stand, with what is lost, in
//! docs/conversions.md.

use std::borrow::Cow;

use broker_api::{Head, Neutral, Value, HEAD_DURABLE};

use crate::codec::{Field, Properties};

/// RabbitMQ's names for what AMQP has no property for, or none that is wide enough.
pub(crate) const REPLY_TOPIC: &[u8] = b"x-reply-to-topic";
pub(crate) const CORRELATION: &[u8] = b"x-correlation-id";

/// Short strings hold at most 255 bytes, and RabbitMQ gives clients only text in them.
fn short<'a>(text: &'a Option<Cow<'_, [u8]>>) -> Option<&'a [u8]> {
    text.as_deref().filter(|text| is_short(text))
}

fn is_short(text: &[u8]) -> bool {
    text.len() <= 255 && !text.contains(&0) && std::str::from_utf8(text).is_ok()
}

/// All but headers and expiration.
pub(crate) fn properties<'a>(neutral: &'a Neutral<'_>, head: &Head) -> Properties<'a> {
    Properties {
        content_type: short(&neutral.content_type),
        content_encoding: short(&neutral.content_encoding),
        // RabbitMQ says 2 for what its publisher wanted kept (QoS 1 and above), 1 otherwise.
        delivery_mode: Some(if head.has(HEAD_DURABLE) { 2 } else { 1 }),
        priority: Some(head.priority).filter(|priority| *priority != 0),
        correlation_id: short(&neutral.correlation_id),
        reply_to: short(&neutral.reply_to),
        message_id: short(&neutral.message_id),
        timestamp: neutral.timestamp,
        kind: short(&neutral.kind),
        user_id: short(&neutral.user_id),
        app_id: short(&neutral.app_id),
        ..Properties::default()
    }
}

/// In the order of their names, each name once ("Duplicate fields are illegal", 4.2.5.5): the first of a name counts, and what the broker
/// itself has to say comes before what the publisher says.
pub(crate) fn headers<'a>(neutral: &'a Neutral<'_>) -> Vec<(&'a [u8], Field<'a>)> {
    let mut headers = Vec::with_capacity(neutral.headers.len() + 2);
    if let Some(topic) = &neutral.reply_topic {
        headers.push((REPLY_TOPIC, Field::LongStr(topic)));
    }
    if let Some(id) = neutral.correlation_id.as_deref().filter(|id| !is_short(id)) {
        headers.push((CORRELATION, Field::LongStr(id)));
    }
    // A name is a short string; a longer one would be another one if it were cut.
    let named = neutral.headers.iter().filter(|(name, _)| name.len() <= 255);
    headers.extend(named.filter_map(|(name, value)| Some((&**name, field(value)?))));
    headers.sort_by_key(|(name, _)| *name);
    headers.dedup_by_key(|(name, _)| *name);
    headers
}

fn field<'a>(value: &'a Value<'_>) -> Option<Field<'a>> {
    Some(match value {
        Value::Void => Field::Void,
        Value::Bool(value) => Field::Bool(*value),
        Value::Int(value) => Field::I64(*value),
        Value::Uint(value) => Field::F64(*value as f64),
        Value::Float(value) => Field::F64(*value),
        Value::Bytes(bytes) => Field::LongStr(bytes),
        Value::Timestamp(secs) => Field::Timestamp(*secs),
        // Another protocol's encoding.
        Value::Encoded(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(text))
    }

    #[test]
    fn what_is_no_short_text_becomes_a_header_or_nothing() {
        let long = [b'x'; 256];
        for (id, as_property) in [(&b"abc"[..], true), (b"", true), (b"\xff\xfe", false), (b"a\0b", false), (&long, false)] {
            let neutral = Neutral { correlation_id: bytes(id), content_type: bytes(id), ..Neutral::default() };
            let properties = properties(&neutral, &Head::default());
            assert_eq!(properties.correlation_id, as_property.then_some(id));
            assert_eq!(properties.content_type, as_property.then_some(id));
            let expected = if as_property { vec![] } else { vec![(CORRELATION, Field::LongStr(id))] };
            assert_eq!(headers(&neutral), expected);
        }
    }

    #[test]
    fn headers_are_sorted_and_the_first_of_a_name_counts() {
        let text = |text: &'static str| Value::Bytes(text.as_bytes().into());
        let long = "n".repeat(256);
        let pairs: [(&str, Value<'_>); 6] = [
            ("z", text("1")),
            ("a", text("2")),
            ("z", text("3")),
            ("x-reply-to-topic", text("forged")),
            (&long, text("4")),
            ("table", Value::Encoded(b"F\0\0\0\0".as_slice().into())),
        ];
        let headers_of = pairs.iter().map(|(name, value)| (Cow::Borrowed(name.as_bytes()), value.clone())).collect();
        let neutral = Neutral { reply_topic: bytes(b"a.b"), headers: headers_of, ..Neutral::default() };
        let expected: [(&[u8], Field<'_>); 3] =
            [(b"a", Field::LongStr(b"2")), (REPLY_TOPIC, Field::LongStr(b"a.b")), (b"z", Field::LongStr(b"1"))];
        assert_eq!(headers(&neutral), expected);
    }
}
