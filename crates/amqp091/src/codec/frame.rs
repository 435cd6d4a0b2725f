//! Where one frame ends and the next begins (AMQP 0-9-1, 4.2.3):
//!
//! ```text
//!   0      1         3             7                  size+7 size+8
//!   +------+---------+-------------+  +------------+  +-----------+
//!   | type | channel |    size     |  |  payload   |  | 0xCE end  |
//!   +------+---------+-------------+  +------------+  +-----------+
//! ```
//!
//! The first eight bytes of a connection are the protocol header instead. A frame that is too large is refused by its header, before its
//! payload has arrived.

use super::error::{FrameError, Octets};
use super::wire::{put_u16, put_u32};

pub const FRAME_METHOD: u8 = 1;
pub const FRAME_HEADER: u8 = 2;
pub const FRAME_BODY: u8 = 3;
pub const FRAME_HEARTBEAT: u8 = 8;
pub const FRAME_END: u8 = 0xCE;

/// Type, channel, size, and the end byte: what a frame is larger than its payload.
pub const FRAME_OVERHEAD: usize = 8;
const HEADER: usize = 7;

/// The least frame_max that a peer may ask for (the specification's frame-min-size).
pub const FRAME_MIN_SIZE: u32 = 4096;

pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// One whole frame in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    pub kind: u8,
    pub channel: u16,
    /// Offset of the frame in its block.
    pub start: usize,
    /// Offset of the payload.
    pub body: usize,
    /// Offset after the payload, where the end byte stands.
    pub body_end: usize,
}

impl Frame {
    #[inline]
    pub fn end(&self) -> usize {
        self.body_end + 1
    }
    #[inline]
    pub fn size(&self) -> usize {
        self.body_end - self.body
    }
    #[inline]
    pub fn payload<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        block.get(self.body..self.body_end).unwrap_or(&[])
    }
}

/// The frame at `at`, if it is whole. Its end byte has been looked at by a [`Splitter`].
#[inline]
pub fn frame_at(block: &[u8], at: usize) -> Option<Frame> {
    let head: &[u8; HEADER] = block.get(at..at + HEADER)?.try_into().ok()?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let (body, body_end) = (at + HEADER, at + HEADER + size);
    if body_end >= block.len() {
        return None;
    }
    Some(Frame { kind: head[0], channel: u16::from_be_bytes([head[1], head[2]]), start: at, body, body_end })
}

/// The answer of [`Splitter::split`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Split {
    /// So many bytes are whole frames.
    pub whole: usize,
    /// The next frame needs at least so many bytes more than are here. 0 only with an error.
    pub lacks: usize,
    /// What is wrong with what follows. The good frames before it still count.
    pub error: Option<FrameError>,
}

#[derive(Clone, Debug)]
pub struct Splitter {
    /// The protocol header has yet to come.
    fresh: bool,
    /// Largest frame, overhead included.
    pub frame_max: u32,
}

impl Splitter {
    /// For bytes of a client, which begin with the protocol header.
    pub fn of_client(frame_max: u32) -> Splitter {
        Splitter { fresh: true, frame_max }
    }

    /// For bytes of a server.
    pub fn of_server(frame_max: u32) -> Splitter {
        Splitter { fresh: false, frame_max }
    }

    /// A frame's header is looked at again when more of it has come: seven bytes, so nothing is kept.
    pub fn split(&mut self, input: &[u8]) -> Split {
        let mut at = 0;
        if self.fresh {
            let len = input.len().min(PROTOCOL_HEADER.len());
            if input[..len] != PROTOCOL_HEADER[..len] {
                let mut found = [0; 8];
                found[..len].copy_from_slice(&input[..len]);
                return Split { whole: 0, lacks: 0, error: Some(FrameError::Header(found)) };
            }
            if len < PROTOCOL_HEADER.len() {
                return Split { whole: 0, lacks: PROTOCOL_HEADER.len() - len, error: None };
            }
            self.fresh = false;
            at = len;
        }
        loop {
            let rest = &input[at..];
            let Some(head) = rest.first_chunk::<HEADER>() else {
                return Split { whole: at, lacks: HEADER + 1 - rest.len(), error: None };
            };
            let (kind, channel) = (head[0], u16::from_be_bytes([head[1], head[2]]));
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            // RabbitMQ forgives clients that take frame_max for the payload's size, and so there are such clients.
            if size > self.frame_max {
                let max = self.frame_max.saturating_sub(FRAME_OVERHEAD as u32);
                return Split { whole: at, lacks: 0, error: Some(FrameError::TooLarge { kind, channel, size, max }) };
            }
            let total = size as usize + FRAME_OVERHEAD;
            let Some(&last) = rest.get(total - 1) else {
                return Split { whole: at, lacks: total - rest.len(), error: None };
            };
            if last != FRAME_END {
                return Split {
                    whole: at,
                    lacks: 0,
                    error: Some(FrameError::End { kind, channel, size, found: last, first: Octets::of(&rest[HEADER..total - 1]) }),
                };
            }
            at += total;
        }
    }
}

