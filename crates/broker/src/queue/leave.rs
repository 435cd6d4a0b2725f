//! Leaving a queue without being consumed, and coming back to it.
//!
//! What has a dead-letter exchange to go to stays in the queue, *moving*: counted, handed to nobody, and after a crash simply ready again.
//! Its move takes it out and puts it in elsewhere by one slot of the log (see `dead_letter`).

use super::lane::Next;
use super::tick::{is_before, is_due};
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
        if state.rules.dead_letter_exchange.is_none() {
            self.take_out(state, level, position, gone);
            return;
        }
        if state.set_moving(level, position) {
            follow.leaving.push(Leaving { queue: self.clone(), seq: Seq::new(level, position), why });
        }
    }

    /// Leases of `owner` go back to their places with the attempt counted; past the delivery limit they leave.
    pub fn modify(self: &Arc<Queue>, first: Seq, count: u32, owner: u64, log: &Log, follow: &mut Follow) -> Modified {
        let mut state = self.lock();
        self.modify_each(&mut state, (0..u64::from(count)).map(|i| first.plus(i)), owner, log, follow)
    }

    /// The same with everything that `owner` holds, except what `keep` says.
    pub fn modify_all(self: &Arc<Queue>, owner: u64, keep: impl Fn(Seq) -> bool, log: &Log, follow: &mut Follow) -> Modified {
        let mut state = self.lock();
        let leased: Vec<Seq> = state.leased_to(owner).filter(|seq| !keep(*seq)).collect();
        self.modify_each(&mut state, leased.into_iter(), owner, log, follow)
    }

    fn modify_each(
        self: &Arc<Queue>,
        state: &mut State,
        which: impl Iterator<Item = Seq>,
        owner: u64,
        log: &Log,
        follow: &mut Follow,
    ) -> Modified {
        let mut gone = Fill::new(self.id, Gone::Limit);
        let mut counts = Vec::new();
        let limit = state.rules.delivery_limit;
        for seq in which {
            let (level, position) = (seq.lane(), seq.position());
            let Some(entry) = state.lanes.get_mut(level).and_then(|lane| lane.get_mut(position)) else { continue };
            if entry.status != Status::Leased || entry.owner != owner {
                continue;
            }
            let (attempts, durable) = (entry.attempts.saturating_add(1), entry.durable);
            if limit.is_some_and(|limit| u32::from(attempts) > limit) {
                self.leave(state, level, position, Gone::Limit, &mut gone, follow);
                continue;
            }
            if !state.rest(self, seq, attempts, log, follow) {
                state.return_one(level, position, owner, true);
            }
            if durable {
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
            waited: entry.flags & broker_api::DELIVERY_DELAYED != 0,
        })
    }

    /// Takes a moving entry out. The slot is reserved under the lock; `gone` holds the release and the run for a record.
    pub fn end_move(&self, seq: Seq, why: Gone, needs_slot: bool, log: &Log) -> Option<(Entry, Fill)> {
        let mut state = self.lock();
        let status = state.lanes.get_mut(seq.lane())?.get_mut(seq.position())?.status;
        if status != Status::Moving {
            return None;
        }
        state.unstick(seq);
        let mut gone = Fill::new(self.id, why);
        let entry = self.take_out(&mut state, seq.lane(), seq.position(), &mut gone)?;
        if needs_slot || (self.durable && entry.durable) {
            gone.slot = Some(log.reserve());
        }
        Some((entry, gone))
    }

    /// Drops or sends on what has expired: at the head of each level, and a stretch of what stands behind it. Answers the tick at which
    /// to look again. Bounded: the rest is left to the next look, which then is due.
    pub fn expire(self: &Arc<Queue>, log: &Log, now: u32, follow: &mut Follow) -> Option<u32> {
        let mut gone = Fill::new(self.id, Gone::Expired);
        let mut state = self.lock();
        if state.alarm == 0 || !is_due(state.alarm, now) {
            // Another timer stands for the time that counts by now.
            return None;
        }
        if state.ready + state.leased == 0 {
            state.expiring = false;
        }
        // Where all live equally long, the head is the first to go.
        let sweep = state.rules.message_ttl_ms.is_none() && now.wrapping_sub(state.swept) >= SWEEP_AGAIN;
        let mut next: Option<u32> = None;
        let mut left = EXPIRE_MAX;
        let levels: Vec<u8> = state.lanes.iter().map(|(level, _)| level).filter(|_| state.expiring).collect();
        for level in levels {
            if sweep {
                self.sweep(&mut state, level, now, &mut left, &mut gone, follow);
            }
            if let Some(look) = self.expire_head(&mut state, level, now, &mut left, &mut gone, follow) {
                next = Some(next.filter(|n| is_before(*n, look)).unwrap_or(look).max(1));
            }
        }
        if sweep {
            state.swept = now;
        }
        gone.reserve(self.durable, log);
        if gone.is_worth_it() {
            follow.fills.push(gone);
        }
        state.alarm = next.unwrap_or(0);
        next
    }

    /// What has expired at the head of a level. Answers when to look there again.
    fn expire_head(
        self: &Arc<Queue>,
        state: &mut State,
        level: u8,
        now: u32,
        left: &mut u32,
        gone: &mut Fill,
        follow: &mut Follow,
    ) -> Option<u32> {
        loop {
            match state.head_of(level)? {
                Head::Entry(position, expires) if is_due(expires, now) => {
                    if *left == 0 {
                        return Some(now);
                    }
                    *left -= 1;
                    self.leave(state, level, position, Gone::Expired, gone, follow);
                }
                Head::Entry(_, expires) if expires != 0 && is_before(expires, now.wrapping_add(LOOK_AGAIN)) => return Some(expires),
                // The head says nothing of what stands behind it.
                Head::Entry(..) => return Some(now.wrapping_add(LOOK_AGAIN)),
                // Only where everything expires is a page worth reading for it; elsewhere delivery finds out.
                Head::Away(_) if state.rules.message_ttl_ms.is_some() => {
                    state.head_away = Some(level);
                    follow.load.push(self.clone());
                    return Some(now.wrapping_add(10));
                }
                Head::Away(_) => return Some(now.wrapping_add(LOOK_AWAY)),
            }
        }
    }

    /// Looks at the next stretch of what stands in memory behind the head, where each message has an expiry of its own.
    fn sweep(self: &Arc<Queue>, state: &mut State, level: u8, now: u32, left: &mut u32, gone: &mut Fill, follow: &mut Follow) {
        let Some(lane) = state.lanes.get_mut(level) else { return };
        let from = lane.next_resident(lane.swept.max(lane.cursor));
        let mut found = Vec::new();
        let mut swept = from;
        for (position, entry) in lane.iter_from(from).take(SWEEP_MAX) {
            swept = position + 1;
            if entry.status == Status::Ready && is_due(entry.expires, now) {
                found.push(position);
                if found.len() as u32 == *left {
                    break;
                }
            }
        }
        // At the end it begins again.
        lane.swept = if lane.next_resident(swept) >= lane.next { 0 } else { swept };
        *left -= found.len() as u32;
        for position in found {
            self.leave(state, level, position, Gone::Expired, gone, follow);
        }
    }
}

