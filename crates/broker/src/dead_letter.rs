//! What leaves a queue without being consumed and has somewhere to go: rejected, expired, evicted, or tried too often; and what was held back
//! by an exchange that delays and is due (see `delay`).
//!
//! A move is atomic. The message stays in its source, moving, until one slot of the log holds both its leaving and its arriving: a `MOVE`
//! record that hands the reference over to one other queue (the body stays where it is in the log), or, where it goes to several places
//! or is not in the log yet, a copy with all its references and the source's settlement. What changed is decided here once and stands in
//! the references' side entries.

use crate::core::{Counters, Shared};
use crate::exchange::{Exchange, LazyHeaders};
use crate::link::{append_one, copy_out, one_run, targets_of, write_records, Bundle, Hidden, RouteRun, Target};
use crate::mutants::{self, Mutant};
use crate::queue::{Fill, Follow, Gone, Held, Leaving, Peek, Queue};
use crate::route::{compute, syntax};
use crate::routing::exchange::Key;
use crate::routing::topic::words_of;
use crate::spill::is_spilled;
use crate::store::records::{Move, LEVEL};
use crate::store::{kind, reason, settle_filled};
use crate::vhost::Vhost;
use broker_api::{Batch, Death, DeathReason, Head, Moved, Side, Span, DELIVERY_DELAYED};
use journal::{Filled, Slot};
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

/// What a move makes of the message.
enum Change {
    /// It is a dead letter.
    Dead(Moved),
    /// It is due. What it was before stays.
    Due(Option<Moved>),
}

impl Change {
    fn moved(&self) -> Option<&Moved> {
        match self {
            Change::Dead(moved) => Some(moved),
            Change::Due(before) => before.as_ref(),
        }
    }

    /// What its references say beside the subscriptions that it matches.
    fn side(&self, of: Option<&Side>) -> Option<Arc<Side>> {
        let subscriptions = of.map_or_else(Vec::new, |side| side.subscriptions.clone());
        let moved = self.moved().map(|moved| Box::new(moved.clone()));
        (moved.is_some() || !subscriptions.is_empty()).then(|| Arc::new(Side { subscriptions, moved }))
    }

    fn flags(&self, waited: bool) -> u8 {
        match self {
            Change::Due(_) => DELIVERY_DELAYED,
            Change::Dead(_) if waited => DELIVERY_DELAYED,
            Change::Dead(_) => 0,
        }
    }

    /// When it expires where it goes to: a dead letter has lost its own time, which begins for what was held back.
    fn expires_ms(&self, head: &Head, arrived_ms: u64, now_ms: u64) -> u64 {
        match self {
            Change::Due(_) if head.expires_ms != 0 => now_ms + head.expires_ms.saturating_sub(arrived_ms),
            _ => 0,
        }
    }
}

impl Shared {
    pub fn dead_letter(&self, leaving: Leaving, next: &mut Follow, how: &mut How<'_>) {
        let Leaving { queue, seq, why } = leaving;
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
        let Some(plan) = plan else {
            tracing::debug!(queue = %queue.name, why = reason(why), "dropped: its dead-letter exchange is not there");
            return self.drop_moving(&queue, seq, why, how);
        };
        let only_one = plan.targets.len() == 1 && plan.run.route.sessions.is_empty() && plan.run.route.shares.is_empty();
        let logged = peek.durable && peek.lsn != 0 && plan.targets.iter().all(|t| t.ordinal.is_some());
        if only_one && logged {
            self.hand_over(&queue, seq, why, plan, &held, head, next, how);
        } else {
            self.move_copy(&queue, seq, why, plan, &held.batch, head, next, how);
        }
    }

    /// `None`: there is no dead-letter exchange now.
    fn plan(&self, queue: &Queue, batch: &Arc<Batch>, index: u32, peek: &Peek, why: Gone) -> Option<Plan> {
        let vhost = self.vhost_by_id(queue.vhost)?;
        let exchange = vhost.exchange(queue.rules().dead_letter_exchange.as_deref()?)?;
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
        let change = Change::Dead(moved);
        self.remember_moved(&run, batch, index, &change, separator);
        targets.iter_mut().for_each(|t| t.flags |= change.flags(peek.waited));
        Some(Plan { change, separator, run, targets })
    }

