//! The scenarios; each makes its own queues and takes them away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions,
};
use lapin::publisher_confirm::Confirmation;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use crate::peer::{
    address, body, connection_to, control, next, ourselves, refusal, table, text, unique, var, within, Kind, Peer, LIMIT, WAIT,
};

pub const NAMES: &[&str] = &[
    "confirms",
    "consume-ack",
    "redelivery",
    "mandatory",
    "dead-letter",
    "ttl",
    "server-named",
    "rpc",
    "large",
    "tx",
    "reject-publish",
    "priority",
    "single-active",
    "quorum",
    "cancel-notify",
    "wrong-password",
    "clean-close",
    "dirty-close",
    "restart-kill9",
];

pub async fn run(name: &str) {
    match name {
        "confirms" => confirms().await,
        "consume-ack" => consume_ack().await,
        "redelivery" => redelivery().await,
        "mandatory" => mandatory().await,
        "dead-letter" => dead_letter().await,
        "ttl" => ttl().await,
        "server-named" => server_named().await,
        "rpc" => rpc().await,
        "large" => large().await,
        "tx" => transactions().await,
        "reject-publish" => reject_publish().await,
        "priority" => priority().await,
        "single-active" => single_active().await,
        "quorum" => quorum().await,
        "cancel-notify" => cancel_notify().await,
        "wrong-password" => wrong_password().await,
        "clean-close" => clean_close().await,
        "dirty-close" => dirty_close().await,
        "restart-kill9" => restart().await,
        other => panic!("no scenario {other}"),
    }
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

async fn confirms() {
    let peer = Peer::confirming().await;
    let queue = peer.durable("confirms").await;
    let mut waiting = Vec::new();
    for n in 0..100 {
        let sent = peer.channel.basic_publish("", &queue, Default::default(), n.to_string().as_bytes(), persistent()).await;
        waiting.push(sent.expect("sent"));
    }
    for confirm in waiting {
        assert_eq!(within("a confirm", confirm).await.expect("a confirm"), Confirmation::Ack(None));
    }
    assert_eq!(peer.count(&queue).await, 100);
    assert_eq!(peer.delete(&queue).await, 100);
    peer.close().await;
}

async fn consume_ack() {
    let peer = Peer::connect().await;
    let queue = peer.durable("consume").await;
    for n in 0..200 {
        peer.send(&queue, n.to_string().as_bytes()).await;
    }
    peer.channel.basic_qos(10, BasicQosOptions::default()).await.expect("qos-ok");
    let mut consumer = peer.consume(&queue, false).await;
    for n in 0..200 {
        let delivery = next(&mut consumer).await.expect("a delivery");
        assert_eq!(String::from_utf8_lossy(&delivery.data), n.to_string());
        assert!(delivery.ack(BasicAckOptions::default()).await.expect("sent"));
    }
    assert_eq!(peer.count(&queue).await, 0);
    peer.delete(&queue).await;
    peer.close().await;
}

/// What the second process of `redelivery` does until it is killed: it has a message in hand.
pub async fn hold(queue: &str) -> ExitCode {
    let peer = Peer::connect().await;
    let message = peer.get(queue, false).await.expect("a message");
    println!("redelivered {}", message.redelivered);
    tokio::time::sleep(LIMIT).await;
    ExitCode::SUCCESS
}

async fn redelivery() {
    let peer = Peer::connect().await;
    let queue = peer.durable("redelivery").await;
    peer.send(&queue, b"again").await;
    // lapin does not hand out its socket, so the connection is cut with its process.
    let mut other = ourselves().args(["hold", &queue]).stdout(Stdio::piped()).spawn().expect("a second process");
    let mut line = String::new();
    BufReader::new(other.stdout.take().expect("its output")).read_line(&mut line).expect("its line");
    other.kill().expect("a kill");
    other.wait().expect("its end");
    assert_eq!(line.trim(), "redelivered false");

    let mut consumer = peer.consume(&queue, false).await;
    let delivery = next(&mut consumer).await.expect("a delivery");
    assert_eq!((&delivery.data[..], delivery.redelivered), (&b"again"[..], true));
    peer.channel.basic_cancel(consumer.tag().as_str(), BasicCancelOptions::default()).await.expect("cancel-ok");
    delivery.nack(BasicNackOptions { multiple: false, requeue: true }).await.expect("sent");
    let message = peer.get(&queue, false).await.expect("a message");
    assert!(message.redelivered);
    message.reject(BasicRejectOptions { requeue: false }).await.expect("sent");
    assert!(peer.get(&queue, false).await.is_none());
    peer.delete(&queue).await;
    peer.close().await;
}

async fn mandatory() {
    let peer = Peer::confirming().await;
    let nobody = unique("nobody");
    let Confirmation::Ack(Some(returned)) = peer.publish("", &nobody, b"back", persistent()).await else { panic!("it was not returned") };
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!((&returned.data[..], returned.routing_key.as_str()), (&b"back"[..], nobody.as_str()));
    let sent = peer.channel.basic_publish("", &nobody, Default::default(), b"gone", persistent()).await.expect("sent");
    assert_eq!(within("the confirm", sent).await.expect("the confirm"), Confirmation::Ack(None));
    peer.close().await;
}

async fn dead_letter() {
    let peer = Peer::connect().await;
    let (source, dead, exchange) = (unique("source"), peer.durable("dead").await, unique("dlx"));
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    peer.channel.exchange_declare(&exchange, ExchangeKind::Fanout, options, none).await.expect("declare-ok");
    peer.bind(&dead, &exchange, "").await;
    let arguments = table(&[("x-dead-letter-exchange", text(&exchange)), ("x-message-ttl", AMQPValue::LongInt(1))]);
    peer.declare(&source, Kind::Durable, arguments).await;
    let sent = BasicProperties::default().with_headers(table(&[("mine", text("kept"))]));
    peer.publish("", &source, b"late", sent).await;
    let delivery = next(&mut peer.consume(&dead, true).await).await.expect("the dead letter");
    assert_eq!(delivery.data, b"late");
    let headers = delivery.properties.headers().as_ref().expect("headers").inner();
    assert_eq!((&headers["mine"], &headers["x-first-death-reason"]), (&text("kept"), &text("expired")));
    let deaths = headers["x-death"].as_array().expect("an array").as_slice();
    assert_eq!(deaths.len(), 1);
    let death = deaths[0].as_field_table().expect("a table").inner();
    assert_eq!((&death["reason"], &death["queue"], &death["exchange"]), (&text("expired"), &text(&source), &text("")));
    assert_eq!(death["count"], AMQPValue::LongLongInt(1));
    assert_eq!(death["routing-keys"].as_array().expect("an array").as_slice(), [text(&source)]);
    peer.delete(&source).await;
    peer.delete(&dead).await;
    peer.channel.exchange_delete(&exchange, ExchangeDeleteOptions::default()).await.expect("delete-ok");
    peer.close().await;
}

async fn ttl() {
    let peer = Peer::connect().await;
    let queue = peer.durable("ttl").await;
    for (what, millis) in [("short", "100"), ("long", "60000")] {
        peer.publish("", &queue, what.as_bytes(), BasicProperties::default().with_expiration(millis.into())).await;
    }
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let message = peer.get(&queue, true).await.expect("a message");
    assert_eq!(message.data, b"long");
    assert_eq!(message.properties.expiration().as_ref().map(|millis| millis.as_str()), Some("60000"));
    peer.delete(&queue).await;
    peer.close().await;
}

async fn server_named() {
    let (peer, other) = (Peer::connect().await, Peer::connect().await);
    let queue = peer.declare("", Kind::Exclusive, FieldTable::default()).await;
    assert!(queue.starts_with("amq.gen-"), "{queue}");
    peer.bind(&queue, "amq.topic", "a.*").await;
    let mut consumer = peer.consume(&queue, true).await;
    for (key, what) in [("a.b.c", "not"), ("a.b", "routed")] {
        let sent = peer.channel.basic_publish("amq.topic", key, Default::default(), what.as_bytes(), BasicProperties::default()).await;
        sent.expect("sent");
    }
    let delivery = next(&mut consumer).await.expect("a delivery");
    assert_eq!(delivery.data, b"routed");
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("amq.topic", "a.b"));
    assert_eq!(refusal(other.try_declare(&queue, Kind::Passive, FieldTable::default()).await), 405);
    peer.close().await;
    let other = Peer::connect().await;
    assert_eq!(refusal(other.try_declare(&queue, Kind::Passive, FieldTable::default()).await), 404);
    other.close().await;
}

