//! What MQTT 5 publishes, AMQP 0-9-1 consumes.

use super::mqtt::P;
use super::*;

/// 256 bytes: no short string.
const LONG: [u8; 256] = [b'x'; 256];

/// Name, properties of the PUBLISH, and those of the delivery without its delivery mode.
type Row<'a> = (&'a str, Vec<P<'a>>, String);

fn rows(long: &str) -> Vec<Row<'_>> {
    let row = |name, properties, expected: &str| (name, properties, expected.to_owned());
    vec![
        row("nothing", vec![], ""),
        row("payload format", vec![P::IsText], ""),
        row("expiry", vec![P::Expiry(3600)], "expiration=3600000"),
        row("longest expiry", vec![P::Expiry(u32::MAX)], "expiration=4294967295000"),
        row("content type", vec![P::ContentType("text/plain")], "content_type=text/plain"),
        row("long content type", vec![P::ContentType(long)], ""),
        row("response topic", vec![P::ResponseTopic("a/b.c/d")], "headers={x-reply-to-topic=a.b%2Ec.d}"),
        row("correlation", vec![P::Correlation(b"id-1")], "correlation_id=id-1"),
        row("correlation, not text", vec![P::Correlation(b"\x00\x01\x02")], "headers={x-correlation-id=\"\\0\\u{1}\\u{2}\"}"),
        row("correlation, long", vec![P::Correlation(&LONG)], &format!("headers={{x-correlation-id={long}}}")),
        row("user properties", vec![P::User("b", "2"), P::User("a", "1")], "headers={a=1 b=2}"),
        row("repeated user properties", vec![P::User("a", "1"), P::User("a", "2"), P::User("a", "3")], "headers={a=1}"),
        row(
            "user property of 255 bytes and more",
            vec![P::User(long, "x"), P::User(&long[..255], "y")],
            &format!("headers={{{}=y}}", &long[..255]),
        ),
        row(
            "user properties like headers",
            vec![P::User("x-reply-to-topic", "forged"), P::ResponseTopic("t")],
            "headers={x-reply-to-topic=t}",
        ),
        row(
            "empty texts",
            vec![P::User("", ""), P::Correlation(b""), P::ContentType("")],
            "content_type=\"\" headers={\"\"=\"\"} correlation_id=\"\"",
        ),
        row(
            "all",
            vec![P::IsText, P::Expiry(60), P::ContentType("t"), P::ResponseTopic("r"), P::Correlation(b"c"), P::User("k", "v")],
            "content_type=t headers={k=v x-reply-to-topic=r} correlation_id=c expiration=60000",
        ),
    ]
}

/// The delivery mode has its place in the middle of the others.
pub fn without_mode(shown: &str, durable: bool) -> String {
    let mode = if durable { "delivery_mode=2" } else { "delivery_mode=1" };
    assert!(shown.contains(mode), "{shown}");
    shown.replacen(mode, "", 1).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn properties_by_every_way() {
    let long = String::from_utf8(LONG.to_vec()).expect("ASCII");
    for way in WAYS {
        let dir = tempfile::tempdir().expect("a folder");
        let mut carrick = both(dir.path());
        let mut amqp = Amqp::connect(&carrick);
        amqp.queue("q", way.kept, &[]);
        amqp.bind("q", "amq.topic", "row.#", &[]);
        let mut publisher = Mqtt::connect(&carrick, Version::V5, "p", false);
        let qos = if way.durable { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let rows = rows(&long);
        for (n, (name, properties, _)) in rows.iter().enumerate() {
            publisher.publish(&format!("row/{n}"), qos, properties, name.as_bytes());
        }
        if way.killed {
            drop(carrick);
            carrick = both(dir.path());
            amqp = Amqp::connect(&carrick);
        }
        for (n, (name, _, expected)) in rows.iter().enumerate() {
            let message = amqp.take("q");
            assert_eq!(String::from_utf8_lossy(&message.body), *name, "{way:?}");
            assert_eq!((message.exchange.as_str(), message.key.as_str()), ("amq.topic", format!("row.{n}").as_str()));
            let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(without_mode(&message.shown(), way.durable), expected, "{name}, {way:?}");
        }
        assert!(amqp.get("q").is_none());
        drop(carrick);
    }
}

/// QoS 2 is as durable as QoS 1; versions before 5 have no properties to bring.
#[test]
fn older_versions_and_higher_levels() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("q", true, &[]);
    amqp.bind("q", "amq.topic", "#", &[]);
    for version in [Version::V31, Version::V311] {
        let mut publisher = Mqtt::connect(&carrick, version, "p", false);
        publisher.publish("a/b", Qos::AtMostOnce, &[], b"0");
        publisher.publish("a/b", Qos::AtLeastOnce, &[], b"1");
        for (body, mode) in [(b"0", "delivery_mode=1"), (b"1", "delivery_mode=2")] {
            let message = amqp.take("q");
            assert_eq!((message.body.as_slice(), message.shown().as_str()), (&body[..], mode));
        }
    }
    let mut publisher = Mqtt::connect(&carrick, Version::V5, "p", false);
    publisher.publish("a/b", Qos::ExactlyOnce, &[P::User("k", "v")], b"2");
    assert_eq!(amqp.take("q").shown(), "headers={k=v} delivery_mode=2");
}
