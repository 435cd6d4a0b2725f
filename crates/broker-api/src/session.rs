//! A protocol as the gateway sees it: a recogniser, and one state machine per connection. Time is an argument; nobody awaits.

use crate::{EventBatch, Identity, Peer, Turn};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// What a recogniser says of a connection's first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Mine,
    NotMine,
    NeedMore,
}

/// What a session is told about its connection when it is opened.
#[derive(Clone, Debug)]
pub struct Context {
    pub peer: Peer,
    /// A session may log in with it, by the SASL mechanism `EXTERNAL`; without one that is refused.
    pub identity: Option<Arc<Identity>>,
    /// Who logs in without credentials is let in.
    pub anonymous: bool,
    /// Broker time when the connection was accepted, ms since the Unix epoch; see `CoreSession::now_ms`.
    pub opened_ms: u64,
}

/// The whole frames at the head of the input, and how many bytes the next one lacks (0 = unknown, read on).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    pub whole: usize,
    pub lacks: usize,
}

/// The connection ends after what is in `Out` has been written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Close {
    /// For the log.
    pub why: String,
    /// The peer said good-bye properly; anything else is a lost connection.
    pub clean: bool,
    pub then: Then,
}

/// When our end closes, the last words written. A peer that takes too long is not waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    AtOnce,
    /// When what the peer sends ends with these bytes: its protocol has it answer the last words.
    Answered(&'static [u8]),
    /// When the peer has closed its own end.
    PeerEnded,
}

impl Close {
    pub fn dirty(why: impl Into<String>) -> Close {
        Close { why: why.into(), clean: false, then: Then::AtOnce }
    }
    pub fn clean(why: impl Into<String>) -> Close {
        Close { why: why.into(), clean: true, then: Then::AtOnce }
    }
    pub fn then(self, then: Then) -> Close {
        Close { then, ..self }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flow {
    Go,
    /// Show the block from this offset again, after the next events (a login or an attach is under way). Reading stops meanwhile.
    Hold(usize),
    Close(Close),
}

/// A piece of output: a range of the shared buffer or a body that is not worth copying.
#[derive(Clone, Debug)]
pub enum Piece {
    Copied { start: usize, end: usize },
    Shared(Bytes),
}

/// What a session writes. Small things are encoded into one buffer; large bodies and verbatim runs go by reference.
#[derive(Default, Debug)]
pub struct Out {
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
    sealed: usize,
    shared_bytes: usize,
}

impl Out {
    /// From this size a shared piece beats a copy.
    pub const SHARE_FROM: usize = 4096;

    /// The buffer to encode into; append only.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends bytes that others hold too, by reference when they are long enough.
    pub fn share(&mut self, bytes: Bytes) {
        if bytes.len() < Self::SHARE_FROM {
            self.buffer.extend_from_slice(&bytes);
            return;
        }
        self.seal();
        self.shared_bytes += bytes.len();
        self.pieces.push(Piece::Shared(bytes));
    }

    fn seal(&mut self) {
        if self.buffer.len() > self.sealed {
            self.pieces.push(Piece::Copied { start: self.sealed, end: self.buffer.len() });
            self.sealed = self.buffer.len();
        }
    }

    pub fn len(&self) -> usize {
        self.buffer.len() + self.shared_bytes
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything written so far, in order, for the driver to send; `clear` when it is gone.
    pub fn pieces(&mut self) -> (&[u8], &[Piece]) {
        self.seal();
        (&self.buffer, &self.pieces)
    }

    pub fn clear(&mut self) {
        self.buffer.clear();
        self.pieces.clear();
        self.sealed = 0;
        self.shared_bytes = 0;
    }

    /// Gives back memory that a burst left behind.
    pub fn shrink(&mut self, keep: usize) {
        if self.is_empty() && self.buffer.capacity() > keep {
            self.buffer = Vec::new();
            self.pieces = Vec::new();
        }
    }

    /// All bytes in one piece, for tests.
    pub fn concat(&mut self) -> Vec<u8> {
        let (buffer, pieces) = self.pieces();
        let mut all = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Copied { start, end } => all.extend_from_slice(&buffer[*start..*end]),
                Piece::Shared(bytes) => all.extend_from_slice(bytes),
            }
        }
        all
    }
}

/// A protocol: the one object that the list in `server` names.
pub trait Protocol: Send + Sync {
    fn name(&self) -> &'static str;
    /// Does a connection that starts like this speak it?
    fn recognise(&self, first: &[u8]) -> Verdict;
    /// What it is called when WebSocket carries it, in the words of its specification. None: it is not carried.
    fn sub_protocols(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether its clients may send WebSocket text frames, and are answered in them where it is text.
    fn speaks_text(&self) -> bool {
        false
    }
    fn open(self: Arc<Self>, context: Context, now: Instant) -> Box<dyn ProtocolSession>;
}

pub trait ProtocolSession: Send {
    /// How much of `input` is whole frames, and how many bytes the next one lacks. Never rescans a torn tail.
    fn split(&mut self, input: &[u8]) -> Result<Split, Close>;
    /// Whole frames, once per read turn, from `offset` on (non-zero after a `Hold`): appends to `turn`, answers to `out`.
    /// The driver has put `block` into `turn.block`.
    fn receive(&mut self, block: &Bytes, offset: usize, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow;
    /// A swapped outbox.
    fn events(&mut self, batch: &mut EventBatch, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow;
    /// `split` refused the input: say so to the peer in the protocol's words, if it has any.
    fn malformed(&mut self, close: &Close, turn: &mut Turn, out: &mut Out);
    /// When the peer has been silent for too long (keep-alive, handshake). This clock stands still while the connection is not read.
    fn deadline(&self) -> Option<Instant>;
    fn on_deadline(&mut self, now: Instant, now_ms: u64, turn: &mut Turn, out: &mut Out) -> Flow;
    /// When the peer has to be shown that we are there (a heartbeat). This clock always runs: the peer does not know that it is not read.
    fn beat_at(&self) -> Option<Instant> {
        None
    }
    /// Sends that sign of life, and moves [`ProtocolSession::beat_at`] on. Not called while there is unwritten output, which is one too.
    fn beat(&mut self, _now: Instant, _out: &mut Out) {}
    /// The connection is gone (`clean` as in [`Close`]): last words to the core, such as ending owners. Called exactly once.
    fn closed(&mut self, clean: bool, turn: &mut Turn);
    /// For the connection's log span and for listings, once known.
    fn client_id(&self) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_keeps_the_order_of_copied_and_shared_pieces() {
        let mut out = Out::default();
        out.buffer().extend_from_slice(b"head");
        out.share(Bytes::from(vec![7; Out::SHARE_FROM]));
        out.buffer().extend_from_slice(b"tail");
        let all = out.concat();
        assert_eq!(all.len(), out.len());
        assert_eq!((&all[..4], &all[all.len() - 4..]), (&b"head"[..], &b"tail"[..]));
        assert_eq!(out.pieces().1.len(), 3);
        out.clear();
        assert!(out.is_empty());
    }
}
