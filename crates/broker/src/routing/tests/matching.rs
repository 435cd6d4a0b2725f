//! Names and patterns of both languages against a matcher that is too simple to be wrong.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::routing::topic::{Encoded, Name, Pattern, Syntax, TopicError, LEVELS_MAX};
use crate::routing::trie::{Dollar, Trie};

/// The definition, on text: split, and let `#` try every length. `None` if the text is no pattern.
pub(super) fn naive(syntax: Syntax, pattern: &str, name: &[&str], dollar: Dollar) -> bool {
    let (separator, one) = match syntax {
        Syntax::Mqtt => ('/', "+"),
        Syntax::Words => unreachable!("made of Amqp"),
        Syntax::Amqp => ('.', "*"),
    };
    let pattern: Vec<&str> = if pattern.is_empty() { vec![] } else { pattern.split(separator).collect() };
    let starts_wild = pattern.first().is_some_and(|first| *first == one || *first == "#");
    if dollar == Dollar::Hidden && starts_wild && name.first().is_some_and(|first| first.starts_with('$')) {
        return false;
    }
    naive_words(one, &pattern, name)
}

fn naive_words(one: &str, pattern: &[&str], name: &[&str]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => (0..=name.len()).any(|taken| naive_words(one, rest, &name[taken..])),
        (Some((wanted, pattern)), Some((word, name))) => (*wanted == one || wanted == word) && naive_words(one, pattern, name),
        _ => false,
    }
}

/// Few words, so that things match; among them what one language would take for a wildcard or a separator.
pub(super) fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]", 1 => Just(String::new()), 1 => Just("$s".into()), 1 => Just("a\u{1}".into()), 1 => Just("\u{1}\u{1}".into())]
}

pub(super) fn name_words() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop_oneof![9 => word(), 1 => Just("c".into())], 1..6)
}

pub(super) fn pattern_text() -> impl Strategy<Value = (Syntax, String)> {
    let amqp = prop::collection::vec(prop_oneof![4 => word(), 1 => Just("*".into()), 2 => Just("#".into())], 1..6);
    let mqtt = (prop::collection::vec(prop_oneof![4 => word(), 2 => Just("+".to_string())], 0..6), any::<bool>());
    prop_oneof![
        amqp.prop_map(|words| (Syntax::Amqp, words.join("."))),
        mqtt.prop_filter_map("MQTT has no empty topic", |(mut words, many)| {
            if many {
                words.push("#".into());
            }
            let text = words.join("/");
            (!text.is_empty()).then_some((Syntax::Mqtt, text))
        }),
    ]
}

pub(super) fn name_of(words: &[String]) -> Name<'_> {
    Name::from_segments(words.iter().map(|word| word.as_bytes())).expect("few words")
}

