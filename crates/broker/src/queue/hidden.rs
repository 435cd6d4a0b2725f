//! Messages of a transaction that stand in the queue already and show when its commit point has passed.
//!
//! Such a message is leased to its transaction: counted in the bounds, in checkpoints like any other (what a checkpoint holds waits for the
//! commit point anyway), handed to nobody. Nothing behind it in its lane is handed out before it, so that each producer's order holds.

use super::{Follow, Queue, State, Status};
use crate::store::Log;
use broker_api::Seq;
use std::sync::Arc;

/// The first message of a transaction in one lane.
pub(super) struct Barrier {
    owner: u64,
    level: u8,
    position: u64,
}

pub(super) fn is_behind(barriers: &[Barrier], level: u8, position: u64) -> bool {
    barriers.iter().any(|b| b.level == level && b.position < position)
}

/// Is this one of the first messages of a transaction, or behind one?
pub(super) fn holds_up(barriers: &[Barrier], level: u8, position: u64) -> bool {
    barriers.iter().any(|b| b.level == level && b.position <= position)
}

impl State {
    /// A message that was just appended belongs to a transaction.
    pub fn hide(&mut self, seq: Seq, owner: u64) {
        let (level, position) = (seq.lane(), seq.position());
        let Some(entry) = self.lanes.get_mut(level).and_then(|lane| lane.get_mut(position)) else { return };
        entry.status = Status::Leased;
        entry.owner = owner;
        let bytes = entry.bytes;
        self.leases(bytes);
        self.hidden.0 += 1;
        self.hidden.1 += u64::from(bytes);
        if !self.barriers.iter().any(|b| b.owner == owner && b.level == level) {
            self.barriers.push(Barrier { owner, level, position });
        }
    }

    fn show(&mut self, seq: Seq, owner: u64, now_ms: u64) {
        let position = seq.position();
        let Some(lane) = self.lanes.get_mut(seq.lane()) else { return };
        let Some(entry) = lane.get_mut(position).filter(|e| e.status == Status::Leased && e.owner == owner) else { return };
        entry.status = Status::Ready;
        entry.owner = 0;
        let (bytes, time) = (entry.bytes, entry.expires);
        if position < lane.cursor {
            lane.returned.insert(position);
        }
        self.unleases(bytes);
        self.hidden.0 -= 1;
        self.hidden.1 -= u64::from(bytes);
        self.waits(position, time, now_ms);
        self.scan_again(seq.lane(), position);
    }
}

impl Queue {
    /// The commit point has passed this transaction: its messages are there, and what is too much then goes, oldest first.
    pub fn reveal(self: &Arc<Queue>, runs: &[(Seq, u32)], owner: u64, log: &Log, now_ticks: u32, follow: &mut Follow) {
        let mut state = self.lock();
        for (first, count) in runs {
            for n in 0..u64::from(*count) {
                state.show(first.plus(n), owner, log.now_ms());
            }
        }
        state.barriers.retain(|b| b.owner != owner);
        for _ in 0..REVEAL_MAX {
            if !state.is_over() || !self.evict_oldest(&mut state, log, follow) {
                break;
            }
        }
        self.pump_locked(&mut state, log, now_ticks, follow);
    }

    /// Which of these deliveries `owner` holds, and how many bytes the log may take to send them elsewhere.
    pub fn held_by(&self, first: Seq, count: u32, owner: u64) -> (Vec<(Seq, u32)>, usize) {
        let mut state = self.lock();
        let (mut runs, mut bytes): (Vec<(Seq, u32)>, usize) = (Vec::new(), 0);
        for n in 0..u64::from(count) {
            let seq = first.plus(n);
            let entry = state.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position()));
            let Some(entry) = entry.filter(|e| e.status == Status::Leased && e.owner == owner) else { continue };
            bytes += entry.bytes as usize + MOVE_BYTES;
            match runs.last_mut() {
                Some((first, count)) if first.plus(u64::from(*count)) == seq => *count += 1,
                _ => runs.push((seq, 1)),
            }
        }
        (runs, bytes)
    }
}

/// What one transaction makes too much and goes at once; a lowered bound may make more of it, and takes its own time.
const REVEAL_MAX: u32 = 8192;

/// A move's record beside the message: names, keys, a history.
const MOVE_BYTES: usize = 4096;
