//! Ways of a message that belong to one protocol and end in the other.

use super::amqp::Is;
use super::mqtt::P;
use super::*;
use ::mqtt::codec::Will;
use amqp091::codec::{Properties, TableWriter};

/// User properties are headers to whatever exchange reads headers.
#[test]
fn headers_exchanges_see_user_properties() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.exchange_behind("amq.topic", "sensors.#", "by-header", "headers");
    for (queue, arguments) in [
        ("all", [("x-match", Is::Text("all")), ("kind", Is::Text("temp")), ("room", Is::Text("1"))]),
        ("any", [("x-match", Is::Text("any")), ("kind", Is::Text("temp")), ("room", Is::Text("2"))]),
    ] {
        amqp.queue(queue, false, &[]);
        amqp.bind(queue, "by-header", "", &arguments);
    }
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.publish("sensors/a", Qos::AtLeastOnce, &[P::User("kind", "temp"), P::User("room", "1")], b"both");
    client.publish("sensors/a", Qos::AtLeastOnce, &[P::User("room", "2")], b"any");
    client.publish("sensors/a", Qos::AtLeastOnce, &[P::User("room", "3")], b"none");
    client.publish("sensors/a", Qos::AtLeastOnce, &[], b"none");
    let mut old = Mqtt::connect(&carrick, Version::V311, "old", false);
    old.publish("sensors/a", Qos::AtLeastOnce, &[], b"none");
    assert_eq!(amqp.take("all").body, b"both");
    assert_eq!((amqp.take("any").body, amqp.take("any").body), (b"both".to_vec(), b"any".to_vec()));
    assert!(amqp.get("all").is_none() && amqp.get("any").is_none());
}

/// RabbitMQ retains what MQTT publishes, and nothing else; so it is here. A queue gets a retained message when it is published.
#[test]
fn retained_messages_are_mqtts() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("q", true, &[]);
    amqp.bind("q", "amq.topic", "r.#", &[]);
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.publish_retained("r/mqtt", Qos::AtLeastOnce, true, &[P::User("k", "v")], b"kept");
    amqp.publish("amq.topic", "r.amqp", &Properties { delivery_mode: Some(2), ..Properties::default() }, b"not kept");
    // An empty message of another protocol removes nothing.
    amqp.publish("amq.topic", "r.mqtt", &Properties::default(), b"");
    assert_eq!(amqp.take("q").shown(), "headers={k=v} delivery_mode=2");
    assert_eq!((amqp.take("q").body, amqp.take("q").body), (b"not kept".to_vec(), b"".to_vec()));
    for restarted in [false, true] {
        if restarted {
            drop(carrick);
            carrick = both(dir.path());
        }
        let mut late = Mqtt::connect(&carrick, Version::V5, "late", false);
        late.subscribe("r/#");
        let message = late.take();
        assert_eq!((message.topic.as_str(), message.body.as_slice(), message.retain), ("r/mqtt", &b"kept"[..], true));
        late.assert_nothing();
    }
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("late", true, &[]);
    amqp.bind("late", "amq.topic", "r.#", &[]);
    assert!(amqp.get("late").is_none(), "a binding is sent nothing that was before it");
    drop(carrick);
}

#[test]
fn a_will_reaches_queues() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("q", true, &[]);
    amqp.bind("q", "amq.topic", "wills.#", &[]);
    for (qos, mode) in [(Qos::AtMostOnce, "delivery_mode=1"), (Qos::AtLeastOnce, "delivery_mode=2")] {
        let properties = super::mqtt::section(&[P::ContentType("text/plain"), P::Expiry(60), P::User("k", "v"), P::Correlation(b"c")]);
        let will = Will { topic: "wills/a.b".into(), payload: b"gone".to_vec(), qos, properties, ..Will::default() };
        // Dropped without a DISCONNECT.
        drop(Mqtt::with_will(&carrick, Version::V5, "dying", false, Some(will)));
        let message = amqp.take("q");
        assert_eq!((message.key.as_str(), message.body.as_slice()), ("wills.a%2Eb", &b"gone"[..]));
        assert_eq!(message.shown(), format!("content_type=text/plain headers={{k=v}} {mode} correlation_id=c expiration=60000"));
    }
}

