//! Staging: one ordered ring of tickets. LSN order is ticket order; the commit thread takes the filled front and stops at the first
//! slot that is still open. One lock, held for a few instructions; the commit thread takes slots out in runs and never writes under it.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::{Held, Lsn, Records, Ticket};

/// Told by the commit thread once the commit point has passed the slot, in ticket order. Must not block.
pub trait Committed: Send + Sync {
    fn committed(&self, value: u64);
}

/// Where a slot's records will lie: set when its batch is built, before the sync. 0 means not yet (no record lies at 0).
#[derive(Default, Debug)]
pub struct Place(AtomicU64);

impl Place {
    pub fn new() -> Self {
        Self::default()
    }

    /// A place that is known from the start, for a record that recovery applied.
    pub fn at(lsn: Lsn) -> Self {
        Place(AtomicU64::new(lsn.0))
    }

    /// The LSN of the slot's first record.
    pub fn get(&self) -> Option<Lsn> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            lsn => Some(Lsn(lsn)),
        }
    }

    pub(crate) fn set(&self, lsn: u64) {
        self.0.store(lsn, Ordering::Release);
    }
}

/// One reference to a record's body is gone. `ordinal` says which of the record's references (0..pins).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Release {
    pub lsn: Lsn,
    pub ordinal: u16,
}

/// The references that a slot's records give up. They count once the slot is committed.
#[derive(Default)]
pub struct Releases {
    pub known: Vec<Release>,
    /// The publish had no LSN yet when it was settled: its slot's place, the record's offset in the slot, the ordinal. Its ticket is lower.
    pub pending: Vec<(Arc<Place>, u32, u16)>,
}

/// What a slot is filled with. All its effects must be in memory already: a checkpoint begins after filled slots.
#[derive(Default)]
pub struct Filled {
    pub records: Records,
    pub place: Option<Arc<Place>>,
    pub releases: Releases,
    pub done: Option<(Arc<dyn Committed>, u64)>,
}

/// A reserved place in the order. Dropped unfilled, it becomes void and holds nobody up.
#[must_use]
pub struct Slot {
    ring: Arc<Ring>,
    ticket: u64,
    open: bool,
}

impl Slot {
    pub fn ticket(&self) -> Ticket {
        Ticket(self.ticket)
    }

    pub fn fill(mut self, filled: Filled) {
        self.open = false;
        self.ring.fill(self.ticket, filled);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.open {
            self.ring.fill(self.ticket, Filled::default());
        }
    }
}

pub(crate) struct Ring {
    state: Mutex<State>,
    wake: Condvar,
    staging_bytes: u64,
    /// Bit 0: disk full, bit 1: failed.
    held: AtomicU64,
}

const DISK_FULL: u64 = 1;
const FAILED: u64 = 2;
/// Slots moved out per lock, so that nobody waits long behind the commit thread.
const RUN: usize = 256;

#[derive(Default)]
struct State {
    /// The ticket of the first slot in the ring.
    base: u64,
    slots: VecDeque<Entry>,
    /// Bytes filled and not yet committed.
    staged: u64,
    /// The commit thread sleeps and wants to hear of a filled front.
    asleep: bool,
    /// Somebody was refused for staging and wants to hear of room.
    refused: bool,
    closing: bool,
}

enum Entry {
    Open,
    Filled(Filled),
}

impl Ring {
    pub fn new(staging_bytes: u64) -> Ring {
        Ring { state: Mutex::default(), wake: Condvar::new(), staging_bytes, held: AtomicU64::new(0) }
    }

    pub fn reserve(self: &Arc<Self>) -> Slot {
        let mut state = self.state.lock();
        let ticket = state.base + state.slots.len() as u64;
        state.slots.push_back(Entry::Open);
        drop(state);
        Slot { ring: self.clone(), ticket, open: true }
    }

    pub fn reserve_publish(self: &Arc<Self>) -> Result<Slot, Held> {
        match self.held.load(Ordering::Relaxed) {
            0 => {}
            held if held & FAILED != 0 => return Err(Held::Failed),
            _ => return Err(Held::DiskFull),
        }
        let mut state = self.state.lock();
        if state.staged > self.staging_bytes {
            state.refused = true;
            return Err(Held::Staging);
        }
        let ticket = state.base + state.slots.len() as u64;
        state.slots.push_back(Entry::Open);
        drop(state);
        Ok(Slot { ring: self.clone(), ticket, open: true })
    }

    fn fill(&self, ticket: u64, filled: Filled) {
        let mut state = self.state.lock();
        state.staged += filled.records.bytes().len() as u64;
        let index = (ticket - state.base) as usize;
        state.slots[index] = Entry::Filled(filled);
        if index == 0 && state.asleep {
            state.asleep = false;
            self.wake.notify_one();
        }
    }

