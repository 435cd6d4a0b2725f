//! The exchange types through the trait they share.

use crate::routing::exchange::{
    by_name, Arguments, BadArguments, BindError, BindKey, Bound, Headers, Key, NoHeaders, Router, Value, TYPES,
};

type Exchange = Box<dyn Router<u64>>;

fn exchange(kind: &str) -> Exchange {
    by_name::<u64>(kind).expect("a known type")(&Arguments::NONE)
}

fn bind(exchange: &Exchange, key: &str, id: u64) -> Bound {
    exchange.bind(BindKey::amqp(key.as_bytes()), &Arguments::NONE, id, id).expect("a legal binding")
}

fn routed(exchange: &Exchange, key: &Key<'_>, headers: &dyn Headers) -> Vec<u64> {
    let mut out = Vec::new();
    exchange.route(key, headers, &mut out);
    out.sort_unstable();
    out
}

#[test]
fn the_registry_makes_every_type_it_lists() {
    for kind in TYPES {
        assert!(exchange(kind).is_empty());
    }
    assert!(by_name::<u64>("x-unknown").is_none());
}

#[test]
fn keys_decide_as_the_type_says() {
    for (kind, expected) in [("direct", vec![1]), ("fanout", vec![1, 2, 3, 4]), ("topic", vec![1, 2, 3])] {
        let exchange = exchange(kind);
        for (id, key) in [(1, "a.b"), (2, "a.*"), (3, "#"), (4, "c")] {
            assert_eq!(bind(&exchange, key, id), Bound::New);
            assert_eq!(bind(&exchange, key, id), Bound::Existing);
        }
        assert_eq!(routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders), expected, "{kind}");
        assert_eq!(exchange.len(), 4);
        assert!(exchange.unbind(BindKey::amqp(b"a.b"), &Arguments::NONE, 1));
        assert!(!exchange.unbind(BindKey::amqp(b"a.b"), &Arguments::NONE, 1));
        assert_eq!(routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders), expected[1..], "{kind}");
    }
}

/// Two bindings that differ in arguments only are two bindings and one route.
#[test]
fn a_route_stands_while_one_of_its_bindings_does() {
    let other = Arguments::new([(&b"note"[..], Value::Int(1))]);
    for kind in ["direct", "fanout", "topic"] {
        let exchange = exchange(kind);
        let key = BindKey::amqp(b"a.b");
        bind(&exchange, "a.b", 1);
        assert_eq!(exchange.bind(key, &other, 1, 1), Ok(Bound::New));
        assert_eq!((exchange.len(), exchange.bindings().len()), (2, 2));
        assert_eq!(routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders), [1]);
        assert!(exchange.unbind(key, &Arguments::NONE, 1));
        assert_eq!(routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders), [1], "{kind}");
        assert!(exchange.unbind(key, &other, 1));
        assert_eq!(routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders), [0u64; 0], "{kind}");
    }
}

/// The same pattern in both spellings is one route as well, and each spelling is unbound by itself.
#[test]
fn one_pattern_in_two_spellings() {
    let exchange = exchange("topic");
    for key in [BindKey::amqp(b"a.*"), BindKey::mqtt(b"a/+")] {
        assert_eq!(exchange.bind(key, &Arguments::NONE, 1, 1), Ok(Bound::New));
    }
    assert_eq!(routed(&exchange, &Key::mqtt(b"a/b"), &NoHeaders), [1]);
    assert!(exchange.unbind(BindKey::mqtt(b"a/+"), &Arguments::NONE, 1));
    assert_eq!(routed(&exchange, &Key::mqtt(b"a/b"), &NoHeaders), [1]);
    assert!(exchange.unbind(BindKey::amqp(b"a.*"), &Arguments::NONE, 1));
    assert_eq!(routed(&exchange, &Key::mqtt(b"a/b"), &NoHeaders), [0u64; 0]);
    assert!(exchange.bind(BindKey::mqtt(b"a/#/b"), &Arguments::NONE, 1, 1).is_err());
}

#[test]
fn a_deleted_destination_takes_its_bindings_along() {
    // The keys of a consistent-hash exchange are weights: see below.
    for kind in TYPES.iter().filter(|kind| **kind != "x-consistent-hash") {
        let exchange = exchange(kind);
        for key in ["", "a.b", "a.*", "#"] {
            bind(&exchange, key, 1);
            bind(&exchange, key, 2);
        }
        let other = Arguments::new([(&b"note"[..], Value::Int(1))]);
        assert_eq!(exchange.bind(BindKey::mqtt(b"a/b"), &other, 1, 1), Ok(Bound::New));
        assert_eq!((exchange.unbind_all(1), exchange.unbind_all(1), exchange.len()), (5, 0, 4), "{kind}");
        let left = routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders);
        assert!(!left.is_empty() && left.iter().all(|id| *id == 2), "{kind}: {left:?}");
        assert_eq!(exchange.unbind_all(2), 4);
        assert_eq!(routed(&exchange, &Key::amqp(b"a.b"), &NoHeaders), [0u64; 0], "{kind}");
    }
}

