//! Publishing: route every head, write its record, then visit each destination once.

use super::commit::Hidden;
use super::fanout::TOGETHER;
use super::segment::Fills;
use super::stage::{
    append_one, logs_all, prepare, targets_of, write_records, Append, Bundle, Edits, Rejected, Target, Work, REFERENCES_MAX, VOLUME,
};
use super::stop::Skipped;
use super::Link;
use crate::core::{Counters, Shared};
use crate::dead_letter::How;
use crate::mutants::{self, Mutant};
use crate::queue::{Follow, Held, Queue};
use crate::route::Route;
use crate::session::{Live, Session};
use crate::store::records::REFERENCE;
use crate::vhost::{RetainedMessage, Vhost};
use broker_api::{
    Batch, Event, Head, Limit, OwnerIx, Refusal, Serial, Side, StateEdit, HEAD_CONFIRM, HEAD_DURABLE, HEAD_MANDATORY, HEAD_RETAIN,
};
use std::sync::Arc;

pub(super) struct Staged {
    pub wants_confirm: bool,
    /// A fan-out is under way: these publishes come after it.
    pub rest: Option<Vec<(u32, u32, Serial)>>,
}

/// Neighbouring heads with one route, one level and the same durability.
pub(crate) struct RouteRun {
    pub route: Arc<Route>,
    pub(super) first: u32,
    pub(super) count: u32,
    pub level: u8,
    pub(super) durable: bool,
    /// Of the first head; the others follow.
    pub(super) serial: Serial,
}

impl RouteRun {
    /// Bytes that it may take in the log, at most.
    pub fn log_bytes(&self, batch: &Batch) -> usize {
        let targets = targets_of(self);
        let volumes = targets.len().div_ceil(VOLUME).max(1);
        let sides: usize = targets.iter().filter_map(|t| t.side.as_ref()).map(|side| 16 + 4 * side.subscriptions.len()).sum();
        let bodies: usize = (self.first..self.first + self.count).map(|i| batch.message_bytes(i) + 128).sum();
        volumes * bodies + self.count as usize * (targets.len() * REFERENCE + sides)
    }

    /// Does it go to somebody for whom no queue keeps it?
    pub fn has_direct(&self) -> bool {
        let at_most_once = |level: u8| level.min(self.level) == 0;
        self.route.sessions.iter().any(|t| at_most_once(t.level)) || self.route.shares.iter().any(|s| at_most_once(s.level()))
    }
}

/// May a head take the route of this run?
fn same_way(batch: &Batch, run: &RouteRun, head: &Head) -> bool {
    let other = &batch.heads[run.first as usize];
    other.separator == head.separator
        && batch.key(other) == batch.key(head)
        && other.topic == head.topic
        && head.keys.is_empty()
        && !run.route.volatile
        && (head.topic || batch.bytes(other.exchange) == batch.bytes(head.exchange))
}

/// How one message goes into one queue.
pub(super) struct Wanted {
    pub level: u8,
    pub flags: u8,
    pub side: Option<Arc<Side>>,
}

impl Link {
    pub(super) fn publish(
        &mut self,
        batch: &Arc<Batch>,
        publishes: &[(u32, u32, Serial)],
        states: &mut [StateEdit],
        fills: &mut Fills,
        follow: &mut Follow,
    ) -> Staged {
        let mut runs: Vec<RouteRun> = Vec::new();
        let mut wants_confirm = false;
        let mut total = 0;
        let mut skipped = Skipped::default();
        for (at, (first, count, serial)) in publishes.iter().enumerate() {
            for index in *first..*first + *count {
                let head = &batch.heads[index as usize];
                if self.ends_wide(batch, &runs, head) {
                    let done = index - first;
                    let mut rest = vec![(index, count - done, Serial(serial.0 + u64::from(done)))];
                    rest.extend_from_slice(&publishes[at + 1..]);
                    skipped.say(self);
                    self.stage_wide(batch, runs, states, fills, follow);
                    self.count_received(total);
                    return Staged { wants_confirm, rest: Some(rest) };
                }
                total += 1;
                wants_confirm |= head.has(HEAD_CONFIRM);
                let serial = Serial(serial.0 + u64::from(index - first));
                if self.is_stopped(OwnerIx(head.owner), serial.0) {
                    skipped.add(serial, self);
                    continue;
                }
                if let Some(refusal) = self.refuse(batch, index).or_else(|| self.refuse_edit(head, states)) {
                    self.refuse_publish(head.owner, serial, refusal);
                    continue;
                }
                if head.has(HEAD_RETAIN) {
                    // Its store and its queues change under one lock, so what was gathered goes first.
                    self.stage(batch, &mut runs, states, fills, follow);
                    runs.clear();
                    self.publish_retained(batch, index, serial, states, fills, follow);
                    continue;
                }
                if let Some(own) = self.timed(batch, index) {
                    self.stage(batch, &mut runs, states, fills, follow);
                    runs.clear();
                    let mut run = Vec::new();
                    self.gather_or_say(&own, 0, serial, &mut run);
                    self.stage(&own, &mut run, states, fills, follow);
                    continue;
                }
                self.gather_or_say(batch, index, serial, &mut runs);
            }
        }
        skipped.say(self);
        self.count_received(total);
        if runs.last().is_some_and(|run| self.is_wide(batch, run)) {
            self.stage_wide(batch, runs, states, fills, follow);
            return Staged { wants_confirm, rest: Some(Vec::new()) };
        }
        self.stage(batch, &mut runs, states, fills, follow);
        Staged { wants_confirm, rest: None }
    }

