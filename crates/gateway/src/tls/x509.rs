//! The few fields of a certificate that we want to know: how long it is valid, and who it stands for (RFC 5280, 4.1).
//!
//! Whether it is genuine is rustls's business; this only walks its DER. What does not look as it should is no certificate: `None`.

/// Names in a certificate that are looked at.
const NAMES_MAX: usize = 64;
/// A name that becomes a user's.
const NAME_LEN_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Seconds since the Unix epoch, both included.
    pub not_before: i64,
    pub not_after: i64,
    common_names: Vec<String>,
    alternative_names: Vec<String>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
/// 2.5.29.17
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 17];

pub(crate) fn read(der: &[u8]) -> Option<Facts> {
    let certificate = Der(der).expect(SEQUENCE)?;
    let mut fields = Der(Der(certificate).expect(SEQUENCE)?);
    if fields.peek() == Some(0xa0) {
        fields.next()?;
    }
    fields.expect(INTEGER)?;
    fields.expect(SEQUENCE)?;
    fields.expect(SEQUENCE)?;
    let mut validity = Der(fields.expect(SEQUENCE)?);
    let mut facts = Facts { not_before: time(validity.next()?)?, not_after: time(validity.next()?)?, ..Facts::default() };
    read_subject(Der(fields.expect(SEQUENCE)?), &mut facts.common_names)?;
    fields.expect(SEQUENCE)?;
    while let Some((tag, value)) = fields.next() {
        if tag == 0xa3 {
            read_extensions(Der(Der(value).expect(SEQUENCE)?), &mut facts.alternative_names)?;
        }
    }
    Some(facts)
}

impl Facts {
    /// Only where there is exactly one: of two, who knows which one was checked by whoever signed.
    pub fn common_name(&self) -> Option<&str> {
        match &self.common_names[..] {
            [name] => Some(name),
            _ => None,
        }
    }

    pub fn alternative_name(&self) -> Option<&str> {
        self.alternative_names.first().map(String::as_str)
    }

    /// For logs.
    pub fn subject(&self) -> &str {
        self.common_name().or(self.alternative_name()).unwrap_or("(no name)")
    }
}

fn read_subject(mut sets: Der<'_>, names: &mut Vec<String>) -> Option<()> {
    while let Some((tag, set)) = sets.next() {
        if tag != SET {
            return None;
        }
        let mut pairs = Der(set);
        while let Some((_, pair)) = pairs.next() {
            let mut pair = Der(pair);
            let kind = pair.expect(OID)?;
            let (string, value) = pair.next()?;
            if kind == COMMON_NAME && names.len() < NAMES_MAX {
                names.push(text(string, value)?);
            }
        }
    }
    Some(())
}

fn read_extensions(mut extensions: Der<'_>, names: &mut Vec<String>) -> Option<()> {
    while let Some((_, extension)) = extensions.next() {
        let mut extension = Der(extension);
        if extension.expect(OID)? != ALTERNATIVE_NAMES {
            continue;
        }
        // Between the two may stand whether it is critical.
        let mut value = extension.next()?;
        if value.0 != OCTETS {
            value = extension.next()?;
        }
        let mut general = Der(Der(value.1).expect(SEQUENCE)?);
        while let Some((tag, name)) = general.next() {
            // Mail address, DNS name and URI: the kinds that are text.
            if matches!(tag, 0x81 | 0x82 | 0x86) && names.len() < NAMES_MAX {
                names.push(text(0x16, name)?);
            }
        }
    }
    Some(())
}

/// UTF8String, and the older kinds as far as they are ASCII. Control characters, NUL above all, make a name that only looks like another.
fn text(tag: u8, value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let right = match tag {
        0x0c => true,
        0x13 | 0x14 | 0x16 => text.is_ascii(),
        _ => false,
    };
    let plain = !text.is_empty() && text.len() <= NAME_LEN_MAX && !text.chars().any(char::is_control);
    (right && plain).then(|| text.to_owned())
}

/// RFC 5280, 4.1.2.5: both kinds in UTC, with seconds.
fn time((tag, value): (u8, &[u8])) -> Option<i64> {
    let digits = value.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| Some(digits.get(from..to)?.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')));
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        GENERALIZED_TIME => (number(0, 4)?, 4),
        _ => return None,
    };
    if digits.len() != rest + 10 {
        return None;
    }
    let part = |n: usize| number(rest + 2 * n, rest + 2 * n + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// In a calendar whose years begin in March, so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// Values one after another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Tag and content of the next value; `None` at the end or where it is not whole.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        // Tags of more bytes do not occur where we look.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let names = ["first.example".to_owned(), "second.example".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn names_and_times_are_found() {
        let der = certificate(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::OrganizationName, "House");
            params.distinguished_name.push(rcgen::DnType::CommonName, "sensor-ä");
            params.not_before = rcgen::date_time_ymd(2000, 2, 29);
            params.not_after = rcgen::date_time_ymd(2124, 12, 31);
        });
        let facts = read(&der).expect("a certificate");
        assert_eq!((facts.common_name(), facts.alternative_name()), (Some("sensor-ä"), Some("first.example")));
        // date -u -d 2000-02-29 +%s; date -u -d 2124-12-31 +%s: one as UTCTime, one as GeneralizedTime.
        assert_eq!((facts.not_before, facts.not_after), (951_782_400, 4_891_276_800));
    }

    #[test]
    fn a_name_that_is_not_clear_is_none() {
        let two = certificate(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
        });
        assert_eq!(read(&two).expect("a certificate").common_name(), None);
        assert_eq!(text(0x0c, b"guest\0.example"), None);
        assert_eq!(text(0x13, "ä".as_bytes()), None);
        assert_eq!(text(0x0c, b""), None);
    }

    #[test]
    fn cut_and_changed_bytes_are_refused_or_read_and_nothing_else() {
        let der = certificate(|_| {});
        for cut in 0..der.len() {
            assert!(read(&der[..cut]).is_none(), "cut at {cut}");
        }
        for at in 0..der.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= flip;
                let _ = read(&changed);
            }
        }
    }
}