/// Begins a frame; [`end_frame`] with the answer closes it.
#[inline]
pub fn begin_frame(out: &mut Vec<u8>, kind: u8, channel: u16) -> usize {
    let start = out.len();
    let channel = channel.to_be_bytes();
    out.extend_from_slice(&[kind, channel[0], channel[1], 0, 0, 0, 0]);
    start
}

#[inline]
pub fn end_frame(out: &mut Vec<u8>, start: usize) {
    let size = (out.len() - start - HEADER) as u32;
    out[start + 3..start + HEADER].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// The seven bytes before a payload of this size.
#[inline]
pub fn put_frame_head(out: &mut Vec<u8>, kind: u8, channel: u16, size: u32) {
    out.push(kind);
    put_u16(out, channel);
    put_u32(out, size);
}

/// A heartbeat (4.2.7): channel 0, no payload.
pub fn put_heartbeat(out: &mut Vec<u8>) {
    put_frame_head(out, FRAME_HEARTBEAT, 0, 0);
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = PROTOCOL_HEADER.to_vec();
        put_heartbeat(&mut bytes);
        let start = begin_frame(&mut bytes, FRAME_METHOD, 7);
        bytes.extend_from_slice(b"hello");
        end_frame(&mut bytes, start);
        bytes
    }

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let bytes = stream();
        for cut in 0..=bytes.len() {
            let mut splitter = Splitter::of_client(4096);
            let first = splitter.split(&bytes[..cut]);
            assert_eq!(first.error, None);
            assert!(first.lacks > 0 && first.whole <= cut);
            let second = splitter.split(&bytes[first.whole..]);
            assert_eq!((first.whole + second.whole, second.error), (bytes.len(), None), "{cut}");
        }
        let heartbeat = frame_at(&bytes, 8).unwrap();
        assert_eq!((heartbeat.kind, heartbeat.channel, heartbeat.size()), (FRAME_HEARTBEAT, 0, 0));
        let method = frame_at(&bytes, heartbeat.end()).unwrap();
        assert_eq!((method.kind, method.channel, method.payload(&bytes)), (FRAME_METHOD, 7, &b"hello"[..]));
        assert_eq!(frame_at(&bytes, method.end()), None);
        assert_eq!(frame_at(&bytes[..bytes.len() - 1], heartbeat.end()), None);
    }

    #[test]
    fn a_bad_end_and_a_large_frame_are_told_after_the_good_ones() {
        let mut bytes = stream();
        *bytes.last_mut().unwrap() = 0;
        let split = Splitter::of_client(4096).split(&bytes);
        assert_eq!(split.whole, 16);
        assert_eq!(split.error, Some(FrameError::End { kind: FRAME_METHOD, channel: 7, size: 5, found: 0, first: Octets::of(b"hello") }));
        let large = [1, 0, 1, 0, 0, 0x10, 0x01];
        let split = Splitter::of_server(4096).split(&large);
        assert_eq!(split.error, Some(FrameError::TooLarge { kind: 1, channel: 1, size: 4097, max: 4088 }));
        assert_eq!(Splitter::of_server(4096).split(&[1, 0, 1, 0, 0, 0x10, 0]).lacks, 4097);
    }

    #[test]
    fn another_protocol_is_told_by_its_first_different_byte() {
        for bytes in [&b"AMQP\x03"[..], b"AMQP\x00\x01\x00\x00", b"GET "] {
            assert!(matches!(Splitter::of_client(4096).split(bytes).error, Some(FrameError::Header(_))), "{bytes:?}");
        }
    }
}