    fn count_received(&self, total: u64) {
        if !self.is_internal() {
            Counters::add(&self.core.counters.messages_received, total);
        }
    }

    /// Goes to so many that keep it that others must be served in between.
    fn is_wide(&self, batch: &Batch, run: &RouteRun) -> bool {
        let many = run.route.width() > REFERENCES_MAX;
        let logged = |run: &RouteRun| run.durable && run.level > 0 || run.route.queues.iter().any(|queue| queue.keeps(run.durable));
        // An edit is in one slot with all of its publish.
        many && logged(run) && batch.heads[run.first as usize].state == 0 && !self.whole && !self.is_internal()
    }

    /// Is the last run a wide one that this head does not belong to?
    fn ends_wide(&self, batch: &Batch, runs: &[RouteRun], head: &Head) -> bool {
        let Some(run) = runs.last().filter(|run| self.is_wide(batch, run)) else { return false };
        let same = run.level == head.level && run.durable == head.has(HEAD_DURABLE) && head.state == 0 && !head.has(HEAD_RETAIN);
        run.count >= TOGETHER || !same || !same_way(batch, run, head)
    }

    /// Stages what was gathered and begins the fan-out of the last run.
    fn stage_wide(&mut self, batch: &Arc<Batch>, mut runs: Vec<RouteRun>, states: &[StateEdit], fills: &mut Fills, follow: &mut Follow) {
        let Some(wide) = runs.pop() else { return };
        if !runs.is_empty() {
            self.stage(batch, &mut runs, states, fills, follow);
        }
        self.trace_publishes(batch, std::slice::from_ref(&wide));
        self.fan_out(batch, wide);
    }

    fn gather_or_say(&mut self, batch: &Arc<Batch>, index: u32, serial: Serial, runs: &mut Vec<RouteRun>) {
        match self.gather(batch, index, serial, runs) {
            Ok(true) => self.returned(batch, index, serial),
            Ok(false) => {}
            Err(why) => self.refuse_publish(batch.heads[index as usize].owner, serial, why),
        }
    }

    pub(super) fn refuse(&mut self, batch: &Batch, index: u32) -> Option<Refusal> {
        if self.is_internal() {
            return None;
        }
        if let Err(refusal) = self.check_publish(batch, &batch.heads[index as usize]) {
            return Some(refusal);
        }
        self.core.log.failed().then_some(Refusal::StoreFailed)
    }

    /// Adds a head to the run before it, or starts one. `true`: it must not go nowhere, and does.
    pub(super) fn gather(&mut self, batch: &Batch, index: u32, serial: Serial, runs: &mut Vec<RouteRun>) -> Result<bool, Refusal> {
        let head = &batch.heads[index as usize];
        let durable = head.has(HEAD_DURABLE);
        if let Some(run) = runs.last_mut() {
            let same = same_way(batch, run, head);
            let next = run.first + run.count == index && run.serial.0 + u64::from(run.count) == serial.0;
            if same && next && run.level == head.level && run.durable == durable && head.state == 0 {
                run.count += 1;
                return Ok(run.route.reaches_nobody() && head.has(HEAD_MANDATORY));
            }
        }
        let route = match runs.iter().rev().take(4).find(|r| same_way(batch, r, head)) {
            Some(run) => run.route.clone(),
            None => match self.find_route(batch, head)? {
                route if route.reaches_nobody() && self.make_target(batch, head) => self.find_route(batch, head)?,
                route => route,
            },
        };
        self.core.remember(&route, batch, index);
        let nowhere = route.reaches_nobody() && head.has(HEAD_MANDATORY);
        runs.push(RouteRun { route, first: index, count: 1, level: head.level, durable, serial });
        Ok(nowhere)
    }

