//! What one read of a connection asks of the core, in order.

use crate::{Batch, ConsumerIx, Control, GroupIx, Head, OwnerIx, QueueId, Seq, Span, Token, TxIx};
use bytes::Bytes;
use smallvec::SmallVec;

/// What became of a delivery. ack, nack, reject, requeue and dispositions are spellings of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done with it.
    Accepted,
    /// Cannot be used: dead-letter it, or drop it where no dead-letter exchange is set.
    Rejected,
    /// Give it back to its original place; it does not count as an attempt.
    Released,
    /// Give it back and count the attempt.
    Modified,
}

/// Settles `count` neighbouring deliveries of one queue.
#[derive(Clone, Copy, Debug)]
pub struct Settle {
    pub queue: QueueId,
    pub first: Seq,
    pub count: u32,
    pub owner: OwnerIx,
    /// One plus the index of the [`StateEdit`] that goes into this settlement's record; 0 = none.
    pub state: u32,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreditTo {
    Consumer(ConsumerIx),
    Group(GroupIx),
}

/// Only these entries move credit; a settlement never does.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    pub to: CreditTo,
    pub add: u32,
    /// Bytes of bodies that a group which counts them ([`crate::Attach::window_bytes`]) gets back; nothing elsewhere.
    pub bytes: u64,
    /// Deliver what is there, then say how much was unused and forget it ([`crate::Signal::Drained`]).
    pub drain: bool,
}

/// A value of a session's state map, opaque to the core.
pub type StateValue = SmallVec<[u8; 24]>;

/// One change of a durable session's state map: what the protocol must remember beyond a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateEdit {
    pub owner: OwnerIx,
    pub key: u64,
    /// `None` removes the key.
    pub value: Option<StateValue>,
    /// While this key stands, the lease of this delivery belongs to the session, over restarts too.
    pub lease: Option<(QueueId, Seq)>,
}

#[derive(Debug)]
pub enum Entry {
    /// A run of the turn's heads; each takes the next serial.
    Publish {
        first: u32,
        count: u32,
    },
    Settle(Settle),
    Credit(Credit),
    /// `states[i]`, as a record of its own.
    State(u32),
    /// Takes a serial; its `Done` means that everything before it on this connection has passed the commit point.
    Fence,
    /// What follows belongs to this transaction, until the next `Scope`.
    Scope(Option<TxIx>),
    /// A cut: all before it has taken effect before it runs.
    Control(Token, Box<Control>),
}

/// Filled by a session, drained by [`crate::CoreSession::submit`], and used again.
#[derive(Default, Debug)]
pub struct Turn {
    pub entries: Vec<Entry>,
    pub states: Vec<StateEdit>,
    pub heads: Vec<Head>,
    /// The run of whole frames that the heads point into.
    pub block: Bytes,
    pub arena: Vec<u8>,
    pub big: Vec<Bytes>,
}

impl Turn {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a publish; neighbouring publishes share one entry.
    #[inline]
    pub fn publish(&mut self, head: Head) {
        let index = self.heads.len() as u32;
        self.heads.push(head);
        if let Some(Entry::Publish { first, count }) = self.entries.last_mut() {
            if *first + *count == index {
                *count += 1;
                return;
            }
        }
        self.entries.push(Entry::Publish { first: index, count: 1 });
    }

    /// Appends a settlement; a neighbour of the one before it with the same outcome and no state edit widens that one.
    #[inline]
    pub fn settle(&mut self, settle: Settle) {
        if let Some(Entry::Settle(last)) = self.entries.last_mut() {
            let next = last.first.plus(u64::from(last.count));
            let same = last.queue == settle.queue && last.owner == settle.owner && last.outcome == settle.outcome;
            if same && last.state == 0 && settle.state == 0 && next == settle.first {
                last.count += settle.count;
                return;
            }
        }
        self.entries.push(Entry::Settle(settle));
    }

    #[inline]
    pub fn credit(&mut self, to: CreditTo, add: u32) {
        self.credit_with_bytes(to, add, 0);
    }

    /// For a group that counts bytes too.
    #[inline]
    pub fn credit_with_bytes(&mut self, to: CreditTo, add: u32, bytes: u64) {
        if let Some(Entry::Credit(last)) = self.entries.last_mut() {
            if last.to == to && !last.drain {
                last.add += add;
                last.bytes += bytes;
                return;
            }
        }
        self.entries.push(Entry::Credit(Credit { to, add, bytes, drain: false }));
    }

    pub fn control(&mut self, token: Token, control: Control) {
        self.entries.push(Entry::Control(token, Box::new(control)));
    }

    pub fn fence(&mut self) {
        self.entries.push(Entry::Fence);
    }

    /// Keeps a state edit for a head or a settlement to name; the answer is what goes into their `state` field.
    pub fn keep_state(&mut self, edit: StateEdit) -> u32 {
        self.states.push(edit);
        self.states.len() as u32
    }

    /// A state edit with a record of its own.
    pub fn state(&mut self, edit: StateEdit) {
        let index = self.keep_state(edit) - 1;
        self.entries.push(Entry::State(index));
    }

    /// Puts bytes that are not in the block (an alias resolved, an escape undone) into the arena.
    pub fn intern(&mut self, bytes: &[u8]) -> Span {
        let off = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Span::arena(off, bytes.len())
    }

    /// Puts further routing keys into the arena, for [`Head::keys`]; none is the empty span.
    pub fn intern_keys<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Span {
        let off = self.arena.len();
        keys.into_iter().for_each(|key| crate::Keys::write(key, &mut self.arena));
        match self.arena.len() - off {
            0 => Span::EMPTY,
            len => Span::arena(off, len),
        }
    }

    /// Gives a body a buffer of its own, so that a small neighbour never pins a large one.
    pub fn own(&mut self, bytes: Bytes) -> Span {
        let len = bytes.len();
        self.big.push(bytes);
        Span::big(self.big.len() - 1, len)
    }

    /// Takes the publishes out as a batch; entries and states stay.
    pub fn freeze(&mut self, arrived_ms: u64) -> Batch {
        Batch {
            block: std::mem::take(&mut self.block),
            arena: std::mem::take(&mut self.arena),
            big: std::mem::take(&mut self.big),
            heads: std::mem::take(&mut self.heads),
            arrived_ms,
            counted: None,
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.states.clear();
        self.heads.clear();
        self.block = Bytes::new();
        self.arena.clear();
        self.big.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(first: u64) -> Settle {
        Settle { queue: QueueId(1), first: Seq(first), count: 1, owner: OwnerIx(1), state: 0, outcome: Outcome::Accepted }
    }

    #[test]
    fn neighbours_are_merged_and_others_are_not() {
        let mut turn = Turn::default();
        turn.publish(Head::default());
        turn.publish(Head::default());
        turn.settle(settle(5));
        turn.settle(settle(6));
        turn.settle(settle(8));
        turn.credit(CreditTo::Group(GroupIx(1)), 1);
        turn.credit(CreditTo::Group(GroupIx(1)), 1);
        turn.publish(Head::default());
        assert_eq!(turn.entries.len(), 5);
        assert!(matches!(turn.entries[0], Entry::Publish { first: 0, count: 2 }));
        assert!(matches!(turn.entries[1], Entry::Settle(Settle { first: Seq(5), count: 2, .. })));
        assert!(matches!(turn.entries[3], Entry::Credit(Credit { add: 2, .. })));
        assert!(matches!(turn.entries[4], Entry::Publish { first: 2, count: 1 }));
    }
}
