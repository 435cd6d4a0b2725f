//! The large buffers, one set per worker thread. A connection borrows them for the length of a poll and leaves them empty.

use broker_api::{EventBatch, Out, Turn};
use std::cell::Cell;

/// Bytes of one read, and so the size of a read turn.
pub(crate) const READ_TURN: usize = 128 * 1024;
/// Encoding buffer that a thread keeps for the next connection.
const KEEP_OUT: usize = 512 * 1024;
/// Entries and events that a thread keeps room for.
const KEEP_ITEMS: usize = 16 * 1024;

pub(crate) struct Scratch {
    pub input: Box<[u8]>,
    pub turn: Turn,
    pub events: EventBatch,
    pub out: Out,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { input: vec![0; READ_TURN].into_boxed_slice(), turn: Turn::default(), events: EventBatch::default(), out: Out::default() }
    }

    /// Lends this thread's buffers. A nested use, which no driver makes, would get a fresh set rather than a panic.
    pub fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = SCRATCH.take().unwrap_or_else(|| Box::new(Scratch::new()));
        let result = work(&mut scratch);
        scratch.tidy();
        SCRATCH.set(Some(scratch));
        result
    }

    /// Gives back what one burst made large.
    fn tidy(&mut self) {
        debug_assert!(self.out.is_empty() && self.turn.is_empty() && self.events.is_empty());
        self.out.shrink(KEEP_OUT);
        if self.turn.entries.capacity() > KEEP_ITEMS || self.turn.heads.capacity() > KEEP_ITEMS || self.turn.arena.capacity() > KEEP_OUT {
            self.turn = Turn::default();
        }
        if self.events.deliveries.capacity() > KEEP_ITEMS || self.events.events.capacity() > KEEP_ITEMS {
            self.events = EventBatch::default();
        }
    }
}
