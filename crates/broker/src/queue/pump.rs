//! From the queue to its consumers: ready messages to those that have credit and room, turn by turn.

use super::append::TRIM_MAX;
use super::lane::Next;
use super::tick::is_due;
use super::{Consumer, Entry, Fill, Follow, Gone, Grant, Queue, State, Status, GROUPED, HELD_BYTES, INSIDE};
use crate::outbox::Outbox;
use crate::store::Log;
use broker_api::{Batch, ConsumerIx, DeliverTo, Delivery, Seq, Side, DELIVERY_REDELIVERED};
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
        if !state.browsers.is_empty() {
            self.show_browsers(state, log, now, follow);
        }
        let mut from = 0;
        while state.ready > 0 && from < state.consumers.len() {
            let to = self.tier(state, from);
            if !self.serve(state, from, to, log, now, follow) || self.serves_one(state) {
                break;
            }
            from = to;
        }
        if !state.fleeting.is_empty() {
            self.end_fleeting(state, log, follow);
        }
    }

    /// Is it only the first consumer that is served?
    #[inline]
    fn serves_one(&self, state: &State) -> bool {
        self.spec.single_active_consumer || state.consumers.first().is_some_and(|c| c.alone)
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
            _ if self.serves_one(state) => 1,
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
                None => Grant::of(want),
            };
            if granted.messages == 0 {
                idle += 1;
                continue;
            }
            let Given { given, left, starved } = self.give(state, at, granted, log, now, follow);
            let consumer = &mut state.consumers[at];
            if consumer.credit != u32::MAX {
                consumer.credit -= given;
            }
            if let Some(group) = &consumer.group {
                follow.pump.extend(group.untake(left));
            }
            idle = if given == 0 && !state.put_something_aside() { idle + 1 } else { 0 };
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

    /// Takes as many ready entries for one consumer as were granted.
    fn give(self: &Arc<Queue>, state: &mut State, at: usize, granted: Grant, log: &Log, now: u32, follow: &mut Follow) -> Given {
        let mut giving = Giving::new(&state.consumers[at], self, log, false, granted);
        if let Some(scan) = state.consumers[at].scan {
            let (given, left) = self.give_found(state, giving, (scan, at), log, now, follow);
            return Given { given, left, starved: false };
        }
        let (mut starved, mut early) = (false, false);
        while giving.may_go_on() && !starved && !early && !giving.had_its_turn {
            let next = state.next();
            let aside = if state.grouping.is_some() { state.next_aside(at, next) } else { None };
            let step = match (aside, next) {
                (Some(seq), _) => self.give_aside(state, &mut giving, at, seq, log, now, follow),
                (None, Some((level, Next::Ready(position)))) => match giving.one(self, state, level, position, log, now, follow) {
                    Step::Grouped => self.give_grouped(state, &mut giving, at, Seq::new(level, position), true, log, now, follow),
                    step => step,
                },
                (None, Some((_, Next::Away(_)))) => Step::Unread,
                _ => break,
            };
            match step {
                Step::Given | Step::Gone | Step::Aside => {}
                Step::Unread => starved = true,
                Step::NotYet => early = true,
                Step::Grouped | Step::NotMine => break,
            }
        }
        let (given, left) = giving.finish(self, log, follow);
        if starved && !self.loading.swap(true, Ordering::AcqRel) {
            follow.load.push(self.clone());
        }
        Given { given, left, starved: starved || early }
    }
}

/// What a consumer got of what it was granted.
struct Given {
    given: u32,
    left: Grant,
    /// What stands next has to be read from the log first.
    starved: bool,
}

/// What became of an entry that was to be handed out.
pub(super) enum Step {
    Given,
    /// It had expired.
    Gone,
    /// It has to be read first.
    Unread,
    /// Nothing leaves before something else has happened, and then the queue is pumped.
    NotYet,
    /// It belongs to a group: whose turn it is has to be found out.
    Grouped,
    /// Its group is another consumer's, for whom it was put aside.
    Aside,
    /// Its group is another consumer's.
    NotMine,
}

/// What one consumer is handed in one go.
pub(super) struct Giving {
    outbox: Arc<Outbox>,
    to: ConsumerIx,
    owner: u64,
    settled: bool,
    /// It only looks.
    browses: bool,
    /// Even what belongs to a group.
    pub may_have: bool,
    /// It was given a new group: others come next, so that groups are spread.
    pub had_its_turn: bool,
    cap: u8,
    extra: u8,
    side: Option<Arc<Side>>,
    commit_point: Option<u64>,
    run: Vec<Delivery>,
    of: Option<Arc<Batch>>,
    given: u32,
    /// May be handed out yet.
    left: Grant,
    gone: Fill,
    expired: Fill,
}

