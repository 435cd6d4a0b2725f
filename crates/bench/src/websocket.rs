//! The client's side of WebSocket (RFC 6455): each MQTT packet is a message of its own, as clients send them; of the other protocols, what is
//! written in one go is one.

use std::io::{self, ErrorKind, Read, Write};

use crate::args::Proto;
use crate::wire;

/// The example of RFC 6455, 1.3, and what a server has to answer to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Any will do that is not zero: the tool is no browser, and the broker has to take it off all the same.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];

const FINAL: u8 = 0x80;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const HEAD_MAX: usize = 16 * 1024;
const CHUNK: usize = 64 * 1024;

pub(crate) struct WebSocket {
    proto: Proto,
    /// The server has agreed.
    open: bool,
    out: Vec<u8>,
    out_at: usize,
    /// What has come and not been looked at.
    raw: Vec<u8>,
    raw_at: usize,
    raw_end: usize,
    /// Bytes of the current message that have not come, and whether they are for the client.
    left: usize,
    wanted: bool,
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("WebSocket: {why}"))
}

impl WebSocket {
    pub fn new(proto: Proto, request: &str) -> WebSocket {
        WebSocket { proto, open: false, out: request.into(), out_at: 0, raw: Vec::new(), raw_at: 0, raw_end: 0, left: 0, wanted: false }
    }

    pub fn holds_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes all of `bytes`, or nothing while the last ones are still here.
    pub fn write(&mut self, to: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        self.flush(to)?;
        if !self.open || !self.out.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = match self.proto {
                Proto::Mqtt => wire::split(rest).ok().flatten().map_or(rest.len(), |(_, len)| len),
                Proto::Amqp | Proto::Stomp => rest.len(),
            };
            put_frame(BINARY, &rest[..len], &mut self.out);
            rest = &rest[len..];
        }
        self.flush(to)?;
        Ok(bytes.len())
    }

    pub fn flush(&mut self, to: &mut impl Write) -> io::Result<()> {
        while self.out_at < self.out.len() {
            match to.write(&self.out[self.out_at..]) {
                Ok(len) => self.out_at += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(())
    }

    /// What messages hold, one behind the other.
    pub fn read(&mut self, from: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        loop {
            len += self.take(&mut buffer[len..])?;
            if len == buffer.len() {
                return Ok(len);
            }
            // Little is left: the beginning of a head, or of a message that `buffer` has no room for.
            self.raw.copy_within(self.raw_at..self.raw_end, 0);
            self.raw_end -= self.raw_at;
            self.raw_at = 0;
            if self.raw.len() < self.raw_end + CHUNK {
                self.raw.resize(self.raw_end + CHUNK, 0);
            }
            match from.read(&mut self.raw[self.raw_end..]) {
                Ok(0) => return Ok(len),
                Ok(more) => self.raw_end += more,
                Err(e) if e.kind() == ErrorKind::WouldBlock && len > 0 => return Ok(len),
                Err(e) => return Err(e),
            }
            if !self.open {
                self.shake_hands()?;
            }
            self.flush(from)?;
        }
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let Some(end) = memchr::memmem::find(&self.raw[..self.raw_end], b"\r\n\r\n") else {
            return if self.raw_end > HEAD_MAX { Err(bad("an answer without an end")) } else { Ok(()) };
        };
        let head = &self.raw[..end];
        let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        if !status.starts_with(b"HTTP/1.1 101") {
            return Err(bad(&format!("refused with {}", String::from_utf8_lossy(status))));
        }
        if memchr::memmem::find(head, ACCEPT).is_none() {
            return Err(bad("Sec-WebSocket-Accept is not what it has to be"));
        }
        self.raw_at = end + 4;
        self.open = true;
        Ok(())
    }

    /// Moves what is there of messages to `buffer`.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        while self.open {
            let here = self.raw_end - self.raw_at;
            if self.left > 0 {
                let some = match self.wanted {
                    true => self.left.min(here).min(buffer.len() - len),
                    false => self.left.min(here),
                };
                if self.wanted {
                    buffer[len..len + some].copy_from_slice(&self.raw[self.raw_at..self.raw_at + some]);
                    len += some;
                }
                self.raw_at += some;
                self.left -= some;
                if some == 0 {
                    return Ok(len);
                }
                continue;
            }
            let Some((opcode, head, size)) = read_head(&self.raw[self.raw_at..self.raw_end])? else { return Ok(len) };
            match opcode {
                CLOSE => return Err(bad("the broker said goodbye")),
                PING => {
                    let Some(said) = self.raw[..self.raw_end].get(self.raw_at + head..self.raw_at + head + size) else { return Ok(len) };
                    put_frame(PONG, said, &mut self.out);
                }
                _ => {}
            }
            self.raw_at += head;
            (self.left, self.wanted) = (size, opcode <= BINARY);
        }
        Ok(len)
    }
}

