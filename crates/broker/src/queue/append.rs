//! Into the queue: new references, room for them, and what is let go of in memory when the log has it.

use super::lane::Next;
use super::{expiry_tick, Entry, Fill, Follow, Gone, Held, Queue, State, Status, GROUPED, HELD_BYTES, PAGE, TICK_MS};
use crate::store::Log;
use broker_api::{Seq, Side};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// A new reference, as routing hands it over.
pub(crate) struct Incoming<'a> {
    pub held: &'a Arc<Held>,
    pub side: Option<&'a Arc<Side>>,
    pub head: u32,
    pub offset: u32,
    pub ordinal: u16,
    pub level: u8,
    pub flags: u8,
    pub durable: bool,
    /// Records below this position are committed.
    pub committed: u64,
}

impl Queue {
    /// Is there no room for `more` messages? (Count what this turn has appended already.)
    pub fn is_full(&self, state: &State, bytes: u32) -> bool {
        let bound = &state.rules.bound;
        let (messages, counted) = state.counted();
        messages + 1 > bound.messages || counted + u64::from(bytes) > bound.bytes
    }

    /// Would it refuse a message of so many bytes now?
    pub fn refuses(&self, bytes: u32) -> bool {
        let state = self.lock();
        state.deleted || state.rules.bound.then != super::AtBound::DropOldest && self.is_full(&state, bytes)
    }

    /// Appends a reference and answers its place.
    pub fn append(&self, state: &mut State, incoming: &Incoming<'_>) -> Seq {
        let head = &incoming.held.batch.heads[incoming.head as usize];
        let bytes = head.key.len + head.body.len;
        let arrived_ms = incoming.held.batch.arrived_ms;
        let message_ttl_ms = state.rules.message_ttl_ms;
        let fleeting = !self.delays && (message_ttl_ms == Some(0) || (head.expires_ms != 0 && head.expires_ms <= arrived_ms));
        let expires = match fleeting {
            // Not over for the pump that follows.
            true => expiry_tick(arrived_ms + 2 * TICK_MS, arrived_ms, None),
            false => self.time_of(message_ttl_ms, head.expires_ms, arrived_ms, head.delay_ms),
        };
        let entry = Entry {
            held: Some(incoming.held.clone()),
            side: incoming.side.cloned(),
            lsn: 0,
            owner: 0,
            head: incoming.head,
            offset: incoming.offset,
            bytes,
            expires,
            attempts: 0,
            ordinal: incoming.ordinal,
            level: incoming.level,
            flags: incoming.flags | if head.group.is_empty() { 0 } else { GROUPED },
            durable: incoming.durable,
            status: Status::Ready,
        };
        let level = head.priority.min(self.spec.max_priority);
        state.unspilled += entry.only_in_memory();
        let lane = state.lanes.open(level);
        let position = lane.push(entry);
        state.has_time(position, expires, arrived_ms);
        state.ready += 1;
        state.bytes += u64::from(bytes);
        state.held_bytes += u64::from(bytes);
        self.depth.fetch_add(1, Ordering::Relaxed);
        self.trim(state, level, incoming.committed);
        let seq = Seq::new(level, position);
        if fleeting {
            state.fleeting.push(seq);
        }
        seq
    }

    /// Drops the oldest ready message to make room.
    pub fn evict_oldest(self: &Arc<Queue>, state: &mut State, log: &Log, follow: &mut Follow) -> bool {
        let (level, position) = match state.oldest() {
            Some((level, Next::Ready(position))) => (level, position),
            Some((level, Next::Away(number))) => {
                self.read_now(state, level, number, log);
                return state.lanes.get(level).is_some_and(|lane| matches!(lane.next_ready(lane.cursor), Next::Ready(_)))
                    && self.evict_oldest(state, log, follow);
            }
            _ => return false,
        };
        let mut gone = Fill::new(self.id, Gone::Evicted);
        self.leave(state, level, position, Gone::Evicted, &mut gone, follow);
        state.dropped_messages += 1;
        gone.reserve(self.durable, log);
        follow.fills.push(gone);
        true
    }

    /// Takes out what is beyond the bound, oldest first, but only so much at a time. Answers whether there is more.
    pub fn trim_to_bound(self: &Arc<Queue>, log: &Log, follow: &mut Follow) -> bool {
        let mut state = self.lock();
        for _ in 0..TRIM_MAX {
            if state.deleted || !state.is_over() || !self.evict_oldest(&mut state, log, follow) {
                return false;
            }
        }
        state.is_over()
    }
}

