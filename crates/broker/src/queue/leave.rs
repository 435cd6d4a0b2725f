//! Leaving a queue without being consumed, and coming back to it.
//!
//! What has a dead-letter exchange to go to stays in the queue, *moving*: counted, handed to nobody, and after a crash simply ready again.
//! Its move takes it out and puts it in elsewhere by one slot of the log (see `dead_letter`).

use super::lane::Next;
use super::{Entry, Fill, Follow, Gone, Leaving, Queue, State, Status};
use crate::store::Log;
use broker_api::Seq;
use journal::Slot;
use std::sync::Arc;

/// What came of leases that were given back with their attempt counted.
#[derive(Default)]
pub(crate) struct Modified {
    /// The counts to write down, if any of it is durable.
    pub requeued: Option<(Slot, Vec<(Seq, u16)>)>,
    /// Those past the limit that have nowhere to go.
    pub gone: Option<Fill>,
}

impl Queue {
    /// Takes an entry out of the queue, or sets it moving if it has somewhere to go.
    pub(super) fn leave(self: &Arc<Queue>, state: &mut State, level: u8, position: u64, why: Gone, gone: &mut Fill, follow: &mut Follow) {
        if self.spec.dead_letter_exchange.is_none() {
            self.take_out(state, level, position, gone);
            return;
        }
        if state.set_moving(level, position) {
            follow.leaving.push(Leaving { queue: self.clone(), seq: Seq::new(level, position), why });
        }
    }

    /// Leases of `owner` go back to their places with the attempt counted; past the delivery limit they leave.
    pub fn modify(self: &Arc<Queue>, first: Seq, count: u32, owner: u64, log: &Log, follow: &mut Follow) -> Modified {
        let mut gone = Fill::new(self.id, Gone::Limit);
        let mut counts = Vec::new();
        let mut state = self.lock();
        for i in 0..u64::from(count) {
            let seq = first.plus(i);
            let (level, position) = (seq.lane(), seq.position());
            let Some(entry) = state.lanes.get_mut(level).and_then(|lane| lane.get_mut(position)) else { continue };
            if entry.status != Status::Leased || entry.owner != owner {
                continue;
            }
            let (attempts, durable) = (entry.attempts.saturating_add(1), entry.durable);
            if self.spec.delivery_limit.is_some_and(|limit| u32::from(attempts) > limit) {
                self.leave(&mut state, level, position, Gone::Limit, &mut gone, follow);
            } else if state.return_one(level, position, owner, true) && durable {
                counts.push((seq, attempts));
            }
        }
        let requeued = (self.durable && !counts.is_empty()).then(|| (log.reserve(), counts));
        gone.reserve(self.durable, log);
        let gone = gone.is_worth_it().then_some(gone);
        Modified { requeued, gone }
    }

    /// What a moving entry is, for who decides where it goes. `None`: it is not moving any more.
    pub fn peek_moving(&self, seq: Seq) -> Option<Peek> {
        let mut state = self.lock();
        let entry = state.lanes.get_mut(seq.lane())?.get_mut(seq.position())?;
        (entry.status == Status::Moving).then(|| Peek {
            held: entry.held.clone(),
            head: entry.head,
            lsn: entry.known_lsn(),
            side: entry.side.clone(),
            durable: entry.durable,
        })
    }

    /// Takes a moving entry out. The slot is reserved under the lock; `gone` holds the release and the run for a record.
    pub fn end_move(&self, seq: Seq, why: Gone, needs_slot: bool, log: &Log) -> Option<(Entry, Fill)> {
        let mut state = self.lock();
        let status = state.lanes.get_mut(seq.lane())?.get_mut(seq.position())?.status;
        if status != Status::Moving {
            return None;
        }
        let mut gone = Fill::new(self.id, why);
        let entry = self.take_out(&mut state, seq.lane(), seq.position(), &mut gone)?;
        if needs_slot || (self.durable && entry.durable) {
            gone.slot = Some(log.reserve());
        }
        Some((entry, gone))
    }

