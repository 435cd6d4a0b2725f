//! The language: what is true of which values, what is refused and where, and a second, slower reading of it to compare with.

use super::*;
use proptest::prelude::*;

/// Values of every kind; `nothing` is not there.
fn value(name: &str) -> Val<'static> {
    let text = |text: &'static str| Val::Text(Cow::Borrowed(text));
    match name {
        "color" => text("red"),
        "empty" => text(""),
        "price" => Val::Int(10),
        "weight" => Val::Float(2.5),
        "digits" => text("42"),
        "yes" => Val::Bool(true),
        "no" => Val::Bool(false),
        "odd name" => text("quoted"),
        "content-type" => text("text/plain"),
        "JMSPriority" => Val::Int(4),
        _ => Val::Null,
    }
}

fn result(text: &str) -> Val<'static> {
    let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let values: Vec<Val<'_>> = selector.names().map(value).collect();
    match selector.evaluate(&values) {
        Val::Bool(value) => Val::Bool(value),
        Val::Null => Val::Null,
        // A name alone may stand for anything.
        _ => Val::Bool(false),
    }
}

#[test]
fn what_is_true() {
    for text in [
        "TRUE",
        "yes",
        "color = 'red'",
        "color <> 'blue'",
        "\"odd name\" = 'quoted'",
        "price BETWEEN 10 AND 10",
        "price NOT BETWEEN 11 AND 12",
        "price > 9 AND price < 10.5 AND price >= 10 AND price <= 10e0",
        "price * 2 + 1 = 21 AND price - 3 * 2 = 4 AND (price - 3) * 2 = 14",
        "price / 4 = 2 AND price / 4.0 = weight AND price % 3 = 1",
        "-price = -10 AND +price = 10 AND - -price = 10",
        "price = 0xA AND price = 012 AND price = 10L AND price = 10.",
        "weight = 2.5 AND .5 < weight AND weight < 25E-1 + 1",
        "-9223372036854775808 < price AND 9223372036854775807 > price",
        "color IN ('blue', 'red') AND color NOT IN ('green')",
        "color LIKE 'r%' AND color LIKE '_e_' AND color LIKE '%' AND color NOT LIKE 'r' AND color LIKE '%e%d'",
        "'12_3' = '12_3' AND digits NOT LIKE '4!_' ESCAPE '!' AND empty LIKE '%'",
        "nothing IS NULL AND color IS NOT NULL AND NULL IS NULL",
        "NOT color = 'blue'",
        "no = FALSE AND yes <> FALSE AND NOT no",
        "'it''s' = 'it''s' AND nothing IS NULL OR no",
        "color = 'red' or no AND no",
        "JMSPriority > 3",
        "\r\n\tcolor='red'",
        "convert_string_expressions: digits > 41 AND digits + 1 = 43",
        "hyphenated_props:content-type = 'text/plain'",
        " convert_string_expressions:hyphenated_props:content-type = 'text/plain' AND digits = 42.0",
        "(price > 5) = TRUE",
    ] {
        assert_eq!(result(text), Val::Bool(true), "{text}");
    }
}

#[test]
fn what_is_false() {
    for text in [
        "FALSE",
        "color = 'RED'",
        "color",
        "price = '10'",
        "price <> '10'",
        "digits = 42",
        "digits > 41",
        "color = yes",
        "price LIKE '1%'",
        "price IN ('10')",
        "nothing = 1 AND FALSE",
        "color LIKE 're_d' OR color LIKE ''",
        "digits LIKE '4!_' ESCAPE '!'",
        "price = price + 0.5",
        "9007199254740993 = 9007199254740992.0",
        "9223372036854775807 + 1 < 0",
    ] {
        assert_eq!(result(text), Val::Bool(false), "{text}");
    }
}

#[test]
fn what_is_unknown() {
    for text in [
        "nothing = 1",
        "nothing <> 1",
        "NOT nothing = 1",
        "nothing",
        "nothing = nothing",
        "nothing AND TRUE",
        "nothing OR FALSE",
        "nothing BETWEEN 1 AND 2",
        "price BETWEEN 1 AND nothing",
        "nothing NOT IN ('a')",
        "nothing LIKE '%'",
        "nothing + 1 > 0",
        "color + 1 > 0",
        "price / 0 = 1",
        "price = NULL",
    ] {
        assert_eq!(result(text), Val::Null, "{text}");
    }
}

