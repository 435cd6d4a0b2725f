//! What leaves a queue without being consumed and has somewhere to go: rejected, expired, evicted, or tried too often; and what was held back
//! by an exchange that delays and is due (see `delay`).
//!
//! A move is atomic. The message stays in its source, moving, until one slot of the log holds both its leaving and its arriving: a `MOVE`
//! record that hands the reference over to one other queue (the body stays where it is in the log), or, where it goes to several places
//! or is not in the log yet, a copy with all its references and the source's settlement. What changed is decided here once and stands in
//! the references' side entries.

mod change;

use crate::core::{Counters, Shared};
use crate::cron::Round;
use crate::exchange::{Exchange, LazyHeaders};
use crate::link::{append_one, number, one_run, targets_of, write_records, Bundle, Hidden, RouteRun, Target};
use crate::mutants::{self, Mutant};
use crate::queue::{Entry, Fill, Follow, Gone, Held, Leaving, Peek, Queue};
use crate::route::{compute, syntax, Publisher};
use crate::routing::exchange::Key;
use crate::routing::topic::words_of;
use crate::spill::is_spilled;
use crate::store::records::{Move, LEVEL};
use crate::store::{kind, reason, settle_filled};
use crate::timers::Timer;
use crate::vhost::Vhost;
use broker_api::{Batch, Head};
use change::{edited, is_cycle, moved, Change};
use journal::{Filled, Slot};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Whose slot holds a move, and who may see what arrived.
pub(crate) enum How<'a> {
    /// Its own, given to this.
    Own(&'a mut dyn FnMut(Slot, Filled)),
    /// A transaction's, by whose commit it happens; nobody sees it before.
    Shared(&'a mut Bundle, &'a mut Hidden),
}

impl How<'_> {
    fn hidden(&mut self) -> Option<&mut Hidden> {
        match self {
            How::Own(_) => None,
            How::Shared(_, hidden) => Some(hidden),
        }
    }

    /// The message is gone, and goes nowhere.
    fn dropped(&mut self, gone: Fill) {
        match self {
            How::Own(fill) => {
                if let Some((slot, filled)) = settle_filled(gone, &[]) {
                    fill(slot, filled);
                }
            }
            How::Shared(bundle, _) => bundle.gone(gone),
        }
    }
}

/// Where a message goes next, decided without any lock.
struct Plan {
    change: Change,
    separator: u8,
    run: RouteRun,
    targets: Vec<Target>,
}

impl Shared {
    pub fn dead_letter(&self, leaving: Leaving, next: &mut Follow, how: &mut How<'_>) {
        let Leaving { queue, seq, why } = leaving;
        let _under_way = self.digests.under_way();
        let Some(peek) = queue.peek_moving(seq) else { return };
        let (held, head) = match &peek.held {
            Some(held) => (held.clone(), peek.head),
            None => match self.log.read_one(peek.lsn) {
                Ok(held) => (held, 0),
                Err(error) if is_spilled(peek.lsn) => return self.lose(&queue, seq, peek.lsn, &error),
                Err(error) => {
                    return tracing::error!(queue = %queue.name, %error, "a message to dead-letter cannot be read and stays");
                }
            },
        };
        let plan = match why {
            Gone::Due => self.plan_due(&queue, &held.batch, head, &peek),
            _ => self.plan(&queue, &held.batch, head, &peek, why),
        };
        let stays = why != Gone::Due && queue.rules().dead_letter_at_least_once;
        let nowhere = plan.as_ref().is_none_or(|plan| plan.targets.is_empty() && !plan.run.has_direct());
        let message = &held.batch.heads[head as usize];
        let refused = |plan: &Plan| plan.targets.iter().any(|target| target.queue.refuses(message.key.len + message.body.len));
        if stays && (nowhere || plan.as_ref().is_some_and(refused)) {
            return self.stays(&queue, queue.stays(seq, why));
        }
        let Some(plan) = plan else {
            says_lacking(&queue, why);
            return self.drop_moving(&queue, seq, why, how);
        };
        let only_one = plan.targets.len() == 1 && plan.run.route.sessions.is_empty() && plan.run.route.shares.is_empty();
        let logged = peek.durable && peek.lsn != 0 && plan.targets.iter().all(|t| t.ordinal.is_some());
        // Its place is taken by a copy, which says how long it waits.
        let stays_here = plan.targets.iter().any(|target| target.in_place);
        if only_one && logged && !stays_here {
            self.hand_over(&queue, seq, why, plan, &held, head, next, how);
        } else {
            self.move_copy(&queue, seq, why, plan, &held, head, next, how);
        }
    }