    pub(super) fn returned(&self, batch: &Arc<Batch>, index: u32, serial: Serial) {
        self.outbox.push(Event::Returned { first: serial, count: 1, batch: batch.clone(), index });
    }

    pub(super) fn publisher_session(&self) -> Option<u64> {
        self.owners.iter().find_map(|(_, owner)| match owner {
            super::Owner::Session { session, .. } => Some(session.id),
            super::Owner::Local { .. } => None,
        })
    }

    /// Stages gathered runs: records, direct deliveries, references, deliveries from queues.
    fn stage(&mut self, batch: &Arc<Batch>, runs: &mut Vec<RouteRun>, states: &[StateEdit], fills: &mut Fills, follow: &mut Follow) {
        self.stage_with(Bundle::default(), batch, runs, states, fills, follow);
    }

    /// The same, beside records that are in the slot already.
    fn stage_with(
        &mut self,
        mut bundle: Bundle,
        batch: &Arc<Batch>,
        runs: &mut Vec<RouteRun>,
        states: &[StateEdit],
        fills: &mut Fills,
        follow: &mut Follow,
    ) {
        // The slot is reserved before anything changes in memory, so that no checkpoint holds more than it waits for. What is
        // kept nowhere needs none. (One that turns out to stay empty is void and costs next to nothing.)
        let edited = runs.iter().any(|run| batch.heads[run.first as usize].state != 0);
        let mut slot = edited.then(|| self.core.log.reserve());
        let edits = if edited { self.claim_edits(batch, runs, states) } else { Vec::new() };
        let work = prepare(&self.core, &mut bundle, batch, runs, &edits);
        self.logs_all |= logs_all(&work);
        self.trace_publishes(batch, runs);
        let late = mutants::active(Mutant::SettleBeforePublish);
        if slot.is_none() && !bundle.records.is_empty() && !late {
            slot = Some(self.core.log.reserve());
        }
        if let Some(topic) = &bundle.retains {
            topic.store(&self.vhost, batch);
        }
        for (_, _, run) in &work {
            self.core.deliver_direct(batch, run);
        }
        let refused = self.append_all(batch, &work, &mut bundle, None, follow);
        if late && !bundle.records.is_empty() && slot.is_none() {
            slot = Some(self.core.log.reserve());
        }
        if let Some(slot) = slot {
            fills.push(slot, bundle.filled());
        }
        for (_, index, queue) in refused.iter().filter(|(_, _, queue)| queue.rules().dead_letter_refused) {
            self.core.dead_letter_refused(queue, batch, *index, follow, &mut How::Own(&mut |slot, filled| fills.push(slot, filled)));
        }
        self.say_full(refused);
    }

