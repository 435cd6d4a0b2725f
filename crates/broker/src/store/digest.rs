//! Digests: what a primary holds, written into the log at its checkpoints, for a standby to compare with what it has redone.
//!
//! A digest names pages of one queue and how many logged references are alive in each. Only pages that have changed since the last checkpoint
//! are named, which are about to be written anyway, so that a digest costs a small part of its checkpoint.
//!
//! Its slot is reserved under the queue's lock, so everything that has left the queue stands in the log before it, and nothing else that does.
//! A publish that has its slot and is not in the queue yet gets a position at or above `next`, which is not compared. Two kinds of change have
//! their slot before the queue hears of them: a transaction's, and a move that is taken back. While one of these is [under way](UnderWay)
//! no digest is written. None follows, either, when a page of references could not be read and its messages are lost to the primary.

use super::wire::{Reader, Writer};
use super::Recovery;
use crate::core::Shared;
use crate::queue::{Lane, Page, Queue, State};
use broker_api::QueueId;
use journal::record::KIND_DIGEST;
use journal::{Filled, Records};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const VERSION: u8 = 1;
/// Queues that one checkpoint writes digests of, and pages of one queue: the log stays free for messages.
const QUEUES_MAX: usize = 1024;
const PAGES_MAX: usize = 1024;
/// Levels of one queue: their number is a byte, and there may be one more of them than that.
const LEVELS_MAX: usize = 255;

/// A primary's part.
#[derive(Default)]
pub(crate) struct Digests {
    /// This node is one of a pair, and has everything that its log says.
    on: AtomicBool,
    /// How many more this checkpoint may write.
    left: AtomicUsize,
    under_way: AtomicUsize,
}

/// Something whose slot is reserved, and that queues do not show yet.
pub(crate) struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Digests {
    pub fn switch_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// What is lost here a standby still has: it must not take itself for the one that is wrong, and a copy of this store instead of its own.
    pub fn switch_off(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    pub fn checkpoint_begins(&self) {
        self.left.store(QUEUES_MAX, Ordering::Relaxed);
    }

    /// To be called before the slot is reserved.
    pub fn under_way(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(&self.under_way)
    }
}

impl Shared {
    /// Writes what this queue holds into the log. The caller has its lock, and has not yet written what changed.
    pub(super) fn write_digest(&self, queue: &Queue, state: &State) {
        let digests = &self.digests;
        if !digests.on.load(Ordering::Relaxed) || digests.left.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut records = Records::new();
        records.push(KIND_DIGEST, super::LEVEL, 0, 0, |out| write(out, queue.id, state));
        let slot = self.log.reserve();
        if digests.under_way.load(Ordering::SeqCst) == 0 {
            digests.left.fetch_sub(1, Ordering::Relaxed);
            slot.fill(Filled { records, ..Filled::default() });
        }
    }
}

fn write(out: &mut Vec<u8>, id: QueueId, state: &State) {
    let mut w = Writer(out);
    w.u8(VERSION);
    w.u64(id.0);
    w.u8(state.lanes.len().min(LEVELS_MAX) as u8);
    let mut left = PAGES_MAX;
    for (level, lane) in state.lanes.iter().take(LEVELS_MAX) {
        w.u8(level);
        w.u64(lane.next);
        let changed = lane.pages.iter().filter(|page| page.dirty).map(|page| (page.number, alive(page, u64::MAX)));
        let gone = lane.dropped.iter().filter(|number| lane.page(**number).is_none()).map(|number| (*number, 0));
        let pages: Vec<(u64, u16)> = changed.chain(gone).take(left).collect();
        left -= pages.len();
        w.u16(pages.len() as u16);
        for (number, count) in pages {
            w.u64(number);
            w.u16(count);
        }
    }
}

/// Logged references of a page before `next`. What is away is all before it, or nobody asks.
fn alive(page: &Page, next: u64) -> u16 {
    page.away + page.live_entries().filter(|(position, entry)| *position < next && entry.durable).count() as u16
}

/// How a standby's comparisons went.
#[derive(Clone, Default, Debug)]
pub struct Compared {
    pub digests: u64,
    /// The first one that differed, in words.
    pub differs: Option<String>,
}

impl Recovery {
    /// Compares a digest with what stands here. `None`: it cannot be read.
    pub(super) fn compare(&self, fields: &[u8], into: &mut Compared) -> Option<()> {
        let mut r = Reader::new(fields);
        if r.u8()? != VERSION {
            // Of a later program, which a standby of this one does not understand and need not.
            return Some(());
        }
        let id = r.u64()?;
        let queue = self.queues.get(&id);
        let state = queue.map(|queue| queue.lock());
        for _ in 0..r.u8()? {
            let (level, next) = (r.u8()?, r.u64()?);
            let lane = state.as_ref().and_then(|state| state.lanes.get(level));
            for _ in 0..r.u16()? {
                let (number, expected) = (r.u64()?, r.u16()?);
                let Some(found) = found(lane, number, next) else { continue };
                if found != expected && into.differs.is_none() {
                    let name = queue.map_or("a queue that is not here", |queue| queue.name.as_str());
                    into.differs = Some(format!(
                        "page {number} of {name} (queue {id}, level {level}) holds {found} messages, and {expected} on the primary"
                    ));
                }
            }
        }
        into.digests += 1;
        Some(())
    }
}

/// `None`: what is away of this page may reach beyond `next`.
fn found(lane: Option<&Lane>, number: u64, next: u64) -> Option<u16> {
    match lane.and_then(|lane| lane.page(number)) {
        None => Some(0),
        Some(page) if page.away > 0 && page.start() > next => None,
        Some(page) => Some(alive(page, next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Entry, Status};

    fn digest(state: &State) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, QueueId(7), state);
        out
    }

    #[test]
    fn a_queue_with_every_priority_there_is_says_something() {
        let mut state = State::default();
        for level in 0..=255 {
            state.lanes.open(level).push(logged());
        }
        let bytes = digest(&state);
        let mut r = Reader::new(&bytes);
        assert_eq!((r.u8(), r.u64(), r.u8()), (Some(VERSION), Some(7), Some(255)));
        for expected in 0..255 {
            // One page of one message.
            assert_eq!((r.u8(), r.u64(), r.u16(), r.u64(), r.u16()), (Some(expected), Some(1), Some(1), Some(0), Some(1)));
        }
        assert_eq!(r.u8(), None);
    }

    fn logged() -> Entry {
        Entry { durable: true, status: Status::Ready, ..Entry::gone() }
    }
}
