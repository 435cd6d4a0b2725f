//! Dead letters that nothing took and that stay (`dead-letter-strategy`: at least once): no route, no exchange, or a full queue that refuses. They
//! are moving, handed to nobody, and unlike others that move they count for the queue's bound: this is what bounds them. After a crash
//! they are ready again.

use super::{Entry, Follow, Gone, Held, Leaving, Queue, State, Status};
use crate::spill::is_spilled;
use broker_api::Seq;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Tried again in one go.
const RETRY_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Stuck {
    /// Why each left, and what it counts.
    messages: BTreeMap<Seq, (Gone, u32)>,
    bytes: u64,
    /// Where the next go begins.
    next: Seq,
    timed: bool,
}

impl State {
    /// Messages and bytes that count for the bound though they are on their way.
    pub(super) fn stuck(&self) -> (u64, u64) {
        self.stuck.as_ref().map_or((0, 0), |stuck| (stuck.messages.len() as u64, stuck.bytes))
    }

    pub(super) fn unstick(&mut self, seq: Seq) {
        let Some(stuck) = &mut self.stuck else { return };
        if let Some((_, bytes)) = stuck.messages.remove(&seq) {
            stuck.bytes -= u64::from(bytes);
        }
    }

    fn stick(&mut self, seq: Seq, why: Gone, bytes: u32) -> bool {
        let stuck = self.stuck.get_or_insert_with(Box::default);
        if stuck.messages.insert(seq, (why, bytes)).is_none() {
            stuck.bytes += u64::from(bytes);
        }
        !std::mem::replace(&mut stuck.timed, true)
    }
}

impl Queue {
    /// A moving message stays. Answers whether a timer has to be set.
    pub fn stays(&self, seq: Seq, why: Gone) -> bool {
        let mut state = self.lock();
        let entry = state.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position()));
        let Some(bytes) = entry.filter(|entry| entry.status == Status::Moving).map(|entry| entry.bytes) else { return false };
        state.stick(seq, why, bytes)
    }

    /// The same for one that was taken out already, by [`Queue::end_move`]. `held`: the message, in memory. `None`: the queue has ended
    /// meanwhile, and the message with it.
    pub fn takes_back(&self, seq: Seq, why: Gone, mut entry: Entry, (held, head): (&Arc<Held>, u32)) -> Option<bool> {
        let mut state = self.lock();
        if state.deleted {
            return None;
        }
        if !entry.durable && (entry.held.is_none() || is_spilled(entry.lsn)) {
            // Its place in a spill file was let go of as it left.
            (entry.lsn, entry.held, entry.head) = (0, Some(held.clone()), head);
        }
        entry.status = Status::Moving;
        let (bytes, in_memory) = (entry.bytes, entry.held.is_some());
        state.unspilled += entry.only_in_memory();
        if !state.lanes.open(seq.lane()).insert(seq.position(), entry) {
            return None;
        }
        state.moving += 1;
        state.held_bytes += if in_memory { u64::from(bytes) } else { 0 };
        self.depth.fetch_add(1, Ordering::Relaxed);
        Some(state.stick(seq, why, bytes))
    }

    /// Tries those again that stayed, so many at a time. Answers whether there is anything left to try later.
    pub fn retry_stuck(self: &Arc<Queue>, follow: &mut Follow) -> bool {
        let mut state = self.lock();
        let Some(stuck) = &mut state.stuck else { return false };
        stuck.timed = false;
        let from = std::mem::take(&mut stuck.next);
        let again = stuck.messages.range(from..).take(RETRY_MAX).map(|(seq, (why, _))| (*seq, *why));
        let before = follow.leaving.len();
        follow.leaving.extend(again.map(|(seq, why)| Leaving { queue: self.clone(), seq, why }));
        let (tried, last) = (follow.leaving.len() - before, follow.leaving.last().map(|leaving| leaving.seq));
        // At the end it begins again.
        stuck.next = last.filter(|_| tried == RETRY_MAX).map_or(Seq::default(), |last| last.plus(1));
        stuck.timed = !stuck.messages.is_empty();
        if stuck.messages.is_empty() {
            state.stuck = None;
            return false;
        }
        true
    }
}

impl Entry {
    /// The same once more, for who may have to put it back.
    pub fn twin(&self) -> Entry {
        Entry { held: self.held.clone(), side: self.side.clone(), ..*self }
    }
}