#[test]
fn what_is_refused_and_where() {
    for (text, at, why) in [
        ("", 1, "expected a value, found the end"),
        ("color =", 8, "expected a value, found the end"),
        ("color = 'red", 9, "the ' is not closed"),
        ("ä = 'ä' ~", 9, "'~' has no meaning here"),
        ("color == 'red'", 8, "expected a value, found '='"),
        ("color 'red'", 7, "expected the end, found the text 'red'"),
        ("price + 1", 1, "a number stands where a condition is wanted"),
        ("'x'", 1, "a text stands where a condition is wanted"),
        ("color = 'a' AND 5", 17, "a number stands where a condition is wanted"),
        ("'a' + 1 = 2", 1, "a text stands where a number is wanted"),
        ("color < 'a'", 9, "a text stands where a number is wanted"),
        ("color IN ()", 11, "expected a text, found ')'"),
        ("color IN ('a' 'b')", 15, "expected ')', found the text 'b'"),
        ("color LIKE price", 12, "expected a pattern in quotes, found the name price"),
        ("color LIKE 'a' ESCAPE 'xy'", 23, "the escape is one character"),
        ("color LIKE 'a!' ESCAPE '!'", 12, "the pattern ends with its escape character"),
        ("price BETWEEN 1 OR 2", 17, "expected AND, found OR"),
        ("price IS 5", 10, "expected NULL, found the number 5"),
        ("(price > 1", 11, "expected ')', found the end"),
        ("price > 9223372036854775808", 9, "this is no whole number of 64 bits"),
        ("price > 99999999999999999999", 9, "this is no whole number of 64 bits"),
        ("price > 5x", 9, "a number runs into a name"),
        ("price > 089", 9, "this is no whole number of 64 bits"),
        ("price > 1e", 9, "the exponent has no digits"),
        ("XPATH '//a'", 1, "XPATH is not there: selectors do not look into bodies"),
        ("select = and", 10, "expected a value, found AND"),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!((error.at, &*error.why), (at, why), "{text}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let error = |text: &str| Selector::parse(text).expect_err("too much").why;
    assert!(error(&" ".repeat(TEXT_MAX + 1)).contains("at most 8192 bytes"));
    for nest in ["(", "NOT ", "- - "] {
        assert_eq!(error(&nest.repeat(100)), "more than 64 levels in one another", "{nest}");
    }
    assert!(Selector::parse(&format!("{}TRUE{}", "(".repeat(64), ")".repeat(64))).is_ok());
    // Length is no depth.
    assert_eq!(result(&format!("price > 0{}", " AND TRUE".repeat(900))), Val::Bool(true));
    assert_eq!(result(&format!("0{} = 4000", "+1".repeat(4000))), Val::Bool(true));
    let names: Vec<String> = (0..65).map(|n| format!("n{n}")).collect();
    assert_eq!(error(&names.join(" OR ")), "more than 64 names");
    // A pattern that would take for ever if every way were tried.
    let text = format!("color LIKE '{}x'", "%a".repeat(2000));
    assert_eq!(Selector::parse(&text).expect("fine").evaluate(&[Val::Text("a".repeat(5000).into())]), Val::Bool(false));
}

#[test]
fn the_fuzz_corpus_passes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/selector");
    let files: Vec<_> = std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
    assert!(files.len() >= 10);
    for file in files {
        let data = std::fs::read(&file).expect("its bytes");
        fuzz_selector(&data);
        for cut in 0..data.len() {
            fuzz_selector(&data[..cut]);
        }
    }
}

struct Lines;

impl broker_api::HeaderView for Lines {
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        for line in origin.split(|b| *b == b'\n') {
            if let Some(at) = line.iter().position(|b| *b == b'=') {
                each(&line[..at], Value::Bytes(line[at + 1..].into()));
            }
        }
    }
    fn property<'a>(&self, _: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
        match name {
            b"message_id" => Some(Value::Bytes(b"m1".as_slice().into())),
            b"type" => Some(Value::Bytes(b"order".as_slice().into())),
            b"timestamp" => Some(Value::Timestamp(7)),
            _ => None,
        }
    }
    fn arguments<'a>(&self, _: &'a [u8], _: &mut dyn FnMut(&'a [u8], Value<'a>)) {}
}

#[test]
fn names_are_those_of_the_message_and_its_headers() {
    let block = b"a.bcolor=red\ncolor=blue\nJMSCorrelationID=c\nodd=\xffgroup".as_slice();
    let span = broker_api::Span::block;
    let head = Head {
        key: span(0, 3),
        origin: span(3, 45),
        group: span(48, 5),
        priority: 7,
        expires_ms: 99,
        flags: HEAD_DURABLE,
        format: 9,
        ..Head::default()
    };
    let batch = Batch { block: block.into(), heads: vec![head], ..Batch::default() };
    let views: Views = vec![(9, std::sync::Arc::new(Lines))];
    let asked = |text: &str, views: &Views| {
        Selector::parse(text).expect("fine").matches(&Subject { views, batch: &batch, head: &head, arrived_ms: 5 })
    };
    for text in [
        "color = 'red'",
        "odd IS NULL",
        "JMSMessageID = 'm1' AND JMSType = 'order' AND JMSCorrelationID = 'c' AND JMSReplyTo IS NULL",
        "JMSTimestamp = 7000 AND JMSExpiration = 99 AND JMSPriority = 7 AND JMSDeliveryMode = 'PERSISTENT'",
        "JMSXGroupID = 'group' AND JMSDestination = 'a.b' AND JMSXUserID IS NULL",
    ] {
        assert!(asked(text, &views), "{text}");
    }
    assert!(asked("color IS NULL AND JMSTimestamp = 5 AND JMSPriority = 7", &Views::new()), "a format that nobody reads has no headers");
}