    /// Appends references, each destination visited once. Answers what full queues rejected: serial, head and queue.
    pub(super) fn append_all(
        &self,
        batch: &Arc<Batch>,
        work: &[Work<'_>],
        bundle: &mut Bundle,
        mut hidden: Option<&mut Hidden>,
        follow: &mut Follow,
    ) -> Vec<Rejected> {
        let now_ticks = self.core.now_ticks();
        let log = &self.core.log;
        let held = Held::new(batch.clone(), Some(bundle.place.clone()), None);
        let mut visit: Vec<(u64, usize, usize)> = work
            .iter()
            .enumerate()
            .flat_map(|(w, (targets, _, _))| targets.iter().enumerate().map(move |(t, x)| (x.queue.id.0, w, t)))
            .collect();
        if work.len() > 1 {
            visit.sort_by_key(|(id, _, _)| *id);
        }
        let mut refused = Vec::new();
        let mut at = 0;
        while at < visit.len() {
            let id = visit[at].0;
            let end = visit[at..].iter().position(|(other, _, _)| *other != id).map_or(visit.len(), |n| at + n);
            let queue = work[visit[at].1].0[visit[at].2].queue.clone();
            let mut state = queue.lock();
            for (_, w, t) in &visit[at..end] {
                let (targets, written, run) = &work[*w];
                let (target, hidden) = (&targets[*t], hidden.as_deref_mut());
                Append { queue: &queue, target, held: &held, written, bundle, hidden, refused: &mut refused }
                    .run(run, &mut state, log, follow);
            }
            self.core.arm(&queue, &mut state);
            queue.pump_locked(&mut state, log, now_ticks, follow);
            drop(state);
            self.core.checkpoint.queue(&queue);
            at = end;
        }
        refused
    }

    /// Publishes that at least one full queue rejected, each once.
    pub(super) fn say_full(&self, mut refused: Vec<Rejected>) {
        refused.sort_unstable_by_key(|(serial, _, _)| *serial);
        refused.dedup_by_key(|(serial, _, _)| *serial);
        for (serial, _, _) in refused {
            self.outbox.push(Event::Refused { first: Serial(serial), last: Serial(serial), why: Refusal::QueueFull });
        }
    }

    /// Makes the edits that belong to publishes, now that a slot behind them is reserved. A publish whose session was taken over since it was
    /// looked at is taken out of its run and refused: an exactly-once publish without its identifier comes again.
    pub(super) fn claim_edits(&self, batch: &Batch, runs: &mut Vec<RouteRun>, states: &[StateEdit]) -> Edits {
        let mut edits = Vec::new();
        runs.retain_mut(|run| {
            let head = &batch.heads[run.first as usize];
            let Some(edit) = head.state.checked_sub(1).and_then(|i| states.get(i as usize)) else { return true };
            if let Some(session) = self.claim(edit) {
                edits.push((run.first, session, edit.clone()));
                return true;
            }
            self.outbox.push(Event::Refused { first: run.serial, last: run.serial, why: Refusal::OwnerEnded });
            run.first += 1;
            run.count -= 1;
            run.serial.0 += 1;
            run.count > 0
        });
        edits
    }

    /// A publish whose edit may not be made is not made either: an exactly-once publish without its identifier comes again.
    pub(super) fn refuse_edit(&self, head: &Head, states: &[StateEdit]) -> Option<Refusal> {
        let edit = states.get(head.state.checked_sub(1)? as usize)?;
        match self.editable(edit) {
            Some(_) => None,
            None if self.session(edit.owner).is_some() => Some(Refusal::LimitReached(Limit::SessionState)),
            None => Some(Refusal::OwnerEnded),
        }
    }

    /// A retained publish changes the store before it is enqueued, both under the topic's lock and by one slot: an exactly-once publish must
    /// not come back from a crash with its identifier known and its value lost.
    fn publish_retained(
        &mut self,
        batch: &Arc<Batch>,
        index: u32,
        serial: Serial,
        states: &[StateEdit],
        fills: &mut Fills,
        follow: &mut Follow,
    ) {
        let owner = batch.heads[index as usize].owner;
        let topic = match self.may_retain(batch, index) {
            Ok(topic) => topic,
            Err(why) => return self.refuse_publish(owner, serial, why),
        };
        let vhost = self.vhost.clone();
        let _order = vhost.stripe(&topic.key).lock();
        let mut bundle = Bundle::default();
        bundle.retain(vhost.id, batch, &topic);
        bundle.retains = Some(topic);
        let mut runs = Vec::new();
        self.gather_or_say(batch, index, serial, &mut runs);
        self.stage_with(bundle, batch, &mut runs, states, fills, follow);
    }

    /// Is there a topic to retain this by, and room?
    pub(super) fn may_retain(&self, batch: &Batch, index: u32) -> Result<Retains, Refusal> {
        let head = &batch.heads[index as usize];
        let key = batch.key(head);
        let invalid = |_| Refusal::Invalid { what: "topic", why: "not a topic name".into() };
        let name = crate::routing::Name::parse(crate::route::syntax(head.separator), key).map_err(invalid)?;
        let store = &self.vhost.retained;
        let full = store.len() as u64 >= self.core.config.retained_max;
        if full && head.body.len > 0 && store.get(&name).is_none() {
            return Err(Refusal::LimitReached(Limit::Retained));
        }
        // What the broker says of itself is not worth a record.
        let logged = !key.starts_with(b"$SYS/");
        Ok(Retains { key: key.to_vec(), index, logged, order: self.vhost.next_retained_order() })
    }

    /// Puts one message of its own into a session's queue, as a record with one reference. Used for what is retained.
    pub(super) fn enqueue(&mut self, queue: &Arc<Queue>, batch: &Arc<Batch>, wanted: Wanted, fills: &mut Fills, follow: &mut Follow) {
        let Wanted { level, flags, side } = wanted;
        let route = Arc::new(Route::default());
        let run = RouteRun { route, first: 0, count: 1, level, durable: true, serial: Serial(0) };
        let mut bundle = Bundle::default();
        let held = Held::new(batch.clone(), Some(bundle.place.clone()), None);
        let slot = queue.durable.then(|| self.core.log.reserve());
        let ordinal = queue.durable.then_some((0, 0));
        let targets = vec![Target { queue: queue.clone(), level, flags, side, ordinal, in_place: false }];
        let written = write_records(&self.core, &mut bundle.records, batch, &run, &targets, None);
        let mut state = queue.lock();
        append_one(&targets[0], &held, &written, &mut bundle, None, &run, &mut state, &self.core, follow);
        queue.pump_locked(&mut state, &self.core.log, self.core.now_ticks(), follow);
        drop(state);
        self.core.checkpoint.queue(queue);
        if let Some(slot) = slot {
            fills.push(slot, bundle.filled());
        }
    }

    pub(super) fn is_internal(&self) -> bool {
        self.info.protocol == super::INTERNAL
    }
}

impl Shared {
    /// At most once: straight to the connections that are there.
    pub fn deliver_direct(&self, batch: &Arc<Batch>, run: &RouteRun) {
        let mut sent = 0u64;
        let mut dropped = 0u64;
        for target in run.route.sessions.iter().filter(|t| t.level.min(run.level) == 0) {
            if self.direct(&target.session, batch, run.first, run.count, target.side.clone(), target.flags) {
                sent += u64::from(run.count);
            } else {
                dropped += u64::from(run.count);
            }
        }
        for share in run.route.shares.iter().filter(|s| s.level().min(run.level) == 0) {
            for index in run.first..run.first + run.count {
                let Some((member, live)) = share.next_live() else { continue };
                let side = (member.identifier != 0).then(|| Arc::new(Side { subscriptions: vec![member.identifier], ..Side::default() }));
                live.outbox.direct(live.consumer, batch, index, 1, side, member.flags);
                sent += 1;
            }
        }
        Counters::add(&self.counters.messages_sent, sent);
        if dropped > 0 {
            Counters::add(&self.counters.messages_dropped, dropped);
        }
    }

