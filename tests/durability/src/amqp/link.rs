//! One connection with one channel: a blocking socket, what is to be sent, and what came.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use amqp091::codec::{
    frame_at, put_body_frames, put_content_head, ContentHead, Method, Properties, Table, FRAME_BODY, FRAME_HEADER, FRAME_METHOD,
    PROTOCOL_HEADER,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Where commands may have to wait: for syncs of a slow disk, and for the machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
pub const CHANNEL: u16 = 1;
const FRAME_MAX: usize = 131_072;

/// What concerns a load of what a broker says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    Delivery {
        tag: u64,
        redelivered: bool,
        body: Vec<u8>,
    },
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack,
    /// The answer to a command, by its name.
    Answer(&'static str),
    Closed(String),
}

pub struct Link {
    socket: TcpStream,
    pub out: Vec<u8>,
    input: Vec<u8>,
    parsed: usize,
    waits: Option<Duration>,
    delivery: Option<Delivery>,
}

/// A delivery whose body has not come whole.
struct Delivery {
    tag: u64,
    redelivered: bool,
    size: Option<usize>,
    body: Vec<u8>,
}

impl Link {
    /// Connects, logs in and opens the channel.
    pub fn open(addr: SocketAddr) -> io::Result<Link> {
        let socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut link = Link { socket, out: Vec::new(), input: Vec::new(), parsed: 0, waits: None, delivery: None };
        link.out.extend_from_slice(&PROTOCOL_HEADER);
        let start = Method::ConnectionStartOk {
            client_properties: Table::default(),
            mechanism: b"PLAIN",
            response: b"\0guest\0guest",
            locale: b"en_US",
        };
        start.put(0, &mut link.out);
        link.answer("connection.tune")?;
        Method::ConnectionTuneOk { channel_max: 1, frame_max: FRAME_MAX as u32, heartbeat: 0 }.put(0, &mut link.out);
        Method::ConnectionOpen { virtual_host: b"/", capabilities: b"", insist: false }.put(0, &mut link.out);
        link.call(Method::ChannelOpen { out_of_band: b"" }, "channel.open_ok")?;
        Ok(link)
    }

    pub fn put(&mut self, method: Method<'_>) {
        method.put(CHANNEL, &mut self.out);
    }

    /// `mode`: `None` is what clients send that say nothing, and means 1.
    pub fn publish(&mut self, exchange: &str, key: &str, mode: Option<u8>, priority: u8, body: &[u8]) {
        self.put(Method::BasicPublish { exchange: exchange.as_bytes(), routing_key: key.as_bytes(), mandatory: false, immediate: false });
        let mut properties = Vec::new();
        Properties { delivery_mode: mode, priority: Some(priority), ..Properties::default() }.put(&mut properties);
        put_content_head(&mut self.out, CHANNEL, body.len() as u64, &properties);
        put_body_frames(&mut self.out, CHANNEL, body, FRAME_MAX - 8);
    }

    /// A command, and nothing before its answer.
    pub fn call(&mut self, method: Method<'_>, answer: &str) -> io::Result<()> {
        self.put(method);
        self.answer(answer)
    }

    fn answer(&mut self, answer: &str) -> io::Result<()> {
        self.flush()?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now()))? {
                Some(Heard::Answer(name)) if name == answer => return Ok(()),
                // Of the handshake, and of commands that were sent together with this one.
                Some(Heard::Answer(_)) => {}
                Some(other) => return Err(stray(&other)),
                None => return Err(io::Error::new(ErrorKind::TimedOut, format!("no {answer}"))),
            }
        }
    }

    /// Says good-bye and waits for the answer, so that all acknowledgements have been read.
    pub fn close(mut self) -> io::Result<()> {
        Method::ConnectionClose { reply_code: 200, reply_text: b"", class_id: 0, method_id: 0 }.put(0, &mut self.out);
        self.answer("connection.close_ok")
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// What comes next; `None` when nothing did within `wait`.
    pub fn next(&mut self, wait: Duration) -> io::Result<Option<Heard>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(heard) = self.at_hand()? {
                return Ok(Some(heard));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !wait.is_zero() {
                return Ok(None);
            }
            if !self.fill(left)? {
                return Ok(None);
            }
        }
    }

    /// What can be had without touching the socket.
    pub fn at_hand(&mut self) -> io::Result<Option<Heard>> {
        while let Some(frame) = frame_at(&self.input, self.parsed) {
            self.parsed = frame.end();
            let payload = frame.payload(&self.input);
            let heard = match frame.kind {
                FRAME_METHOD => {
                    let method = Method::parse(payload).map_err(|error| bad(&error.to_string()))?;
                    match method {
                        Method::BasicDeliver { delivery_tag, redelivered, .. } => {
                            self.delivery = Some(Delivery { tag: delivery_tag, redelivered, size: None, body: Vec::new() });
                            None
                        }
                        other => Some(heard(&other)),
                    }
                }
                FRAME_HEADER => {
                    let head = ContentHead::parse(payload).map_err(|error| bad(&error.to_string()))?;
                    self.delivery.as_mut().ok_or_else(|| bad("a content of nothing"))?.size = Some(head.body_size as usize);
                    None
                }
                FRAME_BODY => {
                    self.delivery.as_mut().ok_or_else(|| bad("a body of nothing"))?.body.extend_from_slice(payload);
                    None
                }
                _ => None,
            };
            if heard.is_some() {
                return Ok(heard);
            }
            if let Some(Delivery { tag, redelivered, body, .. }) = self.delivery.take_if(|it| it.size == Some(it.body.len())) {
                return Ok(Some(Heard::Delivery { tag, redelivered, body }));
            }
        }
        self.input.drain(..self.parsed);
        self.parsed = 0;
        Ok(None)
    }

    fn fill(&mut self, wait: Duration) -> io::Result<bool> {
        let wait = wait.max(Duration::from_millis(1));
        if self.waits != Some(wait) {
            self.socket.set_read_timeout(Some(wait))?;
            self.waits = Some(wait);
        }
        let mut bytes = [0; 64 << 10];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn heard(method: &Method<'_>) -> Heard {
    match method {
        Method::BasicAck { delivery_tag, multiple } => Heard::Ack { tag: *delivery_tag, multiple: *multiple },
        Method::BasicNack { .. } => Heard::Nack,
        Method::ConnectionClose { reply_code, reply_text, .. } | Method::ChannelClose { reply_code, reply_text, .. } => {
            Heard::Closed(format!("{reply_code} {}", String::from_utf8_lossy(reply_text)))
        }
        other => Heard::Answer(other.name()),
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the broker says what makes no sense: {what}"))
}

pub fn stray(heard: &Heard) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("unexpected: {heard:?}"))
}
