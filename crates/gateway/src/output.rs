//! What a connection keeps of its output: only what the socket would not take.
//!
//! Everything is encoded into the thread's buffer and written at once. If the socket takes only a part, the buffer moves to the connection,
//! and what is encoded meanwhile goes into a second one, so that neither grows while it is being written.

use broker_api::{Out, Piece};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::AsyncWrite;

/// Pieces of one vectored write.
const SLICES: usize = 64;

#[derive(Default)]
pub(crate) struct Output {
    blocked: Option<Box<Blocked>>,
    /// Bytes encoded from deliveries that the core has not been told of yet, and whether there were any deliveries: they may have come to
    /// fewer bytes than the core reckoned, or to none (larger than the peer takes), and must be told of all the same.
    owed: u32,
    owing: bool,
}

struct Blocked {
    writing: Out,
    at: Cursor,
    next: Out,
    /// Since when more waits than the peer should let wait.
    slow_since: Option<Instant>,
}

struct Cursor {
    piece: usize,
    offset: usize,
    left: usize,
}

impl Output {
    /// Where to encode now: the thread's buffer, or the second one while the first waits for the socket.
    pub fn target<'a>(&'a mut self, shared: &'a mut Out) -> &'a mut Out {
        match &mut self.blocked {
            Some(blocked) => &mut blocked.next,
            None => shared,
        }
    }

    /// Bytes that wait for the socket.
    pub fn unwritten(&self) -> usize {
        self.blocked.as_ref().map_or(0, |blocked| blocked.at.left + blocked.next.len())
    }

    /// Remembers since when more than `limit` waits.
    pub fn mark_slow(&mut self, limit: usize, now: Instant) {
        let slow = self.unwritten() > limit;
        if let Some(blocked) = &mut self.blocked {
            blocked.slow_since = slow.then(|| blocked.slow_since.unwrap_or(now));
        }
    }

    pub fn slow_since(&self) -> Option<Instant> {
        self.blocked.as_ref()?.slow_since
    }

    pub fn owe(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.owing = true;
    }

    /// What the core is to be told after `count` more bytes were written: that many, or `usize::MAX` when nothing is left of what it gave.
    pub fn settle(&mut self, count: usize) -> Option<usize> {
        if !self.owing {
            return None;
        }
        if self.blocked.is_none() {
            self.owed = 0;
            self.owing = false;
            return Some(usize::MAX);
        }
        let paid = self.owed.min(u32::try_from(count).unwrap_or(u32::MAX));
        self.owed -= paid;
        (paid > 0).then_some(paid as usize)
    }

    /// Keeps what is in the thread's buffer for a later write.
    pub fn adopt(&mut self, shared: &mut Out) {
        debug_assert!(self.blocked.is_none());
        let writing = std::mem::take(shared);
        self.blocked = Some(Box::new(Blocked { at: Cursor::start(&writing), writing, next: Out::default(), slow_since: None }));
    }

    /// Forgets what was not written.
    pub fn discard(&mut self, shared: &mut Out) {
        self.blocked = None;
        shared.clear();
    }

    /// Writes what the socket takes; answers how much that was. Leaves `shared` empty. What a layer above the socket (TLS) has taken and not
    /// passed on is its own, and bounded by it; it is asked each time to go on with that.
    pub fn flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>, shared: &mut Out) -> io::Result<usize> {
        let total = self.hand_over(stream, cx, shared)?;
        match Pin::new(stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(total),
        }
    }

    fn hand_over<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>, shared: &mut Out) -> io::Result<usize> {
        let Some(blocked) = &mut self.blocked else {
            return self.flush_shared(stream, cx, shared);
        };
        debug_assert!(shared.is_empty());
        let mut total = 0;
        loop {
            total += write(stream, cx, &mut blocked.writing, &mut blocked.at)?;
            if blocked.at.left > 0 {
                return Ok(total);
            }
            blocked.writing.clear();
            if blocked.next.is_empty() {
                break;
            }
            std::mem::swap(&mut blocked.writing, &mut blocked.next);
            blocked.at = Cursor::start(&blocked.writing);
        }
        self.blocked = None;
        Ok(total)
    }

    fn flush_shared<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>, shared: &mut Out) -> io::Result<usize> {
        if shared.is_empty() {
            return Ok(0);
        }
        let mut at = Cursor::start(shared);
        let total = write(stream, cx, shared, &mut at)?;
        if at.left == 0 {
            shared.clear();
        } else {
            let writing = std::mem::take(shared);
            self.blocked = Some(Box::new(Blocked { writing, at, next: Out::default(), slow_since: None }));
        }
        Ok(total)
    }
}

impl Cursor {
    fn start(out: &Out) -> Cursor {
        Cursor { piece: 0, offset: 0, left: out.len() }
    }

    fn advance(&mut self, mut count: usize, pieces: &[Piece]) {
        self.left -= count;
        while count > 0 {
            let rest = len(&pieces[self.piece]) - self.offset;
            if count < rest {
                self.offset += count;
                return;
            }
            count -= rest;
            self.piece += 1;
            self.offset = 0;
        }
    }
}

fn len(piece: &Piece) -> usize {
    match piece {
        Piece::Copied { start, end } => end - start,
        Piece::Shared(bytes) => bytes.len(),
    }
}

fn bytes<'a>(buffer: &'a [u8], piece: &'a Piece) -> &'a [u8] {
    match piece {
        Piece::Copied { start, end } => &buffer[*start..*end],
        Piece::Shared(bytes) => bytes,
    }
}

/// Writes from the cursor on until all is gone or the socket is full.
fn write<S: AsyncWrite + Unpin>(stream: &mut S, cx: &mut Context<'_>, out: &mut Out, at: &mut Cursor) -> io::Result<usize> {
    let (buffer, pieces) = out.pieces();
    let mut total = 0;
    while at.left > 0 {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for piece in pieces[at.piece..].iter().take(SLICES) {
            let skip = if count == 0 { at.offset } else { 0 };
            slices[count] = IoSlice::new(&bytes(buffer, piece)[skip..]);
            count += 1;
        }
        let written = match count {
            1 => Pin::new(&mut *stream).poll_write(cx, &slices[0]),
            _ => Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]),
        };
        match written {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                at.advance(n, pieces);
                total += n;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(total)
}
