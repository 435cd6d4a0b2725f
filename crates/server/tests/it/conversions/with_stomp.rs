//! STOMP among the others: what it publishes to a topic, and what it is told of theirs.

use super::mqtt::P;
use super::stomp::Stomp;
use super::*;
use amqp091::codec::{Field, Properties, TableWriter};

fn all(dir: &Path) -> Carrick {
    let mut arguments = Vec::new();
    for scheme in ["mqtt", "amqp", "stomp"] {
        arguments.extend(["--listen".to_owned(), format!("{scheme}://127.0.0.1:0")]);
    }
    start(dir, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Headers of a SEND, what MQTT 5 is told, what AMQP is told.
type Sent = (&'static [(&'static str, &'static str)], &'static str, &'static str);

const SENT: &[Sent] = &[
    (&[], "", ""),
    (&[("content-type", "text/plain")], "ContentType=text/plain", "content_type=text/plain"),
    (&[("content-encoding", "gzip")], "content-encoding:gzip", "content_encoding=gzip"),
    (&[("correlation-id", "c")], "CorrelationData=c", "correlation_id=c"),
    (&[("reply-to", "/topic/re.x")], "ResponseTopic=re/x", "headers={x-reply-to-topic=re.x} reply_to=/topic/re.x"),
    (&[("reply-to", "/queue/q")], "", "reply_to=/queue/q"),
    (&[("amqp-message-id", "m")], "message-id:m", "message_id=m"),
    (&[("timestamp", "77")], "timestamp:77", "timestamp=77"),
    (&[("type", "t")], "type:t", "type=t"),
    (&[("app-id", "a")], "app-id:a", "app_id=a"),
    (&[("user-id", "guest")], "", "user_id=guest"),
    (&[("priority", "4")], "", "priority=4"),
    (&[("k", "v\\cw"), ("k", "second"), ("a", "1")], "k:v:w a:1", "headers={a=1 k=v:w}"),
];

#[test]
fn what_stomp_publishes_by_every_way() {
    for way in WAYS {
        let dir = tempfile::tempdir().expect("a folder");
        let mut carrick = all(dir.path());
        let mut subscriber = Mqtt::connect(&carrick, Version::V5, "s", way.kept);
        subscriber.subscribe("row/#");
        let mut amqp = Amqp::connect(&carrick);
        amqp.queue("q", way.kept, &[]);
        amqp.bind("q", "amq.topic", "row.#", &[]);
        if way.killed {
            drop(subscriber);
            subscriber = Mqtt::connect(&carrick, Version::V5, "other", false);
        }
        let mut stomp = Stomp::connect(&carrick);
        for (n, (headers, ..)) in SENT.iter().enumerate() {
            let persistent: &[(&str, &str)] = if way.durable { &[("persistent", "true")] } else { &[] };
            stomp.send(&format!("/topic/row.{n}"), &[persistent, headers].concat(), b"body");
        }
        if way.killed {
            drop(carrick);
            carrick = all(dir.path());
            subscriber = Mqtt::connect(&carrick, Version::V5, "s", true);
            amqp = Amqp::connect(&carrick);
        }
        for (n, (_, to_mqtt, to_amqp)) in SENT.iter().enumerate() {
            let message = subscriber.take();
            assert_eq!((message.topic.as_str(), message.body.as_slice()), (format!("row/{n}").as_str(), &b"body"[..]));
            assert_eq!((message.shown().as_str(), message.qos), (*to_mqtt, if way.durable { Qos::AtLeastOnce } else { Qos::AtMostOnce }));
            let message = amqp.take("q");
            assert_eq!((message.key.as_str(), message.body.as_slice()), (format!("row.{n}").as_str(), &b"body"[..]));
            assert_eq!(from_mqtt::without_mode(&message.shown(), way.durable), *to_amqp, "{way:?}");
        }
        drop(carrick);
    }
}

/// What MQTT 5 publishes, and STOMP is told.
fn of_mqtt() -> Vec<(Vec<P<'static>>, &'static str)> {
    vec![
        (vec![], ""),
        (vec![P::IsText], ""),
        (vec![P::Expiry(60)], "expiration:60000"),
        (vec![P::ContentType("text/plain")], "content-type:text/plain"),
        (vec![P::ResponseTopic("re/a.b")], "reply-to:/topic/re.a%2Eb"),
        (vec![P::Correlation(b"c")], "correlation-id:c"),
        (vec![P::Correlation(b"\xff")], ""),
        (vec![P::User("k", "v:w"), P::User("k", "second"), P::User("a", "1")], "k:v\\cw a:1"),
        (vec![P::User("subscription", "forged"), P::User("x", "y")], "x:y"),
    ]
}

/// What AMQP publishes, and STOMP is told.
fn of_amqp(table: &TableWriter) -> Vec<(Properties<'_>, &'static str)> {
    vec![
        (Properties::default(), ""),
        (Properties { content_type: Some(b"text/plain"), ..Properties::default() }, "content-type:text/plain"),
        (Properties { content_encoding: Some(b"gzip"), ..Properties::default() }, "content-encoding:gzip"),
        (Properties { correlation_id: Some(b"c"), ..Properties::default() }, "correlation-id:c"),
        (Properties { reply_to: Some(b"q"), ..Properties::default() }, "reply-to:/reply-queue/q"),
        (Properties { expiration: Some(b"60000"), ..Properties::default() }, "expiration:60000"),
        (Properties { message_id: Some(b"m"), ..Properties::default() }, "amqp-message-id:m"),
        (Properties { timestamp: Some(77), ..Properties::default() }, "timestamp:77"),
        (Properties { kind: Some(b"t"), ..Properties::default() }, "type:t"),
        (Properties { user_id: Some(b"guest"), ..Properties::default() }, "user-id:guest"),
        (Properties { app_id: Some(b"a"), ..Properties::default() }, "app-id:a"),
        (Properties { priority: Some(4), ..Properties::default() }, "priority:4"),
        (Properties { headers: Some(table.as_table()), ..Properties::default() }, "b:true i:-7 s:x\\cy"),
    ]
}

#[test]
fn what_stomp_is_told_by_every_way() {
    let mut inner = TableWriter::default();
    inner.text("a", "b");
    let mut table = TableWriter::default();
    table.put(b"b", &Field::Bool(true)).put(b"i", &Field::I32(-7)).put(b"s", &Field::LongStr(b"x:y")).table("t", &inner);
    for way in WAYS {
        let dir = tempfile::tempdir().expect("a folder");
        let mut carrick = all(dir.path());
        let kept: &[(&str, &str)] = if way.kept { &[("durable", "true"), ("auto-delete", "false")] } else { &[] };
        let mut stomp = Stomp::connect(&carrick);
        stomp.subscribe("/topic/row.#", kept);
        if way.killed {
            drop(stomp);
            stomp = Stomp::connect(&carrick);
        }
        let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
        let mut amqp = Amqp::connect(&carrick);
        for (n, (properties, _)) in of_mqtt().iter().enumerate() {
            let qos = if way.durable { Qos::AtLeastOnce } else { Qos::AtMostOnce };
            client.publish(&format!("row/{n}"), qos, properties, b"MQTT");
            // QoS 0 has no acknowledgement: what follows on another connection waits for it here.
            client.assert_nothing();
        }
        for (n, (properties, _)) in of_amqp(&table).iter().enumerate() {
            let properties = Properties { delivery_mode: way.durable.then_some(2), ..*properties };
            amqp.publish("amq.topic", &format!("row.{n}"), &properties, b"AMQP");
        }
        if way.killed {
            drop(carrick);
            carrick = all(dir.path());
            stomp = Stomp::connect(&carrick);
            stomp.subscribe("/topic/row.#", kept);
        }
        let rows = of_mqtt().into_iter().map(|(_, expected)| (&b"MQTT"[..], expected));
        let rows = rows.enumerate().chain(of_amqp(&table).into_iter().map(|(_, expected)| (&b"AMQP"[..], expected)).enumerate());
        for (n, (body, expected)) in rows {
            let message = stomp.take();
            assert_eq!((message.header("destination"), message.body.as_slice()), (Some(format!("/topic/row.{n}").as_str()), body));
            let shown = message.shown();
            let persistent = shown.split(' ').any(|header| header == "persistent:true");
            let said: Vec<_> = shown.split(' ').filter(|header| *header != "persistent:true").collect();
            assert_eq!((said.join(" ").as_str(), persistent), (expected, way.durable), "{way:?}");
        }
        stomp.assert_nothing();
        drop(carrick);
    }
}

/// What a MESSAGE shows as its `destination`, or to answer to, can be sent to as it stands.
#[test]
fn topics_with_dots_can_be_named_and_answered() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = all(dir.path());
    let mut client = Mqtt::connect(&carrick, Version::V5, "c", false);
    client.subscribe("dev/10.0.0.1/+");
    let mut stomp = Stomp::connect(&carrick);
    stomp.subscribe("/topic/ask.1%2E2", &[]);
    let mut publisher = Mqtt::connect(&carrick, Version::V5, "p", false);
    publisher.publish("ask/1.2", Qos::AtLeastOnce, &[P::ResponseTopic("dev/10.0.0.1/re"), P::Correlation(b"c")], b"?");
    let question = stomp.take();
    assert_eq!(question.header("destination"), Some("/topic/ask.1%2E2"));
    let mut other = Stomp::connect(&carrick);
    other.send(question.header("reply-to").expect("where to"), &[("correlation-id", "c")], b"!");
    let answer = client.take();
    assert_eq!(
        (answer.topic.as_str(), answer.shown().as_str(), answer.body.as_slice()),
        ("dev/10.0.0.1/re", "CorrelationData=c", &b"!"[..])
    );
}