/// A condition as a tree, written down with all its parentheses and worked out by recursion.
#[derive(Clone, Debug)]
enum Tree {
    Truth(Option<bool>),
    Not(Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Less(Box<Sum>, Box<Sum>),
    Between(Box<Sum>, Box<Sum>, Box<Sum>),
}

#[derive(Clone, Debug)]
enum Sum {
    Number(i32),
    Missing,
    Plus(Box<Sum>, Box<Sum>),
    Times(Box<Sum>, Box<Sum>),
}

fn sums() -> impl Strategy<Value = Sum> {
    let leaf = prop_oneof![3 => (-1000..1000).prop_map(Sum::Number), 1 => Just(Sum::Missing)];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let two = (inner.clone(), inner);
        prop_oneof![two.clone().prop_map(|(a, b)| Sum::Plus(a.into(), b.into())), two.prop_map(|(a, b)| Sum::Times(a.into(), b.into()))]
    })
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        prop::option::of(any::<bool>()).prop_map(Tree::Truth),
        (sums(), sums()).prop_map(|(a, b)| Tree::Less(a.into(), b.into())),
        (sums(), sums(), sums()).prop_map(|(a, b, c)| Tree::Between(a.into(), b.into(), c.into())),
    ];
    leaf.prop_recursive(5, 32, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|a| Tree::Not(a.into())),
            two.clone().prop_map(|(a, b)| Tree::And(a.into(), b.into())),
            two.prop_map(|(a, b)| Tree::Or(a.into(), b.into())),
        ]
    })
}

impl Sum {
    fn text(&self) -> String {
        match self {
            Sum::Number(number) => number.to_string(),
            Sum::Missing => "nothing".into(),
            Sum::Plus(a, b) => format!("({} + {})", a.text(), b.text()),
            Sum::Times(a, b) => format!("({} * {})", a.text(), b.text()),
        }
    }
    fn value(&self) -> Option<i128> {
        match self {
            Sum::Number(number) => Some((*number).into()),
            Sum::Missing => None,
            Sum::Plus(a, b) => Some(a.value()? + b.value()?),
            Sum::Times(a, b) => Some(a.value()? * b.value()?),
        }
    }
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Tree::Truth(None) => "nothing".into(),
            Tree::Truth(Some(truth)) => truth.to_string(),
            Tree::Not(a) => format!("NOT ({})", a.text()),
            Tree::And(a, b) => format!("({} and {})", a.text(), b.text()),
            Tree::Or(a, b) => format!("({} Or {})", a.text(), b.text()),
            Tree::Less(a, b) => format!("{} < {}", a.text(), b.text()),
            Tree::Between(a, b, c) => format!("{} BETWEEN {} AND {}", a.text(), b.text(), c.text()),
        }
    }
    fn value(&self) -> Option<bool> {
        let less = |a: Option<i128>, b: Option<i128>| Some(a? <= b?);
        let both = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        match self {
            Tree::Truth(truth) => *truth,
            Tree::Not(a) => a.value().map(|a| !a),
            Tree::And(a, b) => both(a.value(), b.value()),
            Tree::Or(a, b) => both(a.value().map(|a| !a), b.value().map(|b| !b)).map(|neither| !neither),
            Tree::Less(a, b) => Some(a.value()? < b.value()?),
            Tree::Between(a, b, c) => both(less(b.value(), a.value()), less(a.value(), c.value())),
        }
    }
}

proptest! {
    #[test]
    fn a_program_says_what_its_tree_says(tree in trees()) {
        prop_assert_eq!(result(&tree.text()), tree.value().map_or(Val::Null, Val::Bool), "{}", tree.text());
    }

    #[test]
    fn like_is_what_it_says(pattern in "[ab%_]{0,6}", text in "[ab]{0,8}") {
        fn slow(pattern: &[u8], text: &[u8]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some((b'%', rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
                Some((b'_', rest)) => !text.is_empty() && slow(rest, &text[1..]),
                Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
            }
        }
        let like = Like::new(&pattern, None).expect("no escape");
        prop_assert_eq!(like.matches(&text), slow(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn no_text_is_too_much(text in any::<String>()) {
        let _ = Selector::parse(&text).map(|selector| selector.evaluate(&[]) == Val::Null);
    }
}