    /// Nothing takes this dead letter now: it is tried again.
    fn stays(&self, queue: &Queue, wants_timer: bool) {
        if wants_timer {
            self.timers.add(self.now_ms() + RETRY_MS, Timer::Stuck { queue: queue.id.0 });
        }
    }

    /// It was taken out, and a queue refused it. `false`: its own queue has ended meanwhile.
    fn takes_back(&self, source: &Queue, seq: broker_api::Seq, why: Gone, entry: Entry, message: (&Arc<Held>, u32)) -> bool {
        let back = source.takes_back(seq, why, entry, message);
        self.stays(source, back == Some(true));
        back.is_some()
    }

    pub fn retry_stuck(&self, id: u64) {
        let Some(queue) = self.queue(broker_api::QueueId(id)) else { return };
        let mut follow = Follow::default();
        let more = queue.retry_stuck(&mut follow);
        self.follow_up(follow);
        self.stays(&queue, more);
    }

    /// `None`: there is no dead-letter exchange now.
    fn plan(&self, queue: &Queue, batch: &Arc<Batch>, index: u32, peek: &Peek, why: Gone) -> Option<Plan> {
        let vhost = self.vhost_by_id(queue.vhost)?;
        let exchange = vhost.exchange(queue.rules().dead_letter_exchange.as_deref()?)?;
        if queue.life.lacks_exchange.load(Ordering::Relaxed) {
            queue.life.lacks_exchange.store(false, Ordering::Relaxed);
        }
        let head = &batch.heads[index as usize];
        let before = peek.side.as_ref().and_then(|side| side.moved.as_deref());
        let moved = moved(queue, batch, index, before, why, self.now_ms());
        // A replaced key is spelled as the queue's owner spelled it.
        let separator = if moved.key_replaced { b'.' } else { head.separator };
        let headers = LazyHeaders::of(self, batch, head).after_delay(peek.waited);
        let run = run_of(&vhost, &exchange, batch, head, (separator, &moved.key, moved.key_replaced), &headers);
        let mut targets = targets_of(&run);
        let own_queue = |t: &Target| run.route.queues.iter().any(|q| q.id == t.queue.id);
        targets.retain(|t| !own_queue(t) || !is_cycle(&moved.deaths, t.queue.name.as_str()));
        number(&mut targets);
        let change = Change::Dead(moved);
        self.remember_moved(&run, batch, index, &change, separator);
        targets.iter_mut().for_each(|t| t.flags |= change.flags(peek.waited));
        Some(Plan { change, separator, run, targets })
    }

    /// For what was held back. `None`: its exchange is gone.
    fn plan_due(&self, queue: &Arc<Queue>, batch: &Arc<Batch>, index: u32, peek: &Peek) -> Option<Plan> {
        let exchange = self.exchange_of(queue)?;
        let vhost = self.vhost_by_id(queue.vhost)?;
        let head = &batch.heads[index as usize];
        let before = peek.side.as_ref().and_then(|side| side.moved.as_deref());
        if before.is_none() {
            if let Some(round) = self.round(&exchange, batch, index) {
                return Some(self.plan_round(queue, (&vhost, &exchange), batch, index, round));
            }
        }
        let (key, replaced) = before.map_or((batch.key(head), false), |moved| (&*moved.key, moved.key_replaced));
        let separator = if replaced { b'.' } else { head.separator };
        let headers = LazyHeaders::of(self, batch, head).after_delay(true);
        let run = run_of(&vhost, &exchange, batch, head, (separator, key, replaced), &headers);
        let mut targets = targets_of(&run);
        let change = Change::Due(before.cloned());
        self.remember_moved(&run, batch, index, &change, separator);
        targets.iter_mut().for_each(|t| t.flags |= change.flags(true));
        Some(Plan { change, separator, run, targets })
    }

