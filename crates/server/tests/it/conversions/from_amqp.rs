//! What AMQP 0-9-1 publishes, MQTT consumes.

use super::*;
use amqp091::codec::{Array, ArrayWriter, Field, Properties, Table, TableWriter};

fn headers(fields: &[(&str, Field<'_>)]) -> TableWriter {
    let mut table = TableWriter::default();
    for (name, field) in fields {
        table.put(name.as_bytes(), field);
    }
    table
}

/// Name, what is published, what MQTT 5 is told. The expiry is looked at apart.
type Row<'a> = (&'a str, Properties<'a>, &'a str);

fn simple_rows() -> Vec<Row<'static>> {
    let none = Properties::default();
    vec![
        ("nothing", none, ""),
        ("content type", Properties { content_type: Some(b"text/plain"), ..none }, "ContentType=text/plain"),
        ("content type, not text", Properties { content_type: Some(b"\xff"), ..none }, ""),
        ("content encoding", Properties { content_encoding: Some(b"gzip"), ..none }, "content-encoding:gzip"),
        ("correlation", Properties { correlation_id: Some(b"id-1"), ..none }, "CorrelationData=id-1"),
        ("correlation, not text", Properties { correlation_id: Some(b"\xff\x00"), ..none }, "CorrelationData=\\xff\\x00"),
        ("reply to a queue", Properties { reply_to: Some(b"answers"), ..none }, ""),
        ("message id", Properties { message_id: Some(b"m-1"), ..none }, "message-id:m-1"),
        ("timestamp", Properties { timestamp: Some(1_700_000_000), ..none }, "timestamp:1700000000"),
        ("type", Properties { kind: Some(b"reading"), ..none }, "type:reading"),
        ("app id", Properties { app_id: Some(b"app"), ..none }, "app-id:app"),
        ("user id", Properties { user_id: Some(b"guest"), ..none }, ""),
        ("cluster id", Properties { cluster_id: Some(b"c"), ..none }, ""),
        ("priority", Properties { priority: Some(9), ..none }, ""),
    ]
}

/// Each type of field, and the headers that RabbitMQ gives a meaning.
fn header_rows<'a>(table: Table<'a>, array: Array<'a>) -> Vec<(&'static str, TableWriter, &'static str)> {
    let one = |field: Field<'_>| headers(&[("h", field)]);
    vec![
        ("bool", one(Field::Bool(true)), "h:true"),
        ("byte", one(Field::I8(-8)), "h:-8"),
        ("unsigned byte", one(Field::U8(200)), "h:200"),
        ("short", one(Field::I16(-300)), "h:-300"),
        ("unsigned short", one(Field::U16(60_000)), "h:60000"),
        ("int", one(Field::I32(-70_000)), "h:-70000"),
        ("unsigned int", one(Field::U32(4_000_000_000)), "h:4000000000"),
        ("long", one(Field::I64(i64::MIN)), "h:-9223372036854775808"),
        ("float", one(Field::F32(0.5)), "h:0.5"),
        ("double", one(Field::F64(-1e300)), "h:-1e300"),
        ("decimal", one(Field::Decimal { scale: 2, value: 314 }), "h:3.14"),
        ("long string", one(Field::LongStr("grüße".as_bytes())), "h:grüße"),
        ("empty string", one(Field::LongStr(b"")), "h:"),
        ("string that is no text", one(Field::LongStr(b"\xff\xfe")), ""),
        ("string with a zero byte", one(Field::LongStr(b"a\0b")), ""),
        ("bytes that are text", one(Field::Bytes(b"text")), "h:text"),
        ("bytes", one(Field::Bytes(b"\x80\x81")), ""),
        ("timestamp", one(Field::Timestamp(1_700_000_000)), "h:1700000000"),
        ("void", one(Field::Void), "h:"),
        ("table", one(Field::Table(table)), ""),
        ("array", one(Field::Array(array)), ""),
        ("several", headers(&[("b", Field::I32(2)), ("t", Field::Table(table)), ("a", Field::I32(1))]), "b:2 a:1"),
        (
            "name that is no text",
            {
                let mut t = one(Field::Void);
                t.put(b"\xff", &Field::Bool(true));
                t
            },
            "h:",
        ),
        ("reply topic", headers(&[("x-reply-to-topic", Field::LongStr(b"re.a%2Eb.c"))]), "ResponseTopic=re/a.b/c"),
        ("reply topic that is none", headers(&[("x-reply-to-topic", Field::LongStr(b""))]), ""),
        ("wide correlation", headers(&[("x-correlation-id", Field::LongStr(b"\x00\x01"))]), "CorrelationData=\\x00\\x01"),
        ("keys for RabbitMQ", headers(&[("CC", Field::Array(array)), ("k", Field::LongStr(b"v"))]), "k:v"),
    ]
}

