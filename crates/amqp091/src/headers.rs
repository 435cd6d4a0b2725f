//! Headers and arguments as exchanges compare them.

use std::borrow::Cow;

use broker_api::{HeaderView, Value};

use crate::codec::{Field, Properties, Table};

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
}

fn value(field: Field<'_>) -> Value<'_> {
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