    /// For what comes again and again: where it goes now, if it does, and its place behind the exchange until the next time.
    fn plan_round(&self, queue: &Arc<Queue>, through: (&Vhost, &Arc<Exchange>), batch: &Arc<Batch>, index: u32, round: Round) -> Plan {
        let head = &batch.heads[index as usize];
        let durable = head.has(broker_api::HEAD_DURABLE);
        let run = match round.fires {
            true => {
                let headers = LazyHeaders::of(self, batch, head).after_delay(true);
                run_of(through.0, through.1, batch, head, (head.separator, batch.key(head), false), &headers)
            }
            false => one_run(Arc::default(), head.level, durable),
        };
        // Where its queue was deleted it ends.
        let again_ms = round.again_ms.filter(|_| !round.fires || !run.route.is_unbound());
        let change = Change::Again(again_ms);
        let mut targets = targets_of(&run);
        self.remember_moved(&run, batch, index, &change, head.separator);
        targets.iter_mut().for_each(|t| t.flags |= change.flags(true));
        if again_ms.is_some() {
            let ordinal = queue.keeps(durable).then_some((0, 0));
            targets.push(Target { queue: queue.clone(), level: head.level, flags: 0, side: None, ordinal, in_place: true });
            number(&mut targets);
        }
        Plan { change, separator: head.separator, run, targets }
    }

    /// An exchange that remembers keeps what came to it in the form in which it came.
    fn remember_moved(&self, run: &RouteRun, batch: &Batch, index: u32, change: &Change, separator: u8) {
        if !run.route.histories.is_empty() {
            self.remember(&run.route, &edited(batch, index, change, separator, self.now_ms()), 0);
        }
    }

    fn drop_moving(&self, queue: &Arc<Queue>, seq: broker_api::Seq, why: Gone, how: &mut How<'_>) {
        if let Some((_, gone)) = queue.end_move(seq, why, false, &self.log) {
            how.dropped(gone);
        }
        Counters::add(&self.counters.messages_dropped, 1);
        self.checkpoint.queue(queue);
    }

    /// The reference moves; the record of the body stays and is named by its position.
    #[allow(clippy::too_many_arguments, reason = "a plan and the message it is for")]
    fn hand_over(
        &self,
        source: &Arc<Queue>,
        seq: broker_api::Seq,
        why: Gone,
        plan: Plan,
        held: &Arc<Held>,
        head: u32,
        next: &mut Follow,
        how: &mut How<'_>,
    ) {
        let Plan { change, targets, .. } = plan;
        let target = &targets[0].queue;
        let Some((mut entry, mut gone)) = source.end_move(seq, why, true, &self.log) else { return };
        // In a transaction this one stays void.
        let Some(slot) = gone.slot.take() else { return };
        let message = &held.batch.heads[head as usize];
        let before = source.rules().dead_letter_at_least_once.then(|| entry.twin()).filter(|_| why != Gone::Due);
        entry.arrives(held, head, change.side(targets[0].side.as_deref()), targets[0].flags);
        let now_ms = self.now_ms();
        let expires_ms = change.expires_ms(message, held.batch.arrived_ms, now_ms);
        entry.expires = target.time_of(target.rules().message_ttl_ms, expires_ms, now_ms, message.delay_ms);
        let record = record_of(source, seq, why, target, &entry);
        let mut state = target.lock();
        let arrived = target
            .make_room(&mut state, entry.bytes, &self.log, next)
            .then(|| target.adopt(&mut state, entry, message.priority, &self.log));
        if let (Some(to), Some(hidden)) = (arrived, how.hidden()) {
            hidden.hide(target, &mut state, to);
        }
        let mut own = Bundle::default();
        let bundle = match how {
            How::Own(_) => &mut own,
            How::Shared(bundle, _) => bundle,
        };
        match arrived {
            Some(to) => {
                bundle.records.push(kind::MOVE, LEVEL, 0, 0, |out| Move { to, ..record }.write(out));
                target.pump_locked(&mut state, &self.log, self.now_ticks(), next);
            }
            None => {
                drop(state);
                if !before.is_some_and(|entry| self.takes_back(source, seq, why, entry, (held, head))) {
                    bundle.gone(gone);
                }
                self.checkpoint.queue(source);
                if let How::Own(fill) = how {
                    fill(slot, own.filled());
                }
                return;
            }
        }
        self.arm(target, &mut state);
        drop(state);
        self.checkpoint.queue(source);
        self.checkpoint.queue(target);
        if let How::Own(fill) = how {
            fill(slot, own.filled());
        }
    }