fn ids<V: Clone>(trie: &Trie<V>, name: &Name<'_>) -> Vec<u64> {
    let mut found = Vec::new();
    trie.matches(name, |id, _| found.push(id));
    found.sort_unstable();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_pattern_matches_as_defined((syntax, text) in pattern_text(), words in name_words()) {
        let plain: Vec<&str> = words.iter().map(String::as_str).collect();
        let pattern = Pattern::parse(syntax, text.as_bytes()).expect("a legal pattern");
        prop_assert_eq!(pattern.matches(&name_of(&words)), naive(syntax, &text, &plain, Dollar::Hidden));
    }

    #[test]
    fn encoding_is_exact(one in name_words(), two in name_words()) {
        let (first, second) = (Encoded::of_name(&name_of(&one)), Encoded::of_name(&name_of(&two)));
        prop_assert_eq!(first == second, one == two);
        let back: Vec<Vec<u8>> = first.segments().map(|segment| segment.into_owned()).collect();
        prop_assert_eq!(&back, &one.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
        prop_assert_eq!(Encoded::from_bytes(first.as_bytes()), Some(first));
    }

    /// A random history of inserts and removals, then every name: the trie finds exactly what a list of patterns would.
    #[test]
    fn a_trie_is_a_list_of_patterns(
        history in prop::collection::vec((pattern_text(), 0u64..4, any::<u16>(), prop::bool::weighted(0.3)), 1..60),
        names in prop::collection::vec(name_words(), 1..12),
        hidden in any::<bool>(),
    ) {
        let dollar = if hidden { Dollar::Hidden } else { Dollar::Ordinary };
        let trie = Trie::new(dollar);
        // By canonical pattern: both languages' spelling of one pattern is one entry.
        let mut model: BTreeMap<(Encoded, u64), (Syntax, String, u16)> = BTreeMap::new();
        for ((syntax, text), id, value, removes) in history {
            let pattern = Pattern::parse(syntax, text.as_bytes()).expect("a legal pattern");
            let key = (Encoded::of_pattern(&pattern), id);
            if removes {
                prop_assert_eq!(trie.remove(&pattern, id), model.remove(&key).map(|(_, _, value)| value));
            } else {
                let before = model.insert(key, (syntax, text.clone(), value)).map(|(_, _, value)| value);
                prop_assert_eq!(trie.insert(&pattern, id, value), before);
            }
            prop_assert_eq!(trie.len(), model.len());
        }
        for words in &names {
            let plain: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut expected: Vec<(u64, u16)> = model.iter()
                .filter(|(_, (syntax, text, _))| naive(*syntax, text, &plain, dollar))
                .map(|((_, id), (_, _, value))| (*id, *value))
                .collect();
            let mut found = Vec::new();
            trie.matches(&name_of(words), |id, value| found.push((id, *value)));
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
        for ((_, id), (syntax, text, _)) in &model {
            prop_assert!(trie.remove(&Pattern::parse(*syntax, text.as_bytes()).expect("a legal pattern"), *id).is_some());
        }
        prop_assert!(trie.is_empty() && trie.trees() == 0);
    }
}

#[test]
fn the_languages_meet_in_segments() {
    let trie = Trie::default();
    trie.insert(&Pattern::mqtt(b"a/+/c").unwrap(), 1, "mqtt");
    trie.insert(&Pattern::amqp(b"a.#.c").unwrap(), 2, "amqp");
    trie.insert(&Pattern::amqp(b"a.b.c").unwrap(), 3, "exact");
    trie.insert(&Pattern::mqtt(b"a/b/c/#").unwrap(), 4, "below");
    assert_eq!(ids(&trie, &Name::amqp(b"a.b.c").unwrap()), [1, 2, 3, 4]);
    assert_eq!(ids(&trie, &Name::mqtt(b"a/b/c").unwrap()), [1, 2, 3, 4]);
    assert_eq!(ids(&trie, &Name::mqtt(b"a/c").unwrap()), [2]);
    assert_eq!(ids(&trie, &Name::mqtt(b"a/b.c").unwrap()), [0u64; 0]);
    assert_eq!(trie.insert(&Pattern::amqp(b"a.*.c").unwrap(), 1, "same pattern"), Some("mqtt"));
}

#[test]
fn empty_segments_and_the_empty_key() {
    let trie = Trie::default();
    for (id, text) in ["#", "*", "", "*.*", "#.*"].iter().enumerate() {
        trie.insert(&Pattern::amqp(text.as_bytes()).unwrap(), id as u64, ());
    }
    assert_eq!(ids(&trie, &Name::amqp(b"").unwrap()), [0, 2]);
    assert_eq!(ids(&trie, &Name::mqtt(b"/").unwrap()), [0, 3, 4]);
    assert_eq!(ids(&trie, &Name::amqp(b".").unwrap()), [0, 3, 4]);
    assert_eq!(ids(&trie, &Name::amqp(b"x").unwrap()), [0, 1, 4]);
}

#[test]
fn dollar_names_are_hidden_from_leading_wildcards_only() {
    let trie = Trie::default();
    for (id, text) in ["#", "*.x", "$S.#", "$S.*", "#.$S.x"].iter().enumerate() {
        trie.insert(&Pattern::amqp(text.as_bytes()).unwrap(), id as u64, ());
    }
    assert_eq!(ids(&trie, &Name::mqtt(b"$S/x").unwrap()), [2, 3]);
    assert_eq!(ids(&trie, &Name::mqtt(b"y/$S/x").unwrap()), [0, 4]);
}

#[test]
fn what_is_no_name_or_pattern_is_said() {
    use TopicError::*;
    let pattern = |text: &str| Pattern::mqtt(text.as_bytes()).err();
    assert_eq!(pattern(""), Some(Empty));
    assert_eq!(pattern("a/#/b"), Some(MisplacedWildcard));
    assert_eq!(pattern("#/#"), Some(MisplacedWildcard));
    assert_eq!(pattern("a#"), Some(MisplacedWildcard));
    assert_eq!(pattern("a/b+/c"), Some(MisplacedWildcard));
    assert_eq!(pattern("+/+/#"), None);
    assert_eq!(Name::mqtt(b"a/+").err(), Some(WildcardInName));
    assert_eq!(Name::amqp(b"a.#.+").err(), None);
    assert_eq!(Name::amqp(&[b'.'; LEVELS_MAX]).err(), Some(TooManyLevels));
    assert_eq!(Pattern::mqtt(&[b'/'; LEVELS_MAX]).err(), Some(TooManyLevels));
    assert_eq!(Name::amqp(&[b'.'; LEVELS_MAX - 1]).err(), None);
    assert_eq!(Name::amqp(&[b'a'; 70_000]).err(), Some(TooLong));
    // AMQP takes any word literally that is not a wildcard by itself.
    assert!(Pattern::amqp(b"a*.+").unwrap().matches(&Name::amqp(b"a*.+").unwrap()));
    for broken in [&b"a"[..], b"\x01\x03\0", b"a\x01\0"] {
        assert_eq!(Encoded::from_bytes(broken), None);
    }
}

/// A walk that tried every way to share 250 words among 120 `#` would not end within the age of the universe.
#[test]
fn many_wildcards_stay_cheap() {
    let trie = Trie::default();
    let greedy = ["#.a"; 100].join(".") + ".z";
    let collapsed = ["#"; 200].join(".");
    trie.insert(&Pattern::amqp(greedy.as_bytes()).unwrap(), 1, ());
    trie.insert(&Pattern::amqp(collapsed.as_bytes()).unwrap(), 2, ());
    trie.insert(&Pattern::amqp((collapsed.clone() + ".z").as_bytes()).unwrap(), 3, ());
    let name = ["a"; 250].join(".");
    assert_eq!(ids(&trie, &Name::amqp(name.as_bytes()).unwrap()), [2]);
    assert!(!Pattern::amqp(greedy.as_bytes()).unwrap().matches(&Name::amqp(name.as_bytes()).unwrap()));
    let name = name + ".z";
    assert_eq!(ids(&trie, &Name::amqp(name.as_bytes()).unwrap()), [1, 2, 3]);
    // Work is counted, not timed: 251 words times the nodes that can be active at once.
    assert!(trie.match_steps(&Name::amqp(name.as_bytes()).unwrap()) <= 251 * 520);
}

/// More active `#` nodes than are looked through one by one.
#[test]
fn many_active_nodes_are_each_visited_once() {
    let trie = Trie::default();
    for id in 0..60u64 {
        let text = vec!["#.a"; id as usize + 1].join(".") + ".#.#";
        trie.insert(&Pattern::amqp(text.as_bytes()).unwrap(), id, ());
    }
    let name = ["a"; 40].join(".");
    assert_eq!(ids(&trie, &Name::amqp(name.as_bytes()).unwrap()), (0..40).collect::<Vec<u64>>());
}
