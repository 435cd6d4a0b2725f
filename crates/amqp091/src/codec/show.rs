//! Methods, tables and properties in words, for logs and for transcripts.

use super::{Field, Properties, Table};
use std::fmt::Write;

/// Where a test's method takes its fields from.
pub trait Words<'a> {
    fn number(&self, name: &str) -> u64;
    fn text(&self, name: &str) -> &'a [u8];
    fn table(&self, name: &str) -> Table<'a>;
}

/// As it is, or in quotes if it would not be one word.
pub fn put_text(out: &mut String, text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    let plain = !shown.is_empty() && shown.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"\"{}[]".contains(c));
    let _ = if plain { write!(out, "{shown}") } else { write!(out, "{shown:?}") };
}

pub fn put_table(out: &mut String, table: Table<'_>) {
    out.push('{');
    for (n, (name, field)) in table.iter().enumerate() {
        if n > 0 {
            out.push(' ');
        }
        put_text(out, name);
        out.push('=');
        put_field(out, &field);
    }
    out.push('}');
}

fn put_field(out: &mut String, field: &Field<'_>) {
    match field {
        Field::LongStr(text) | Field::Bytes(text) => put_text(out, text),
        Field::Table(table) => put_table(out, *table),
        Field::Array(array) => {
            out.push('[');
            for (n, field) in array.iter().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                put_field(out, &field);
            }
            out.push(']');
        }
        Field::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Field::Timestamp(secs) => drop(write!(out, "@{secs}")),
        Field::F32(value) => drop(write!(out, "{value}")),
        Field::F64(value) => drop(write!(out, "{value}")),
        Field::Decimal { scale, value } => drop(write!(out, "{value}e-{scale}")),
        Field::Void => out.push_str("void"),
        other => drop(write!(out, "{}", other.integer().unwrap_or_default())),
    }
}

/// ` delivery_mode=2 headers={..}`: those that are there.
pub fn properties(properties: &Properties<'_>) -> String {
    let mut out = String::new();
    let text = |out: &mut String, name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            let _ = write!(out, " {name}=");
            put_text(out, value);
        }
    };
    text(&mut out, "content_type", properties.content_type);
    text(&mut out, "content_encoding", properties.content_encoding);
    if let Some(headers) = properties.headers {
        out.push_str(" headers=");
        put_table(&mut out, headers);
    }
    let number = |out: &mut String, name: &str, value: Option<u64>| {
        if let Some(value) = value {
            let _ = write!(out, " {name}={value}");
        }
    };
    number(&mut out, "delivery_mode", properties.delivery_mode.map(u64::from));
    number(&mut out, "priority", properties.priority.map(u64::from));
    text(&mut out, "correlation_id", properties.correlation_id);
    text(&mut out, "reply_to", properties.reply_to);
    text(&mut out, "expiration", properties.expiration);
    text(&mut out, "message_id", properties.message_id);
    number(&mut out, "timestamp", properties.timestamp);
    text(&mut out, "type", properties.kind);
    text(&mut out, "user_id", properties.user_id);
    text(&mut out, "app_id", properties.app_id);
    text(&mut out, "cluster_id", properties.cluster_id);
    out
}