    /// Moves filled slots from the front into `taken` until they hold `bytes_max` bytes; at least one if one is filled.
    /// Answers the ticket after the last one taken.
    pub fn take(&self, taken: &mut Vec<Filled>, bytes_max: usize) -> u64 {
        let mut bytes = 0;
        loop {
            let mut state = self.state.lock();
            for _ in 0..RUN {
                let Some(Entry::Filled(front)) = state.slots.front() else { return state.base };
                bytes += front.records.bytes().len();
                if bytes > bytes_max && !taken.is_empty() {
                    return state.base;
                }
                state.base += 1;
                if let Some(Entry::Filled(filled)) = state.slots.pop_front() {
                    taken.push(filled);
                }
            }
        }
    }

    /// Gives back the room of committed bytes. `true` when somebody was refused and may go on now.
    pub fn give_back(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        state.staged = state.staged.saturating_sub(bytes);
        state.refused && state.staged <= self.staging_bytes / 2 && mem::take(&mut state.refused)
    }

    /// Sleeps until the front is filled, `close` is called, or the time is over.
    pub fn wait(&self, at_most: Option<Duration>) {
        let mut state = self.state.lock();
        if matches!(state.slots.front(), Some(Entry::Filled(_))) || state.closing {
            return;
        }
        state.asleep = true;
        match at_most {
            Some(time) => drop(self.wake.wait_for(&mut state, time)),
            None => self.wake.wait(&mut state),
        }
        state.asleep = false;
    }

    pub fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_one();
    }

    pub fn closing(&self) -> bool {
        self.state.lock().closing
    }

    /// The ticket that the next reservation gets.
    pub fn next_ticket(&self) -> u64 {
        let state = self.state.lock();
        state.base + state.slots.len() as u64
    }

    pub fn staged(&self) -> u64 {
        self.state.lock().staged
    }

    /// Answers whether this changed something.
    pub fn set_disk_full(&self, full: bool) -> bool {
        let before =
            if full { self.held.fetch_or(DISK_FULL, Ordering::Relaxed) } else { self.held.fetch_and(!DISK_FULL, Ordering::Relaxed) };
        (before & DISK_FULL != 0) != full
    }

    pub fn disk_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) & DISK_FULL != 0
    }

    pub fn set_failed(&self) {
        self.held.fetch_or(FAILED, Ordering::Relaxed);
    }

    pub fn held(&self) -> Option<Held> {
        match self.held.load(Ordering::Relaxed) {
            0 if self.staged() > self.staging_bytes => Some(Held::Staging),
            0 => None,
            held if held & FAILED != 0 => Some(Held::Failed),
            _ => Some(Held::DiskFull),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes: usize) -> Filled {
        let mut records = Records::new();
        records.push(20, 1, 0, 0, |out| out.resize(out.len() + bytes, 0));
        Filled { records, ..Filled::default() }
    }

    #[test]
    fn the_first_open_slot_stops_the_commit_and_a_dropped_one_is_void() {
        let ring = Arc::new(Ring::new(1000));
        let (first, second, third) = (ring.reserve(), ring.reserve(), ring.reserve());
        assert_eq!((first.ticket(), third.ticket()), (Ticket(0), Ticket(2)));
        third.fill(filled(10));
        let mut taken = Vec::new();
        assert_eq!(ring.take(&mut taken, 100), 0);
        first.fill(filled(10));
        assert_eq!(ring.take(&mut taken, 100), 1);
        drop(second);
        assert_eq!(ring.take(&mut taken, 100), 3);
        assert_eq!(taken.len(), 3);
        assert!(taken[1].records.is_empty());
    }

    #[test]
    fn publishes_are_held_over_the_bound_and_settlements_never() {
        let ring = Arc::new(Ring::new(100));
        ring.reserve().fill(filled(200));
        assert_eq!(ring.reserve_publish().err(), Some(Held::Staging));
        ring.reserve().fill(filled(1));
        let mut taken = Vec::new();
        ring.take(&mut taken, usize::MAX);
        assert!(!ring.give_back(50));
        assert!(ring.give_back(1000), "the refused one hears of it");
        assert!(ring.reserve_publish().is_ok());
        assert!(ring.set_disk_full(true) && !ring.set_disk_full(true));
        assert_eq!(ring.reserve_publish().err(), Some(Held::DiskFull));
    }

    #[test]
    fn a_take_is_bounded_by_bytes_but_takes_at_least_one() {
        let ring = Arc::new(Ring::new(1 << 30));
        for _ in 0..600 {
            ring.reserve().fill(filled(100));
        }
        let mut taken = Vec::new();
        assert_eq!(ring.take(&mut taken, 10), 1);
        taken.clear();
        ring.take(&mut taken, 100 * 105);
        assert_eq!(taken.len(), 100);
        taken.clear();
        assert_eq!(ring.take(&mut taken, usize::MAX), 600);
    }
}