#[test]
fn properties_by_every_way() {
    let mut inner = TableWriter::default();
    inner.text("a", "b");
    let mut array = ArrayWriter::default();
    array.put(&Field::LongStr(b"elsewhere")).table(&inner);
    let tables = header_rows(inner.as_table(), array.as_array());
    let with_headers = |table| Properties { headers: Some(table), ..Properties::default() };
    let mut rows = simple_rows();
    rows.extend(tables.iter().map(|(name, table, expected)| (*name, with_headers(table.as_table()), *expected)));
    let taken = headers(&[("type", Field::LongStr(b"mine"))]);
    rows.push(("a header of that name", Properties { kind: Some(b"theirs"), ..with_headers(taken.as_table()) }, "type:mine"));
    for way in WAYS {
        let dir = tempfile::tempdir().expect("a folder");
        let mut carrick = both(dir.path());
        let mut subscriber = Mqtt::connect(&carrick, Version::V5, "s", way.kept);
        subscriber.subscribe("row/#");
        let offline = way.killed || (way.kept && way.durable);
        if offline {
            drop(subscriber);
            subscriber = Mqtt::connect(&carrick, Version::V5, "other", false);
        }
        let mut amqp = Amqp::connect(&carrick);
        for (n, (name, properties, _)) in rows.iter().enumerate() {
            let properties = Properties { delivery_mode: way.durable.then_some(2), ..*properties };
            let returned = amqp.publish("amq.topic", &format!("row.{n}"), &properties, name.as_bytes());
            assert!(!returned, "{name}: a subscription is somebody");
        }
        if way.killed {
            drop(carrick);
            carrick = both(dir.path());
        }
        if offline {
            subscriber = Mqtt::connect(&carrick, Version::V5, "s", true);
        }
        for (n, (name, _, expected)) in rows.iter().enumerate() {
            let message = subscriber.take();
            assert_eq!(String::from_utf8_lossy(&message.body), *name, "{way:?}");
            assert_eq!((message.topic.as_str(), message.retain), (format!("row/{n}").as_str(), false));
            assert_eq!(message.qos, if way.durable { Qos::AtLeastOnce } else { Qos::AtMostOnce });
            assert_eq!(message.shown(), *expected, "{name}, {way:?}");
        }
        subscriber.assert_nothing();
        drop(carrick);
    }
}

/// The time that is left, in whole seconds, rounded up; and nothing that is over.
#[test]
fn an_expiration_is_the_seconds_that_are_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut away = Mqtt::connect(&carrick, Version::V5, "away", true);
    away.subscribe("a/#");
    drop(away);
    let mut here = Mqtt::connect(&carrick, Version::V5, "here", false);
    here.subscribe("a/#");
    let mut amqp = Amqp::connect(&carrick);
    let start = Instant::now();
    for (key, expiration) in [("a.short", &b"800"[..]), ("a.long", b"60000")] {
        let properties = Properties { expiration: Some(expiration), delivery_mode: Some(2), ..Properties::default() };
        amqp.publish("amq.topic", key, &properties, key.as_bytes());
    }
    let [short, long] = [here.take(), here.take()];
    assert_eq!(short.expiry_secs(), Some(1));
    let past = start.elapsed().as_secs() as u32;
    assert!((60 - past - 1..=60).contains(&long.expiry_secs().expect("an expiry")), "{long:?}");
    std::thread::sleep(Duration::from_millis(2_100).saturating_sub(start.elapsed()));
    let mut away = Mqtt::connect(&carrick, Version::V5, "away", true);
    let left = away.take();
    assert_eq!(left.body, b"a.long", "what expired meanwhile is gone");
    let past = start.elapsed().as_secs() as u32;
    assert!((60 - past - 1..=58).contains(&left.expiry_secs().expect("an expiry")), "{left:?} after {past} s");
    away.assert_nothing();
}

/// Before version 5 there are no properties; what the message is for comes over all the same.
#[test]
fn older_versions_get_topic_and_payload() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    for version in [Version::V31, Version::V311] {
        let mut subscriber = Mqtt::connect(&carrick, version, "s", false);
        subscriber.subscribe("a/+/c");
        let mut amqp = Amqp::connect(&carrick);
        let table = headers(&[("k", Field::LongStr(b"v"))]);
        let properties =
            Properties { headers: Some(table.as_table()), content_type: Some(b"t"), delivery_mode: Some(2), ..Properties::default() };
        amqp.publish("amq.topic", "a.b.c", &properties, b"body");
        let message = subscriber.take();
        assert_eq!((message.topic.as_str(), message.qos, message.body.as_slice()), ("a/b/c", Qos::AtLeastOnce, &b"body"[..]));
        assert!(message.properties.is_empty());
    }
}

/// Large bodies go out from where they lie, behind properties that were made for them.
#[test]
fn bodies_of_all_sizes() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = both(dir.path());
    let mut subscriber = Mqtt::connect(&carrick, Version::V5, "s", false);
    subscriber.subscribe("a");
    let mut amqp = Amqp::connect(&carrick);
    amqp.queue("q", true, &[]);
    amqp.bind("q", "amq.topic", "b", &[]);
    let table = headers(&[("k", Field::LongStr(b"v"))]);
    for len in [0, 1, 4095, 4096, 131_072, 1 << 20] {
        let body = vec![b'x'; len];
        amqp.publish("amq.topic", "a", &Properties { headers: Some(table.as_table()), ..Properties::default() }, &body);
        let message = subscriber.take();
        assert_eq!((message.body == body, message.shown().as_str()), (true, "k:v"), "{len}");
        subscriber.publish("b", Qos::AtLeastOnce, &[super::mqtt::P::User("k", "v")], &body);
        let message = amqp.take("q");
        assert_eq!((message.body == body, message.shown().as_str()), (true, "headers={k=v} delivery_mode=2"), "{len}");
    }
}