/// A question of MQTT 5 is answered by AMQP: RabbitMQ's header names the key of `amq.topic` to answer to.
#[test]
fn mqtt_asks_and_amqp_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("questions", false, &[]);
    amqp.bind("questions", "amq.topic", "ask.me", &[]);
    let mut client = Mqtt::connect(&carrick, Version::V5, "10.0.0.7", false);
    client.subscribe("answers/10.0.0.7");
    for correlation in [&b"text"[..], b"\x00\x01\xff"] {
        client.publish("ask/me", Qos::AtLeastOnce, &[P::ResponseTopic("answers/10.0.0.7"), P::Correlation(correlation)], b"?");
        let question = amqp.take("questions");
        let properties = Properties::parse(&question.properties).expect("properties");
        let header = |name: &str| properties.headers.and_then(|headers| headers.get(name)).and_then(|field| field.text());
        let key = String::from_utf8(header("x-reply-to-topic").expect("where to").to_vec()).expect("text");
        let mut headers = TableWriter::default();
        if let Some(id) = header("x-correlation-id") {
            headers.put(b"x-correlation-id", &amqp091::codec::Field::LongStr(id));
        }
        let answer = Properties { correlation_id: properties.correlation_id, headers: Some(headers.as_table()), ..Properties::default() };
        assert!(!amqp.publish("amq.topic", &key, &answer, b"!"), "somebody waits for it");
        let answer = client.take();
        assert_eq!((answer.topic.as_str(), answer.body.as_slice()), ("answers/10.0.0.7", &b"!"[..]));
        assert_eq!(answer.shown(), format!("CorrelationData={}", correlation.escape_ascii()));
    }
}

/// And the other way: AMQP says in the same header where its queue is bound.
#[test]
fn amqp_asks_and_mqtt_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.subscribe("ask/me");
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("answers", false, &[]);
    amqp.bind("answers", "amq.topic", "answers.7", &[]);
    let mut headers = TableWriter::default();
    headers.text("x-reply-to-topic", "answers.7");
    let question = Properties { correlation_id: Some(b"id-1"), headers: Some(headers.as_table()), ..Properties::default() };
    amqp.publish("amq.topic", "ask.me", &question, b"?");
    let question = client.take();
    assert_eq!(question.shown(), "ResponseTopic=answers/7 CorrelationData=id-1");
    client.publish("answers/7", Qos::AtLeastOnce, &[P::Correlation(b"id-1")], b"!");
    let answer = amqp.take("answers");
    assert_eq!((answer.body.as_slice(), answer.shown().as_str()), (&b"!"[..], "delivery_mode=2 correlation_id=id-1"));
}

/// What died in a queue comes to MQTT as itself: without its history, and without the expiry that it died of.
#[test]
fn dead_letters_to_mqtt() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.subscribe("dead/#");
    client.subscribe("in/#");
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("dying", true, &[("x-dead-letter-exchange", Is::Text("amq.topic")), ("x-dead-letter-routing-key", Is::Text("dead.a%2Eb"))]);
    let mut headers = TableWriter::default();
    headers.text("k", "v");
    let properties =
        Properties { expiration: Some(b"1"), delivery_mode: Some(2), headers: Some(headers.as_table()), ..Properties::default() };
    amqp.publish("", "dying", &properties, b"AMQP");
    let message = client.take();
    assert_eq!((message.topic.as_str(), message.body.as_slice(), message.shown().as_str()), ("dead/a.b", &b"AMQP"[..], "k:v"));
    // A message of MQTT itself, by way of a queue. Its own subscribers had it before.
    amqp.bind("dying", "amq.topic", "in.#", &[]);
    client.publish("in/x", Qos::AtMostOnce, &[P::Expiry(1), P::User("k", "v")], b"MQTT");
    let (one, two) = (client.take(), client.take());
    assert_eq!((one.topic.as_str(), one.shown().as_str()), ("in/x", "MessageExpiryInterval=1 k:v"));
    assert_eq!((two.topic.as_str(), two.body.as_slice(), two.shown().as_str()), ("dead/a.b", &b"MQTT"[..], "k:v"));
    client.assert_nothing();
}

