//! Regular expressions over names, as operators write them for RabbitMQ: they match anywhere unless they are anchored.
//!
//! RabbitMQ's engine (PCRE) knows look-around; ours works in linear time and does not. The one use of it that definitions are full of,
//! conditions right behind a leading `^` (`^(?!amq\.).*`), is taken apart here: each condition is a pattern of its own.

use regex::{Regex, RegexBuilder};

/// A pattern is not longer than this, nor its compiled form larger.
const PATTERN_MAX: usize = 4096;
const COMPILED_MAX: usize = 1 << 20;
/// Conditions in front of a pattern.
const CONDITIONS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub(crate) struct NamePattern {
    /// What the beginning of a name has to match, or not to match.
    conditions: Vec<(Regex, bool)>,
    rest: Regex,
}

impl NamePattern {
    pub fn parse(text: &str) -> Result<NamePattern, String> {
        if text.len() > PATTERN_MAX {
            return Err(format!("the pattern is longer than {PATTERN_MAX} bytes"));
        }
        let mut conditions = Vec::new();
        let mut rest = text.strip_prefix('^').unwrap_or("");
        while let Some((inside, wanted, behind)) = condition(rest) {
            if conditions.len() == CONDITIONS_MAX {
                return Err(format!("more than {CONDITIONS_MAX} conditions"));
            }
            conditions.push((compile(&format!("^(?:{inside})"))?, wanted));
            rest = behind;
        }
        if conditions.is_empty() {
            return Ok(NamePattern { conditions, rest: compile(text)? });
        }
        if has_alternatives(rest) {
            return Err("alternatives beside a condition (?!...) are not supported: put them into parentheses".to_owned());
        }
        Ok(NamePattern { conditions, rest: compile(&format!("^{rest}"))? })
    }

    pub fn matches(&self, name: &str) -> bool {
        self.conditions.iter().all(|(regex, wanted)| regex.is_match(name) == *wanted) && self.rest.is_match(name)
    }
}

fn compile(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(COMPILED_MAX).build().map_err(|error| error.to_string())
}

/// A condition in front: what is inside it, whether it has to match, and what follows.
fn condition(text: &str) -> Option<(&str, bool, &str)> {
    let wanted = text.starts_with("(?=");
    if !wanted && !text.starts_with("(?!") {
        return None;
    }
    let end = Levels::of(text).find(|(_, level, _)| *level == 0).map(|(at, ..)| at)?;
    Some((&text[3..end], wanted, &text[end + 1..]))
}

fn has_alternatives(text: &str) -> bool {
    Levels::of(text).any(|(_, level, byte)| level == 0 && byte == b'|')
}

/// The bytes of a pattern that are no literals, with how many parentheses are open behind them.
struct Levels<'a> {
    bytes: std::iter::Enumerate<std::slice::Iter<'a, u8>>,
    level: usize,
    in_class: bool,
}

impl Levels<'_> {
    fn of(text: &str) -> Levels<'_> {
        Levels { bytes: text.as_bytes().iter().enumerate(), level: 0, in_class: false }
    }
}

impl Iterator for Levels<'_> {
    type Item = (usize, usize, u8);

    fn next(&mut self) -> Option<(usize, usize, u8)> {
        loop {
            let (at, byte) = self.bytes.next()?;
            match byte {
                b'\\' => drop(self.bytes.next()),
                b']' => self.in_class = false,
                _ if self.in_class => {}
                b'[' => self.in_class = true,
                b'(' => self.level += 1,
                b')' => self.level = self.level.saturating_sub(1),
                b'|' => {}
                _ => continue,
            }
            if matches!(byte, b'(' | b')' | b'|') && !self.in_class {
                return Some((at, self.level, *byte));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(pattern: &str) -> Vec<&'static str> {
        let pattern = NamePattern::parse(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
        ["amq.gen-1", "orders", "orders.dead", "x(y", "federation: a", ""].into_iter().filter(|name| pattern.matches(name)).collect()
    }

    #[test]
    fn patterns_match_anywhere_and_conditions_at_the_beginning() {
        assert_eq!(matching("dead"), ["orders.dead"]);
        assert_eq!(matching(""), ["amq.gen-1", "orders", "orders.dead", "x(y", "federation: a", ""]);
        assert_eq!(matching("^(?!amq\\.).*"), ["orders", "orders.dead", "x(y", "federation: a", ""]);
        assert_eq!(matching("^(?!amq\\.)(?!federation: ).+"), ["orders", "orders.dead", "x(y"]);
        assert_eq!(matching("^(?!(amq|fed)|x[(]).*s$"), ["orders"]);
        assert_eq!(matching("^(?=orders)(?!.*dead)(.*)"), ["orders"]);
        assert_eq!(matching("^(?!x\\()(x|.*d)"), ["orders", "orders.dead", "federation: a"]);
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        for pattern in ["(", "a(?!b)", "^(?!amq", "^(?!amq).*|x", "(a)\\1", "(\\w{100}){100}{100}"] {
            assert!(NamePattern::parse(pattern).is_err(), "{pattern}");
        }
        assert!(NamePattern::parse(&"x".repeat(PATTERN_MAX + 1)).unwrap_err().contains("longer"));
        assert!(NamePattern::parse(&format!("^{}", "(?!x)".repeat(17))).unwrap_err().contains("conditions"));
    }
}
