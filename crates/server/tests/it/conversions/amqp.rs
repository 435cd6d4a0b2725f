//! A client of AMQP 0-9-1: one connection, channel 1, publishes confirmed, messages fetched one by one.

use super::super::{Carrick, LIMIT};
use amqp091::codec::{
    frame_at, put_body_frames, put_content_head, show, ContentHead, Method, Properties, Table, TableWriter, FRAME_BODY, FRAME_HEADER,
    FRAME_METHOD, PROTOCOL_HEADER,
};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const FRAME_MAX: usize = 131_072;

pub struct Amqp {
    stream: TcpStream,
    input: Vec<u8>,
    frames: VecDeque<(u8, Vec<u8>)>,
}

#[derive(Debug)]
pub struct Message {
    pub exchange: String,
    pub key: String,
    /// Flags and values.
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

impl Message {
    /// What it says of itself, in words.
    pub fn shown(&self) -> String {
        show::properties(&Properties::parse(&self.properties).expect("properties")).trim_start().to_owned()
    }
}

/// An argument of a binding or a queue, or a header.
pub enum Is<'a> {
    Text(&'a str),
    Number(i64),
}

pub fn table(arguments: &[(&str, Is<'_>)]) -> TableWriter {
    let mut table = TableWriter::default();
    for (name, value) in arguments {
        match value {
            Is::Text(text) => table.text(name, text),
            Is::Number(number) => table.put(name.as_bytes(), &amqp091::codec::Field::I64(*number)),
        };
    }
    table
}

impl Amqp {
    pub fn connect(carrick: &Carrick) -> Amqp {
        let url = carrick.urls.iter().find_map(|url| url.strip_prefix("amqp://")).expect("an AMQP listener");
        let stream = TcpStream::connect(url.trim_end_matches('/')).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut amqp = Amqp { stream, input: Vec::new(), frames: VecDeque::new() };
        amqp.stream.write_all(&PROTOCOL_HEADER).expect("sent");
        amqp.expect("connection.start");
        let none = Table::default();
        let start =
            Method::ConnectionStartOk { client_properties: none, mechanism: b"PLAIN", response: b"\0guest\0guest", locale: b"en_US" };
        amqp.send(0, &start);
        amqp.expect("connection.tune");
        amqp.send(0, &Method::ConnectionTuneOk { channel_max: 8, frame_max: FRAME_MAX as u32, heartbeat: 0 });
        amqp.send(0, &Method::ConnectionOpen { virtual_host: b"/", capabilities: b"", insist: false });
        amqp.expect("connection.open_ok");
        amqp.call(&Method::ChannelOpen { out_of_band: b"" }, "channel.open_ok");
        amqp.call(&Method::ConfirmSelect { nowait: false }, "confirm.select_ok");
        amqp
    }

    fn send(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = Vec::new();
        method.put(channel, &mut bytes);
        self.stream.write_all(&bytes).expect("sent");
    }

    /// The next frame: kind and payload.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        while self.frames.is_empty() {
            let mut at = 0;
            while let Some(frame) = frame_at(&self.input, at) {
                self.frames.push_back((frame.kind, frame.payload(&self.input).to_vec()));
                at = frame.end();
            }
            self.input.drain(..at);
            if self.frames.is_empty() {
                let mut piece = [0; 65_536];
                let len = self.stream.read(&mut piece).expect("a frame in time");
                assert!(len > 0, "the connection was closed");
                self.input.extend_from_slice(&piece[..len]);
            }
        }
        self.frames.pop_front().expect("there")
    }

    fn expect(&mut self, name: &str) -> String {
        let (kind, payload) = self.frame();
        assert_eq!(kind, FRAME_METHOD);
        let method = Method::parse(&payload).expect("a method");
        assert_eq!(method.name(), name, "{}", method.show());
        method.show()
    }

    pub fn call(&mut self, method: &Method<'_>, answer: &str) -> String {
        self.send(1, method);
        self.expect(answer)
    }

    pub fn queue(&mut self, name: &str, durable: bool, arguments: &[(&str, Is<'_>)]) {
        let arguments = table(arguments);
        let queue = name.as_bytes();
        let (passive, exclusive, auto_delete, nowait) = (false, false, false, false);
        let method = Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments: arguments.as_table() };
        self.call(&method, "queue.declare_ok");
    }

    /// Until so many messages are ready there.
    pub fn wait_for(&mut self, queue: &str, count: u32) {
        let start = Instant::now();
        let wanted = format!("message_count={count} ");
        loop {
            let (passive, durable, exclusive, auto_delete, nowait) = (true, false, false, false, false);
            let (queue, arguments) = (queue.as_bytes(), Table::default());
            let answer =
                self.call(&Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments }, "queue.declare_ok");
            if answer.contains(&wanted) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{answer}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str, arguments: &[(&str, Is<'_>)]) {
        let arguments = table(arguments);
        let (queue, exchange, routing_key) = (queue.as_bytes(), exchange.as_bytes(), key.as_bytes());
        let method = Method::QueueBind { queue, exchange, routing_key, nowait: false, arguments: arguments.as_table() };
        self.call(&method, "queue.bind_ok");
    }

    /// An exchange that gets what the source has for this key.
    pub fn exchange_behind(&mut self, source: &str, key: &str, name: &str, kind: &str) {
        let (exchange, kind) = (name.as_bytes(), kind.as_bytes());
        let (passive, durable, auto_delete, internal, nowait) = (false, true, false, false, false);
        let arguments = Table::default();
        let declare = Method::ExchangeDeclare { exchange, kind, passive, durable, auto_delete, internal, nowait, arguments };
        self.call(&declare, "exchange.declare_ok");
        self.bind_exchange(source, key, name);
    }

    pub fn bind_exchange(&mut self, source: &str, key: &str, destination: &str) {
        let (destination, source, routing_key) = (destination.as_bytes(), source.as_bytes(), key.as_bytes());
        let bind = Method::ExchangeBind { destination, source, routing_key, nowait: false, arguments: Table::default() };
        self.call(&bind, "exchange.bind_ok");
    }

    /// Until it is confirmed; answers whether it came back.
    pub fn publish(&mut self, exchange: &str, key: &str, properties: &Properties<'_>, body: &[u8]) -> bool {
        let mut bytes = Vec::new();
        let (exchange, routing_key) = (exchange.as_bytes(), key.as_bytes());
        Method::BasicPublish { exchange, routing_key, mandatory: true, immediate: false }.put(1, &mut bytes);
        let mut encoded = Vec::new();
        properties.put(&mut encoded);
        put_content_head(&mut bytes, 1, body.len() as u64, &encoded);
        put_body_frames(&mut bytes, 1, body, FRAME_MAX);
        self.stream.write_all(&bytes).expect("sent");
        let mut returned = false;
        loop {
            let (kind, payload) = self.frame();
            match Method::parse(&payload) {
                Ok(Method::BasicAck { .. }) if kind == FRAME_METHOD => return returned,
                Ok(Method::BasicReturn { .. }) if kind == FRAME_METHOD => returned = true,
                _ if returned && matches!(kind, FRAME_HEADER | FRAME_BODY) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The oldest message of a queue, acknowledged; `None` if there is none now.
    pub fn get(&mut self, queue: &str) -> Option<Message> {
        self.send(1, &Method::BasicGet { queue: queue.as_bytes(), no_ack: true });
        let (_, payload) = self.frame();
        let (exchange, key) = match Method::parse(&payload).expect("a method") {
            Method::BasicGetEmpty {} => return None,
            Method::BasicGetOk { exchange, routing_key, .. } => (text(exchange), text(routing_key)),
            other => panic!("{}", other.show()),
        };
        let (kind, payload) = self.frame();
        assert_eq!(kind, FRAME_HEADER);
        let head = ContentHead::parse(&payload).expect("a header");
        let mut body = Vec::new();
        while body.len() < head.body_size as usize {
            let (kind, piece) = self.frame();
            assert_eq!(kind, FRAME_BODY);
            body.extend_from_slice(&piece);
        }
        Some(Message { exchange, key, properties: head.properties.to_vec(), body })
    }

    /// The same, and waits for it.
    pub fn take(&mut self, queue: &str) -> Message {
        let start = Instant::now();
        loop {
            if let Some(message) = self.get(queue) {
                return message;
            }
            assert!(start.elapsed() < LIMIT, "nothing came to {queue}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}
