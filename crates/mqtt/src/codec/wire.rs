//! The data types of MQTT 5.0, 1.5, read from and appended to bytes.

use std::num::NonZeroU16;

use super::error::{DecodeError, EncodeError};
use super::text;

/// A packet identifier is never zero (MQTT-2.2.1-3).
pub type PacketId = NonZeroU16;

/// The largest value of a variable byte integer (1.5.5).
pub const VARINT_MAX: u32 = 268_435_455;

/// What a look at a variable byte integer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Varint {
    Value { value: u32, size: usize },
    Short,
}

/// Reads a variable byte integer at the start of `bytes`. Five bytes and padded forms are malformed (MQTT-1.5.5-1).
#[inline]
pub fn read_varint(bytes: &[u8]) -> Result<Varint, DecodeError> {
    let mut value = 0u32;
    for size in 0..4 {
        let Some(&byte) = bytes.get(size) else { return Ok(Varint::Short) };
        value |= u32::from(byte & 0x7F) << (7 * size);
        if byte & 0x80 == 0 {
            if byte == 0 && size > 0 {
                return Err(DecodeError::LengthOverlong);
            }
            return Ok(Varint::Value { value, size: size + 1 });
        }
    }
    Err(DecodeError::LengthTooLong)
}

#[inline]
pub const fn varint_size(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Writes into `into` and says how many bytes were used. `value` is at most [`VARINT_MAX`].
#[inline]
pub fn varint_bytes(mut value: u32, into: &mut [u8]) -> usize {
    debug_assert!(value <= VARINT_MAX);
    let mut size = 0;
    while value > 0x7F {
        into[size] = (value & 0x7F) as u8 | 0x80;
        value >>= 7;
        size += 1;
    }
    into[size] = value as u8;
    size + 1
}

#[inline]
pub fn put_varint(out: &mut Vec<u8>, value: u32) {
    let mut bytes = [0; 5];
    let size = varint_bytes(value, &mut bytes);
    out.extend_from_slice(&bytes[..size]);
}

#[inline]
pub fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Two-byte length and content: a string (1.5.4) or binary data (1.5.6).
pub fn put_field(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let len = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong)?;
    put_u16(out, len);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a whole packet: `body` writes what follows the fixed header. For packets off the message path.
pub(super) fn put_packet(
    out: &mut Vec<u8>,
    first: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let mut bytes = Vec::with_capacity(64);
    body(&mut bytes)?;
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= VARINT_MAX).ok_or(EncodeError::TooLarge(bytes.len()))?;
    out.reserve(bytes.len() + 5);
    out.push(first);
    put_varint(out, len);
    out.extend_from_slice(&bytes);
    Ok(())
}

/// A cursor over the body of one packet.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    #[inline]
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).ok_or(DecodeError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    #[inline]
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        match read_varint(&self.bytes[self.at..])? {
            Varint::Value { value, size } => {
                self.at += size;
                Ok(value)
            }
            Varint::Short => Err(DecodeError::Truncated),
        }
    }

    /// A two-byte length and that many bytes, unchecked.
    #[inline]
    pub fn field(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A string: UTF-8 without surrogates and without U+0000 (1.5.4). As bytes, since most are only passed on.
    #[inline]
    pub fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.field()?;
        text::check(bytes)?;
        Ok(bytes)
    }

    pub fn string(&mut self) -> Result<String, DecodeError> {
        let bytes = self.text()?;
        text::to_string(bytes)
    }

    #[inline]
    pub fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero)
    }

    /// The packet must be used up.
    #[inline]
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MQTT 5.0, table 1-1.
    #[test]
    fn varint_bounds_of_the_table() {
        let rows: [(u32, &[u8]); 8] = [
            (0, &[0x00]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ];
        for (value, bytes) in rows {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_size(value), bytes.len());
            assert_eq!(read_varint(bytes), Ok(Varint::Value { value, size: bytes.len() }));
            for cut in 0..bytes.len() {
                assert_eq!(read_varint(&bytes[..cut]), Ok(Varint::Short));
            }
        }
    }

    #[test]
    fn varint_five_bytes_and_padding_are_malformed() {
        assert_eq!(read_varint(&[0x80, 0x80, 0x80, 0x80]), Err(DecodeError::LengthTooLong));
        assert_eq!(read_varint(&[0xFF, 0xFF, 0xFF, 0xFF, 0x01]), Err(DecodeError::LengthTooLong));
        for padded in [&[0x80, 0x00][..], &[0xFF, 0x00], &[0x80, 0x80, 0x00], &[0x81, 0x80, 0x80, 0x00]] {
            assert_eq!(read_varint(padded), Err(DecodeError::LengthOverlong));
        }
    }
}