/// A message of MQTT that died tells its story in AMQP's words, also from the log.
#[test]
fn dead_letters_of_mqtt() {
    for killed in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut carrick = both(dir.path());
        let mut amqp = Amqp::connect(&carrick);
        amqp.queue("first", true, &[("x-dead-letter-exchange", Is::Text("amq.direct")), ("x-message-ttl", Is::Number(1))]);
        amqp.bind("first", "amq.topic", "in.#", &[]);
        let died =
            [("x-dead-letter-exchange", Is::Text("")), ("x-dead-letter-routing-key", Is::Text("last")), ("x-message-ttl", Is::Number(1))];
        amqp.queue("second", true, &died);
        amqp.queue("last", true, &[]);
        amqp.bind("second", "amq.direct", "in.a%2Eb", &[]);
        let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
        client.publish("in/a.b", Qos::AtLeastOnce, &[P::User("k", "v"), P::User("x-death", "forged"), P::Expiry(3600)], b"m");
        amqp.wait_for("last", 1);
        if killed {
            drop(carrick);
            carrick = both(dir.path());
            amqp = Amqp::connect(&carrick);
        }
        let message = amqp.take("last");
        assert_eq!((message.exchange.as_str(), message.key.as_str(), message.body.as_slice()), ("", "last", &b"m"[..]));
        let shown = message.shown();
        for part in [
            "k=v",
            "x-first-death-queue=first",
            "x-first-death-exchange=amq.topic",
            "x-last-death-queue=second",
            "queue=second",
            "exchange=amq.direct routing-keys=[in.a%2Eb]}",
            "queue=first",
            "exchange=amq.topic routing-keys=[in.a%2Eb] original-expiration=3600000}",
        ] {
            assert!(shown.contains(part), "no {part} in {shown}");
        }
        assert!(!shown.contains("forged") && !shown.contains(" expiration="), "{shown}");
        drop(carrick);
    }
}

/// Of several keys the first is the message's name, as in RabbitMQ; a session gets one copy.
#[test]
fn further_keys_reach_subscribers_under_the_first() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.subscribe("copy/+");
    let mut amqp = Amqp::connect(&carrick);
    let mut keys = amqp091::codec::ArrayWriter::default();
    keys.put(&amqp091::codec::Field::LongStr(b"copy.1")).put(&amqp091::codec::Field::LongStr(b"copy.2"));
    let mut headers = TableWriter::default();
    headers.array("CC", &keys);
    amqp.publish("amq.topic", "main", &Properties { headers: Some(headers.as_table()), ..Properties::default() }, b"m");
    let message = client.take();
    assert_eq!((message.topic.as_str(), message.shown().as_str()), ("main", ""));
    client.assert_nothing();
}

/// An MQTT expiry is a time to live in a queue as well.
#[test]
fn what_mqtt_lets_expire_expires_in_queues() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("q", true, &[]);
    amqp.bind("q", "amq.topic", "#", &[]);
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.publish("a", Qos::AtLeastOnce, &[P::Expiry(1)], b"short");
    client.publish("a", Qos::AtLeastOnce, &[P::Expiry(60)], b"long");
    amqp.wait_for("q", 1);
    let message = amqp.take("q");
    assert_eq!((message.body.as_slice(), message.shown().as_str()), (&b"long"[..], "delivery_mode=2 expiration=60000"));
}