/// Opcode, length of the head, length of what follows.
fn read_head(raw: &[u8]) -> io::Result<Option<(u8, usize, usize)>> {
    let (Some(&first), Some(&second)) = (raw.first(), raw.get(1)) else { return Ok(None) };
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err(bad("reserved bits, or a mask, in a server's frame"));
    }
    let size = match second {
        126 => raw.get(2..4).map(|raw| (4, u64::from(u16::from_be_bytes([raw[0], raw[1]])))),
        127 => raw.get(2..10).map(|raw| (10, raw.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)))),
        len => Some((2, u64::from(len))),
    };
    let Some((head, size)) = size else { return Ok(None) };
    if size > 1 << 30 {
        return Err(bad("a message of more than 1 GiB"));
    }
    Ok(Some((first & 0x0f, head, size as usize)))
}

fn put_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(FINAL | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let at = out.len();
    out.extend_from_slice(payload);
    let [a, b, c, d] = MASK;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut eights = out[at..].chunks_exact_mut(8);
    for eight in &mut eights {
        let word = u64::from_ne_bytes([eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7]]) ^ wide;
        eight.copy_from_slice(&word.to_ne_bytes());
    }
    eights.into_remainder().iter_mut().zip(MASK.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that has said this, and hears everything.
    struct Peer<'a>(&'a [u8], Vec<u8>);

    impl Read for Peer<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(&mut buffer[..1]) {
                Ok(0) => Err(ErrorKind::WouldBlock.into()),
                read => read,
            }
        }
    }

    impl Write for Peer<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn what_comes_in_pieces_is_put_together_and_a_ping_is_answered() {
        let mut said = AGREED.to_vec();
        said.extend_from_slice(b"\x02\x02ab\x89\x01!\x80\x03cde\x82\x7e\x00\x80");
        said.extend_from_slice(&[b'x'; 128]);
        let mut peer = Peer(&said, Vec::new());
        let mut websocket = WebSocket::new(Proto::Mqtt, "GET");
        websocket.flush(&mut peer).unwrap();
        let (mut buffer, mut heard) = ([0; 100], Vec::new());
        while let Ok(len) = websocket.read(&mut peer, &mut buffer) {
            heard.extend_from_slice(&buffer[..len]);
        }
        assert_eq!(heard, [b"abcde".as_slice(), &[b'x'; 128]].concat());
        assert_eq!(peer.1, [b"GET\x8a\x81".as_slice(), &MASK, &[b'!' ^ MASK[0]]].concat());
    }

    #[test]
    fn each_packet_of_mqtt_is_a_message() {
        let mut peer = Peer(AGREED, Vec::new());
        let mut websocket = WebSocket::new(Proto::Mqtt, "");
        assert!(websocket.write(&mut peer, &[0xc0, 0]).is_err(), "nobody has agreed yet");
        assert!(websocket.read(&mut peer, &mut [0; 9]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
        websocket.write(&mut peer, &[0xc0, 0, 0xc0, 0]).unwrap();
        let frame = [&[0x82, 0x82], MASK.as_slice(), &[0xc0 ^ MASK[0], MASK[1]]].concat();
        assert_eq!(peer.1, [frame.clone(), frame].concat());
    }

    #[test]
    fn a_refusal_is_told() {
        let mut websocket = WebSocket::new(Proto::Mqtt, "");
        let error = websocket.read(&mut Peer(b"HTTP/1.1 404 Not Found\r\n\r\n", Vec::new()), &mut [0; 9]).unwrap_err();
        assert_eq!(error.to_string(), "WebSocket: refused with HTTP/1.1 404 Not Found");
    }
}
