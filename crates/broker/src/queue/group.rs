//! A credit group: counters shared by consumers on any queues (receive maximum, global prefetch): messages, and bytes of their bodies where
//! those are bounded too.

use super::Queue;
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Group {
    /// Below zero while what was resumed has not been answered for.
    credit: AtomicI64,
    /// Below zero when the last message was larger than what was left: one may go as long as there is any, or a message larger than the
    /// bound would never go.
    bytes: Option<AtomicI64>,
    /// Queues that met an empty group, each once.
    waiting: Mutex<Vec<Arc<Queue>>>,
}

/// What a queue may hand out of a group's credit. What it does not use it gives back.
#[derive(Clone, Copy)]
pub(crate) struct Grant {
    pub messages: u32,
    /// All that the group had, `i64::MAX` if it does not count bytes. Others that come meanwhile wait until the rest is given back.
    pub bytes: i64,
}

impl Grant {
    const NOTHING: Grant = Grant { messages: 0, bytes: 0 };

    /// Without a group.
    pub fn of(messages: u32) -> Grant {
        Grant { messages, bytes: i64::MAX }
    }
}

impl Group {
    pub fn new(credit: u32) -> Arc<Group> {
        Group::bounded(credit, None)
    }

    pub fn bounded(credit: u32, bytes: Option<NonZeroU64>) -> Arc<Group> {
        let bytes = bytes.map(|bytes| AtomicI64::new(i64::try_from(bytes.get()).unwrap_or(i64::MAX / 2)));
        Arc::new(Group { credit: AtomicI64::new(i64::from(credit)), bytes, waiting: Mutex::default() })
    }

    /// Takes up to `want`; an empty group remembers the queue and answers 0.
    pub fn take(&self, want: u32, queue: &Arc<Queue>) -> Grant {
        let taken = self.try_take(want);
        if taken.messages > 0 {
            return taken;
        }
        let mut waiting = self.waiting.lock();
        // Credit that came after the first look is seen here, because `add` takes the lock too.
        let taken = self.try_take(want);
        if taken.messages == 0 && !waiting.iter().any(|q| Arc::ptr_eq(q, queue)) {
            waiting.push(queue.clone());
        }
        taken
    }

    fn try_take(&self, want: u32) -> Grant {
        let Some(bytes) = &self.bytes else { return Grant::of(self.try_take_messages(want)) };
        // Whoever finds nothing because it is in our hands for this moment waits for what we give back: if we take nothing, then for want of
        // messages, and those come with `add`.
        let taken = bytes.swap(0, Ordering::Relaxed);
        let messages = if taken > 0 { self.try_take_messages(want) } else { 0 };
        if messages == 0 {
            bytes.fetch_add(taken, Ordering::Relaxed);
            return Grant::NOTHING;
        }
        Grant { messages, bytes: taken }
    }

    fn try_take_messages(&self, want: u32) -> u32 {
        let mut have = self.credit.load(Ordering::Relaxed);
        loop {
            let take = have.min(i64::from(want));
            if take <= 0 {
                return 0;
            }
            match self.credit.compare_exchange_weak(have, have - take, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return take as u32,
                Err(now) => have = now,
            }
        }
    }

    /// Gives back what was not used of a grant, if anything; answers the queues that met the group empty meanwhile.
    pub fn untake(&self, unused: Grant) -> Vec<Arc<Queue>> {
        match &self.bytes {
            None if unused.messages == 0 => Vec::new(),
            None => self.add(unused.messages, 0),
            Some(bytes) => {
                let mut waiting = self.waiting.lock();
                bytes.fetch_add(unused.bytes, Ordering::Relaxed);
                self.credit.fetch_add(i64::from(unused.messages), Ordering::Relaxed);
                std::mem::take(&mut *waiting)
            }
        }
    }

    /// Takes credit that may not be there yet, for one message.
    pub fn spend(&self, body: u32) {
        self.credit.fetch_sub(1, Ordering::Relaxed);
        if let Some(bytes) = &self.bytes {
            bytes.fetch_sub(i64::from(body), Ordering::Relaxed);
        }
    }

    /// New credit; answers the queues to pump.
    pub fn add(&self, messages: u32, body: u64) -> Vec<Arc<Queue>> {
        let mut waiting = self.waiting.lock();
        self.credit.fetch_add(i64::from(messages), Ordering::Relaxed);
        if let Some(bytes) = &self.bytes {
            bytes.fetch_add(i64::try_from(body).unwrap_or(0), Ordering::Relaxed);
        }
        std::mem::take(&mut *waiting)
    }

    pub fn forget(&self) {
        self.waiting.lock().clear();
    }
}
