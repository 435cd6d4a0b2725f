//! Headers and arguments as exchanges compare them, and messages as other protocols are told of them.

use std::borrow::Cow;

use broker_api::{HeaderView, Neutral, Value};

use crate::arguments::is_compared;
use crate::codec::{Field, Properties, Table};
use crate::foreign::{CORRELATION, REPLY_TOPIC};

/// Given to the core for messages and arguments of [`crate::FORMAT`].
pub struct Headers;

impl HeaderView for Headers {
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        if let Ok(Properties { headers: Some(table), .. }) = Properties::parse(origin) {
            table.iter().for_each(|(name, field)| each(name, value(field)));
        }
    }

    fn property<'a>(&self, origin: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
        let properties = Properties::parse(origin).ok()?;
        let text = match name {
            b"content_type" => properties.content_type,
            b"content_encoding" => properties.content_encoding,
            b"correlation_id" => properties.correlation_id,
            b"reply_to" => properties.reply_to,
            b"expiration" => properties.expiration,
            b"message_id" => properties.message_id,
            b"type" => properties.kind,
            b"user_id" => properties.user_id,
            b"app_id" => properties.app_id,
            b"cluster_id" => properties.cluster_id,
            b"timestamp" => return properties.timestamp.map(Value::Timestamp),
            b"priority" => return properties.priority.map(|priority| Value::Int(priority.into())),
            b"delivery_mode" => return properties.delivery_mode.map(|mode| Value::Int(mode.into())),
            _ => None,
        };
        text.map(|text| Value::Bytes(Cow::Borrowed(text)))
    }

    fn arguments<'a>(&self, encoded: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        if let Ok(table) = Table::parse(encoded) {
            table.iter().for_each(|(name, field)| each(name, value(field)));
        }
    }

    fn compares(&self, name: &[u8], value: &Value<'_>) -> bool {
        is_compared(name, value)
    }

    /// The two headers in which RabbitMQ keeps what AMQP has no property for are that property to others.
    fn neutral<'a>(&self, origin: &'a [u8]) -> Neutral<'a> {
        let Ok(properties) = Properties::parse(origin) else { return Neutral::default() };
        let text = |text: Option<&'a [u8]>| text.map(Cow::Borrowed);
        let mut neutral = Neutral {
            content_type: text(properties.content_type),
            content_encoding: text(properties.content_encoding),
            correlation_id: text(properties.correlation_id),
            reply_to: text(properties.reply_to),
            message_id: text(properties.message_id),
            kind: text(properties.kind),
            app_id: text(properties.app_id),
            user_id: text(properties.user_id),
            timestamp: properties.timestamp,
            expiration_ms: properties.expiration.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()),
            ..Neutral::default()
        };
        for (name, field) in properties.headers.iter().flat_map(|table| table.iter()) {
            match (name, field) {
                (REPLY_TOPIC, Field::LongStr(topic)) if neutral.reply_topic.is_none() => neutral.reply_topic = text(Some(topic)),
                (CORRELATION, Field::LongStr(id)) if neutral.correlation_id.is_none() => neutral.correlation_id = text(Some(id)),
                (name, field) => neutral.headers.push((Cow::Borrowed(name), neutral_value(field))),
            }
        }
        neutral
    }
}

/// What no other protocol has as a type of its own is as text what it would be in words.
fn neutral_value(field: Field<'_>) -> Value<'_> {
    match field {
        Field::Decimal { scale, value } => Value::Bytes(decimal(scale, value).into_bytes().into()),
        field => value(field),
    }
}

/// 4.2.5.4: a signed number with so many decimal places.
fn decimal(scale: u8, value: u32) -> String {
    let value = value as i32;
    let sign = if value < 0 { "-" } else { "" };
    let scale = usize::from(scale);
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    match digits.split_at(digits.len() - scale) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, rest) => format!("{sign}{whole}.{rest}"),
    }
}

