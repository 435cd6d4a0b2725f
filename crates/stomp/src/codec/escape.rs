//! The escapes of header names and values: none in 1.0, `\n \c \\` in 1.1, and `\r` in 1.2. Others are fatal.

use super::{DecodeError, Version};
use std::borrow::Cow;

/// What a header's name or value means. CONNECT and CONNECTED are not escaped in any version: read those with [`Version::V10`].
pub fn unescape(raw: &[u8], version: Version) -> Result<Cow<'_, [u8]>, DecodeError> {
    if version == Version::V10 {
        return Ok(Cow::Borrowed(raw));
    }
    let Some(mut at) = memchr::memchr(b'\\', raw) else { return Ok(Cow::Borrowed(raw)) };
    let mut plain = Vec::with_capacity(raw.len());
    let mut from = 0;
    loop {
        plain.extend_from_slice(&raw[from..at]);
        plain.push(match raw.get(at + 1) {
            Some(b'n') => b'\n',
            Some(b'c') => b':',
            Some(b'\\') => b'\\',
            Some(b'r') if version == Version::V12 => b'\r',
            _ => return Err(DecodeError::Escape),
        });
        from = at + 2;
        match memchr::memchr(b'\\', &raw[from..]) {
            Some(next) => at = from + next,
            None => break,
        }
    }
    plain.extend_from_slice(&raw[from..]);
    Ok(Cow::Owned(plain))
}

/// Appends a name or value as the version writes it. What a version has no escape for would break the frame, and is left out: line ends in
/// 1.0, and a NUL in all of them.
pub fn escape(plain: &[u8], version: Version, out: &mut Vec<u8>) {
    for byte in plain {
        match (byte, version) {
            (0, _) | (b'\n', Version::V10) | (b'\r', Version::V10) | (b'\r', Version::V11) => {}
            (_, Version::V10) => out.push(*byte),
            (b'\n', _) => out.extend_from_slice(b"\\n"),
            (b':', _) => out.extend_from_slice(b"\\c"),
            (b'\\', _) => out.extend_from_slice(b"\\\\"),
            (b'\r', _) => out.extend_from_slice(b"\\r"),
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_version_has_its_own_escapes() {
        assert_eq!(unescape(br"a\nb\c\\", Version::V10).unwrap(), &br"a\nb\c\\"[..]);
        assert_eq!(unescape(br"a\nb\c\\", Version::V11).unwrap(), &b"a\nb:\\"[..]);
        assert_eq!(unescape(br"\r", Version::V11), Err(DecodeError::Escape));
        assert_eq!(unescape(br"\r\r", Version::V12).unwrap(), &b"\r\r"[..]);
        for wrong in [&br"\t"[..], br"a\", br"\\\", br"\N"] {
            assert_eq!(unescape(wrong, Version::V12), Err(DecodeError::Escape), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(plain in prop::collection::vec(1u8.., 0..60)) {
            let mut raw = Vec::new();
            escape(&plain, Version::V12, &mut raw);
            prop_assert!(!raw.iter().any(|byte| b"\n\r:".contains(byte)));
            prop_assert_eq!(unescape(&raw, Version::V12).unwrap(), plain);
        }
    }
}
