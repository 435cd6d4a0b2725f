//! As much of MQTT 3.1.1 as the rig's own clients need, written here once more on purpose: a rig that shared the broker's codec would share its
//! mistakes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    Publish {
        dup: bool,
        qos: u8,
        retain: bool,
        id: u16,
        topic: String,
        payload: Vec<u8>,
    },
    /// PUBACK, PUBREC, PUBREL, PUBCOMP by their type, and SUBACK.
    Ack(u8, u16),
    Other(u8),
}

pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;
pub const SUBACK: u8 = 9;

pub struct Connect<'a> {
    pub client: &'a str,
    pub clean: bool,
    /// Topic and payload, at QoS 1.
    pub will: Option<(&'a str, &'a str)>,
}

pub struct Link {
    socket: TcpStream,
    input: Vec<u8>,
    pub out: Vec<u8>,
    pub session_present: bool,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let mut rest = body.len();
    while rest > 127 {
        out.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(body);
}

impl Link {
    /// Connects and is let in.
    pub fn open(addr: SocketAddr, connect: &Connect<'_>, patience: Duration) -> io::Result<Link> {
        let socket = TcpStream::connect_timeout(&addr, patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut link = Link { socket, input: Vec::new(), out: Vec::new(), session_present: false };
        let mut body = b"\x00\x04MQTT\x04".to_vec();
        body.push(u8::from(connect.clean) << 1 | if connect.will.is_some() { 0x0c } else { 0 });
        body.extend_from_slice(&60u16.to_be_bytes());
        text(&mut body, connect.client);
        if let Some((topic, payload)) = connect.will {
            text(&mut body, topic);
            text(&mut body, payload);
        }
        put(&mut link.out, 0x10, &body);
        link.flush()?;
        let mut connack = [0; 4];
        link.socket.read_exact(&mut connack)?;
        if connack[0] != 0x20 || connack[3] != 0 {
            return Err(io::Error::new(ErrorKind::PermissionDenied, format!("not let in: {connack:02x?}")));
        }
        link.session_present = connack[2] == 1;
        Ok(link)
    }

    pub fn publish(&mut self, topic: &str, qos: u8, id: u16, retain: bool, dup: bool, payload: &[u8]) {
        let mut body = Vec::with_capacity(payload.len() + topic.len() + 4);
        text(&mut body, topic);
        if qos > 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        body.extend_from_slice(payload);
        put(&mut self.out, 0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain), &body);
    }

    pub fn ack(&mut self, kind: u8, id: u16) {
        put(&mut self.out, kind << 4 | if kind == PUBREL { 2 } else { 0 }, &id.to_be_bytes());
    }

    /// And waits for the answer; what else comes meanwhile is handed out.
    pub fn subscribe(&mut self, filter: &str, qos: u8, patience: Duration) -> io::Result<Vec<Packet>> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(qos);
        put(&mut self.out, 0x82, &body);
        self.flush()?;
        let (begun, mut others) = (Instant::now(), Vec::new());
        while begun.elapsed() < patience {
            match self.next(Duration::from_millis(50))? {
                Some(Packet::Ack(SUBACK, _)) => return Ok(others),
                Some(other) => others.push(other),
                None => {}
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, "no SUBACK"))
    }

    pub fn disconnect(mut self) {
        self.out.extend_from_slice(&[0xe0, 0]);
        let _ = self.flush();
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// The next packet; `None`: none came within `wait`, at least a millisecond.
    pub fn next(&mut self, wait: Duration) -> io::Result<Option<Packet>> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(Some(packet));
            }
            self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
            let mut bytes = [0; 16 << 10];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the node closed the connection")),
                Ok(read) => self.input.extend_from_slice(&bytes[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    return Ok(None)
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Of what has come, if it is a whole packet.
    pub fn take(&mut self) -> io::Result<Option<Packet>> {
        let (mut len, mut at) = (0, 1);
        loop {
            let Some(digit) = self.input.get(at) else { return Ok(None) };
            len |= usize::from(digit & 0x7f) << (7 * (at - 1));
            at += 1;
            if digit & 0x80 == 0 {
                break;
            }
        }
        if self.input.len() < at + len {
            return Ok(None);
        }
        let packet = packet(self.input[0], &self.input[at..at + len]).ok_or_else(|| io::Error::other("a packet makes no sense"));
        self.input.drain(..at + len);
        packet.map(Some)
    }
}

fn packet(first: u8, body: &[u8]) -> Option<Packet> {
    let number = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    Some(match first >> 4 {
        3 => {
            let (qos, len) = (first >> 1 & 3, usize::from(number(0)?));
            let topic = String::from_utf8(body.get(2..2 + len)?.to_vec()).ok()?;
            let id = if qos > 0 { number(2 + len)? } else { 0 };
            let payload = body.get(2 + len + if qos > 0 { 2 } else { 0 }..)?.to_vec();
            Packet::Publish { dup: first & 8 != 0, qos, retain: first & 1 != 0, id, topic, payload }
        }
        kind @ (PUBACK | PUBREC | PUBREL | PUBCOMP | SUBACK) => Packet::Ack(kind, number(0)?),
        kind => Packet::Other(kind),
    })
}
