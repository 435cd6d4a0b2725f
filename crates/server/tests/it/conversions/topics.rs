//! One topic space: names, patterns and what stands in the way of either spelling.

use super::*;
use amqp091::codec::Properties;

/// A topic name, and the routing key that is the same.
const NAMES: &[(&str, &str)] = &[
    ("a", "a"),
    ("a/b/c", "a.b.c"),
    ("/a//b/", ".a..b."),
    ("device/10.0.0.1/v1.2", "device.10%2E0%2E0%2E1.v1%2E2"),
    ("a/50%/x", "a.50%.x"),
    ("a/%2E", "a.%252E"),
    ("a/%252E.", "a.%25252E%2E"),
    ("a/%2F", "a.%2F"),
    ("grüße/日本", "grüße.日本"),
    ("a b/*/c*", "a b.*.c*"),
    ("spBv1.0/group/NBIRTH/node", "spBv1%2E0.group.NBIRTH.node"),
];

/// What MQTT publishes reaches who is bound to the key, and what AMQP publishes to that key who has subscribed to the topic.
#[test]
fn a_name_is_the_same_in_both_spellings() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    let literal = |key: &str| !key.contains('*');
    amqp.queue("all", true, &[]);
    amqp.bind("all", "amq.topic", "#", &[]);
    for (n, (_, key)) in NAMES.iter().enumerate() {
        amqp.queue(&format!("q{n}"), true, &[]);
        if literal(key) {
            amqp.bind(&format!("q{n}"), "amq.topic", key, &[]);
        }
    }
    for restarted in [false, true] {
        if restarted {
            drop(carrick);
            carrick = both(dir.path());
            amqp = Amqp::connect(&carrick);
        }
        for (n, (topic, key)) in NAMES.iter().enumerate() {
            let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
            client.publish(topic, Qos::AtLeastOnce, &[], b"from MQTT");
            assert_eq!(amqp.take("all").key, *key);
            if literal(key) {
                assert_eq!(amqp.take(&format!("q{n}")).key, *key, "bound by its name");
            }
            client.subscribe(topic);
            amqp.publish("amq.topic", key, &Properties::default(), b"from AMQP");
            assert_eq!(client.take().topic, *topic, "subscribed by its name");
            assert_eq!(amqp.take("all").key, *key, "AMQP sees the key that AMQP gave");
            if literal(key) {
                assert_eq!(amqp.take(&format!("q{n}")).key, *key);
            }
        }
        assert!(amqp.get("all").is_none());
    }
    drop(carrick);
}

/// Words with characters that MQTT has other uses for are shown so that they can be read, and matched by wildcards.
#[test]
fn keys_that_no_topic_can_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.subscribe("x/+");
    let mut amqp = Amqp::connect(&carrick);
    for (key, topic) in [("x.a/b", "x/a%2Fb"), ("x.+", "x/%2B"), ("x.#", "x/%23"), ("x.*", "x/*")] {
        assert!(!amqp.publish("amq.topic", key, &Properties::default(), b"m"));
        assert_eq!(client.take().topic, topic);
    }
    // No topic at all: empty, or not text.
    client.subscribe("#");
    amqp.publish("amq.topic", "", &Properties::default(), b"m");
    client.assert_nothing();
    // Neither spelling's wildcards find what begins with a dollar sign.
    amqp.publish("amq.topic", "$x.y", &Properties::default(), b"m");
    client.assert_nothing();
}

/// A short string has 255 bytes: a longer topic is cut, at a character, and the message arrives.
#[test]
fn a_topic_longer_than_a_key_is_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("q", false, &[]);
    amqp.bind("q", "amq.topic", "t.#", &[]);
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.publish(&format!("t/{}", "ü".repeat(200)), Qos::AtLeastOnce, &[], b"m");
    let message = amqp.take("q");
    assert_eq!((message.key.as_str(), message.body.as_slice()), (format!("t.{}", "ü".repeat(126)).as_str(), &b"m"[..]));
}

#[test]
fn patterns_of_either_language_take_names_of_the_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    let mut publisher = Mqtt::connect(&carrick, Version::V5, "p", false);
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("a.*.#", &["a/b", "a/b/c", "a//d"], &["a", "b/a"]),
        ("#.end", &["end", "x/end", "x/y/end"], &["end/x"]),
        ("*.b%2Ec", &["a/b.c"], &["a/b/c", "a/b%2Ec"]),
        ("#", &["a", "a/b", "/"], &["$x/y"]),
    ];
    for (n, (key, yes, no)) in rows.iter().enumerate() {
        let queue = format!("q{n}");
        amqp.queue(&queue, false, &[]);
        amqp.bind(&queue, "amq.topic", key, &[]);
        for topic in no.iter().chain(*yes) {
            publisher.publish(topic, Qos::AtLeastOnce, &[], topic.as_bytes());
        }
        for topic in *yes {
            assert_eq!(String::from_utf8(amqp.take(&queue).body).as_deref(), Ok(*topic), "{key}");
        }
        assert!(amqp.get(&queue).is_none(), "{key}");
    }
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("a/+/c", &["a.b.c", "a..c", "a.b%2Eb.c"], &["a.b", "a.b.c.d"]),
        ("a/#", &["a", "a.b", "a.b.c"], &["b.a"]),
        ("+/x.y", &["a.x%2Ey"], &["a.x.y"]),
        ("$share/g/s/#", &["s.1", "s.2"], &["t.1"]),
    ];
    for (filter, yes, no) in rows {
        let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
        client.subscribe(filter);
        for key in no.iter().chain(*yes) {
            amqp.publish("amq.topic", key, &Properties::default(), key.as_bytes());
        }
        for key in *yes {
            assert_eq!(String::from_utf8(client.take().body).as_deref(), Ok(*key), "{filter}");
        }
        client.assert_nothing();
    }
}

/// A topic goes on through other exchanges as the key that it is, and what reaches `amq.topic` from others reaches subscribers.
#[test]
fn through_other_exchanges() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    for (kind, key) in [("direct", "a.b%2Ec"), ("topic", "*.b%2Ec"), ("fanout", "")] {
        amqp.exchange_behind("amq.topic", "a.#", kind, kind);
        amqp.queue(kind, false, &[]);
        amqp.bind(kind, kind, key, &[]);
    }
    client.publish("a/b.c", Qos::AtLeastOnce, &[], b"m");
    for kind in ["direct", "topic", "fanout"] {
        let message = amqp.take(kind);
        assert_eq!((message.exchange.as_str(), message.key.as_str()), ("amq.topic", "a.b%2Ec"), "{kind}");
    }
    client.publish("a/b/c", Qos::AtLeastOnce, &[], b"m");
    assert_eq!(amqp.take("fanout").key, "a.b.c");
    assert!(amqp.get("direct").is_none() && amqp.get("topic").is_none());
    // The other way.
    amqp.exchange_behind("amq.fanout", "", "into", "direct");
    amqp.bind_exchange("into", "k.1", "amq.topic");
    client.subscribe("k/#");
    assert!(!amqp.publish("into", "k.1", &Properties::default(), b"m"));
    assert_eq!(client.take().topic, "k/1");
    assert!(amqp.publish("into", "k.2", &Properties::default(), b"m"), "nobody took it, and it came back");
    client.assert_nothing();
}