    /// For what was held back. `None`: its exchange is gone.
    fn plan_due(&self, queue: &Queue, batch: &Arc<Batch>, index: u32, peek: &Peek) -> Option<Plan> {
        let exchange = self.exchange_of(queue)?;
        let vhost = self.vhost_by_id(queue.vhost)?;
        let head = &batch.heads[index as usize];
        let before = peek.side.as_ref().and_then(|side| side.moved.as_deref());
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
        entry.arrives(held, head, change.side(targets[0].side.as_deref()), targets[0].flags);
        let now_ms = self.now_ms();
        let expires_ms = change.expires_ms(message, held.batch.arrived_ms, now_ms);
        entry.expires = target.time_of(target.rules().message_ttl_ms, expires_ms, now_ms, message.delay_ms);
        let record = Move {
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
        };
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
            None => bundle.gone(gone),
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
        batch: &Batch,
        head: u32,
        next: &mut Follow,
        how: &mut How<'_>,
    ) {
        let wants_slot = plan.targets.iter().any(|t| t.ordinal.is_some());
        let Some((_, mut gone)) = source.end_move(seq, why, wants_slot, &self.log) else { return };
        let slot = gone.slot.take();
        self.checkpoint.queue(source);
        match how {
            How::Own(fill) => {
                let mut bundle = Bundle::default();
                self.put_copy(plan, batch, head, next, &mut bundle, None);
                if mutants::active(Mutant::CopyDeadLetter) {
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
                self.put_copy(plan, batch, head, next, bundle, Some(hidden));
                bundle.gone(gone);
            }
        }
    }

    /// Puts an edited copy where the plan says; its records go into the bundle.
    fn put_copy(&self, plan: Plan, batch: &Batch, head: u32, next: &mut Follow, bundle: &mut Bundle, hidden: Option<&mut Hidden>) {
        let Plan { change, separator, run, mut targets } = plan;
        let mut copy = edited(batch, head, &change, separator, self.now_ms());
        self.memory.count(&mut copy);
        let copy = Arc::new(copy);
        for target in &mut targets {
            target.side = change.side(target.side.as_deref());
        }
        self.place(copy, run, &targets, next, bundle, hidden);
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
    ) {
        let held = Held::new(copy.clone(), Some(bundle.place.clone()), None);
        let written = write_records(self, &mut bundle.records, &copy, &run, targets, None);
        for target in targets {
            let mut state = target.queue.lock();
            append_one(target, &held, &written, bundle, hidden.as_deref_mut(), &run, &mut state, self, next);
            target.queue.pump_locked(&mut state, &self.log, self.now_ticks(), next);
            drop(state);
            self.checkpoint.queue(&target.queue);
        }
        match hidden {
            Some(hidden) => hidden.direct(copy, run),
            None => self.deliver_direct(&copy, &run),
        }
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
            How::Shared(bundle, hidden) => self.put_copy(plan, batch, head, next, bundle, Some(hidden)),
        }
    }
}

/// What this death makes of the message.
fn moved(queue: &Queue, batch: &Batch, index: u32, before: Option<&Moved>, why: Gone, now_ms: u64) -> Moved {
    let head = &batch.heads[index as usize];
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    let (exchange, key): (Box<str>, Box<[u8]>) = match before {
        Some(before) => (before.exchange.clone(), before.key.clone()),
        None if head.topic => ("amq.topic".into(), batch.key(head).into()),
        None => (text(batch.bytes(head.exchange)), batch.key(head).into()),
    };
    let why = match why {
        Gone::Expired => DeathReason::Expired,
        Gone::Evicted => DeathReason::MaxLength,
        Gone::Limit => DeathReason::DeliveryLimit,
        Gone::Rejected | Gone::Accepted | Gone::Purged | Gone::Due => DeathReason::Rejected,
    };
    let mut deaths = before.map_or_else(Vec::new, |before| before.deaths.clone());
    let name = queue.name.as_str();
    match deaths.iter().position(|d| &*d.queue == name && d.reason == why) {
        Some(at) => {
            let mut death = deaths.remove(at);
            death.count += 1;
            deaths.insert(0, death);
        }
        None => {
            // Only the first move finds the message's own expiry: it loses it there.
            let had_ttl = before.is_none() && head.expires_ms != 0;
            let expiration_ms = had_ttl.then(|| head.expires_ms.saturating_sub(batch.arrived_ms));
            let death = Death {
                queue: name.into(),
                reason: why,
                count: 1,
                time_ms: now_ms,
                exchange: exchange.clone(),
                key: key.clone(),
                expiration_ms,
            };
            deaths.insert(0, death);
            deaths.truncate(DEATHS_MAX);
        }
    }
    let first = before.map_or_else(|| (name.into(), why, exchange.clone()), |before| before.first.clone());
    let rules = queue.rules();
    let replaced = rules.dead_letter_key.as_ref();
    Moved {
        exchange: rules.dead_letter_exchange.as_deref().unwrap_or_default().into(),
        key: replaced.map_or(key, |key| key.as_bytes().into()),
        key_replaced: replaced.is_some() || before.is_some_and(|before| before.key_replaced),
        deaths,
        first,
    }
}

