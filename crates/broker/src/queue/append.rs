//! Into the queue: new references, room for them, and what is let go of in memory when the log has it.

use super::lane::Next;
use super::{expiry_secs, Entry, Fill, Follow, Gone, Held, Queue, State, Status, HELD_BYTES};
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
        state.ready + state.leased + 1 > self.bound.messages || state.bytes + u64::from(bytes) > self.bound.bytes
    }

    /// Appends a reference and answers its place.
    pub fn append(&self, state: &mut State, incoming: &Incoming<'_>) -> Seq {
        let head = &incoming.held.batch.heads[incoming.head as usize];
        let bytes = head.key.len + head.body.len;
        let entry = Entry {
            held: Some(incoming.held.clone()),
            side: incoming.side.cloned(),
            lsn: 0,
            owner: 0,
            head: incoming.head,
            offset: incoming.offset,
            bytes,
            expires_s: expiry_secs(head.expires_ms, incoming.held.batch.arrived_ms, self.spec.message_ttl_ms),
            attempts: 0,
            ordinal: incoming.ordinal,
            level: incoming.level,
            flags: incoming.flags,
            durable: incoming.durable,
            status: Status::Ready,
        };
        let level = head.priority.min(self.spec.max_priority);
        state.expires(entry.expires_s);
        let lane = state.lanes.open(level);
        let position = lane.push(entry);
        state.ready += 1;
        state.bytes += u64::from(bytes);
        state.held_bytes += u64::from(bytes);
        self.depth.fetch_add(1, Ordering::Relaxed);
        if state.held_bytes > HELD_BYTES {
            trim(state, level, incoming.committed);
        }
        Seq::new(level, position)
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
}

/// Lets go of messages in memory that the log has committed, beyond what stands at the head of the lane.
fn trim(state: &mut State, level: u8, committed: u64) {
    let State { lanes, held_bytes, .. } = state;
    let Some(lane) = lanes.get_mut(level) else { return };
    let mut position = lane.trimmed.max(lane.cursor + 64);
    for _ in 0..64 {
        if position >= lane.next || *held_bytes <= HELD_BYTES {
            break;
        }
        if let Some(entry) = lane.get_mut(position) {
            if entry.status == Status::Ready && entry.held.is_some() && entry.durable {
                let lsn = entry.known_lsn();
                if lsn == 0 || lsn >= committed {
                    break;
                }
                entry.lsn = lsn;
                entry.held = None;
                *held_bytes = held_bytes.saturating_sub(u64::from(entry.bytes));
            }
        }
        position += 1;
    }
    lane.trimmed = position;
}