async fn rpc() {
    const REPLY_TO: &str = "amq.rabbitmq.reply-to";
    let (server, client) = (Peer::connect().await, Peer::connect().await);
    let queue = server.declare(&unique("rpc"), Kind::Exclusive, FieldTable::default()).await;
    let mut questions = server.consume(&queue, true).await;
    let mut answers = client.consume(REPLY_TO, true).await;
    let sent = BasicProperties::default().with_reply_to(REPLY_TO.into()).with_correlation_id("7".into());
    client.publish("", &queue, b"question", sent).await;
    let question = next(&mut questions).await.expect("the question");
    let reply_to = question.properties.reply_to().as_ref().expect("an address").to_string();
    assert!(question.data == b"question" && reply_to.starts_with("amq.rabbitmq.reply-to."), "{reply_to}");
    let id = question.properties.correlation_id().clone().expect("an id");
    server.publish("", &reply_to, b"answer", BasicProperties::default().with_correlation_id(id)).await;
    let answer = next(&mut answers).await.expect("the answer");
    assert_eq!(answer.data, b"answer");
    assert_eq!(answer.properties.correlation_id().as_ref().map(|id| id.as_str()), Some("7"));
    client.close().await;
    server.close().await;
}

async fn large() {
    let peer = Peer::confirming().await;
    let queue = peer.durable("large").await;
    for size in [0, 131_064, 131_065, 1 << 20, 5_000_000] {
        let body: Vec<u8> = b"0123456789abcdef".iter().copied().cycle().take(size).collect();
        peer.send(&queue, &body).await;
        let back = peer.get(&queue, true).await.expect("a message");
        assert!(back.data == body, "{size} bytes came back as {}", back.data.len());
    }
    peer.delete(&queue).await;
    peer.close().await;
}

