//! From bytes to frames: a head in front of what is written, and control frames where one frame has ended and the next has not begun.
//!
//! A frame is as long as what is offered to one write. What the socket does not take of it is offered again, and belongs to the same
//! frame then; so nothing is copied, and nothing is kept but the rest of a head.

use crate::utf8::Utf8;
use std::io::IoSlice;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::FrameHeader;

/// Two bytes and a length of eight: what a server sends is not masked.
const HEAD_MAX: usize = 10;

#[derive(Default)]
pub(crate) struct Encoder {
    head: [u8; HEAD_MAX],
    head_at: u8,
    head_len: u8,
    /// Payload bytes that the current frame still has.
    left: u64,
    /// Control frames that have not left. Nothing most of the time.
    waiting: Option<Box<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// A whole frame, of which so much has been written.
    frame: Vec<u8>,
    at: usize,
    /// The payloads of those behind it. Of several pongs the last is as good as all (RFC 6455, 5.5.3).
    pong: Option<Vec<u8>>,
    ping: bool,
    close: Option<Vec<u8>>,
}

impl Waiting {
    /// The next frame, when the last one has gone.
    fn advance(&mut self) {
        let (control, payload) = if let Some(payload) = self.pong.take() {
            (Control::Pong, payload)
        } else if std::mem::take(&mut self.ping) {
            (Control::Ping, Vec::new())
        } else if let Some(payload) = self.close.take() {
            (Control::Close, payload)
        } else {
            return;
        };
        self.frame.clear();
        self.at = 0;
        let header = FrameHeader { opcode: OpCode::Control(control), ..FrameHeader::default() };
        // A vector takes everything.
        let _ = header.format(payload.len() as u64, &mut self.frame);
        self.frame.extend_from_slice(&payload);
    }
}

impl Encoder {
    pub fn pong(&mut self, payload: Vec<u8>) {
        self.waiting.get_or_insert_default().pong = Some(payload);
    }

    pub fn ping(&mut self) {
        self.waiting.get_or_insert_default().ping = true;
    }

    pub fn close(&mut self, payload: Vec<u8>) {
        self.waiting.get_or_insert_default().close = Some(payload);
    }

    /// What is to be written before anything else may be: control frames, unless a data frame is in its middle.
    pub fn due(&mut self) -> Option<&[u8]> {
        if !self.is_between_frames() {
            return None;
        }
        let waiting = self.waiting.as_mut()?;
        if waiting.at == waiting.frame.len() {
            waiting.advance();
        }
        Some(&waiting.frame[waiting.at..])
    }

    pub fn due_written(&mut self, count: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        waiting.at += count;
        if waiting.at == waiting.frame.len() && waiting.pong.is_none() && !waiting.ping && waiting.close.is_none() {
            self.waiting = None;
        }
    }

    /// No frame has been left in its middle.
    pub fn is_between_frames(&self) -> bool {
        self.left == 0 || self.head_at == 0
    }

    /// Begins a frame for what is offered, unless one is under way.
    pub fn begin(&mut self, offered: &[IoSlice<'_>], text: bool) {
        if !self.is_between_frames() {
            return;
        }
        let length: u64 = offered.iter().map(|slice| slice.len() as u64).sum();
        let text = text && {
            let mut utf8 = Utf8::default();
            offered.iter().all(|slice| utf8.push(slice)) && utf8.is_whole()
        };
        let header = FrameHeader { opcode: OpCode::Data(if text { Data::Text } else { Data::Binary }), ..FrameHeader::default() };
        let mut room = &mut self.head[..];
        let _ = header.format(length, &mut room);
        self.head_len = (HEAD_MAX - room.len()) as u8;
        self.head_at = 0;
        self.left = length;
    }

    /// The rest of the head, and how much of the payload belongs to it.
    pub fn rest(&self) -> (&[u8], u64) {
        (&self.head[usize::from(self.head_at)..usize::from(self.head_len)], self.left)
    }

    /// So many bytes of [`Encoder::rest`] were written; how many of them were payload.
    pub fn written(&mut self, count: usize) -> usize {
        let of_head = count.min(usize::from(self.head_len - self.head_at));
        self.head_at += of_head as u8;
        let payload = count - of_head;
        self.left -= payload as u64;
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_has_not_begun_grows_and_one_that_has_does_not() {
        let mut encoder = Encoder::default();
        encoder.begin(&[IoSlice::new(b"abc")], false);
        assert_eq!(encoder.rest(), (&[0x82, 3][..], 3));
        encoder.begin(&[IoSlice::new(b"abc"), IoSlice::new(b"def")], true);
        assert_eq!(encoder.rest(), (&[0x81, 6][..], 6));
        assert_eq!(encoder.written(1), 0);
        encoder.pong(b"late".to_vec());
        assert_eq!(encoder.due(), None, "a head has been cut");
        encoder.begin(&[IoSlice::new(b"abcdefghi")], false);
        assert_eq!(encoder.rest(), (&[6][..], 6));
        assert_eq!(encoder.written(7), 6);
        assert_eq!(encoder.due(), Some(&b"\x8a\x04late"[..]));
        encoder.due_written(2);
        assert_eq!(encoder.due(), Some(&b"late"[..]));
        encoder.due_written(4);
        assert!(encoder.due().is_none() && encoder.is_between_frames());
    }

    #[test]
    fn what_is_not_utf8_goes_as_a_binary_frame() {
        let mut encoder = Encoder::default();
        encoder.begin(&[IoSlice::new(b"\xf0\x9f"), IoSlice::new(b"\x98\x80")], true);
        assert_eq!(encoder.rest().0[0], 0x81, "cut in a character");
        encoder.begin(&[IoSlice::new(b"\xf0\x9f")], true);
        assert_eq!(encoder.rest().0[0], 0x82);
    }

    #[test]
    fn pings_without_end_leave_one_pong_waiting() {
        let mut encoder = Encoder::default();
        for n in 0..1000u32 {
            encoder.pong(n.to_be_bytes().to_vec());
        }
        assert_eq!(encoder.due(), Some(&[0x8a, 4, 0, 0, 3, 231][..]));
        encoder.due_written(1);
        for n in 1000..2000u32 {
            encoder.pong(n.to_be_bytes().to_vec());
        }
        encoder.ping();
        encoder.close(vec![3, 232]);
        for expected in [&[4, 0, 0, 3, 231][..], &[0x8a, 4, 0, 0, 7, 207], &[0x89, 0], &[0x88, 2, 3, 232]] {
            assert_eq!(encoder.due(), Some(expected));
            encoder.due_written(expected.len());
        }
        assert_eq!(encoder.due(), None);
        assert!(encoder.waiting.is_none(), "an idle connection keeps nothing of it");
    }
}
