//! What stands in a frame. Everything is borrowed from the block; nothing is copied before somebody asks for it.

use super::split::{content_length, trim_cr};
use super::{unescape, DecodeError, Version};
use std::borrow::Cow;
use std::ops::Range;

/// The frames that clients send, and those that servers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// CONNECT, or STOMP, which means the same from 1.1 on.
    Connect,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
    Connected,
    Message,
    Receipt,
    Error,
}

impl Command {
    pub fn of(text: &[u8]) -> Option<Command> {
        Some(match text {
            b"SEND" => Command::Send,
            b"ACK" => Command::Ack,
            b"NACK" => Command::Nack,
            b"CONNECT" | b"STOMP" => Command::Connect,
            b"SUBSCRIBE" => Command::Subscribe,
            b"UNSUBSCRIBE" => Command::Unsubscribe,
            b"BEGIN" => Command::Begin,
            b"COMMIT" => Command::Commit,
            b"ABORT" => Command::Abort,
            b"DISCONNECT" => Command::Disconnect,
            b"CONNECTED" => Command::Connected,
            b"MESSAGE" => Command::Message,
            b"RECEIPT" => Command::Receipt,
            b"ERROR" => Command::Error,
            _ => return None,
        })
    }

    pub const fn text(self) -> &'static str {
        match self {
            Command::Connect => "CONNECT",
            Command::Send => "SEND",
            Command::Subscribe => "SUBSCRIBE",
            Command::Unsubscribe => "UNSUBSCRIBE",
            Command::Ack => "ACK",
            Command::Nack => "NACK",
            Command::Begin => "BEGIN",
            Command::Commit => "COMMIT",
            Command::Abort => "ABORT",
            Command::Disconnect => "DISCONNECT",
            Command::Connected => "CONNECTED",
            Command::Message => "MESSAGE",
            Command::Receipt => "RECEIPT",
            Command::Error => "ERROR",
        }
    }

    /// The frames of the opening are never escaped, so that a 1.0 peer can read them.
    pub const fn version(self, agreed: Version) -> Version {
        match self {
            Command::Connect | Command::Connected => Version::V10,
            _ => agreed,
        }
    }
}

/// One whole frame of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it starts in the block.
    pub start: usize,
    /// `None`: there is no such command; `name` is what was sent.
    pub command: Option<Command>,
    pub name: &'a [u8],
    pub headers: Headers<'a>,
    pub body: &'a [u8],
    /// Where the body starts in the block.
    pub body_at: usize,
    /// Offset after the NUL.
    pub end: usize,
}

impl Frame<'_> {
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// The frames of a block that a splitter called whole, from an offset on.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    block: &'a [u8],
    at: usize,
    version: Version,
}

impl<'a> Frames<'a> {
    pub fn new(block: &'a [u8], at: usize, version: Version) -> Frames<'a> {
        Frames { block, at, version }
    }

    /// From here on another version holds: after CONNECT, for what was pipelined behind it.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.block.get(self.at..)?;
        let start = self.at + rest.iter().position(|byte| !matches!(byte, b'\n' | b'\r'))?;
        let frame = parse(self.block, start, self.version);
        self.at = frame.as_ref().map_or(self.block.len(), |frame| frame.end);
        Some(frame)
    }
}

/// A block holds whole frames only, so a missing end is an error of its own.
fn parse(block: &[u8], start: usize, version: Version) -> Result<Frame<'_>, DecodeError> {
    let mut at = start;
    let mut line = || {
        let rest = block.get(at..).unwrap_or(&[]);
        let end = memchr::memchr(b'\n', rest).ok_or(DecodeError::NulInHead)?;
        at += end + 1;
        Ok::<_, DecodeError>(trim_cr(&rest[..end]))
    };
    let name = line()?;
    let head = start + name.len();
    let (mut head_end, mut head_start) = (head, None);
    let mut length = None;
    loop {
        let text = line()?;
        let offset = text.as_ptr() as usize - block.as_ptr() as usize;
        head_start.get_or_insert(offset);
        if text.is_empty() {
            head_end = head_end.max(offset);
            break;
        }
        if length.is_none() {
            length = content_length(text)?;
        }
        head_end = offset + text.len();
    }
    let body_at = at;
    let rest = &block[body_at..];
    let len = match length {
        Some(length) => length,
        None => memchr::memchr(0, rest).ok_or(DecodeError::NoNul)?,
    };
    if rest.get(len) != Some(&0) {
        return Err(DecodeError::NoNul);
    }
    let command = Command::of(name);
    let version = command.map_or(version, |command| command.version(version));
    let lines = &block[head_start.unwrap_or(head)..head_end];
    Ok(Frame { start, command, name, headers: Headers { lines, version }, body: &rest[..len], body_at, end: body_at + len + 1 })
}

