//! The primitive types of AMQP 0-9-1 (4.2.5): big-endian integers, short strings of at most 255 bytes, long strings.

use super::CodecError;

/// Reads a frame's payload from its start. A length is checked before the bytes behind it are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Offset of what comes next.
    #[inline]
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// What has not been read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let end = self.at.checked_add(len).ok_or(CodecError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(CodecError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_be_bytes(self.array()?))
    }
    #[inline]
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    #[inline]
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    #[inline]
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    #[inline]
    pub fn short_str(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }
    #[inline]
    pub fn long_str(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

#[inline]
pub fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Cut to what a short string can hold, at the border of a character where it is text.
#[inline]
pub fn put_short_str(out: &mut Vec<u8>, text: &[u8]) {
    let text = shorten(text);
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

pub fn put_long_str(out: &mut Vec<u8>, text: &[u8]) {
    put_u32(out, text.len() as u32);
    out.extend_from_slice(text);
}

fn shorten(text: &[u8]) -> &[u8] {
    if text.len() <= 255 {
        return text;
    }
    let mut end = 255;
    while end > 250 && text[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut reader = Reader::new(b"\x03ab");
        assert_eq!(reader.short_str(), Err(CodecError::Truncated));
        let mut reader = Reader::new(b"\xff\xff\xff\xffab");
        assert_eq!(reader.long_str(), Err(CodecError::Truncated));
        let mut reader = Reader::new(b"\x02ab\x00\x01");
        assert_eq!(reader.short_str(), Ok(&b"ab"[..]));
        assert_eq!(reader.position(), 3);
        assert_eq!(reader.u32(), Err(CodecError::Truncated));
        assert_eq!(reader.u16(), Ok(1));
        assert!(reader.is_empty());
    }

    #[test]
    fn a_short_string_is_cut_between_characters() {
        let mut out = Vec::new();
        put_short_str(&mut out, "ä".repeat(200).as_bytes());
        assert_eq!(out.len(), 255);
        assert!(std::str::from_utf8(&out[1..]).is_ok());
    }
}
