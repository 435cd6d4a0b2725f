//! From frames to the bytes in them, in the buffer that they were read into.
//!
//! ```text
//!  before   [head][pay load][head][ping][head][more]      as read, payload masked
//!  after    [pay load more]                                at the front, unmasked; the ping is remembered
//! ```
//!
//! Frames may be torn and joined anywhere, and so may the reads. What is kept between two reads is the beginning of a head (14 bytes), the
//! place in the current frame, and the payload of a control frame (125 bytes).

use crate::utf8::Utf8;
use std::io::Cursor;
use thiserror::Error;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::FrameHeader;

/// RFC 6455, 5.2: two bytes, a length of eight, a mask of four.
const HEAD_MAX: usize = 14;
/// RFC 6455, 5.5.
const CONTROL_MAX: u64 = 125;

/// Why a connection is failed (RFC 6455, 7.1.7), and the code that its close frame carries (7.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    #[error("a frame from a client has to be masked")]
    Unmasked,
    #[error("a reserved bit is set, and no extension was agreed on")]
    ReservedBit,
    #[error("an opcode that RFC 6455 does not know")]
    Opcode,
    #[error("a length that is not written in its shortest form")]
    Length,
    #[error("a control frame is longer than 125 bytes or in fragments")]
    Control,
    #[error("a continuation of nothing, or a new message inside of another")]
    Fragment,
    #[error("a close frame with half a code or one that must not be sent")]
    CloseCode,
    #[error("text frames do not carry this protocol: send binary ones")]
    TextFrame,
    #[error("text that is not UTF-8")]
    NotUtf8,
    #[error("a message is longer than max_message_bytes")]
    TooLong,
}

impl Fault {
    pub fn code(self) -> u16 {
        match self {
            Fault::TextFrame => 1003,
            Fault::NotUtf8 => 1007,
            Fault::TooLong => 1009,
            _ => 1002,
        }
    }
}

/// What a peer said besides payload.
#[derive(Default)]
pub(crate) struct Heard {
    /// The latest ping's payload: RFC 6455, 5.5.3 lets us answer that one only.
    pub ping: Option<Vec<u8>>,
    /// The close frame's payload, checked. Nothing behind it counts.
    pub close: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frame {
    /// The next bytes are a head.
    None,
    Data {
        last: bool,
    },
    Control(Control),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Text,
    Binary,
}

pub(crate) struct Decoder {
    /// The beginning of a head whose rest has not come.
    head: [u8; HEAD_MAX],
    head_len: u8,
    takes_text: bool,
    frame: Frame,
    /// Of the current frame, beginning with the byte that the next payload byte is for.
    mask: [u8; 4],
    /// Payload bytes that the current frame still has.
    left: u64,
    /// Of the message that is under way.
    message: Option<Kind>,
    message_len: u64,
    message_max: u64,
    utf8: Utf8,
    /// A control frame's payload. Almost always empty.
    control: Vec<u8>,
    /// What the last message was, or the one under way is.
    pub latest: Option<Kind>,
}

impl Decoder {
    pub fn new(takes_text: bool, message_max: u64) -> Decoder {
        Decoder {
            head: [0; HEAD_MAX],
            head_len: 0,
            takes_text,
            frame: Frame::None,
            mask: [0; 4],
            left: 0,
            message: None,
            message_len: 0,
            message_max,
            utf8: Utf8::default(),
            control: Vec::new(),
            latest: None,
        }
    }

    /// Moves the payload in `bytes` to its front; how much that is, and the fault that came behind it.
    pub fn decode(&mut self, bytes: &mut [u8], heard: &mut Heard) -> (usize, Result<(), Fault>) {
        let (mut at, mut out) = (0, 0);
        while heard.close.is_none() {
            if self.frame == Frame::None {
                match self.take_head(&bytes[at..]) {
                    Ok(taken) => at += taken,
                    Err(fault) => return (out, Err(fault)),
                }
                if self.frame == Frame::None {
                    break;
                }
            }
            // A frame may be empty, so this is done also where no byte is left.
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            self.left -= count as u64;
            let result = match self.frame {
                Frame::Control(control) => {
                    let from = self.control.len();
                    self.control.extend_from_slice(&bytes[at..at + count]);
                    unmask(&mut self.control[from..], &mut self.mask);
                    self.end_control(control, heard)
                }
                Frame::Data { last } => {
                    bytes.copy_within(at..at + count, out);
                    let payload = &mut bytes[out..out + count];
                    unmask(payload, &mut self.mask);
                    out += count;
                    if self.message == Some(Kind::Text) && !self.utf8.push(payload) {
                        Err(Fault::NotUtf8)
                    } else {
                        self.end_data(last)
                    }
                }
                Frame::None => Ok(()),
            };
            at += count;
            if let Err(fault) = result {
                return (out, Err(fault));
            }
            if at == bytes.len() {
                break;
            }
        }
        (out, Ok(()))
    }