/// The header lines of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    lines: &'a [u8],
    version: Version,
}

/// A header's name and value, unescaped.
pub type Header<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl<'a> Headers<'a> {
    /// In their order, repeated ones too.
    pub fn iter(&self) -> impl Iterator<Item = Result<Header<'a>, DecodeError>> + 'a {
        let version = self.version;
        self.lines.split(|byte| *byte == b'\n').map(trim_cr).filter(|line| !line.is_empty()).map(move |line| read(line, version))
    }

    /// Names and values as they were sent, in their order: escaped as the version does it, but for the spaces that 1.0 does not count.
    pub fn raw(&self) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), DecodeError>> + 'a {
        let version = self.version;
        self.lines.split(|byte| *byte == b'\n').map(trim_cr).filter(|line| !line.is_empty()).map(move |line| cut(line, version))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The first with this name: of repeated headers the first counts (1.2, "Repeated Header Entries").
    pub fn get(&self, name: &str) -> Result<Option<Cow<'a, [u8]>>, DecodeError> {
        for header in self.iter() {
            let (found, value) = header?;
            if *found == *name.as_bytes() {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

fn read(line: &[u8], version: Version) -> Result<Header<'_>, DecodeError> {
    let (name, value) = cut(line, version)?;
    Ok((unescape(name, version)?, unescape(value, version)?))
}

fn cut(line: &[u8], version: Version) -> Result<(&[u8], &[u8]), DecodeError> {
    let colon = memchr::memchr(b':', line).ok_or(DecodeError::NoColon)?;
    let (mut name, mut value) = (&line[..colon], &line[colon + 1..]);
    // 1.0 says nothing of spaces, and its clients write them; from 1.1 on they belong to the header.
    if version == Version::V10 {
        (name, value) = (name.trim_ascii(), value.trim_ascii());
    }
    if name.is_empty() {
        return Err(DecodeError::NoName);
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(block: &[u8], version: Version) -> Frame<'_> {
        let mut frames = Frames::new(block, 0, version);
        let frame = frames.next().expect("a frame").expect("a good one");
        assert_eq!(frames.next(), None);
        frame
    }

    #[test]
    fn a_frame_is_read_where_it_lies() {
        let block = b"\n\nSEND\r\ndestination:/queue/a\\cb\r\nfoo:1\nfoo:2\ncontent-length:3\n\na\0b\0\n";
        let frame = one(block, Version::V12);
        assert_eq!((frame.command, frame.body, &block[frame.body_at..frame.end]), (Some(Command::Send), &b"a\0b"[..], &b"a\0b\0"[..]));
        assert_eq!(frame.start, 2);
        assert_eq!(frame.headers.get("destination").unwrap().unwrap(), &b"/queue/a:b"[..]);
        assert_eq!(frame.headers.get("foo").unwrap().unwrap(), &b"1"[..]);
        assert_eq!(frame.headers.get("bar").unwrap(), None);
        assert_eq!(frame.headers.iter().count(), 4);
    }

    #[test]
    fn a_frame_without_headers_has_none() {
        let frame = one(b"BEGIN\n\n\0", Version::V11);
        assert_eq!((frame.command, frame.headers.iter().count(), frame.body), (Some(Command::Begin), 0, &b""[..]));
        let frame = one(b"BEGIN\r\n\r\nx\0", Version::V11);
        assert_eq!((frame.headers.iter().count(), frame.body), (0, &b"x"[..]));
    }

    #[test]
    fn the_opening_is_never_escaped_and_1_0_drops_spaces() {
        let frame = one(b"STOMP\nlogin:a\\cb\n\n\0", Version::V12);
        assert_eq!(frame.headers.get("login").unwrap().unwrap(), &br"a\cb"[..]);
        let frame = one(b"SEND\ndestination: a \n\n\0", Version::V10);
        assert_eq!(frame.headers.get("destination").unwrap().unwrap(), &b"a"[..]);
        let frame = one(b"SEND\ndestination: a \n\n\0", Version::V12);
        assert_eq!(frame.headers.get("destination").unwrap().unwrap(), &b" a "[..]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (block, error) in [
            (&b"SEND\nfoo\n\n\0"[..], DecodeError::NoColon),
            (b"SEND\n:foo\n\n\0", DecodeError::NoName),
            (b"SEND\na:\\t\n\n\0", DecodeError::Escape),
        ] {
            assert_eq!(one(block, Version::V12).headers.get("x"), Err(error));
        }
        assert_eq!(Frames::new(b"SEND\n\nx", 0, Version::V12).next(), Some(Err(DecodeError::NoNul)));
        assert_eq!(Frames::new(b"WAT\n\n\0", 0, Version::V12).next().unwrap().unwrap().command, None);
    }
}