impl Entry {
    /// What a delivery says of it. `suspect`: it may have been handed out before a crash.
    pub(super) fn shown_flags(&self, suspect: bool) -> u8 {
        self.flags & !INSIDE | if self.attempts > 0 || suspect { DELIVERY_REDELIVERED } else { 0 }
    }
}

impl Giving {
    pub fn new(to: &Consumer, queue: &Queue, log: &Log, browses: bool, granted: Grant) -> Giving {
        Giving {
            outbox: to.outbox.clone(),
            to: to.to,
            owner: to.owner,
            settled: to.settled,
            browses,
            may_have: browses,
            had_its_turn: false,
            cap: to.level,
            extra: to.flags,
            side: to.side.clone(),
            commit_point: log.delivers_late().then(|| log.committed_lsn()),
            run: Vec::new(),
            of: None,
            given: 0,
            left: granted,
            gone: Fill::new(queue.id, Gone::Accepted),
            expired: Fill::new(queue.id, Gone::Expired),
        }
    }

    #[inline]
    pub fn may_go_on(&self) -> bool {
        self.left.messages > 0 && self.left.bytes > 0
    }

    /// How many more may be handed out, whatever their size.
    pub fn messages_left(&self) -> u32 {
        self.left.messages
    }

    /// Hands out one entry, which is ready.
    #[allow(clippy::too_many_arguments, reason = "an entry's place, and what the queue's lock guards")]
    #[inline]
    pub fn one(
        &mut self,
        queue: &Arc<Queue>,
        state: &mut State,
        level: u8,
        position: u64,
        log: &Log,
        now: u32,
        follow: &mut Follow,
    ) -> Step {
        let Some(lane) = state.lanes.get_mut(level) else { return Step::NotYet };
        let suspect = position < lane.suspect;
        let Some(entry) = lane.get_mut(position) else { return Step::NotYet };
        if is_due(entry.expires, now) {
            queue.leave(state, level, position, Gone::Expired, &mut self.expired, follow);
            return Step::Gone;
        }
        if entry.attempts > 0 && entry.is_to_rest(&state.rules) && !self.browses {
            state.rest_again(queue, Seq::new(level, position), log, follow);
            return Step::Gone;
        }
        let Some(held) = &entry.held else { return Step::Unread };
        if entry.flags & GROUPED != 0 && !self.may_have {
            return Step::Grouped;
        }
        let held = held.clone();
        if !held.is_shown_to(queue) {
            return Step::NotYet;
        }
        let is_committed = |committed: u64| (1..committed).contains(&entry.known_lsn()) && held.is_committed(log);
        if self.commit_point.is_some_and(|committed| entry.durable && !is_committed(committed)) {
            follow.uncommitted.push(queue.clone());
            return Step::NotYet;
        }
        if self.of.as_ref().is_none_or(|b| !Arc::ptr_eq(b, &held.batch)) {
            if let Some(batch) = self.of.replace(held.batch.clone()) {
                self.outbox.run(DeliverTo::Consumer(self.to), queue.id, &batch, self.run.drain(..));
            }
        }
        let flags = entry.shown_flags(suspect) | self.extra | queue.counted_flag();
        self.run.push(Delivery {
            seq: Seq::new(level, position),
            index: entry.head,
            side: entry.side.clone().or_else(|| self.side.clone()),
            attempts: entry.attempts,
            level: entry.level.min(self.cap),
            flags,
        });
        self.given += 1;
        self.left.messages -= 1;
        if self.left.bytes != i64::MAX {
            self.left.bytes -= i64::from(held.batch.heads.get(entry.head as usize).map_or(0, |head| head.body.len));
        }
        if self.browses {
            // It stays, and need not stay in memory for having been looked at.
            if state.held_bytes > HELD_BYTES {
                entry.let_go(log.committed_lsn(), &mut state.held_bytes);
            }
            return Step::Given;
        }
        entry.status = Status::Leased;
        entry.owner = self.owner;
        let bytes = entry.bytes;
        state.taken(level, position, bytes);
        if self.settled {
            queue.take_out(state, level, position, &mut self.gone);
        }
        Step::Given
    }

    /// Answers how many it were, and what is left of the grant.
    pub fn finish(mut self, queue: &Queue, log: &Log, follow: &mut Follow) -> (u32, Grant) {
        if let Some(batch) = self.of {
            self.outbox.run(DeliverTo::Consumer(self.to), queue.id, &batch, self.run.drain(..));
        }
        for mut fill in [self.gone, self.expired] {
            if fill.is_worth_it() {
                fill.reserve(queue.durable, log);
                follow.fills.push(fill);
            }
        }
        (self.given, self.left)
    }
}
