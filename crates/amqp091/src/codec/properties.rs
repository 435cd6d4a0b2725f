//! Content properties of class basic (AMQP 0-9-1, 4.2.6.1): flags, then the values of those that are there, in the order of the flags.
//!
//! A message keeps them as they came. What the broker must know (delivery mode, priority, expiration, reply-to, user-id, headers) is found in
//! one pass over them.

use super::table::Table;
use super::wire::{put_short_str, put_u16, put_u64, Reader};
use super::CodecError;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
/// Bit 1 is unused, bit 0 announces another word of flags, which class basic does not have.
const UNKNOWN: u16 = 0b11;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Properties<'a> {
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    pub headers: Option<Table<'a>>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    pub expiration: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    pub kind: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    pub app_id: Option<&'a [u8]>,
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> Properties<'a> {
    /// Of flags and values, to the last byte.
    #[inline]
    pub fn parse(raw: &'a [u8]) -> Result<Properties<'a>, CodecError> {
        let mut reader = Reader::new(raw);
        let flags = reader.u16()?;
        let mut found = Properties::default();
        if flags == 0 {
            return if reader.is_empty() { Ok(found) } else { Err(CodecError::TrailingBytes) };
        }
        if flags & UNKNOWN != 0 {
            return Err(CodecError::PropertyFlags);
        }
        let text = |reader: &mut Reader<'a>, flag| if flags & flag != 0 { reader.short_str().map(Some) } else { Ok(None) };
        let byte = |reader: &mut Reader<'a>, flag| if flags & flag != 0 { reader.u8().map(Some) } else { Ok(None) };
        found.content_type = text(&mut reader, CONTENT_TYPE)?;
        found.content_encoding = text(&mut reader, CONTENT_ENCODING)?;
        if flags & HEADERS != 0 {
            found.headers = Some(Table::read(&mut reader)?);
        }
        found.delivery_mode = byte(&mut reader, DELIVERY_MODE)?;
        found.priority = byte(&mut reader, PRIORITY)?;
        found.correlation_id = text(&mut reader, CORRELATION_ID)?;
        found.reply_to = text(&mut reader, REPLY_TO)?;
        found.expiration = text(&mut reader, EXPIRATION)?;
        found.message_id = text(&mut reader, MESSAGE_ID)?;
        if flags & TIMESTAMP != 0 {
            found.timestamp = Some(reader.u64()?);
        }
        found.kind = text(&mut reader, TYPE)?;
        found.user_id = text(&mut reader, USER_ID)?;
        found.app_id = text(&mut reader, APP_ID)?;
        found.cluster_id = text(&mut reader, CLUSTER_ID)?;
        if reader.is_empty() {
            Ok(found)
        } else {
            Err(CodecError::TrailingBytes)
        }
    }

    fn flags(&self) -> u16 {
        let flag = |there: bool, flag: u16| if there { flag } else { 0 };
        flag(self.content_type.is_some(), CONTENT_TYPE)
            | flag(self.content_encoding.is_some(), CONTENT_ENCODING)
            | flag(self.headers.is_some(), HEADERS)
            | flag(self.delivery_mode.is_some(), DELIVERY_MODE)
            | flag(self.priority.is_some(), PRIORITY)
            | flag(self.correlation_id.is_some(), CORRELATION_ID)
            | flag(self.reply_to.is_some(), REPLY_TO)
            | flag(self.expiration.is_some(), EXPIRATION)
            | flag(self.message_id.is_some(), MESSAGE_ID)
            | flag(self.timestamp.is_some(), TIMESTAMP)
            | flag(self.kind.is_some(), TYPE)
            | flag(self.user_id.is_some(), USER_ID)
            | flag(self.app_id.is_some(), APP_ID)
            | flag(self.cluster_id.is_some(), CLUSTER_ID)
    }

    /// Flags and values.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_u16(out, self.flags());
        let text = |out: &mut Vec<u8>, text: Option<&[u8]>| text.into_iter().for_each(|text| put_short_str(out, text));
        text(out, self.content_type);
        text(out, self.content_encoding);
        if let Some(headers) = &self.headers {
            headers.put(out);
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        text(out, self.correlation_id);
        text(out, self.reply_to);
        text(out, self.expiration);
        text(out, self.message_id);
        if let Some(secs) = self.timestamp {
            put_u64(out, secs);
        }
        text(out, self.kind);
        text(out, self.user_id);
        text(out, self.app_id);
        text(out, self.cluster_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::TableWriter;

    #[test]
    fn all_and_each_alone_read_back_and_a_cut_is_refused() {
        let mut headers = TableWriter::default();
        headers.text("k", "v");
        let all = Properties {
            content_type: Some(b"text/plain"),
            content_encoding: Some(b"gzip"),
            headers: Some(headers.as_table()),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some(b"c"),
            reply_to: Some(b"r"),
            expiration: Some(b"60000"),
            message_id: Some(b"m"),
            timestamp: Some(77),
            kind: Some(b"t"),
            user_id: Some(b"u"),
            app_id: Some(b"a"),
            cluster_id: Some(b""),
        };
        let each = [
            Properties::default(),
            all,
            Properties { headers: all.headers, ..Default::default() },
            Properties { timestamp: all.timestamp, delivery_mode: Some(1), ..Default::default() },
            Properties { cluster_id: all.cluster_id, ..Default::default() },
        ];
        for properties in each {
            let mut bytes = Vec::new();
            properties.put(&mut bytes);
            assert_eq!(Properties::parse(&bytes), Ok(properties));
            for cut in 0..bytes.len() {
                assert!(Properties::parse(&bytes[..cut]).is_err());
            }
            bytes.push(0);
            assert!(Properties::parse(&bytes).is_err());
        }
        assert_eq!(Properties::parse(&[0, 1]), Err(CodecError::PropertyFlags));
    }
}
