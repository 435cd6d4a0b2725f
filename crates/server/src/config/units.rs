//! Values with units and bounds, refused where they stand in the file.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Bytes, between bounds: a number, or a text such as `"64 MiB"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes<const MIN: u64, const MAX: u64>(pub u64);

/// A whole number between bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

/// A text of so many bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text<const MIN: usize, const MAX: usize>(pub String);

/// The same, for the beginning of a client identifier or of a topic: without wildcards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix(pub String);

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => MIB,
        "GiB" => GIB,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The largest unit that divides it.
fn show_bytes(bytes: u64) -> String {
    match [(1u64 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes % unit == 0)
    {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

fn in_bounds<E: Error>(value: u64, min: u64, max: u64, show: impl Fn(u64) -> String) -> Result<u64, E> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let bound = if max == u64::MAX { format!("at least {}", show(min)) } else { format!("from {} to {}", show(min), show(max)) };
    Err(E::custom(format!("{} is out of bounds: right would be {bound}", show(value))))
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (MIN..=MAX).contains(&text.len()) {
            true => Ok(Text(text)),
            false => Err(D::Error::custom(format!("a text of {} bytes: right would be one of {MIN} to {MAX} bytes", text.len()))),
        }
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::<0, 1024>::deserialize(deserializer)?;
        match text.find(['+', '#', '\0']) {
            None => Ok(Prefix(text)),
            Some(_) => Err(D::Error::custom(format!("{text:?} has a wildcard in it: right would be a text without +, # and NUL"))),
        }
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bytes<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = u64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a text with a unit such as \"64 MiB\"")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
                u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
                Ok(value)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
                parse_bytes(text.trim()).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        let value = deserializer.deserialize_any(Reader)?;
        in_bounds(value, MIN, MAX, show_bytes).map(Bytes)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        in_bounds(value, MIN, MAX, |value| value.to_string()).map(Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("64 MiB", Some(64 * MIB)),
            ("1GiB", Some(GIB)),
            ("10", Some(10)),
            ("3 KiB", Some(3072)),
            ("5 MB", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        assert_eq!(parse_bytes("99999999999 TiB"), None, "too large for 64 bits");
        assert_eq!((show_bytes(64 * MIB), show_bytes(1500), show_bytes(0)), ("64 MiB".into(), "1500 bytes".into(), "0 bytes".into()));
    }
}
