//! A turn's publishes, frozen: one block of received bytes and a table of heads that point into it.

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a [`Span`] points: the turn's block, its arena, or a buffer of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    Block,
    Arena,
    /// The whole of `big[index]`.
    Big(u32),
}

/// A piece of a batch. Two bits of the offset name the region, so that it stays at eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Span {
    off: u32,
    pub len: u32,
}

const ARENA: u32 = 1 << 30;
const BIG: u32 = 2 << 30;
const MASK: u32 = (1 << 30) - 1;

impl Span {
    pub const EMPTY: Span = Span { off: 0, len: 0 };

    #[inline]
    pub fn block(off: usize, len: usize) -> Span {
        debug_assert!(off <= MASK as usize);
        Span { off: off as u32, len: len as u32 }
    }
    #[inline]
    pub fn arena(off: usize, len: usize) -> Span {
        debug_assert!(off <= MASK as usize);
        Span { off: off as u32 | ARENA, len: len as u32 }
    }
    pub fn big(index: usize, len: usize) -> Span {
        debug_assert!(index <= MASK as usize);
        Span { off: index as u32 | BIG, len: len as u32 }
    }
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
    #[inline]
    pub fn offset(self) -> usize {
        (self.off & MASK) as usize
    }
    #[inline]
    pub fn end(self) -> usize {
        self.offset() + self.len as usize
    }
    #[inline]
    pub fn region(self) -> Region {
        match self.off & !MASK {
            0 => Region::Block,
            ARENA => Region::Arena,
            _ => Region::Big(self.off & MASK),
        }
    }
}

/// The message must survive a restart where its queue does.
pub const HEAD_DURABLE: u16 = 1;
/// Say so ([`crate::Event::Returned`]) if it reached no queue and no subscriber.
pub const HEAD_MANDATORY: u16 = 2;
/// The publisher waits for [`crate::Event::Done`].
pub const HEAD_CONFIRM: u16 = 4;
/// Replace the retained message of this topic; an empty body removes it.
pub const HEAD_RETAIN: u16 = 8;
/// `origin` is a whole frame that the same protocol may pass on byte for byte to a consumer that asks for nothing special.
pub const HEAD_VERBATIM: u16 = 16;

/// The last message of its [`Head::group`]: whoever takes the next of that group may be another.
pub const HEAD_GROUP_ENDS: u16 = 32;

/// The [`Head::format`] of a message without properties; the core makes such messages itself. Formats above it are the protocols' own.
pub const FORMAT_PLAIN: u8 = 1;

/// What the core looks at in a message. Everything else stays in the origin's own encoding.
#[derive(Clone, Copy, Default, Debug)]
pub struct Head {
    /// Exchange name; empty is the default exchange. MQTT publishes go to the topic exchange of the virtual host (`topic = true`).
    pub exchange: Span,
    /// Routing key or topic text, segments divided by `separator`.
    pub key: Span,
    /// The origin's encoded properties (or the whole frame, see [`HEAD_VERBATIM`]).
    pub origin: Span,
    pub body: Span,
    pub user: Span,
    /// The group it belongs to (JMS: JMSXGroupID), see "Message groups" in the crate's documentation; empty: none.
    pub group: Span,
    /// Further routing keys (AMQP: CC and BCC), see [`crate::Turn::intern_keys`]; the message goes once to each destination of any.
    pub keys: Span,
    /// Absolute, in broker time (ms since the Unix epoch); 0 = never.
    pub expires_ms: u64,
    /// An exchange that delays holds the message back for so long; others take no notice.
    pub delay_ms: u32,
    pub owner: u32,
    /// One plus the index of the turn's [`crate::StateEdit`] that goes into this publish's record; 0 = none.
    pub state: u32,
    pub flags: u16,
    pub priority: u8,
    /// The publisher's service level (MQTT: its QoS); a delivery's level is the smaller of this and the subscription's.
    pub level: u8,
    /// Which protocol's encoding `origin` is in; see `Protocol::format`.
    pub format: u8,
    /// `b'/'` or `b'.'`.
    pub separator: u8,
    /// Routed through the virtual host's topic space, whatever `exchange` says.
    pub topic: bool,
}