    /// Drops or sends on what has expired at the head of each level. Answers when to look again, in seconds of broker time.
    pub fn expire_heads(self: &Arc<Queue>, log: &Log, now_s: u32, follow: &mut Follow) -> Option<u32> {
        let mut gone = Fill::new(self.id, Gone::Expired);
        let mut state = self.lock();
        let mut next: Option<u32> = None;
        if state.ready + state.leased == 0 {
            state.expiring = false;
        }
        let levels: Vec<u8> = state.lanes.iter().map(|(level, _)| level).filter(|_| state.expiring).collect();
        for level in levels {
            loop {
                let look = match state.head_of(level) {
                    Some(Head::Entry(position, expires_s)) if expires_s != 0 && expires_s <= now_s => {
                        self.leave(&mut state, level, position, Gone::Expired, &mut gone, follow);
                        continue;
                    }
                    // Nothing to expire at the head says nothing of what stands behind it.
                    Some(Head::Entry(_, 0)) => now_s + LOOK_AGAIN_SECS,
                    Some(Head::Entry(_, expires_s)) => expires_s,
                    // Only where everything expires is a page worth reading for it; elsewhere delivery finds out.
                    Some(Head::Away) if self.spec.message_ttl_ms.is_some() => {
                        follow.load.push(self.clone());
                        now_s + 1
                    }
                    Some(Head::Away) | None => break,
                };
                next = Some(next.map_or(look, |n| n.min(look)));
                break;
            }
        }
        gone.reserve(self.durable, log);
        if gone.is_worth_it() {
            follow.fills.push(gone);
        }
        state.alarm_s = next.unwrap_or(0);
        next
    }
}

/// How often the head of a queue is looked at that has something to expire, but not there.
const LOOK_AGAIN_SECS: u32 = 5;

pub(crate) struct Peek {
    pub held: Option<Arc<super::Held>>,
    pub head: u32,
    pub lsn: u64,
    pub side: Option<Arc<broker_api::Side>>,
    pub durable: bool,
}

impl State {
    /// Ready or leased becomes moving: out of reach and out of the bounds, but still there.
    fn set_moving(&mut self, level: u8, position: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(level) else { return false };
        let Some(entry) = lane.get_mut(position) else { return false };
        match entry.status {
            Status::Ready => self.ready -= 1,
            Status::Leased => self.leased -= 1,
            Status::Moving | Status::Gone => return false,
        }
        entry.status = Status::Moving;
        entry.owner = 0;
        self.bytes -= u64::from(entry.bytes);
        self.moving += 1;
        lane.returned.remove(&position);
        true
    }

    /// What stands next on a level.
    fn head_of(&mut self, level: u8) -> Option<Head> {
        let lane = self.lanes.get_mut(level)?;
        let next = match lane.returned.first() {
            Some(position) => lane.look(*position),
            None => lane.next_ready(lane.cursor),
        };
        match next {
            Next::Ready(position) => lane.get_mut(position).map(|entry| Head::Entry(position, entry.expires_s)),
            Next::Away(_) => Some(Head::Away),
            Next::Nothing => None,
        }
    }
}

enum Head {
    /// Position and expiry.
    Entry(u64, u32),
    Away,
}

/// Arriving from another queue, and room for what arrives.
impl Queue {
    /// Makes room as the queue's bound says. `false`: there is none, nothing may be appended.
    pub fn make_room(self: &Arc<Queue>, state: &mut State, bytes: u32, log: &Log, follow: &mut Follow) -> bool {
        if state.deleted {
            return false;
        }
        while self.is_full(state, bytes) {
            let evicted = self.bound.then == super::AtBound::DropOldest && self.evict_oldest(state, log, follow);
            if !evicted {
                state.dropped_messages += 1;
                return false;
            }
        }
        true
    }

    /// Appends a reference that another queue held; its body stays where it is.
    pub fn adopt(&self, state: &mut State, entry: Entry, priority: u8) -> Seq {
        let bytes = u64::from(entry.bytes);
        let (expires_s, in_memory) = (entry.expires_s, entry.held.is_some());
        let level = priority.min(self.spec.max_priority);
        let position = state.lanes.open(level).push(entry);
        state.ready += 1;
        state.bytes += bytes;
        state.held_bytes += if in_memory { bytes } else { 0 };
        state.expires(expires_s);
        self.depth.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Seq::new(level, position)
    }
}

impl Entry {
    /// Ready in another queue, with what the move made of it.
    pub fn arrives(&mut self, held: &Arc<super::Held>, head: u32, side: Arc<broker_api::Side>) {
        self.lsn = self.known_lsn();
        self.held = Some(held.clone());
        self.head = head;
        self.side = Some(side);
        self.owner = 0;
        self.attempts = 0;
        self.flags = 0;
        self.status = Status::Ready;
    }
}

impl State {
    /// An entry with this expiry came: the timer has to know if it is earlier than what it knows.
    pub fn expires(&mut self, expires_s: u32) {
        if expires_s == 0 {
            return;
        }
        self.expiring = true;
        if self.alarm_s == 0 || expires_s < self.alarm_s {
            self.alarm_s = expires_s;
            self.wants_alarm = true;
        }
    }
}
