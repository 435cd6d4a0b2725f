//! From the queue to its consumers: ready messages to those that have credit and room, turn by turn.

use super::append::TRIM_MAX;
use super::lane::Next;
use super::tick::is_due;
use super::{Fill, Follow, Gone, Queue, State, Status};
use crate::store::Log;
use broker_api::{Batch, DeliverTo, Delivery, Seq, DELIVERY_REDELIVERED};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// A consumer gets at most this many in a row while others wait.
const CHUNK: u32 = 64;

impl Queue {
    pub fn pump(self: &Arc<Queue>, log: &Log, now: u32, follow: &mut Follow) {
        let mut state = self.lock();
        // What was given back may be more than there is room for, and then the oldest goes.
        for _ in 0..TRIM_MAX {
            if !state.is_over() || !self.evict_oldest(&mut state, log, follow) {
                break;
            }
        }
        self.pump_locked(&mut state, log, now, follow);
    }

    /// Hands ready messages to consumers that have credit and room. A lower priority is asked only when no higher one takes any more.
    pub fn pump_locked(self: &Arc<Queue>, state: &mut State, log: &Log, now: u32, follow: &mut Follow) {
        let mut from = 0;
        while state.ready > 0 && from < state.consumers.len() {
            let to = self.tier(state, from);
            if !self.serve(state, from, to, log, now, follow) || self.spec.single_active_consumer {
                break;
            }
            from = to;
        }
        if !state.fleeting.is_empty() {
            self.end_fleeting(state, log, follow);
        }
    }

    /// A time to live of nothing is enough for a consumer that takes it at once, and for nobody else.
    fn end_fleeting(self: &Arc<Queue>, state: &mut State, log: &Log, follow: &mut Follow) {
        let mut expired = Fill::new(self.id, Gone::Expired);
        for seq in std::mem::take(&mut state.fleeting) {
            if state.is_ready(seq) {
                self.leave(state, seq.lane(), seq.position(), Gone::Expired, &mut expired, follow);
            }
        }
        if expired.is_worth_it() {
            expired.reserve(self.durable, log);
            follow.fills.push(expired);
        }
    }

    /// Where the consumers end that are served turn by turn with the one at `from`.
    fn tier(&self, state: &State, from: usize) -> usize {
        let (consumers, priority) = (&state.consumers[from..], state.consumers[from].priority);
        match consumers.last() {
            _ if self.spec.single_active_consumer => 1,
            // Sorted, so that one look says that they are all equals, as they almost always are.
            Some(last) if last.priority == priority => state.consumers.len(),
            _ => from + consumers.partition_point(|c| c.priority == priority),
        }
    }

    /// Serves the consumers of one tier turn by turn until nobody takes any more. `false`: what stands next has to be read first.
    fn serve(self: &Arc<Queue>, state: &mut State, from: usize, to: usize, log: &Log, now: u32, follow: &mut Follow) -> bool {
        let others = (to - from) as u64;
        let mut idle = 0;
        while state.ready > 0 && idle < others {
            if state.turn < from || state.turn >= to {
                state.turn = from;
            }
            let at = state.turn;
            state.turn += 1;
            let consumer = &state.consumers[at];
            if !consumer.active || consumer.credit == 0 || !consumer.outbox.room_for(self) {
                idle += 1;
                continue;
            }
            let mut want = u32::try_from(state.ready).unwrap_or(u32::MAX).min(consumer.credit);
            if others > 1 {
                want = want.min(CHUNK).min((state.ready / others).max(1) as u32);
            } else {
                want = want.min(1024);
            }
            let granted = match &consumer.group {
                Some(group) => group.take(want, self),
                None => want,
            };
            if granted == 0 {
                idle += 1;
                continue;
            }
            let (given, starved) = self.give(state, at, granted, log, now, follow);
            let consumer = &mut state.consumers[at];
            if consumer.credit != u32::MAX {
                consumer.credit -= given;
            }
            if given < granted {
                if let Some(group) = consumer.group.clone() {
                    follow.pump.extend(group.untake(granted - given));
                }
            }
            idle = if given == 0 { idle + 1 } else { 0 };
            if starved {
                return false;
            }
        }
        if state.turn >= to {
            // The turn of the first of them, not of one who comes meanwhile.
            state.turn = from;
        }
        true
    }

    /// Takes up to `want` ready entries for one consumer. The second answer says that the next one has to be read from the log first.
    fn give(self: &Arc<Queue>, state: &mut State, at: usize, want: u32, log: &Log, now: u32, follow: &mut Follow) -> (u32, bool) {
        let (owner, to, settled, cap, extra) = {
            let c = &state.consumers[at];
            (c.owner, c.to, c.settled, c.level, c.flags)
        };
        let (outbox, side) = (state.consumers[at].outbox.clone(), state.consumers[at].side.clone());
        let mut run: Vec<Delivery> = Vec::with_capacity(want.min(256) as usize);
        let mut of: Option<Arc<Batch>> = None;
        let mut given = 0;
        let (mut starved, mut early) = (false, false);
        let commit_point = log.delivers_late().then(|| log.committed_lsn());
        let mut gone = Fill::new(self.id, Gone::Accepted);
        let mut expired = Fill::new(self.id, Gone::Expired);
        while given < want {
            let (level, position) = match state.next() {
                Some((level, Next::Ready(position))) => (level, position),
                Some((_, Next::Away(_))) => {
                    starved = true;
                    break;
                }
                _ => break,
            };
            let Some(lane) = state.lanes.get_mut(level) else { break };
            let suspect = position < lane.suspect;
            let Some(entry) = lane.get_mut(position) else { break };
            if is_due(entry.expires, now) {
                self.leave(state, level, position, Gone::Expired, &mut expired, follow);
                continue;
            }
            let Some(held) = entry.held.clone() else {
                starved = true;
                break;
            };
            if !held.is_shown_to(self) {
                early = true;
                break;
            }
            let is_committed = |committed: u64| (1..committed).contains(&entry.known_lsn()) && held.is_committed(log);
            if commit_point.is_some_and(|committed| entry.durable && !is_committed(committed)) {
                follow.uncommitted.push(self.clone());
                early = true;
                break;
            }
            if of.as_ref().is_none_or(|b| !Arc::ptr_eq(b, &held.batch)) {
                if let Some(batch) = of.replace(held.batch.clone()) {
                    outbox.run(DeliverTo::Consumer(to), self.id, &batch, run.drain(..));
                }
            }
            let mut flags = entry.flags | extra | self.counted_flag();
            if entry.attempts > 0 || suspect {
                flags |= DELIVERY_REDELIVERED;
            }
            run.push(Delivery {
                seq: Seq::new(level, position),
                index: entry.head,
                side: entry.side.clone().or_else(|| side.clone()),
                attempts: entry.attempts,
                level: entry.level.min(cap),
                flags,
            });
            entry.status = Status::Leased;
            entry.owner = owner;
            let bytes = entry.bytes;
            state.taken(level, position, bytes);
            if settled {
                self.take_out(state, level, position, &mut gone);
            }
            given += 1;
        }
        if let Some(batch) = of {
            outbox.run(DeliverTo::Consumer(to), self.id, &batch, run.drain(..));
        }
        for mut fill in [gone, expired] {
            if fill.is_worth_it() {
                fill.reserve(self.durable, log);
                follow.fills.push(fill);
            }
        }
        if starved && !self.loading.swap(true, Ordering::AcqRel) {
            follow.load.push(self.clone());
        }
        (given, starved || early)
    }
}