/// How often a queue is looked at that has something to expire, but not at its head: five seconds.
const LOOK_AGAIN: u32 = 50;
/// The same where the head stands in a page that is not in memory: a minute.
const LOOK_AWAY: u32 = 600;
/// How often at most one looks behind the head: once a second.
const SWEEP_AGAIN: u32 = 10;
/// Entries that one look lets expire, and that it looks at behind the head: the queue's lock is held meanwhile.
const EXPIRE_MAX: u32 = 1024;
/// Messages that one new message puts out: the same.
const EVICT_MAX: u32 = 256;
const SWEEP_MAX: usize = 4096;

pub(crate) struct Peek {
    pub held: Option<Arc<super::Held>>,
    pub head: u32,
    pub lsn: u64,
    pub side: Option<Arc<broker_api::Side>>,
    pub durable: bool,
    /// An exchange has held it back before.
    pub waited: bool,
}

impl State {
    /// Ready or leased becomes moving: out of reach and out of the bounds, but still there.
    pub(super) fn set_moving(&mut self, level: u8, position: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(level) else { return false };
        let Some(entry) = lane.get_mut(position) else { return false };
        match entry.status {
            Status::Ready => self.ready -= 1,
            Status::Leased => {
                self.leased -= 1;
                self.leased_bytes -= u64::from(entry.bytes);
            }
            Status::Moving | Status::Gone => return false,
        }
        entry.status = Status::Moving;
        entry.owner = 0;
        self.bytes -= u64::from(entry.bytes);
        self.moving += 1;
        lane.returned.remove(&position);
        self.not_aside(level, position);
        true
    }