/// Distinct queues and reasons that a message remembers.
const DEATHS_MAX: usize = 64;

/// RabbitMQ's rule: a message does not come back to a queue that it died in, unless a consumer rejected it on the way.
fn is_cycle(deaths: &[Death], queue: &str) -> bool {
    let Some(at) = deaths.iter().position(|d| &*d.queue == queue) else { return false };
    deaths[..=at].iter().all(|d| d.reason != DeathReason::Rejected)
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
        Arc::new(compute(vhost, exchange.clone(), &key, headers, None))
    };
    let mut route = by(key);
    if !replaced && !head.keys.is_empty() {
        let routes: Vec<_> = std::iter::once(route).chain(batch.keys(head).map(by)).collect();
        route = Arc::new(crate::route::Route::union(&routes));
    }
    one_run(route, head.level, head.has(broker_api::HEAD_DURABLE))
}

/// A copy of one message with its new exchange and key, and with the expiry that it has now.
fn edited(batch: &Batch, index: u32, change: &Change, separator: u8, now_ms: u64) -> Batch {
    let mut copy = copy_out(batch, index);
    let arrived_ms = std::mem::replace(&mut copy.arrived_ms, now_ms);
    if let Some(head) = copy.heads.first_mut() {
        head.expires_ms = change.expires_ms(head, arrived_ms, now_ms);
        head.flags &= !(broker_api::HEAD_VERBATIM | broker_api::HEAD_RETAIN | broker_api::HEAD_MANDATORY | broker_api::HEAD_CONFIRM);
        head.state = 0;
    }
    let Some(moved) = change.moved() else { return copy };
    let mut put = |bytes: &[u8]| {
        let at = copy.arena.len();
        copy.arena.extend_from_slice(bytes);
        Span::arena(at, bytes.len())
    };
    let (exchange, key) = (put(moved.exchange.as_bytes()), put(&moved.key));
    if let Some(head) = copy.heads.first_mut() {
        head.exchange = exchange;
        head.key = key;
        head.separator = separator;
        head.topic = &*moved.exchange == "amq.topic";
        if moved.key_replaced {
            head.keys = Span::EMPTY;
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(queue: &str, reason: DeathReason) -> Death {
        Death { queue: queue.into(), reason, count: 1, time_ms: 0, exchange: "".into(), key: Box::default(), expiration_ms: None }
    }

    #[test]
    fn a_cycle_ends_unless_a_consumer_rejected_on_the_way() {
        use DeathReason::{Expired, Rejected};
        assert!(!is_cycle(&[death("a", Expired)], "b"));
        assert!(is_cycle(&[death("a", Expired)], "a"));
        assert!(is_cycle(&[death("b", Expired), death("a", Expired)], "a"));
        assert!(!is_cycle(&[death("b", Rejected), death("a", Expired)], "a"));
        assert!(!is_cycle(&[death("b", Expired), death("a", Rejected)], "a"));
        // What happened before the last visit does not count.
        assert!(is_cycle(&[death("b", Expired), death("a", Expired), death("c", Rejected)], "a"));
    }
}
