//! A connection with one channel, and the calls of the scenarios in short. All of them panic on what they do not expect.

use std::env;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_core::Stream;
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::publisher_confirm::Confirmation;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, Error, ErrorKind};

pub const WAIT: Duration = Duration::from_secs(20);
/// For one scenario, a restart of the broker included.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Peer {
    pub connection: Connection,
    pub channel: Channel,
}

/// One of the three kinds of queues that the scenarios make.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Durable,
    Exclusive,
    /// Looked for, not made.
    Passive,
}

pub fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

pub fn address() -> String {
    format!("{}:{}", var("AMQP_HOST"), var("AMQP_PORT"))
}

pub fn ourselves() -> Command {
    Command::new(env::current_exe().expect("a program has a path"))
}

pub async fn connection_to(password: &str, virtual_host: &str) -> lapin::Result<Connection> {
    let uri = format!("amqp://{}:{password}@{}/{virtual_host}", var("AMQP_USER"), address());
    let properties =
        ConnectionProperties::default().with_executor(tokio_executor_trait::Tokio::current()).with_reactor(tokio_reactor_trait::Tokio);
    within("the connection", Connection::connect(&uri, properties)).await
}

/// What is awaited, or a panic in its place after a while.
pub async fn within<T>(what: &str, future: impl std::future::Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// A name that no other run uses.
pub fn unique(what: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    format!("lapin.{what}.{:x}", now.as_nanos())
}

pub fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert((*name).into(), value.clone());
    }
    table
}

pub fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The reply code that the broker closed the channel or connection with.
pub fn refusal<T>(result: lapin::Result<T>) -> u16 {
    match result.err().as_ref().map(Error::kind) {
        Some(ErrorKind::ProtocolError(error)) => error.get_id(),
        other => panic!("no refusal of the broker: {other:?}"),
    }
}

pub fn control(command: &str) {
    let mut line = TcpStream::connect(var("AMQP_CONTROL")).expect("the control port");
    line.set_read_timeout(Some(LIMIT)).expect("a timeout");
    line.write_all(format!("{command}\n").as_bytes()).expect("a line for the control port");
    let mut answer = String::new();
    BufReader::new(line).read_line(&mut answer).expect("an answer of the control port");
    assert_eq!(answer.trim(), "ok", "{command}");
}

impl Peer {
    pub async fn connect() -> Peer {
        let connection = connection_to(&var("AMQP_PASSWORD"), "%2f").await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        Peer { connection, channel }
    }

    /// With confirms.
    pub async fn confirming() -> Peer {
        let peer = Peer::connect().await;
        peer.channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        peer
    }

    pub async fn try_declare(&self, queue: &str, kind: Kind, arguments: FieldTable) -> lapin::Result<lapin::Queue> {
        let options = QueueDeclareOptions {
            passive: kind == Kind::Passive,
            durable: kind == Kind::Durable,
            exclusive: kind == Kind::Exclusive,
            ..QueueDeclareOptions::default()
        };
        self.channel.queue_declare(queue, options, arguments).await
    }

    pub async fn declare(&self, queue: &str, kind: Kind, arguments: FieldTable) -> String {
        self.try_declare(queue, kind, arguments).await.expect("the queue").name().to_string()
    }

    pub async fn durable(&self, what: &str) -> String {
        self.declare(&unique(what), Kind::Durable, FieldTable::default()).await
    }

    pub async fn count(&self, queue: &str) -> u32 {
        self.try_declare(queue, Kind::Passive, FieldTable::default()).await.expect("the queue").message_count()
    }

    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await.expect("a binding");
    }

    /// Deletes the queue; how many messages were in it.
    pub async fn delete(&self, queue: &str) -> u32 {
        self.channel.queue_delete(queue, QueueDeleteOptions::default()).await.expect("delete-ok")
    }

    /// What the broker says to it: nothing, but on a channel with confirms.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> Confirmation {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let sent = self.channel.basic_publish(exchange, key, options, body, properties).await.expect("sent");
        within("the confirm", sent).await.expect("the confirm")
    }

    pub async fn send(&self, queue: &str, body: &[u8]) {
        self.publish("", queue, body, BasicProperties::default()).await;
    }

    pub async fn consume(&self, queue: &str, no_ack: bool) -> Consumer {
        let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
        self.channel.basic_consume(queue, "", options, FieldTable::default()).await.expect("consume-ok")
    }

    pub async fn get(&self, queue: &str, no_ack: bool) -> Option<BasicGetMessage> {
        within("get-ok", self.channel.basic_get(queue, BasicGetOptions { no_ack })).await.expect("get-ok")
    }

    pub async fn close(&self) {
        within("close-ok", self.connection.close(200, "bye")).await.expect("close-ok");
    }
}

/// The next delivery, or none once the broker has cancelled.
pub async fn next(consumer: &mut Consumer) -> Option<Delivery> {
    let next = within("a delivery", poll_fn(|context| Pin::new(&mut *consumer).poll_next(context))).await;
    next.transpose().expect("a delivery")
}

pub async fn body(consumer: &mut Consumer) -> String {
    let delivery = next(consumer).await.expect("a delivery");
    String::from_utf8(delivery.data).expect("text")
}
