//! Topic filters as sets of topics: does one match a topic, does one contain another, do two meet.
//!
//! Access rules are asked about subscriptions too, and a subscription is itself a set. A rule grants it only if the rule's set
//! contains the whole of it; a denial cuts into it if the two sets meet.
//!
//! MQTT 5.0, 4.7: `/` separates levels, `+` is one level, a final `#` is the level above and any number below, and neither stands
//! for a first level that begins with `$` (4.7.2).

/// One level of a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level<'a> {
    Text(&'a [u8]),
    /// `+`
    One,
    /// `#`; whatever stands behind it is not looked at.
    Rest,
}

impl<'a> Level<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Level<'a> {
        match text {
            b"+" => Level::One,
            b"#" => Level::Rest,
            _ => Level::Text(text),
        }
    }
}

pub(super) fn levels(filter: &[u8]) -> impl Iterator<Item = Level<'_>> {
    filter.split(|&b| b == b'/').map(Level::parse)
}

/// A filter is well formed if `#` is the last level and neither wildcard shares its level with other text (MQTT 5.0, 4.7.1).
pub(super) fn check(filter: &str) -> Result<(), &'static str> {
    if filter.is_empty() {
        return Err("the topic is empty");
    }
    if filter.len() > usize::from(u16::MAX) {
        return Err("the topic is longer than 65535 bytes");
    }
    if filter.contains('\0') {
        return Err("the topic contains a NUL character");
    }
    let mut ended = false;
    for level in filter.split('/') {
        if ended {
            return Err("'#' may only be the last level");
        }
        ended = level == "#";
        if level.len() > 1 && level.contains(['+', '#']) {
            return Err("'+' and '#' must be a level of their own, as in a/+/b or a/#");
        }
    }
    Ok(())
}

fn hidden(text: &[u8]) -> bool {
    text.first() == Some(&b'$')
}

pub(super) fn matches<'a>(mut filter: impl Iterator<Item = Level<'a>>, topic: &[u8]) -> bool {
    let mut topic = topic.split(|&b| b == b'/');
    let mut first = true;
    loop {
        let at = topic.next();
        match (filter.next(), at) {
            (Some(Level::Rest), at) => return !(first && at.is_some_and(hidden)),
            (Some(Level::One), Some(text)) if !(first && hidden(text)) => {}
            (Some(Level::Text(want)), Some(text)) if want == text => {}
            (None, None) => return true,
            _ => return false,
        }
        first = false;
    }
}

/// Whether each topic of `narrow` is one of `wide`.
pub(super) fn covers<'w, 'n>(mut wide: impl Iterator<Item = Level<'w>>, mut narrow: impl Iterator<Item = Level<'n>>) -> bool {
    let mut first = true;
    loop {
        match (wide.next(), narrow.next()) {
            (Some(Level::Rest), Some(Level::Text(text))) if first && hidden(text) => return false,
            (Some(Level::Rest), _) => return true,
            // A leading `#` needs at least one level, and that is what `+/#` asks for.
            (Some(Level::One), Some(Level::Rest)) => return first && wide.next() == Some(Level::Rest),
            (Some(Level::One), Some(Level::Text(text))) if first && hidden(text) => return false,
            (Some(Level::One), Some(Level::Text(_) | Level::One)) => {}
            (Some(Level::Text(want)), Some(Level::Text(text))) if want == text => {}
            (None, None) => return true,
            _ => return false,
        }
        first = false;
    }
}

/// Whether some topic belongs to both.
pub(super) fn meet<'a, 'b>(mut a: impl Iterator<Item = Level<'a>>, mut b: impl Iterator<Item = Level<'b>>) -> bool {
    let mut first = true;
    loop {
        match (a.next(), b.next()) {
            (Some(Level::Rest | Level::One), Some(Level::Text(text))) | (Some(Level::Text(text)), Some(Level::Rest | Level::One))
                if first && hidden(text) =>
            {
                return false
            }
            (Some(Level::Rest), _) | (_, Some(Level::Rest)) => return true,
            (Some(Level::Text(x)), Some(Level::Text(y))) if x != y => return false,
            (Some(_), Some(_)) => {}
            (None, None) => return true,
            _ => return false,
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn m(filter: &str, topic: &str) -> bool {
        matches(levels(filter.as_bytes()), topic.as_bytes())
    }
    fn c(wide: &str, narrow: &str) -> bool {
        covers(levels(wide.as_bytes()), levels(narrow.as_bytes()))
    }
    fn both(a: &str, b: &str) -> bool {
        meet(levels(a.as_bytes()), levels(b.as_bytes()))
    }

    #[test]
    fn filters_match_as_mqtt_says() {
        for (filter, topic) in
            [("a/#", "a"), ("a/#", "a/b/c"), ("+/b", "a/b"), ("#", "a"), ("+", ""), ("a/+", "a/"), ("$SYS/#", "$SYS/x"), ("/a", "/a")]
        {
            assert!(m(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [("a/+", "a"), ("a", "a/b"), ("#", "$SYS/x"), ("+/x", "$SYS/x"), ("$SYS/#", "a"), ("a/#", "ab"), ("A", "a")]
        {
            assert!(!m(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn a_rule_covers_what_it_contains() {
        for (wide, narrow) in
            [("#", "a/+/b"), ("a/#", "a"), ("a/#", "a/#"), ("a/+", "a/b"), ("+/#", "#"), ("$SYS/#", "$SYS/+/x"), ("+/+", "a/+")]
        {
            assert!(c(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in
            [("a/+", "a/#"), ("a/b", "a/+"), ("#", "$SYS/#"), ("+/x", "$SYS/x"), ("a/+/#", "a/#"), ("a", "a/#"), ("a/#", "#"), ("a/#", "+")]
        {
            assert!(!c(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn malformed_filters_are_told_apart() {
        for good in ["#", "+", "a//b", "/", "a/+/#", "$SYS/#"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "a/#/b", "a#", "a/b+", "#/", "a\0"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    /// All topics of up to four levels over the letters that the filters use, one that none uses, and the empty level.
    fn universe() -> Vec<String> {
        let letters = ["a", "b", "$s", "", "z"];
        let mut all: Vec<String> = letters.iter().map(|l| (*l).to_owned()).collect();
        let mut longest = all.clone();
        for _ in 0..3 {
            longest = longest.iter().flat_map(|head| letters.iter().map(move |l| format!("{head}/{l}"))).collect();
            all.extend(longest.iter().cloned());
        }
        all
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "$s", "", "+"]);
        (prop::collection::vec(level, 0..4), any::<bool>())
            .prop_map(|(mut levels, rest)| {
                if rest || levels.is_empty() {
                    levels.truncate(2);
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("well formed", |f| check(f).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
        #[test]
        fn covering_and_meeting_agree_with_trying_every_topic(a in filter(), b in filter()) {
            let all = universe();
            prop_assert_eq!(c(&a, &b), all.iter().all(|t| !m(&b, t) || m(&a, t)), "{} covers {}", a, b);
            prop_assert_eq!(both(&a, &b), all.iter().any(|t| m(&a, t) && m(&b, t)), "{} meets {}", a, b);
        }
    }
}