    /// Takes bytes of a head; how many. `frame` says whether it is whole now.
    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let had = usize::from(self.head_len);
        let (parsed, used) = if had == 0 {
            // As it lies there: most heads are whole.
            parse(&bytes[..bytes.len().min(HEAD_MAX)])?
        } else {
            let more = bytes.len().min(HEAD_MAX - had);
            self.head[had..had + more].copy_from_slice(&bytes[..more]);
            parse(&self.head[..had + more])?
        };
        let Some((header, length)) = parsed else {
            let more = bytes.len().min(HEAD_MAX - had);
            if had == 0 {
                self.head[..more].copy_from_slice(&bytes[..more]);
            }
            self.head_len += more as u8;
            return Ok(more);
        };
        self.head_len = 0;
        self.begin(&header, length)?;
        Ok(used - had)
    }

    fn begin(&mut self, header: &FrameHeader, length: u64) -> Result<(), Fault> {
        self.mask = header.mask.ok_or(Fault::Unmasked)?;
        self.left = length;
        self.frame = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || length > CONTROL_MAX {
                    return Err(Fault::Control);
                }
                Frame::Control(control)
            }
            OpCode::Data(data) => {
                match (data, self.message) {
                    (Data::Continue, Some(_)) => {}
                    (Data::Text, None) if !self.takes_text => return Err(Fault::TextFrame),
                    (Data::Text, None) => self.begin_message(Kind::Text),
                    (Data::Binary, None) => self.begin_message(Kind::Binary),
                    _ => return Err(Fault::Fragment),
                }
                self.message_len = self.message_len.saturating_add(length);
                if self.message_len > self.message_max {
                    return Err(Fault::TooLong);
                }
                Frame::Data { last: header.is_final }
            }
        };
        Ok(())
    }

    fn begin_message(&mut self, kind: Kind) {
        self.message = Some(kind);
        self.latest = self.message;
        self.message_len = 0;
        self.utf8 = Utf8::default();
    }

    fn end_data(&mut self, last: bool) -> Result<(), Fault> {
        if self.left > 0 {
            return Ok(());
        }
        self.frame = Frame::None;
        if last && self.message.take() == Some(Kind::Text) && !self.utf8.is_whole() {
            return Err(Fault::NotUtf8);
        }
        Ok(())
    }

    fn end_control(&mut self, control: Control, heard: &mut Heard) -> Result<(), Fault> {
        if self.left > 0 {
            return Ok(());
        }
        self.frame = Frame::None;
        let payload = std::mem::take(&mut self.control);
        match control {
            Control::Ping => heard.ping = Some(payload),
            Control::Close => {
                check_close(&payload)?;
                heard.close = Some(payload);
            }
            _ => {}
        }
        Ok(())
    }
}

type Parsed = (Option<(FrameHeader, u64)>, usize);

/// What tungstenite reads, and what it leaves to its caller to refuse. As early as the bytes allow: nobody has to wait for the rest of
/// a head that is wrong.
fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
    if let Some(first) = bytes.first() {
        if first & 0x70 != 0 {
            return Err(Fault::ReservedBit);
        }
        if !matches!(first & 0x0f, 0..=2 | 8..=10) {
            return Err(Fault::Opcode);
        }
    }
    if bytes.get(1).is_some_and(|second| second & 0x80 == 0) {
        return Err(Fault::Unmasked);
    }
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Fault::Opcode)?;
    if let Some((_, length)) = &parsed {
        // RFC 6455, 5.2: the fewest bytes that hold it, and the highest bit is 0.
        let shortest = match bytes[1] & 0x7f {
            126 => *length > 125,
            127 => *length > 0xffff && *length <= u64::MAX >> 1,
            _ => true,
        };
        if !shortest {
            return Err(Fault::Length);
        }
    }
    Ok((parsed, cursor.position() as usize))
}

/// RFC 6455, 5.5.1 and 7.4: nothing, or a code and a reason in UTF-8.
fn check_close(payload: &[u8]) -> Result<(), Fault> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(()) } else { Err(Fault::CloseCode) };
    };
    match u16::from_be_bytes([*high, *low]) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Fault::CloseCode),
    }
    std::str::from_utf8(reason).map(|_| ()).map_err(|_| Fault::NotUtf8)
}

/// RFC 6455, 5.3. Leaves `mask` as the next byte of the frame needs it.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut eights = bytes.chunks_exact_mut(8);
    for eight in &mut eights {
        let word = u64::from_ne_bytes([eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7]]) ^ wide;
        eight.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in eights.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(bytes.len() % 4);
}

#[cfg(test)]
mod tests;