/// Messages that one look takes out of a queue whose bound was lowered: its lock is held meanwhile.
pub(super) const TRIM_MAX: u32 = 256;

impl State {
    /// Messages and bytes that count for the bound.
    fn counted(&self) -> (u64, u64) {
        let (stuck, stuck_bytes) = self.stuck();
        let (resting, resting_bytes) = self.resting();
        match self.rules.bound.in_flight {
            true => (self.ready + self.leased, self.bytes),
            false => {
                let bytes = self.bytes - self.leased_bytes + resting_bytes + self.hidden.1 + stuck_bytes;
                (self.ready + resting + self.hidden.0 + stuck, bytes)
            }
        }
    }

    /// Is more in it than is allowed, and should it go? A queue that refuses at its bound keeps what it has, as in RabbitMQ.
    pub fn is_over(&self) -> bool {
        let bound = &self.rules.bound;
        let (messages, bytes) = self.counted();
        let over = messages > bound.messages || bytes > bound.bytes;
        over && bound.then == super::AtBound::DropOldest && self.ready > 0
    }
}

/// Lets go of messages in memory that the log has committed, down to `keep` bytes and beyond `from`.
fn trim(state: &mut State, level: u8, from: u64, keep: u64, committed: u64, steps: usize) {
    let State { lanes, held_bytes, .. } = state;
    let Some(lane) = lanes.get_mut(level) else { return };
    let mut position = lane.next_resident(lane.trimmed.max(from));
    for _ in 0..steps {
        if position >= lane.next || *held_bytes <= keep {
            break;
        }
        let Some(entry) = lane.get_mut(position) else {
            position = lane.next_resident(position + 1);
            continue;
        };
        if !entry.let_go(committed, held_bytes) {
            break;
        }
        position += 1;
    }
    lane.trimmed = position;
}

impl Entry {
    /// Forgets the message in memory if the log has it. `false`: it will have it, but not yet. What is not durable stays, unless a spill file
    /// has it: nobody else does.
    pub(super) fn let_go(&mut self, committed: u64, held_bytes: &mut u64) -> bool {
        self.status != Status::Ready || self.forget_body(committed, held_bytes)
    }

    /// The same, whoever has it.
    pub(super) fn forget_body(&mut self, committed: u64, held_bytes: &mut u64) -> bool {
        if self.held.is_none() {
            return true;
        }
        if !self.durable {
            if self.lsn != 0 {
                self.held = None;
                *held_bytes = held_bytes.saturating_sub(u64::from(self.bytes));
            }
            return true;
        }
        let lsn = self.known_lsn();
        if lsn == 0 || lsn >= committed || self.held.as_ref().is_some_and(|held| !held.is_shown()) {
            return false;
        }
        self.lsn = lsn;
        self.held = None;
        *held_bytes = held_bytes.saturating_sub(u64::from(self.bytes));
        true
    }
}

impl State {
    /// An entry came that is due, or expires, at this time.
    pub(super) fn has_time(&mut self, position: u64, time: u32, now_ms: u64) {
        match self.delays {
            Some(_) => self.waits(position, time, now_ms),
            None => self.expires(time),
        }
    }
}

impl Queue {
    /// Without a consumer nothing is worth keeping once the log has it; with one, its next messages are, and the rest up to a bound.
    pub(super) fn trim(&self, state: &mut State, level: u8, committed: u64) {
        if state.consumers.is_empty() {
            return trim(state, level, 0, 0, committed, 8);
        }
        if state.held_bytes > HELD_BYTES {
            let from = state.lanes.get(level).map_or(0, |lane| lane.cursor + AHEAD);
            trim(state, level, from, HELD_BYTES, committed, 64);
        }
    }

    /// Memory is short: lets go of what the log has, but for so many of what goes out next.
    pub fn shed(&self, committed: u64, ahead: u64) {
        let mut state = self.lock();
        let State { lanes, held_bytes, .. } = &mut *state;
        for (_, lane) in lanes.iter_mut() {
            let from = lane.cursor + ahead;
            for page in lane.pages.iter_mut().filter(|p| (p.number + 1) * PAGE > from) {
                page.entries_from(from).for_each(|entry| {
                    entry.let_go(committed, held_bytes);
                });
            }
        }
    }
}

/// So many messages at the head stay in memory for a consumer.
pub(crate) const AHEAD: u64 = 64;