impl Head {
    #[inline]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Of everything that its spans name.
    pub fn bytes(&self) -> usize {
        let spans = [self.exchange, self.key, self.origin, self.body, self.user, self.group, self.keys];
        spans.iter().map(|span| span.len as usize).sum()
    }
}

/// Routing keys, each behind its length (u32, little-endian).
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a>(&'a [u8]);

impl Keys<'_> {
    pub fn write(key: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(&(key.len() as u32).to_le_bytes());
        into.extend_from_slice(key);
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    /// Ends early rather than read past what is there.
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let key = rest.get(..len)?;
        self.0 = &rest[len..];
        Some(key)
    }
}

/// The publishes of one turn. Shared by everything that still refers to one of them; the unit of reference counting.
#[derive(Default, Debug)]
pub struct Batch {
    pub block: Bytes,
    pub arena: Vec<u8>,
    pub big: Vec<Bytes>,
    pub heads: Vec<Head>,
    /// Broker time at which the turn was submitted.
    pub arrived_ms: u64,
    /// Counts its memory where the core watches how much there is.
    pub counted: Option<Counted>,
}

/// Memory that is counted in `total` for as long as this lives.
#[derive(Debug)]
pub struct Counted {
    bytes: u64,
    total: &'static AtomicU64,
}

impl Counted {
    pub fn new(bytes: u64, total: &'static AtomicU64) -> Counted {
        total.fetch_add(bytes, Ordering::Relaxed);
        Counted { bytes, total }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Batch {
    #[inline]
    pub fn bytes(&self, span: Span) -> &[u8] {
        match span.region() {
            Region::Block => &self.block[span.offset()..span.end()],
            Region::Arena => &self.arena[span.offset()..span.end()],
            Region::Big(index) => &self.big[index as usize][..span.len as usize],
        }
    }

    /// The bytes of `span` as a buffer that shares memory with this batch where it can.
    pub fn shared(&self, span: Span) -> Bytes {
        match span.region() {
            Region::Block => self.block.slice(span.offset()..span.end()),
            Region::Arena => Bytes::copy_from_slice(&self.arena[span.offset()..span.end()]),
            Region::Big(index) => self.big[index as usize].slice(..span.len as usize),
        }
    }

    #[inline]
    pub fn key(&self, head: &Head) -> &[u8] {
        self.bytes(head.key)
    }
    /// The further routing keys of a head.
    pub fn keys<'a>(&'a self, head: &Head) -> Keys<'a> {
        Keys(self.bytes(head.keys))
    }
    #[inline]
    pub fn body(&self, head: &Head) -> &[u8] {
        self.bytes(head.body)
    }

    /// Bytes of one message: key, properties, body and what else it names.
    pub fn message_bytes(&self, index: u32) -> usize {
        self.heads.get(index as usize).map_or(0, Head::bytes)
    }

    /// Memory that this batch keeps alive.
    pub fn footprint(&self) -> usize {
        self.block.len()
            + self.arena.capacity()
            + self.big.iter().map(Bytes::len).sum::<usize>()
            + self.heads.capacity() * std::mem::size_of::<Head>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_reach_their_region() {
        let batch = Batch {
            block: Bytes::from_static(b"hello world"),
            arena: b"arena".to_vec(),
            big: vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")],
            ..Batch::default()
        };
        assert_eq!(batch.bytes(Span::block(6, 5)), b"world");
        assert_eq!(batch.bytes(Span::arena(1, 4)), b"rena");
        assert_eq!(batch.bytes(Span::big(1, 6)), b"second");
        assert_eq!(&batch.shared(Span::block(0, 5))[..], b"hello");
        assert_eq!(Span::arena(3, 2).region(), Region::Arena);
    }

    #[test]
    fn a_head_stays_small() {
        assert!(std::mem::size_of::<Head>() <= 88, "{}", std::mem::size_of::<Head>());
    }
}