struct Table(Vec<(&'static str, Value<'static>)>);

impl Headers for Table {
    fn get(&self, name: &[u8]) -> Option<Value<'_>> {
        self.0.iter().find(|(other, _)| other.as_bytes() == name).map(|(_, value)| value.clone())
    }
}

type Header = (&'static str, Value<'static>);

fn bytes(text: &'static str) -> Value<'static> {
    Value::Bytes(text.as_bytes().into())
}

fn arguments(list: &[(&'static str, Value<'static>)]) -> Arguments {
    Arguments::new(list.iter().map(|(name, value)| (name.as_bytes(), value.clone())))
}

#[test]
fn headers_match_as_their_kind_says() {
    let exchange = exchange("headers");
    for (id, kind) in [(1, "all"), (2, "any"), (3, "all-with-x"), (4, "any-with-x")] {
        let wanted = arguments(&[("x-match", bytes(kind)), ("a", Value::Int(1)), ("b", Value::Void), ("x-c", bytes("c"))]);
        assert_eq!(exchange.bind(BindKey::amqp(b""), &wanted, id, id), Ok(Bound::New));
    }
    let cases: [(&[Header], &[u64]); 7] = [
        (&[("a", Value::Int(1)), ("b", bytes("anything"))], &[1, 2, 4]),
        (&[("a", Value::Int(1)), ("b", bytes("")), ("x-c", bytes("c"))], &[1, 2, 3, 4]),
        (&[("x-c", bytes("c"))], &[4]),
        (&[("a", Value::Float(1.0))], &[2, 4]),
        (&[("a", Value::Int(2))], &[]),
        (&[("a", bytes("1")), ("x-match", bytes("all"))], &[]),
        (&[], &[]),
    ];
    for (headers, expected) in cases {
        assert_eq!(routed(&exchange, &Key::amqp(b"ignored"), &Table(headers.to_vec())), expected, "{headers:?}");
    }
}

/// RabbitMQ: without anything to compare `all` is content and `any` is not.
#[test]
fn headers_bindings_that_ask_nothing() {
    let exchange = exchange("headers");
    bind(&exchange, "", 1);
    assert_eq!(exchange.bind(BindKey::amqp(b""), &arguments(&[("x-match", bytes("any")), ("x-d", bytes("d"))]), 2, 2), Ok(Bound::New));
    assert_eq!(routed(&exchange, &Key::amqp(b""), &NoHeaders), [1]);
    let wrong = exchange.bind(BindKey::amqp(b""), &arguments(&[("x-match", bytes("some"))]), 3, 3);
    assert_eq!(wrong, Err(BindError::MatchKind("some".into())));
    assert_eq!(exchange.bind(BindKey::amqp(b""), &arguments(&[("x-match", Value::Int(1))]), 3, 3), Err(BindError::MatchKindType));
    assert_eq!(exchange.len(), 2);
}

#[test]
fn values_compare_without_their_types() {
    let equal =
        [(Value::Int(1), Value::Timestamp(1)), (Value::Uint(u64::MAX), Value::Float(u64::MAX as f64 * 1.0)), (bytes("a"), bytes("a"))];
    assert!(equal[0].0.matches(&equal[0].1) && equal[2].0.matches(&equal[2].1));
    // 2^64 - 1 has no float of its own.
    assert!(!equal[1].0.matches(&equal[1].1));
    assert!(Value::Float(2.0).matches(&Value::Int(2)) && !Value::Float(2.5).matches(&Value::Int(2)));
    assert!(!Value::Bool(true).matches(&Value::Int(1)) && !bytes("1").matches(&Value::Int(1)));
    // As identity they differ, so that both can be bound.
    assert_ne!(arguments(&[("a", Value::Int(1))]), arguments(&[("a", Value::Float(1.0))]));
    assert_eq!(arguments(&[("a", Value::Int(1)), ("b", Value::Void)]), arguments(&[("b", Value::Void), ("a", Value::Int(1))]));
}

/// Nobody looks at the headers unless the exchange says so.
#[test]
fn only_the_headers_exchange_asks_for_headers() {
    struct Untouchable;
    impl Headers for Untouchable {
        fn get(&self, _: &[u8]) -> Option<Value<'_>> {
            panic!("headers were read")
        }
    }
    for kind in TYPES {
        let exchange = exchange(kind);
        bind(&exchange, "1", 1);
        if exchange.reads_headers() {
            assert!(["headers", "x-delayed-message", "x-random"].contains(kind), "{kind}");
        } else {
            assert_eq!(routed(&exchange, &Key::amqp(b"1"), &Untouchable), [1]);
        }
    }
}