    /// A copy with its own references, and the source's settlement, in one slot.
    #[allow(clippy::too_many_arguments, reason = "a plan and the message it is for")]
    fn move_copy(
        &self,
        source: &Arc<Queue>,
        seq: broker_api::Seq,
        why: Gone,
        plan: Plan,
        held: &Arc<Held>,
        head: u32,
        next: &mut Follow,
        how: &mut How<'_>,
    ) {
        let wants_slot = plan.targets.iter().any(|t| t.ordinal.is_some());
        let keeps = why != Gone::Due && source.rules().dead_letter_at_least_once;
        let Some((entry, mut gone)) = source.end_move(seq, why, wants_slot, &self.log) else { return };
        let slot = gone.slot.take();
        self.checkpoint.queue(source);
        match how {
            How::Own(fill) => {
                let mut bundle = Bundle::default();
                let refused = self.put_copy(plan, &held.batch, head, next, &mut bundle, None);
                if keeps && refused && self.takes_back(source, seq, why, entry, (held, head)) {
                    // Others have taken it and get it again: at least once.
                } else if mutants::active(Mutant::CopyDeadLetter) {
                    let late = Fill { slot: Some(self.log.reserve()), ..gone };
                    settle_filled(late, &[]).into_iter().for_each(|(slot, filled)| mutants::fill_late(slot, filled));
                } else {
                    bundle.gone(gone);
                }
                if let Some(slot) = slot {
                    fill(slot, bundle.filled());
                }
            }
            How::Shared(bundle, hidden) => {
                let refused = self.put_copy(plan, &held.batch, head, next, bundle, Some(hidden));
                if !(keeps && refused && self.takes_back(source, seq, why, entry, (held, head))) {
                    bundle.gone(gone);
                }
            }
        }
    }

    /// Puts an edited copy where the plan says; its records go into the bundle.
    /// Answers whether a queue refused it.
    fn put_copy(&self, plan: Plan, batch: &Batch, head: u32, next: &mut Follow, bundle: &mut Bundle, hidden: Option<&mut Hidden>) -> bool {
        let Plan { change, separator, run, mut targets } = plan;
        let mut copy = edited(batch, head, &change, separator, self.now_ms());
        self.memory.count(&mut copy);
        let copy = Arc::new(copy);
        for target in &mut targets {
            target.side = change.side(target.side.as_deref());
        }
        self.place(copy, run, &targets, next, bundle, hidden)
    }