    /// Sends to a session's connection what need not be kept.
    pub fn direct(&self, session: &Session, batch: &Arc<Batch>, first: u32, count: u32, side: Option<Arc<Side>>, flags: u8) -> bool {
        let Some(live) = session.active() else { return false };
        let Some(live): Option<&Arc<Live>> = live.as_ref() else { return false };
        let taken = live.outbox.direct(live.consumer, batch, first, count, side, flags);
        if !taken {
            session.dropped.fetch_add(u64::from(count), std::sync::atomic::Ordering::Relaxed);
        }
        taken
    }
}

/// A retained publish that may be made.
pub(super) struct Retains {
    pub key: Vec<u8>,
    pub index: u32,
    pub logged: bool,
    /// Taken before it is routed, see [`Vhost::retained_order`].
    order: u64,
}

impl Retains {
    pub fn store(&self, vhost: &Vhost, batch: &Batch) {
        let separator = batch.heads[self.index as usize].separator;
        if let Ok(name) = crate::routing::Name::parse(crate::route::syntax(separator), &self.key) {
            store_retained(vhost, &name, batch, self.index, (self.logged, self.order));
        }
    }
}

/// Replaces or removes what is retained. The value is a copy of its own, so that it pins no turn.
pub(crate) fn store_retained(vhost: &Vhost, name: &crate::routing::Name<'_>, batch: &Batch, index: u32, (durable, order): (bool, u64)) {
    let head = &batch.heads[index as usize];
    if head.body.len == 0 {
        vhost.retained.remove(name);
        return;
    }
    let message = Arc::new(copy_out(batch, index));
    vhost.expiring.note(&message);
    vhost.retained.set(name, RetainedMessage { message, durable, order });
}

/// One message in a batch of its own.
pub(crate) fn copy_out(batch: &Batch, index: u32) -> Batch {
    let mut bytes = Vec::new();
    crate::store::records::write_message(
        &mut crate::store::wire::Writer(&mut bytes),
        batch,
        &batch.heads[index as usize],
        batch.arrived_ms,
    );
    let mut reader = crate::store::wire::Reader::new(&bytes);
    crate::store::records::read_own_message(&mut reader, &bytes).unwrap_or_default()
}
