//! Strings (MQTT 5.0, 1.5.4): well-formed UTF-8, no surrogates, no U+0000. Nearly all of them are short ASCII, so eight bytes
//! are looked at in one go and only what is not plain goes to the full check.

use super::error::DecodeError;

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Sets a high bit if a byte of `word` is zero; exact as long as every byte of `word` is below 0x80.
#[inline]
const fn zero_byte(word: u64) -> u64 {
    word.wrapping_sub(LOW) & HIGH
}

/// Whether all bytes are ASCII other than NUL and, with `TOPIC`, other than the two wildcards.
#[inline]
fn plain<const TOPIC: bool>(bytes: &[u8]) -> bool {
    let mut odd = 0u64;
    let mut look = |word: u64| {
        odd |= (word & HIGH) | zero_byte(word);
        if TOPIC {
            odd |= zero_byte(word ^ (LOW * b'+' as u64)) | zero_byte(word ^ (LOW * b'#' as u64));
        }
    };
    let len = bytes.len();
    if len >= 8 {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            look(word(chunk));
        }
        // The last eight bytes once more, overlapping, instead of a loop over a rest.
        look(word(&bytes[len - 8..]));
    } else {
        let mut padded = [b'a'; 8];
        padded[..len].copy_from_slice(bytes);
        look(u64::from_le_bytes(padded));
    }
    odd & HIGH == 0
}

#[inline]
fn word(chunk: &[u8]) -> u64 {
    u64::from_le_bytes(chunk.try_into().expect("a chunk of eight bytes"))
}

#[inline]
pub fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    if plain::<false>(bytes) {
        Ok(())
    } else {
        check_slow(bytes)
    }
}

#[cold]
fn check_slow(bytes: &[u8]) -> Result<(), DecodeError> {
    // Rust's UTF-8 excludes U+D800..U+DFFF and overlong forms, as 1.5.4 asks.
    std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
    match memchr::memchr(0, bytes) {
        Some(_) => Err(DecodeError::NulCharacter),
        None => Ok(()),
    }
}

/// Checks a string that must not hold `+` or `#`. Says whether it holds one.
#[inline]
pub(super) fn check_without_wildcards(bytes: &[u8]) -> Result<bool, DecodeError> {
    if plain::<true>(bytes) {
        return Ok(false);
    }
    check(bytes)?;
    Ok(memchr::memchr2(b'+', b'#', bytes).is_some())
}

pub(super) fn to_string(checked: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(checked.to_vec()).map_err(|_| DecodeError::NotUtf8)
}

/// Whether the string holds control characters (U+0001..U+001F, U+007F..U+009F) or non-characters. 1.5.4 lets a receiver
/// refuse them (MQTT 5.0: SHOULD NOT be sent); we accept them, a listener may be told not to.
pub fn has_discouraged(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || (0xFDD0..=0xFDEF).contains(&(c as u32)) || (c as u32) & 0xFFFE == 0xFFFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_of_every_length_and_a_bad_byte_at_every_place() {
        for len in 0..40 {
            let good = vec![b'x'; len];
            assert_eq!(check(&good), Ok(()));
            assert_eq!(check_without_wildcards(&good), Ok(false));
            for at in 0..len {
                let with = |byte| {
                    let mut bytes = good.clone();
                    bytes[at] = byte;
                    bytes
                };
                assert_eq!(check(&with(0)), Err(DecodeError::NulCharacter));
                assert_eq!(check(&with(0xFF)), Err(DecodeError::NotUtf8));
                assert_eq!(check(&with(1)), Ok(()));
                assert_eq!(check(&with(0x7F)), Ok(()));
                assert_eq!(check_without_wildcards(&with(b'+')), Ok(true));
                assert_eq!(check_without_wildcards(&with(b'#')), Ok(true));
                for close in [b'*', b',', b'"', b'$', 1, 0x7F] {
                    assert_eq!(check_without_wildcards(&with(close)), Ok(false));
                }
                assert_eq!(check_without_wildcards(&with(0)), Err(DecodeError::NulCharacter));
            }
        }
    }

    #[test]
    fn surrogates_and_overlong_forms_are_not_utf8() {
        // 1.5.4: U+D800; U+DFFF; '/' in two bytes; beyond U+10FFFF; a lone continuation.
        let bad: [&[u8]; 5] = [&[0xED, 0xA0, 0x80], &[0xED, 0xBF, 0xBF], &[0xC0, 0xAF], &[0xF4, 0x90, 0x80, 0x80], &[0x80]];
        for bytes in bad {
            assert_eq!(check(bytes), Err(DecodeError::NotUtf8));
        }
        // The example of figure 1-1, "A" and U+2A6D4, and a byte order mark inside, which stays (MQTT-1.5.4-3).
        assert_eq!(check(&[0x41, 0xF0, 0xAA, 0x9B, 0x94]), Ok(()));
        assert_eq!(check("a\u{FEFF}b".as_bytes()), Ok(()));
        assert_eq!(check_without_wildcards("grüße/+".as_bytes()), Ok(true));
        assert_eq!(check_without_wildcards("grüße/x".as_bytes()), Ok(false));
    }

    #[test]
    fn discouraged_characters() {
        assert!(has_discouraged("a\u{7}"));
        assert!(has_discouraged("\u{FFFF}") && has_discouraged("\u{1FFFE}") && has_discouraged("\u{FDD0}"));
        assert!(!has_discouraged("grüße/日本"));
    }
}
