//! Topic names and topic filters (MQTT 5.0, 4.7), shared subscriptions (4.8).

use std::num::NonZeroU16;

use super::error::DecodeError;
use super::text;

/// Mosquitto's bound on the levels of a topic.
pub const LEVELS_MAX: NonZeroU16 = NonZeroU16::new(200).expect("not zero");

/// Checks the topic name of a PUBLISH: a string, not empty, without wildcards, with at most `levels_max` levels (`None`: any).
#[inline]
pub fn check_name(name: &[u8], levels_max: Option<NonZeroU16>) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::TopicEmpty);
    }
    if text::check_without_wildcards(name)? {
        return Err(DecodeError::TopicWildcard);
    }
    // A short name cannot have that many levels, so nothing needs to be counted.
    match levels_max {
        Some(max) if name.len() >= usize::from(max.get()) && levels(name) > usize::from(max.get()) => Err(DecodeError::TopicLevels),
        _ => Ok(()),
    }
}

/// The number of levels: one more than there are separators, since a level may be empty (4.7.1.1).
pub fn levels(topic: &[u8]) -> usize {
    1 + memchr::memchr_iter(b'/', topic).count()
}

/// The levels of a name or filter, in order.
#[inline]
pub fn segments(topic: &[u8]) -> Segments<'_> {
    Segments { rest: Some(topic) }
}

#[derive(Clone, Debug)]
pub struct Segments<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match memchr::memchr(b'/', rest) {
            Some(at) => {
                self.rest = Some(&rest[at + 1..]);
                Some(&rest[..at])
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }
}

/// A well-formed topic filter, with the name of its group if it is a shared subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    /// The share name of `$share/<name>/<filter>`.
    pub share: Option<&'a str>,
    /// What is matched against topic names.
    pub filter: &'a str,
}

impl<'a> Filter<'a> {
    /// Takes the filter as it stands in SUBSCRIBE and UNSUBSCRIBE. Shared subscriptions are read in every version.
    pub fn parse(text: &'a str) -> Result<Filter<'a>, DecodeError> {
        if text.is_empty() {
            return Err(DecodeError::FilterEmpty);
        }
        let Some(shared) = text.strip_prefix("$share") else { return plain(text) };
        match shared.strip_prefix('/') {
            Some(shared) => share(shared),
            None if shared.is_empty() => Err(DecodeError::ShareFilter),
            // Another topic that only begins like it.
            None => plain(text),
        }
    }

    pub fn is_shared(&self) -> bool {
        self.share.is_some()
    }

    pub fn is_wildcard(&self) -> bool {
        memchr::memchr2(b'+', b'#', self.filter.as_bytes()).is_some()
    }

    pub fn levels(&self) -> usize {
        levels(self.filter.as_bytes())
    }

    pub fn segments(&self) -> Segments<'a> {
        segments(self.filter.as_bytes())
    }

