//! One connection, the same for both versions; what it sees is sorted into channels.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::Mutex;
use std::time::Duration;

use rumqttc::{QoS, TlsConfiguration, Transport};
use tokio::task::JoinHandle;

use crate::{v4, v5};

pub const WAIT: Duration = Duration::from_secs(10);
pub const END: &[u8] = b"end";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Option<rumqttc::v5::mqttbytes::v5::PublishProperties>,
}

impl Message {
    pub fn new(topic: String, payload: &[u8], qos: QoS, retain: bool) -> Message {
        Message { topic, payload: payload.to_vec(), qos, retain, properties: None }
    }

    fn without_properties(mut self) -> Message {
        self.properties = None;
        self
    }
}

/// How a connection ended, or was never let in.
#[derive(Debug)]
pub enum End {
    Refused(u8),
    /// The reason of the server's DISCONNECT, if one came.
    Lost(Option<u8>, #[allow(dead_code, reason = "shown when a scenario fails")] String),
}

/// Where the task of a connection puts what it sees.
pub struct Sink {
    pub session_present: Sender<bool>,
    pub messages: Sender<Message>,
    /// A publish is over: written at QoS 0, acknowledged at 1, completed at 2.
    pub published: Sender<()>,
    pub granted: Sender<Vec<Option<u8>>>,
    pub end: Sender<End>,
}

pub enum Handle {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

pub struct Connection {
    handle: Handle,
    task: JoinHandle<()>,
    pub session_present: bool,
    messages: Receiver<Message>,
    published: Receiver<()>,
    granted: Receiver<Vec<Option<u8>>>,
    end: Receiver<End>,
}

#[derive(Clone)]
pub struct Options {
    pub keep: bool,
    pub credentials: Option<(String, String)>,
    /// Topic and payload.
    pub will: Option<(String, String)>,
}

impl Options {
    pub fn guest() -> Options {
        Options { keep: false, credentials: Some((var("MQTT_USER"), var("MQTT_PASSWORD"))), will: None }
    }

    pub fn kept() -> Options {
        Options { keep: true, ..Options::guest() }
    }
}

pub fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// Whether this process goes over WebSocket.
pub static OVER_WEB: AtomicBool = AtomicBool::new(false);

/// With TLS: whom the next connections trust, and who they are.
pub static OVER_TLS: Mutex<Option<TlsConfiguration>> = Mutex::new(None);

/// Where the broker is, in the way that rumqttc wants it: a host and a port, or a URL and a port that is not looked at.
pub fn address() -> (String, u16, Transport) {
    let port = |name: &str| var(name).parse().expect("a port is a number");
    let tls = OVER_TLS.lock().expect("nobody panics with it").clone();
    match (OVER_WEB.load(Relaxed), tls) {
        (true, None) => (var("WEB_MQTT_URL"), 0, Transport::Ws),
        (true, Some(tls)) => (format!("wss://{}:{}/mqtt", var("MQTT_HOST"), var("WEB_TLS_PORT")), 0, Transport::Wss(tls)),
        (false, None) => (var("MQTT_HOST"), port("MQTT_PORT"), Transport::Tcp),
        (false, Some(tls)) => (var("MQTT_HOST"), port("MQTT_TLS_PORT"), Transport::Tls(tls)),
    }
}

impl Connection {
    pub fn open(version: u8, name: &str, options: &Options) -> Connection {
        Connection::attempt(version, name, options).unwrap_or_else(|end| panic!("not let in: {end:?}"))
    }

    pub fn attempt(version: u8, name: &str, options: &Options) -> Result<Connection, End> {
        let (session_present, present) = std::sync::mpsc::channel();
        let (messages_in, messages) = std::sync::mpsc::channel();
        let (published_in, published) = std::sync::mpsc::channel();
        let (granted_in, granted) = std::sync::mpsc::channel();
        let (end_in, end) = std::sync::mpsc::channel();
        let sink = Sink { session_present, messages: messages_in, published: published_in, granted: granted_in, end: end_in };
        let (handle, task) = if version == 5 { v5::open(name, options, sink) } else { v4::open(name, options, sink) };
        match present.recv_timeout(WAIT) {
            Ok(session_present) => Ok(Connection { handle, task, session_present, messages, published, granted, end }),
            Err(RecvTimeoutError::Disconnected) => Err(end.recv_timeout(WAIT).expect("an end without a reason")),
            Err(RecvTimeoutError::Timeout) => panic!("no CONNACK within {WAIT:?}"),
        }
    }

    pub fn subscribe(&self, filter: &str, qos: QoS) {
        self.subscribe_with(filter, qos, None);
    }

    pub fn subscribe_with(&self, filter: &str, qos: QoS, identifier: Option<usize>) {
        match &self.handle {
            Handle::V4(client) => client.try_subscribe(filter, qos).expect("room for a request"),
            Handle::V5(client) => v5::subscribe(client, filter, qos, identifier),
        }
        let granted = self.granted.recv_timeout(WAIT).expect("a SUBACK");
        assert_eq!(granted, [Some(qos as u8)], "SUBACK");
    }

    pub fn publish(&self, message: &Message) {
        let Message { topic, payload, qos, retain, properties } = message.clone();
        match &self.handle {
            Handle::V4(client) => client.try_publish(topic, qos, retain, payload).expect("room for a request"),
            Handle::V5(client) => v5::publish(client, topic, qos, retain, payload, properties),
        }
        self.published.recv_timeout(WAIT).unwrap_or_else(|_| panic!("no answer to {} at {:?}", message.topic, message.qos));
    }

    pub fn receive(&self) -> Message {
        self.messages.recv_timeout(WAIT).unwrap_or_else(|_| panic!("no message within {WAIT:?}"))
    }

    pub fn receive_within(&self, wait: Duration) -> Option<Message> {
        self.messages.recv_timeout(wait).ok()
    }

    pub fn receive_plain(&self, count: usize) -> Vec<Message> {
        (0..count).map(|_| self.receive().without_properties()).collect()
    }

    /// All up to the marker that the test publishes last.
    pub fn receive_to_end(&self) -> Vec<Message> {
        let mut got = Vec::new();
        loop {
            let message = self.receive().without_properties();
            if message.payload == END {
                return got;
            }
            got.push(message);
        }
    }

    pub fn await_end(&self) -> End {
        self.end.recv_timeout(WAIT).unwrap_or_else(|_| panic!("the connection did not end within {WAIT:?}"))
    }

    /// Closes the socket with no DISCONNECT, as a crash does.
    pub fn cut(self) {
        self.task.abort();
    }

    pub fn close(self) {
        match &self.handle {
            Handle::V4(client) => client.try_disconnect().expect("room for a request"),
            Handle::V5(client) => client.try_disconnect().expect("room for a request"),
        }
        self.await_end();
    }
}

/// Asks the runner to restart the broker.
pub fn control(command: &str) {
    let mut connection = TcpStream::connect(var("MQTT_CONTROL")).expect("the control port answers");
    connection.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
    writeln!(connection, "{command}").expect("the control port listens");
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).expect("the control port answers");
    assert_eq!(answer, "ok\n", "{command}");
}