    /// Puts a message of its own into these queues, and sends it to those for whom no queue keeps it; its records go into the bundle.
    pub fn place(
        &self,
        copy: Arc<Batch>,
        run: RouteRun,
        targets: &[Target],
        next: &mut Follow,
        bundle: &mut Bundle,
        mut hidden: Option<&mut Hidden>,
    ) -> bool {
        let mut refused = false;
        let held = Held::new(copy.clone(), Some(bundle.place.clone()), None);
        let written = write_records(self, &mut bundle.records, &copy, &run, targets, None);
        for target in targets {
            let mut state = target.queue.lock();
            refused |= !append_one(target, &held, &written, bundle, hidden.as_deref_mut(), &run, &mut state, self, next);
            target.queue.pump_locked(&mut state, &self.log, self.now_ticks(), next);
            drop(state);
            self.checkpoint.queue(&target.queue);
        }
        match hidden {
            Some(hidden) => hidden.direct(copy, run),
            None => self.deliver_direct(&copy, &run),
        }
        refused
    }

    /// A message that a full queue refused, where the queue wants such messages dead-lettered. It was in no queue, so this is a publish.
    pub fn dead_letter_refused(&self, queue: &Arc<Queue>, batch: &Arc<Batch>, head: u32, next: &mut Follow, how: &mut How<'_>) {
        let peek = Peek { held: None, head, lsn: 0, side: None, durable: false, waited: false };
        let Some(plan) = self.plan(queue, batch, head, &peek, Gone::Evicted) else { return };
        match how {
            How::Own(fill) => {
                let slot = plan.targets.iter().any(|t| t.ordinal.is_some()).then(|| self.log.reserve());
                let mut bundle = Bundle::default();
                self.put_copy(plan, batch, head, next, &mut bundle, None);
                if let Some(slot) = slot {
                    fill(slot, bundle.filled());
                }
            }
            How::Shared(bundle, hidden) => {
                self.put_copy(plan, batch, head, next, bundle, Some(hidden));
            }
        }
    }
}

/// Once for each queue, and again when the exchange was there meanwhile. What was held back by an exchange has gone with it.
fn says_lacking(queue: &Queue, why: Gone) {
    let told = why == Gone::Due || queue.life.lacks_exchange.swap(true, Ordering::Relaxed);
    let (exchange, why) = (queue.rules().dead_letter_exchange.clone().unwrap_or_default(), reason(why));
    match told {
        true => tracing::debug!(queue = %queue.name, why, %exchange, "dropped: its dead-letter exchange is not there"),
        false => tracing::warn!(
            queue = %queue.name, why, %exchange,
            "dead letters of this queue are dropped: their exchange is not there. Declare it, or take the setting back"
        ),
    }
}

/// Where an exchange sends a message by its key, and by all the keys that it was published with (the hidden ones too) unless another took
/// their place.
fn run_of(
    vhost: &Vhost,
    exchange: &Arc<Exchange>,
    batch: &Batch,
    head: &Head,
    (separator, key, replaced): (u8, &[u8], bool),
    headers: &LazyHeaders<'_>,
) -> RouteRun {
    let by = |key: &[u8]| {
        let words = words_of(syntax(separator), key);
        let key = Key::read(syntax(separator), key, words.as_deref());
        Arc::new(compute(vhost, exchange.clone(), &key, headers, Publisher::default()))
    };
    let mut route = by(key);
    if !replaced && !head.keys.is_empty() {
        let routes: Vec<_> = std::iter::once(route).chain(batch.keys(head).map(by)).collect();
        route = Arc::new(crate::route::Route::union(&routes));
    }
    one_run(route, head.level, head.has(broker_api::HEAD_DURABLE))
}

/// The record by which a reference moves; its new place is left open.
fn record_of(source: &Queue, seq: broker_api::Seq, why: Gone, target: &Queue, entry: &Entry) -> Move {
    Move {
        source: source.id,
        seq,
        why,
        target: target.id,
        to: broker_api::Seq(0),
        lsn: entry.lsn,
        ordinal: entry.ordinal,
        bytes: entry.bytes,
        expires: entry.expires,
        level: entry.level,
        flags: entry.flags,
        side: entry.side.clone(),
    }
}

/// How long a dead letter that nothing took waits.
const RETRY_MS: u64 = 1_000;
