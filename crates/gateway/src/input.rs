//! What a connection keeps of its input between reads: the torn tail of a frame.
//!
//! A small tail is put in front of the next read in the thread's scratch buffer, so that the run of whole frames is copied exactly once, into
//! a block of its own size. A frame that is known to be large gets its buffer at once and is read straight into it; complete, that buffer *is* the block.

use crate::scratch::READ_TURN;
use broker_api::{Close, ProtocolSession, Split};
use bytes::{BufMut, Bytes, BytesMut};
use std::future::Future;
use std::io;
use std::pin::{pin, Pin};
use std::task::{ready, Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// From this size a frame is read into a buffer of its own. Half a read, so that a tail in the scratch always leaves room to read.
const LARGE: usize = READ_TURN / 2;

#[derive(Default)]
pub(crate) struct Input(Option<Box<Torn>>);

/// The head of a frame whose rest has not come.
#[derive(Default)]
struct Torn {
    tail: BytesMut,
    /// Bytes that the tail's frame still needs, as far as the session knows; 0 = unknown.
    lacks: usize,
}

/// What one read brought.
pub(crate) enum Read {
    /// The peer will send nothing more.
    End,
    /// `count` bytes came; `block` is the run of whole frames, if there is one.
    Bytes { count: usize, block: Option<Bytes> },
    /// The session cannot make sense of it.
    Malformed(Close),
}

impl Input {
    fn is_large(&self) -> bool {
        self.0.as_ref().is_some_and(|torn| torn.tail.len() + torn.lacks > LARGE)
    }

    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// One read of at most a turn's size, split into a run of whole frames and the tail that is kept.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        session: &mut dyn ProtocolSession,
    ) -> Poll<io::Result<Read>> {
        if self.is_large() {
            return self.poll_read_large(stream, cx, session);
        }
        let tail = self.0.as_ref().map_or(&[][..], |torn| &torn.tail);
        let kept = tail.len();
        let mut buffer = ReadBuf::new(&mut scratch[kept..]);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        if count == 0 {
            return Poll::Ready(Ok(Read::End));
        }
        scratch[..kept].copy_from_slice(tail);
        let data = &scratch[..kept + count];
        let split = match session.split(data) {
            Ok(split) => split,
            Err(close) => return Poll::Ready(Ok(Read::Malformed(close))),
        };
        debug_assert!(split.whole <= data.len());
        let (whole, rest) = data.split_at(split.whole);
        let block = (!whole.is_empty()).then(|| Bytes::copy_from_slice(whole));
        self.keep(rest, split);
        Poll::Ready(Ok(Read::Bytes { count, block }))
    }

    fn poll_read_large<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        session: &mut dyn ProtocolSession,
    ) -> Poll<io::Result<Read>> {
        let torn = self.0.get_or_insert_default();
        let want = if torn.lacks == 0 { READ_TURN } else { torn.lacks.min(READ_TURN) };
        if torn.tail.capacity() - torn.tail.len() < want {
            torn.tail.reserve(want.max(torn.lacks));
        }
        // A new future per poll is fine: one that was not ready has read nothing.
        let mut room = (&mut torn.tail).limit(want);
        let count = ready!(pin!(stream.read_buf(&mut room)).poll(cx))?;
        if count == 0 {
            return Poll::Ready(Ok(Read::End));
        }
        let split = match session.split(&torn.tail) {
            Ok(split) => split,
            Err(close) => return Poll::Ready(Ok(Read::Malformed(close))),
        };
        debug_assert!(split.whole <= torn.tail.len());
        if split.whole == 0 {
            torn.lacks = split.lacks;
            return Poll::Ready(Ok(Read::Bytes { count, block: None }));
        }
        let mut whole = std::mem::take(&mut torn.tail);
        // A rest is copied out, so that it does not pin the large buffer.
        let rest = whole.split_off(split.whole);
        self.keep(&rest, split);
        Poll::Ready(Ok(Read::Bytes { count, block: Some(whole.freeze()) }))
    }

    fn keep(&mut self, rest: &[u8], split: Split) {
        if rest.is_empty() {
            self.0 = None;
            return;
        }
        let large = rest.len() + split.lacks > LARGE;
        // The session has refused what is over its limit, and untouched pages of an announced frame cost nothing yet.
        let mut tail = BytesMut::with_capacity(if large { rest.len() + split.lacks } else { rest.len() });
        tail.extend_from_slice(rest);
        self.0 = Some(Box::new(Torn { tail, lacks: split.lacks }));
    }
}