    /// Whether the filter selects the name (4.7.1, 4.7.2). The plain reading of the rules, for clients and as a yardstick; the broker
    /// routes through its tries.
    pub fn matches(&self, name: &str) -> bool {
        let first_is_wildcard = self.filter.starts_with(['+', '#']);
        if first_is_wildcard && name.starts_with('$') {
            return false;
        }
        let mut levels = segments(name.as_bytes());
        for wanted in self.segments() {
            match (wanted, levels.next()) {
                (b"#", _) => return true,
                (_, None) => return false,
                (b"+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

fn share(text: &str) -> Result<Filter<'_>, DecodeError> {
    let (name, filter) = match text.split_once('/') {
        Some(parts) => parts,
        None if text.is_empty() => return Err(DecodeError::ShareName),
        None => return Err(DecodeError::ShareFilter),
    };
    if name.is_empty() || name.contains(['+', '#']) {
        return Err(DecodeError::ShareName);
    }
    if filter.is_empty() {
        return Err(DecodeError::ShareFilter);
    }
    Ok(Filter { share: Some(name), ..plain(filter)? })
}

fn plain(filter: &str) -> Result<Filter<'_>, DecodeError> {
    let mut levels = segments(filter.as_bytes());
    while let Some(level) = levels.next() {
        match memchr::memchr2(b'+', b'#', level) {
            None => {}
            Some(at) if level[at] == b'+' && level.len() > 1 => return Err(DecodeError::FilterPlus),
            Some(at) if level[at] == b'#' && (level.len() > 1 || levels.rest.is_some()) => return Err(DecodeError::FilterHash),
            Some(_) => {}
        }
    }
    Ok(Filter { share: None, filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter<'_> {
        Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The examples of 4.7.1.2 and 4.7.1.3.
    #[test]
    fn filters_of_the_specification() {
        for good in
            ["sport/tennis/player1/#", "sport/#", "#", "sport/tennis/#", "+", "+/tennis/#", "sport/+/player1", "/+", "+/+", "/", "//"]
        {
            filter(good);
        }
        let bad = [
            ("", DecodeError::FilterEmpty),
            ("sport/tennis#", DecodeError::FilterHash),
            ("sport/tennis/#/ranking", DecodeError::FilterHash),
            ("#/", DecodeError::FilterHash),
            ("##", DecodeError::FilterHash),
            ("sport+", DecodeError::FilterPlus),
            ("a/+b/c", DecodeError::FilterPlus),
            ("++", DecodeError::FilterPlus),
        ];
        for (text, error) in bad {
            assert_eq!(Filter::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn matching_by_the_examples_of_the_specification() {
        let rows = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("/finance", "finance", false),
        ];
        for (text, name, expected) in rows {
            assert_eq!(filter(text).matches(name), expected, "{text} {name}");
        }
    }

    #[test]
    fn shared_subscriptions() {
        assert_eq!(filter("$share/g/a/+/#"), Filter { share: Some("g"), filter: "a/+/#" });
        assert_eq!(filter("$share/g//finance").filter, "/finance");
        assert_eq!(filter("$share/g//").filter, "/");
        assert_eq!(filter("$shared/g/a"), Filter { share: None, filter: "$shared/g/a" });
        let bad = [
            ("$share", DecodeError::ShareFilter),
            ("$share/", DecodeError::ShareName),
            ("$share//a", DecodeError::ShareName),
            ("$share/g", DecodeError::ShareFilter),
            ("$share/g/", DecodeError::ShareFilter),
            ("$share/+/a", DecodeError::ShareName),
            ("$share/a#/a", DecodeError::ShareName),
            ("$share/g/a#", DecodeError::FilterHash),
        ];
        for (text, error) in bad {
            assert_eq!(Filter::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn names() {
        let max = NonZeroU16::new(3);
        for good in ["a", "/", "a/b/c", "a b", "$SYS/x", "grüße"] {
            assert_eq!(check_name(good.as_bytes(), max), Ok(()), "{good}");
        }
        assert_eq!(check_name(b"", max), Err(DecodeError::TopicEmpty));
        assert_eq!(check_name(b"a/b/c/d", max), Err(DecodeError::TopicLevels));
        assert_eq!(check_name(b"////", max), Err(DecodeError::TopicLevels));
        assert_eq!(check_name(b"a/b/c/d", None), Ok(()));
        assert_eq!(check_name(b"a/+", max), Err(DecodeError::TopicWildcard));
        assert_eq!(check_name(b"a#", max), Err(DecodeError::TopicWildcard));
        assert_eq!(check_name(b"a\0", max), Err(DecodeError::NulCharacter));
        assert_eq!(check_name(&[0xED, 0xA0, 0x80], max), Err(DecodeError::NotUtf8));
        let deep = "a/".repeat(199) + "a";
        assert_eq!(check_name(deep.as_bytes(), Some(LEVELS_MAX)), Ok(()));
        assert_eq!(check_name((deep + "/").as_bytes(), Some(LEVELS_MAX)), Err(DecodeError::TopicLevels));
    }

    #[test]
    fn segments_keep_empty_levels() {
        let split = |text: &'static str| segments(text.as_bytes()).map(|level| std::str::from_utf8(level).unwrap()).collect::<Vec<_>>();
        assert_eq!(split("a/b"), ["a", "b"]);
        assert_eq!(split("/"), ["", ""]);
        assert_eq!(split("a//b/"), ["a", "", "b", ""]);
        assert_eq!(levels(b"a//b/"), 4);
    }
}
