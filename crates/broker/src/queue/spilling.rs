//! What of a queue is in memory alone, and how it gets into spill files (see `spill`).

use super::{Entry, Fill, Gone, Held, Lane, Queue, State, Status, PAGE};
use crate::spill::{is_spilled, Spill};
use broker_api::{Head, Seq};
use std::sync::Arc;

/// What is noted in one go, while the queue waits, and then written in one piece.
const RUN_BYTES: u64 = 512 << 10;
const RUN_MAX: usize = 4096;
/// Entries that one look for where to begin passes, at most.
const LOOK_BACK: usize = 1 << 16;
/// What a message weighs in memory beside its key and body.
const OVERHEAD: u64 = std::mem::size_of::<Head>() as u64;

/// Messages of one queue that are to be written, in its order.
pub(crate) struct SpillRun {
    pub queue: Arc<Queue>,
    helds: Vec<Arc<Held>>,
    entries: Vec<Noted>,
    weight: u64,
}

struct Noted {
    seq: Seq,
    head: u32,
    /// Which of `helds` has it.
    held: u32,
}

impl SpillRun {
    fn new(queue: &Arc<Queue>) -> SpillRun {
        SpillRun { queue: queue.clone(), helds: Vec::new(), entries: Vec::new(), weight: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn messages(&self) -> impl Iterator<Item = (&Arc<Held>, u32)> {
        self.entries.iter().map(|noted| (&self.helds[noted.held as usize], noted.head))
    }

    /// Where others hold messages of the same batch, they find what was written of it.
    pub fn note_shared(&self, places: &[u64]) {
        let mut at = 0;
        for chunk in self.entries.chunk_by(|a, b| a.held == b.held) {
            let held = &self.helds[chunk[0].held as usize];
            if Arc::strong_count(held) > chunk.len() + 1 {
                for (noted, place) in chunk.iter().zip(&places[at..]) {
                    held.spilled.note(held.batch.heads.len(), noted.head, *place);
                }
            }
            at += chunk.len();
        }
    }

    /// Notes what can go from `from` on, and answers where it stopped: at `end`, when it has enough, or before what nobody may see yet.
    fn gather(&mut self, lane: &Lane, level: u8, from: u64, end: u64, stops: bool) -> u64 {
        for (position, entry) in lane.iter_from(from) {
            if position >= end || self.weight >= RUN_BYTES || self.entries.len() >= RUN_MAX {
                return position.min(end);
            }
            let Some(held) = entry.held.as_ref().filter(|_| entry.only_in_memory() > 0) else { continue };
            if !held.is_shown() || (entry.status == Status::Leased && position >= lane.cursor) {
                if stops {
                    return position;
                }
                continue;
            }
            if entry.status != Status::Ready {
                continue;
            }
            if self.helds.last().is_none_or(|last| !Arc::ptr_eq(last, held)) {
                self.helds.push(held.clone());
            }
            self.weight += entry.only_in_memory();
            let held = self.helds.len() as u32 - 1;
            self.entries.push(Noted { seq: Seq::new(level, position), head: entry.head, held });
        }
        end
    }
}

impl Queue {
    /// What goes next into a spill file: of the lowest level first, `ahead` entries at the head left for a consumer. `want` is how much is
    /// too much in all.
    pub fn to_spill(self: &Arc<Queue>, ahead: u64, want: u64) -> Option<SpillRun> {
        let mut run = SpillRun::new(self);
        let mut state = self.lock();
        let ahead = if state.consumers.is_empty() { 0 } else { ahead };
        for (level, lane) in state.lanes.iter_mut() {
            let floor = lane.cursor + ahead;
            if lane.spilled.end <= floor {
                let start = lane.back_by(want.max(RUN_BYTES), lane.next, floor);
                lane.spilled = start..start;
            }
            let new = run.gather(lane, level, lane.spilled.end, lane.next, true);
            lane.spilled.end = new;
            if run.entries.is_empty() && lane.spilled.start > floor {
                let (start, end) = (lane.back_by(RUN_BYTES, lane.spilled.start, floor), lane.spilled.start);
                run.gather(lane, level, start, end, false);
                lane.spilled.start = start;
            }
            if !run.entries.is_empty() {
                return Some(run);
            }
        }
        None
    }

    /// A run has been written: what still is as it was when it was noted is let go of in memory.
    pub fn spilled(&self, run: &SpillRun, places: &[u64], spill: &Arc<Spill>) {
        let mut unused = Vec::new();
        let mut state = self.lock();
        state.spill.get_or_insert_with(|| spill.clone());
        for (noted, place) in run.entries.iter().zip(places) {
            let held = &run.helds[noted.held as usize];
            let entry = state.lanes.get_mut(noted.seq.lane()).and_then(|lane| lane.get_mut(noted.seq.position()));
            let same = |e: &&mut Entry| e.status == Status::Ready && e.held.as_ref().is_some_and(|h| Arc::ptr_eq(h, held));
            let Some(entry) = entry.filter(same) else {
                unused.push(*place);
                continue;
            };
            let (weight, bytes) = (entry.only_in_memory(), u64::from(entry.bytes));
            entry.lsn = *place;
            // Not the last reference to it: the run has one, so nothing is freed under the lock.
            entry.held = None;
            state.unspilled -= weight;
            state.held_bytes = state.held_bytes.saturating_sub(bytes);
        }
        spill.account(&mut state);
        drop(state);
        unused.into_iter().for_each(|place| spill.release(place));
    }

    /// What was noted could not be written: it is looked at once more.
    pub fn spill_again(&self) {
        self.lock().lanes.iter_mut().for_each(|(_, lane)| lane.spilled = 0..0);
    }

    /// What stood here cannot be read back: it is lost. `false`: it had left already.
    pub fn drop_unreadable(&self, seq: Seq, place: u64) -> bool {
        let mut state = self.lock();
        let entry = state.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position()));
        let there = entry.is_some_and(|e| e.status != Status::Gone && e.lsn == place && e.held.is_none());
        if there {
            self.take_out(&mut state, seq.lane(), seq.position(), &mut Fill::new(self.id, Gone::Evicted));
            state.dropped_messages += 1;
        }
        there
    }

