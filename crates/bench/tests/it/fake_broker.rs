//! A broker of one lock and one task per connection, with its own reading of MQTT: QoS 0 to 2, sessions that keep
//! their backlog, `#` at the end of a filter. And one fault, when asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{unbounded_channel, UnboundedSender};

#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Every nth message goes nowhere.
    Lose(u32),
    /// Every nth message is delivered twice.
    Repeat(u32),
    /// Every nth message waits for the one after it.
    Swap(u32),
    /// Every message goes to every session.
    Everybody,
}

#[derive(Clone)]
struct Message {
    topic: Vec<u8>,
    qos: u8,
    payload: Vec<u8>,
}

#[derive(Default)]
struct Session {
    filters: Vec<(Vec<u8>, u8)>,
    /// While it is connected: the way to its socket, and its version.
    online: Option<(UnboundedSender<Vec<u8>>, bool)>,
    backlog: Vec<Message>,
    held_back: Option<Message>,
    seen: u32,
    next_id: u16,
}

impl Session {
    fn offer(&mut self, message: Message, fault: Fault) {
        self.seen += 1;
        let hit = |n: u32| matches!(self.seen % n, 0);
        match fault {
            Fault::Lose(n) if hit(n) => {}
            Fault::Repeat(n) if hit(n) => {
                self.deliver(message.clone());
                self.deliver(message);
            }
            Fault::Swap(n) if hit(n) => self.held_back = Some(message),
            _ => {
                self.deliver(message);
                if let Some(late) = self.held_back.take() {
                    self.deliver(late);
                }
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let Some((socket, v5)) = &self.online else { return self.backlog.push(message) };
        let mut body = (message.topic.len() as u16).to_be_bytes().to_vec();
        body.extend(&message.topic);
        if message.qos > 0 {
            self.next_id = self.next_id % 60_000 + 1;
            body.extend(self.next_id.to_be_bytes());
        }
        body.extend(&[0][..usize::from(*v5)]);
        body.extend(&message.payload);
        let _ = socket.send(packet(0x30 | message.qos << 1, &body));
    }
}

type Sessions = Arc<Mutex<HashMap<Vec<u8>, Session>>>;

/// Serves on a port of its own until the test process ends.
pub fn start(fault: Fault) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let sessions = Sessions::default();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, sessions.clone(), fault));
            }
        });
    });
    told.recv().unwrap()
}

async fn serve(stream: TcpStream, sessions: Sessions, fault: Fault) {
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let (socket, mut outgoing) = unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(bytes) = outgoing.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut link = Link { sessions, fault, id: Vec::new(), v5: false, clean: true, socket };
    let mut input = Vec::new();
    loop {
        while let Some((head, body, len)) = take(&input) {
            let body = body.to_vec();
            input.drain(..len);
            if !link.on_packet(head, &body) {
                return link.end();
            }
        }
        match reader.read_buf(&mut input).await {
            Ok(1..) => {}
            _ => return link.end(),
        }
    }
}

struct Link {
    sessions: Sessions,
    fault: Fault,
    id: Vec<u8>,
    v5: bool,
    clean: bool,
    socket: UnboundedSender<Vec<u8>>,
}

impl Link {
    /// False ends the connection.
    fn on_packet(&mut self, head: u8, body: &[u8]) -> bool {
        match head >> 4 {
            1 => self.on_connect(body),
            3 => self.on_publish(head, body),
            5 => self.say(&[0x62, 2, body[0], body[1]]),
            6 => self.say(&[0x70, 2, body[0], body[1]]),
            8 => self.on_subscribe(body),
            12 => self.say(&[0xd0, 0]),
            14 => return false,
            _ => {}
        }
        true
    }

    fn say(&self, bytes: &[u8]) {
        let _ = self.socket.send(bytes.to_vec());
    }

    fn on_connect(&mut self, body: &[u8]) {
        self.v5 = body[6] == 5;
        self.clean = body[7] & 2 != 0;
        let mut at = 10;
        if self.v5 {
            at += 1 + usize::from(body[10]);
        }
        let len = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        self.id = body[at + 2..at + 2 + len].to_vec();
        let mut sessions = self.sessions.lock().unwrap();
        if self.clean {
            sessions.remove(&self.id);
        }
        let present = u8::from(sessions.contains_key(&self.id));
        if self.v5 {
            self.say(&[0x20, 3, present, 0, 0]);
        } else {
            self.say(&[0x20, 2, present, 0]);
        }
        let session = sessions.entry(self.id.clone()).or_default();
        session.online = Some((self.socket.clone(), self.v5));
        for message in std::mem::take(&mut session.backlog) {
            session.deliver(message);
        }
    }

    fn on_subscribe(&mut self, body: &[u8]) {
        let mut at = 2 + usize::from(self.v5);
        let mut answer = vec![body[0], body[1]];
        answer.extend(&[0][..usize::from(self.v5)]);
        let mut sessions = self.sessions.lock().unwrap();
        let session = sessions.get_mut(&self.id).unwrap();
        while at < body.len() {
            let len = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
            let (filter, qos) = (&body[at + 2..at + 2 + len], body[at + 2 + len]);
            session.filters.push((filter.to_vec(), qos));
            answer.push(qos);
            at += 3 + len;
        }
        self.say(&packet(0x90, &answer));
    }

    fn on_publish(&mut self, head: u8, body: &[u8]) {
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let qos = head >> 1 & 3;
        let mut at = topic_end + if qos > 0 { 2 } else { 0 };
        if qos > 0 {
            let ack = if qos == 1 { 0x40 } else { 0x50 };
            self.say(&[ack, 2, body[topic_end], body[topic_end + 1]]);
        }
        at += usize::from(self.v5);
        let message = Message { topic: body[2..topic_end].to_vec(), qos, payload: body[at..].to_vec() };
        for session in self.sessions.lock().unwrap().values_mut() {
            let wanted = session.filters.iter().find(|(filter, _)| matches(filter, &message.topic));
            let everybody = self.fault == Fault::Everybody && !session.filters.is_empty();
            if wanted.is_some() || everybody {
                let qos = wanted.map_or(qos, |(_, granted)| qos.min(*granted));
                session.offer(Message { qos, ..message.clone() }, self.fault);
            }
        }
    }

    fn end(self) {
        let mut sessions = self.sessions.lock().unwrap();
        if self.clean {
            sessions.remove(&self.id);
        } else if let Some(session) = sessions.get_mut(&self.id) {
            session.online = None;
        }
    }
}

fn matches(filter: &[u8], topic: &[u8]) -> bool {
    match filter.strip_suffix(b"#") {
        Some(branch) => topic.starts_with(branch),
        None => filter == topic,
    }
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![head];
    let mut len = body.len();
    while len >= 128 {
        out.push((len % 128) as u8 | 0x80);
        len /= 128;
    }
    out.push(len as u8);
    out.extend(body);
    out
}

/// The first whole packet: its head, its body, its length.
fn take(input: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (mut len, mut at) = (0usize, 1);
    loop {
        let byte = *input.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some((input[0], input.get(at..at + len)?, at + len))
}