async fn transactions() {
    let peer = Peer::connect().await;
    let queue = peer.durable("tx").await;
    peer.channel.tx_select().await.expect("select-ok");
    peer.send(&queue, b"no").await;
    peer.channel.tx_rollback().await.expect("rollback-ok");
    peer.send(&queue, b"yes").await;
    peer.channel.tx_commit().await.expect("commit-ok");
    assert_eq!(peer.count(&queue).await, 1);
    let message = peer.get(&queue, false).await.expect("a message");
    assert_eq!(message.data, b"yes");
    message.ack(BasicAckOptions::default()).await.expect("sent");
    peer.channel.tx_commit().await.expect("commit-ok");
    assert_eq!(peer.delete(&queue).await, 0);
    peer.close().await;
}

async fn reject_publish() {
    let peer = Peer::confirming().await;
    let arguments = table(&[("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]);
    let queue = peer.declare(&unique("full"), Kind::Durable, arguments).await;
    assert_eq!(peer.publish("", &queue, b"1", persistent()).await, Confirmation::Ack(None));
    assert_eq!(peer.publish("", &queue, b"2", persistent()).await, Confirmation::Nack(None));
    peer.get(&queue, true).await.expect("a message");
    assert_eq!(peer.publish("", &queue, b"3", persistent()).await, Confirmation::Ack(None));
    assert_eq!(peer.delete(&queue).await, 1);
    peer.close().await;
}

async fn priority() {
    let peer = Peer::confirming().await;
    let queue = peer.declare(&unique("priority"), Kind::Durable, table(&[("x-max-priority", AMQPValue::LongInt(5))])).await;
    for (what, priority) in [("a", 0), ("b", 5), ("c", 1), ("d", 200), ("e", 1)] {
        peer.publish("", &queue, what.as_bytes(), BasicProperties::default().with_priority(priority)).await;
    }
    let mut consumer = peer.consume(&queue, true).await;
    let mut got = String::new();
    for _ in 0..5 {
        got += &body(&mut consumer).await;
    }
    // What is more than the most counts as the most.
    assert_eq!(got, "bdcea");
    peer.delete(&queue).await;
    peer.close().await;
}

/// The second consumer gets nothing until the first has gone.
async fn single_active() {
    let (first, second) = (Peer::connect().await, Peer::connect().await);
    let arguments = table(&[("x-single-active-consumer", AMQPValue::Boolean(true))]);
    let queue = first.declare(&unique("single"), Kind::Durable, arguments).await;
    let mut active = first.consume(&queue, true).await;
    let mut waiting = second.consume(&queue, true).await;
    for n in 0..10 {
        second.send(&queue, n.to_string().as_bytes()).await;
    }
    for n in 0..10 {
        assert_eq!(body(&mut active).await, n.to_string());
    }
    first.close().await;
    second.send(&queue, b"after").await;
    assert_eq!(body(&mut waiting).await, "after");
    second.delete(&queue).await;
    second.close().await;
}

/// A message that is given back more often than the queue allows goes to the dead letters.
async fn quorum() {
    let peer = Peer::confirming().await;
    let dead = peer.durable("quorum-dead").await;
    let queue = peer
        .declare(
            &unique("quorum"),
            Kind::Durable,
            table(&[
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", AMQPValue::LongInt(2)),
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(&dead)),
            ]),
        )
        .await;
    peer.publish("", &queue, b"hot potato", persistent()).await;
    let mut dead_letters = peer.consume(&dead, true).await;
    let mut consumer = peer.consume(&queue, false).await;
    for n in 0..3 {
        let delivery = next(&mut consumer).await.expect("a delivery");
        assert_eq!(delivery.redelivered, n > 0, "delivery {n}");
        delivery.reject(BasicRejectOptions { requeue: true }).await.expect("sent");
    }
    let delivery = next(&mut dead_letters).await.expect("the dead letter");
    assert_eq!(delivery.data, b"hot potato");
    let headers = delivery.properties.headers().as_ref().expect("headers").inner();
    assert_eq!(headers["x-first-death-reason"], text("delivery_limit"));
    peer.delete(&queue).await;
    peer.delete(&dead).await;
    peer.close().await;
}

async fn cancel_notify() {
    let (peer, other) = (Peer::connect().await, Peer::connect().await);
    let queue = peer.durable("cancelled").await;
    let mut consumer = peer.consume(&queue, false).await;
    other.delete(&queue).await;
    assert!(next(&mut consumer).await.is_none());
    // The channel takes the answer to the cancel, and goes on.
    peer.declare("", Kind::Exclusive, FieldTable::default()).await;
    peer.close().await;
    other.close().await;
}

async fn wrong_password() {
    assert_eq!(refusal(connection_to("wrong", "%2f").await), 403);
    assert_eq!(refusal(connection_to(&var("AMQP_PASSWORD"), "nope").await), 530);
}

async fn clean_close() {
    let peer = Peer::connect().await;
    within("close-ok", peer.channel.close(200, "bye")).await.expect("close-ok");
    assert!(!peer.channel.status().connected() && peer.connection.status().connected());
    let channel = peer.connection.create_channel().await.expect("another channel");
    channel.queue_declare("", Default::default(), FieldTable::default()).await.map(|_| ()).expect("a queue");
    peer.close().await;
    // Not `errored`: lapin may count the end of the socket, which follows the close-ok, as an error.
    assert!(!peer.connection.status().connected());
}

async fn dirty_close() {
    let peer = Peer::connect().await;
    let queue = peer.durable("dirty").await;
    let mut cut = TcpStream::connect(address()).expect("a socket");
    cut.write_all(b"AMQP\0\0\x09\x01\x01\0\0").expect("sent");
    drop(cut);
    let mut wrong = TcpStream::connect(address()).expect("a socket");
    wrong.set_read_timeout(Some(WAIT)).expect("a timeout");
    wrong.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
    let mut header = [0; 8];
    wrong.read_exact(&mut header).expect("the header");
    assert_eq!(&header, b"AMQP\0\0\x09\x01");
    peer.delete(&queue).await;
    peer.close().await;
}

async fn restart() {
    let peer = Peer::confirming().await;
    let queue = peer.durable("restart").await;
    for n in 0..50 {
        assert_eq!(peer.publish("", &queue, n.to_string().as_bytes(), persistent()).await, Confirmation::Ack(None));
    }
    control("kill9");
    let peer = Peer::connect().await;
    let mut consumer = peer.consume(&queue, true).await;
    for n in 0..50 {
        assert_eq!(body(&mut consumer).await, n.to_string());
    }
    assert_eq!(peer.delete(&queue).await, 0);
    peer.close().await;
}