    /// Entries that have a place in a spill file, for tests and tools.
    pub fn count_spilled(&self) -> u64 {
        self.lock().lanes.iter().flat_map(|(_, lane)| lane.iter()).filter(|(_, e)| is_spilled(e.lsn)).count() as u64
    }
}

impl Lane {
    /// Where to begin so that what lies between there and `end`, and nowhere but in memory, is as much as `want`; `floor` at the lowest.
    fn back_by(&self, want: u64, end: u64, floor: u64) -> u64 {
        let pages = match self.page_index(end / PAGE) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        let mut weight = 0;
        let before = self.pages.range(..pages).rev().flat_map(|page| page.live_entries().rev());
        for (position, entry) in before.skip_while(|(position, _)| *position >= end).take(LOOK_BACK) {
            if position < floor {
                return floor;
            }
            weight += entry.only_in_memory();
            if weight >= want {
                return position;
            }
        }
        floor
    }
}

impl Entry {
    /// What is gained when memory lets go of this message: nothing if it is in the log or in a spill file, or going to be.
    pub(super) fn only_in_memory(&self) -> u64 {
        match self.held {
            Some(_) if !self.durable && self.lsn == 0 => u64::from(self.bytes) + OVERHEAD,
            _ => 0,
        }
    }
}

impl State {
    /// An entry that is not durable has left.
    pub(super) fn left(&mut self, entry: &Entry) {
        match &self.spill {
            Some(spill) if is_spilled(entry.lsn) => spill.release(entry.lsn),
            _ => self.unspilled -= entry.only_in_memory(),
        }
    }

    pub(super) fn recount_unspilled(&self) -> Result<(), String> {
        let found: u64 = self.lanes.iter().flat_map(|(_, lane)| lane.iter()).map(|(_, entry)| entry.only_in_memory()).sum();
        if found != self.unspilled {
            return Err(format!("{found} bytes are in memory alone but {} are counted", self.unspilled));
        }
        Ok(())
    }
}

/// A queue that goes without having been emptied still lets go of its files.
impl Drop for Queue {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let Some(spill) = &state.spill else { return };
        state.lanes.iter().flat_map(|(_, lane)| lane.iter()).filter(|(_, e)| is_spilled(e.lsn)).for_each(|(_, e)| spill.release(e.lsn));
    }
}