pub(crate) fn value(field: Field<'_>) -> Value<'_> {
    match field {
        Field::Void => Value::Void,
        Field::Bool(value) => Value::Bool(value),
        Field::F32(value) => Value::Float(value.into()),
        Field::F64(value) => Value::Float(value),
        Field::LongStr(bytes) | Field::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
        Field::Timestamp(secs) => Value::Timestamp(secs),
        Field::Decimal { .. } | Field::Array(_) | Field::Table(_) => {
            let mut encoded = Vec::new();
            field.put(&mut encoded);
            Value::Encoded(Cow::Owned(encoded))
        }
        _ => Value::Int(field.integer().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::TableWriter;

    #[test]
    fn others_are_told_everything_that_has_a_word() {
        let mut headers = TableWriter::default();
        headers.text("x-reply-to-topic", "a.b").text("x-correlation-id", "wide").text("k", "v");
        headers.put(b"d", &Field::Decimal { scale: 2, value: 314 }).put(b"x-reply-to-topic", &Field::Bool(true));
        let all = Properties {
            content_type: Some(b"text/plain"),
            content_encoding: Some(b"gzip"),
            headers: Some(headers.as_table()),
            reply_to: Some(b"q"),
            expiration: Some(b"1500"),
            message_id: Some(b"m"),
            timestamp: Some(77),
            kind: Some(b"t"),
            user_id: Some(b"u"),
            app_id: Some(b"a"),
            ..Properties::default()
        };
        let read = |properties: Properties<'_>| {
            let mut origin = Vec::new();
            properties.put(&mut origin);
            let origin: &'static [u8] = origin.leak();
            Headers.neutral(origin)
        };
        let neutral = read(all);
        assert_eq!(neutral.reply_topic.as_deref(), Some(&b"a.b"[..]));
        assert_eq!(neutral.correlation_id.as_deref(), Some(&b"wide"[..]));
        assert_eq!((neutral.expiration_ms, neutral.timestamp), (Some(1500), Some(77)));
        let words = [&neutral.content_type, &neutral.content_encoding, &neutral.reply_to, &neutral.message_id];
        assert_eq!(words.map(|word| word.as_deref().unwrap()), [&b"text/plain"[..], b"gzip", b"q", b"m"]);
        let words = [&neutral.kind, &neutral.user_id, &neutral.app_id];
        assert_eq!(words.map(|word| word.as_deref().unwrap()), [b"t", b"u", b"a"]);
        let names: Vec<_> = neutral.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, [&b"k"[..], b"d", b"x-reply-to-topic"]);
        assert_eq!(neutral.headers[1].1, Value::Bytes(b"3.14".as_slice().into()));
        // The property is what counts where both are there.
        let neutral = read(Properties { correlation_id: Some(b"short"), ..all });
        assert_eq!(neutral.correlation_id.as_deref(), Some(&b"short"[..]));
        assert_eq!(neutral.headers.len(), 4);
        assert_eq!(read(Properties::default()), Neutral::default());
        assert_eq!(Headers.neutral(b"\xff"), Neutral::default());
    }

    #[test]
    fn decimals_are_written_out() {
        let rows = [(0, 7, "7"), (2, 314, "3.14"), (3, 5, "0.005"), (1, -15i32 as u32, "-1.5"), (0, 0, "0"), (255, 1, "0.")];
        for (scale, value, text) in rows {
            assert!(decimal(scale, value).starts_with(text), "{}", decimal(scale, value));
        }
        assert_eq!(decimal(2, 314), "3.14");
    }

    #[test]
    fn fields_become_values_and_noise_becomes_nothing() {
        let mut inner = TableWriter::default();
        inner.text("a", "b");
        let mut headers = TableWriter::default();
        headers.text("type", "report").put(b"n", &Field::U8(7)).table("t", &inner);
        let properties = Properties { headers: Some(headers.as_table()), delivery_mode: Some(2), ..Properties::default() };
        let mut origin = Vec::new();
        properties.put(&mut origin);
        let mut seen = Vec::new();
        Headers.headers(&origin, &mut |name, value| seen.push((name.to_vec(), value.into_owned())));
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[0].1, Value::Bytes(b"report".into()));
        assert_eq!(seen[1].1, Value::Int(7));
        assert!(matches!(&seen[2].1, Value::Encoded(bytes) if bytes[0] == b'F'));
        assert_eq!(Headers.property(&origin, b"delivery_mode"), Some(Value::Int(2)));
        assert_eq!(Headers.property(&origin, b"message_id"), None);
        let mut count = 0;
        Headers.headers(&origin[1..], &mut |_, _| count += 1);
        Headers.arguments(b"\xff", &mut |_, _| count += 1);
        assert_eq!(count, 0);
    }
}
