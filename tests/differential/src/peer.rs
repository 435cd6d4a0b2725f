//! One connection: writes what it is told, and notes in words what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use amqp091::codec::{
    frame_at, show, ContentHead, Field, Method, Properties, Table, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD, PROTOCOL_HEADER,
};
use anyhow::{bail, Context, Result};

use crate::words::{self, Line};

const HANDSHAKE: Duration = Duration::from_secs(10);

pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
    pub frame_max: usize,
    lines: Vec<String>,
    content: BTreeMap<u16, Content>,
    /// Publishes that were confirmed, by channel: one confirm of many is as good as many of one.
    confirmed: BTreeMap<u16, BTreeSet<u64>>,
    closed: bool,
    /// Stands for `/` in this conversation.
    vhost: String,
}

struct Content {
    said: String,
    body: Vec<u8>,
    size: usize,
}

impl Peer {
    /// A socket on which nothing was said yet.
    pub fn bare(port: u16, vhost: &str) -> Result<Peer> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Peer {
            stream,
            seen: Vec::new(),
            frame_max: 131_072,
            lines: Vec::new(),
            content: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            closed: false,
            vhost: vhost.to_owned(),
        })
    }

    /// The whole handshake, and channel 1; what is always said is not noted.
    pub fn connect(port: u16, vhost: &str, line: &Line<'_>) -> Result<Peer> {
        let frame_max = line.get("frame_max").map_or(Ok(131_072), str::parse).context("frame_max")?;
        let mut peer = Peer { frame_max, ..Peer::bare(port, vhost)? };
        let get = |key: &str, otherwise: &'static str| line.get(key).map_or_else(|| otherwise.to_owned(), str::to_owned);
        let capable = "connection.blocked:t1,consumer_cancel_notify:t1,authentication_failure_close:t1";
        let mut properties = words::table("");
        properties.table("capabilities", &words::table(if line.get("capabilities") == Some("none") { "" } else { capable }));
        let response = format!("\0{}\0{}", get("user", "guest"), get("password", "guest"));
        let mut start = PROTOCOL_HEADER.to_vec();
        Method::ConnectionStartOk {
            client_properties: properties.as_table(),
            mechanism: get("mechanism", "PLAIN").as_bytes(),
            response: response.as_bytes(),
            locale: b"en_US",
        }
        .put(0, &mut start);
        let mut tune = Vec::new();
        let (channel_max, heartbeat) = (get("channel_max", "2047").parse()?, get("heartbeat", "0").parse()?);
        Method::ConnectionTuneOk { channel_max, frame_max: frame_max as u32, heartbeat }.put(0, &mut tune);
        Method::ConnectionOpen { virtual_host: line.get("vhost").unwrap_or(vhost).as_bytes(), capabilities: b"", insist: false }
            .put(0, &mut tune);
        let mut open = Vec::new();
        Method::ChannelOpen { out_of_band: b"" }.put(1, &mut open);
        let steps = [(start, "connection.tune "), (tune, "connection.open_ok"), (open, "channel.open_ok")];
        for (bytes, answer) in steps {
            peer.send(&bytes);
            let deadline = Instant::now() + HANDSHAKE;
            while !peer.closed && !peer.lines.iter().any(|line| line.contains(answer)) {
                if Instant::now() > deadline {
                    bail!("no {answer}");
                }
                peer.poll();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let usual = ["connection.start ", "connection.tune ", "connection.open_ok", "channel.open_ok"];
        peer.lines.retain(|line| !usual.iter().any(|usual| line.contains(usual)));
        Ok(peer)
    }

    /// A socket that the broker closed meanwhile takes nothing, and that is noted when it is read.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let deadline = Instant::now() + HANDSHAKE;
        while !rest.is_empty() && Instant::now() < deadline {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.poll();
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return,
            }
        }
    }

    pub fn cut(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.closed = true;
        self.lines.clear();
    }

    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    pub fn heard(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    pub fn wait_for(&mut self, lines: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.lines.len() < lines && !self.closed && Instant::now() < deadline {
            self.poll();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Notes what has come.
    pub fn poll(&mut self) {
        let mut buffer = [0; 64 << 10];
        while !self.closed {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end(),
                Ok(n) => {
                    self.seen.extend_from_slice(&buffer[..n]);
                    self.note();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.closed = true;
        self.lines.push("| closed".into());
    }

    fn note(&mut self) {
        if self.seen.starts_with(b"AMQP") && self.seen.len() >= 8 {
            self.seen.drain(..8);
            self.lines.push("< header AMQP 0 0 9 1".into());
        }
        let seen = std::mem::take(&mut self.seen);
        let mut at = 0;
        while let Some(frame) = frame_at(&seen, at) {
            at = frame.end();
            self.frame(frame.kind, frame.channel, frame.payload(&seen));
        }
        self.seen = seen[at..].to_vec();
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        match kind {
            FRAME_METHOD => match Method::parse(payload) {
                Ok(method) => self.method(channel, &method),
                Err(_) => self.lines.push(format!("< {channel} a method that cannot be read: {payload:02x?}")),
            },
            FRAME_HEADER => {
                let head = ContentHead::parse(payload).ok();
                let said = head.as_ref().and_then(|head| Properties::parse(head.properties).ok()).map(|properties| in_words(&properties));
                let size = head.map_or(0, |head| head.body_size as usize);
                self.content.insert(channel, Content { said: said.unwrap_or_else(|| " unreadable".into()), body: Vec::new(), size });
            }
            FRAME_BODY => {
                if let Some(content) = self.content.get_mut(&channel) {
                    content.body.extend_from_slice(payload);
                }
            }
            FRAME_HEARTBEAT => self.lines.push("< heartbeat".into()),
            other => self.lines.push(format!("< a frame of type {other}")),
        }
        if let Some(content) = self.content.get(&channel).filter(|content| content.body.len() >= content.size) {
            let body = match content.body.len() {
                0..=40 => String::from_utf8_lossy(&content.body).into_owned(),
                len => format!("{}..*{len}", String::from_utf8_lossy(&content.body[..4])),
            };
            let line = format!("<  {} body={body}", content.said);
            self.content.remove(&channel);
            self.push(&line);
        }
    }

    fn method(&mut self, channel: u16, method: &Method<'_>) {
        let (tag, multiple, word) = match method {
            Method::BasicAck { delivery_tag, multiple } => (*delivery_tag, *multiple, "ack"),
            Method::BasicNack { delivery_tag, multiple, .. } => (*delivery_tag, *multiple, "nack"),
            Method::ConnectionClose { .. } => {
                self.push(&format!("< {channel} {}", method.show()));
                let mut answer = Vec::new();
                Method::ConnectionCloseOk {}.put(0, &mut answer);
                self.send(&answer);
                return;
            }
            _ => return self.push(&format!("< {channel} {}", method.show())),
        };
        let confirmed = self.confirmed.entry(channel).or_default();
        let from = if multiple { 1 } else { tag };
        for tag in (from..=tag).filter(|tag| confirmed.insert(*tag)) {
            self.lines.push(format!("< {channel} basic.{word} delivery_tag={tag}"));
        }
    }

    fn push(&mut self, line: &str) {
        let line = line.replace(&format!("vhost '{}'", self.vhost), "vhost '/'").replace(&format!("vhost=S:{}", self.vhost), "vhost=S:/");
        self.lines.push(without_chance(&line));
    }
}

/// Names that are made up differ from broker to broker, and so do points in time, nodes and addresses.
fn without_chance(line: &str) -> String {
    let mut line = line.to_owned();
    for prefix in ["amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to.", "=@", "node=S:", "connection=S:"] {
        let mut from = 0;
        while let Some(at) = line[from..].find(prefix).map(|at| from + at) {
            from = at + prefix.len();
            let end = line[from..].find(|c: char| c.is_whitespace() || "\"'}]".contains(c)).map_or(line.len(), |len| from + len);
            line.replace_range(from..end, "*");
        }
    }
    line
}

/// Properties with the types of what is in the headers: clients' languages tell an int from a long.
fn in_words(properties: &Properties<'_>) -> String {
    let headers = properties.headers;
    let mut out = show::properties(&Properties { headers: None, ..*properties });
    if let Some(headers) = headers {
        out.push_str(" headers=");
        put_table(&mut out, headers);
    }
    out
}

fn put_table(out: &mut String, table: Table<'_>) {
    out.push('{');
    for (n, (name, field)) in table.iter().enumerate() {
        let _ = write!(out, "{}{}=", if n > 0 { " " } else { "" }, String::from_utf8_lossy(name));
        put_field(out, &field);
    }
    out.push('}');
}

fn put_field(out: &mut String, field: &Field<'_>) {
    let _ = match field {
        Field::LongStr(text) => write!(out, "S:{}", String::from_utf8_lossy(text)),
        Field::Bytes(text) => write!(out, "x:{}", String::from_utf8_lossy(text)),
        Field::Bool(value) => write!(out, "t:{value}"),
        Field::I8(value) => write!(out, "b:{value}"),
        Field::U8(value) => write!(out, "B:{value}"),
        Field::I16(value) => write!(out, "s:{value}"),
        Field::U16(value) => write!(out, "u:{value}"),
        Field::I32(value) => write!(out, "I:{value}"),
        Field::U32(value) => write!(out, "i:{value}"),
        Field::I64(value) => write!(out, "l:{value}"),
        Field::F32(value) => write!(out, "f:{value}"),
        Field::F64(value) => write!(out, "d:{value}"),
        Field::Decimal { scale, value } => write!(out, "D:{value}e-{scale}"),
        Field::Timestamp(secs) => write!(out, "T=@{secs}"),
        Field::Void => write!(out, "V"),
        Field::Table(table) => {
            put_table(out, *table);
            return;
        }
        Field::Array(array) => {
            out.push('[');
            for (n, field) in array.iter().enumerate() {
                out.push_str(if n > 0 { " " } else { "" });
                put_field(out, &field);
            }
            out.push(']');
            return;
        }
    };
}