    /// What stands next on a level.
    pub(super) fn head_of(&mut self, level: u8) -> Option<Head> {
        let aside = self.grouping.as_ref().and_then(|grouping| grouping.first_aside(level));
        let lane = self.lanes.get_mut(level)?;
        let next = match lane.returned.first().copied().into_iter().chain(aside).min() {
            Some(position) => lane.look(position),
            None => lane.next_ready(lane.cursor),
        };
        match next {
            Next::Ready(position) => lane.get_mut(position).map(|entry| Head::Entry(position, entry.expires)),
            Next::Away(number) => Some(Head::Away(number)),
            Next::Nothing => None,
        }
    }
}

pub(super) enum Head {
    /// Position and expiry.
    Entry(u64, u32),
    /// In this page.
    Away(u64),
}

impl Queue {
    /// What each delivery says of attempts here.
    pub(super) fn counted_flag(&self) -> u8 {
        if self.spec.counts_attempts {
            broker_api::DELIVERY_COUNTED
        } else {
            0
        }
    }
}

/// Arriving from another queue, and room for what arrives.
impl Queue {
    /// Makes room as the queue's bound says. `false`: there is none, nothing may be appended.
    pub fn make_room(self: &Arc<Queue>, state: &mut State, bytes: u32, log: &Log, follow: &mut Follow) -> bool {
        if state.deleted {
            return false;
        }
        let drops = state.rules.bound.then == super::AtBound::DropOldest;
        let mut evictions = 0;
        while self.is_full(state, bytes) {
            if evictions == EVICT_MAX {
                // A bound that was lowered, or one large message for very many small ones: the timer does the rest.
                state.wants_trim = true;
                return true;
            }
            evictions += 1;
            if !drops || !self.evict_oldest(state, log, follow) {
                state.dropped_messages += 1;
                return false;
            }
        }
        true
    }

    /// Appends a reference that another queue held; its body stays where it is.
    pub fn adopt(&self, state: &mut State, entry: Entry, priority: u8, log: &Log) -> Seq {
        let bytes = u64::from(entry.bytes);
        let (expires, in_memory) = (entry.expires, entry.held.is_some());
        let level = priority.min(self.spec.max_priority);
        let position = state.lanes.open(level).push(entry);
        state.ready += 1;
        state.bytes += bytes;
        state.held_bytes += if in_memory { bytes } else { 0 };
        state.has_time(position, expires, log.now_ms());
        self.depth.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.trim(state, level, log.committed_lsn());
        Seq::new(level, position)
    }
}

impl Entry {
    /// Ready in another queue, with what the move made of it.
    pub fn arrives(&mut self, held: &Arc<super::Held>, head: u32, side: Option<Arc<broker_api::Side>>, flags: u8) {
        self.lsn = self.known_lsn();
        self.flags = flags;
        self.hold(held.clone(), head);
        self.side = side;
        self.owner = 0;
        self.attempts = 0;
        self.status = Status::Ready;
    }
}

impl State {
    /// An entry with this expiry came: the timer has to know if it is earlier than what it knows.
    pub fn expires(&mut self, expires: u32) {
        if expires == 0 {
            return;
        }
        self.expiring = true;
        if self.alarm == 0 || is_before(expires, self.alarm) {
            self.alarm = expires;
            self.wants_alarm = true;
        }
    }
}