fn consistent(arguments: &[Header]) -> Exchange {
    by_name::<u64>("x-consistent-hash").expect("a known type")(&self::arguments(arguments))
}

/// Where each of so many keys goes; each goes to exactly one.
fn spread(exchange: &Exchange, keys: u32) -> Vec<u64> {
    (0..keys)
        .map(|n| routed(exchange, &Key::amqp(format!("key.{n}").as_bytes()), &NoHeaders))
        .map(|to| {
            assert_eq!(to.len(), 1);
            to[0]
        })
        .collect()
}

#[test]
fn consistent_hashing_follows_the_weights_and_moves_little() {
    let exchange = consistent(&[]);
    assert_eq!(routed(&exchange, &Key::amqp(b"a"), &NoHeaders), [0u64; 0]);
    for (id, weight) in [(1, "1"), (2, "1"), (3, "2")] {
        assert_eq!(bind(&exchange, weight, id), Bound::New);
    }
    let before = spread(&exchange, 8000);
    let share = |of: &[u64], id: u64| of.iter().filter(|to| **to == id).count();
    assert!((1800..2200).contains(&share(&before, 1)) && (3700..4300).contains(&share(&before, 3)));
    assert_eq!(before, spread(&exchange, 8000), "one key, one destination");
    bind(&exchange, "1", 4);
    let with = spread(&exchange, 8000);
    for (old, new) in before.iter().zip(&with) {
        assert!(old == new || *new == 4, "only what the new one wins moves");
    }
    assert_eq!(exchange.unbind_all(4), 1);
    assert_eq!(before, spread(&exchange, 8000));
    for (key, wrong) in [("a", BindError::Weight("a".into())), ("0", BindError::WeightTooSmall), ("", BindError::Weight(String::new()))] {
        assert_eq!(exchange.bind(BindKey::amqp(key.as_bytes()), &Arguments::NONE, 5, 5), Err(wrong));
    }
}

#[test]
fn consistent_hashing_by_a_header_or_a_property_does_not_look_at_the_key() {
    struct Message(&'static str);
    impl Headers for Message {
        fn get(&self, name: &[u8]) -> Option<Value<'_>> {
            (name == b"customer").then(|| bytes(self.0))
        }
        fn property(&self, name: &[u8]) -> Option<Value<'_>> {
            (name == b"message_id").then(|| bytes(self.0))
        }
    }
    for named in [("hash-header", bytes("customer")), ("hash-property", bytes("message_id"))] {
        let exchange = consistent(&[named]);
        assert!(exchange.reads_headers());
        (1..=8).for_each(|id| assert_eq!(bind(&exchange, "10", id), Bound::New));
        let to = |who, key: &str| routed(&exchange, &Key::amqp(key.as_bytes()), &Message(who));
        let first: Vec<_> = ["ann", "bob", "cyd", "dan", "eve", "fay"].map(|who| to(who, "a")).into();
        assert_eq!(first, ["ann", "bob", "cyd", "dan", "eve", "fay"].map(|who| to(who, "b")));
        assert!(first.iter().any(|to| *to != first[0]), "they are spread");
    }
    use crate::routing::exchange::check;
    let wrong = check("x-consistent-hash", &arguments(&[("hash-header", bytes("a")), ("hash-property", bytes("message_id"))]));
    assert_eq!(wrong, Err(BadArguments::Value("hash-header and hash-property are mutually exclusive".into())));
    let wrong = check("x-consistent-hash", &arguments(&[("hash-property", bytes("app_id"))]));
    assert_eq!(wrong, Err(BadArguments::Value("Unsupported property: app_id".into())));
}

#[test]
fn modulus_and_random_choose_one() {
    for kind in ["x-modulus-hash", "x-random"] {
        let exchange = exchange(kind);
        (1..=4).for_each(|id| assert_eq!(bind(&exchange, "any", id), Bound::New));
        let to = spread(&exchange, 4000);
        for id in 1..=4 {
            assert!((800..1200).contains(&to.iter().filter(|to| **to == id).count()), "{kind}: {id}");
        }
        assert_eq!(to == spread(&exchange, 4000), kind == "x-modulus-hash");
    }
}
