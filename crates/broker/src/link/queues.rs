//! Commands on queues: declare, delete, purge, consume, cancel, take; and how a queue ends by itself.

use super::control::{done, read_selector, Answer};
use super::{Link, Owner};
use crate::core::Shared;
use crate::exchange::compared_arguments;
use crate::outbox::Work;
use crate::queue::{Consumer, Follow, Modified, Queue, Taken};
use crate::route::syntax;
use crate::routing::Pattern;
use crate::spill::is_spilled;
use crate::store::exchanges::exchange_gone_record;
use crate::store::{push_handed, push_queue_gone, queue_record, requeue_record};
use crate::timers::Timer;
use crate::vhost::Vhost;
use crate::Config;
use broker_api::{
    Consume, ConsumerIx, EndReason, Inequivalent, Limit, Mode, OwnerIx, QueueName, QueueSpec, Refusal, Reply, Seq, Signal, Take, Token,
    Uncounted, Watch,
};
use journal::{Filled, Records, Slot};
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Link {
    pub(super) fn declare_queue(&mut self, name: QueueName, spec: QueueSpec, passive: bool) -> Answer {
        spec.selector.as_deref().map(read_selector).transpose()?;
        // Declarations of one name wait for each other here.
        let vhost = self.vhost.clone();
        let _order = vhost.bindings.lock();
        if vhost.queues.contains_key(&name) {
            let queue = self.named_queue(&name)?;
            if !passive {
                equivalent(&queue, &spec, &self.core.config)?;
            }
            queue.life.used(self.core.now_ms());
            let state = queue.lock();
            let (ready, consumers) = (state.ready, state.consumers.len() as u32);
            let counts_attempts = queue.spec.counts_attempts;
            return done(Reply::Queue { id: queue.id, name: queue.name.clone(), ready, consumers, counts_attempts });
        }
        if passive {
            return Err(Refusal::NotFound { what: "queue", name: name.to_string() });
        }
        let max = vhost.queues_max.load(Ordering::Relaxed);
        if vhost.queues.len() as u64 >= max {
            let why = format!("cannot declare queue '{name}': queue limit in vhost '{}' ({max}) is reached", vhost.name);
            return Err(Refusal::OverLimit { limit: Limit::Queues, why });
        }
        self.core.check_queues_max(&name)?;
        let exclusive = spec.exclusive;
        let queue = self.core.make_queue(&vhost, name.clone(), spec);
        if exclusive {
            queue.life.holder.store(self.outbox.id, Ordering::Release);
            self.exclusive.push(queue.clone());
        }
        let slot = queue.durable.then(|| self.core.log.reserve());
        vhost.default_exchange.bump(name.as_str().as_bytes());
        self.core.watch_expiry(&queue);
        let ticket = slot.map(|slot| self.fill_with_callback(slot, queue_record(&queue)));
        let counts_attempts = queue.spec.counts_attempts;
        Ok((Reply::Queue { id: queue.id, name, ready: 0, consumers: 0, counts_attempts }, ticket, None))
    }

    /// A queue that this connection may see.
    pub(super) fn named_queue(&self, name: &QueueName) -> Result<Arc<Queue>, Refusal> {
        let found = self.vhost.queues.get(name).map(|q| q.clone());
        let queue = found.ok_or_else(|| Refusal::NotFound { what: "queue", name: name.to_string() })?;
        let holder = queue.life.holder.load(Ordering::Acquire);
        if holder != 0 && holder != self.outbox.id {
            return Err(Refusal::Locked(name.to_string()));
        }
        Ok(queue)
    }

    pub(super) fn delete_queue(&mut self, name: &QueueName, if_unused: bool, if_empty: bool) -> Answer {
        let queue = match self.named_queue(name) {
            // Deleting what is not there is no error: RabbitMQ answers delete-ok with 0.
            Err(Refusal::NotFound { .. }) => return done(Reply::Messages(0)),
            other => other?,
        };
        if queue.spec.counts_attempts && (if_unused || if_empty) {
            let what = if if_unused { Uncounted::DeleteIfUnused } else { Uncounted::DeleteIfEmpty };
            return Err(uncounted(&queue, what));
        }
        let vhost = self.vhost.clone();
        let over = |state: &crate::queue::State| {
            if if_unused && !state.consumers.is_empty() {
                return Err(Refusal::PreconditionFailed(format!("queue '{name}' in vhost '{}' in use", vhost.name)));
            }
            if if_empty && state.ready > 0 {
                return Err(Refusal::PreconditionFailed(format!("queue '{name}' in vhost '{}' not empty", vhost.name)));
            }
            Ok(())
        };
        let Some(ended) = self.core.end_queue(&vhost, &queue, over)? else { return done(Reply::Messages(0)) };
        let ticket = ended.logged.map(|(slot, mut filled)| {
            let ticket = slot.ticket();
            self.last_ticket = Some(ticket);
            filled.done = Some((self.outbox.clone(), ticket.0));
            slot.fill(filled);
            ticket
        });
        Ok((Reply::Messages(ended.messages), ticket, None))
    }

    pub(super) fn purge(&mut self, name: &QueueName) -> Answer {
        let queue = self.named_queue(name)?;
        let (n, fill) = queue.purge(&self.core.log);
        self.core.checkpoint.queue(&queue);
        let ticket = crate::store::settle_filled(fill, &[]).map(|(slot, mut filled)| {
            let ticket = slot.ticket();
            self.last_ticket = Some(ticket);
            filled.done = Some((self.outbox.clone(), ticket.0));
            slot.fill(filled);
            ticket
        });
        Ok((Reply::Messages(n), ticket, None))
    }

    pub(super) fn consume(&mut self, consume: Consume) -> Answer {
        let selector = consume.selector.as_deref().map(read_selector).transpose()?.map(Arc::new);
        self.make_missing(&consume.queue);
        let queue = self.named_queue(&consume.queue)?;
        let group = consume.group.and_then(|ix| self.group(ix));
        if group.is_some() && queue.spec.counts_attempts {
            return Err(uncounted(&queue, Uncounted::SharedCredit));
        }
        let owner = self.lease_owner(consume.owner).ok_or(Refusal::OwnerEnded)?;
        let consumer = Consumer {
            outbox: self.outbox.clone(),
            to: consume.consumer,
            owner,
            group,
            credit: consume.credit,
            settled: consume.mode == Mode::Settled,
            level: u8::MAX,
            side: None,
            flags: 0,
            // Until its reply has been taken: deliveries must not overtake it.
            active: false,
            priority: consume.priority,
            exclusive: consume.exclusive,
            alone: consume.alone,
            scan: None,
        };
        let views = &self.core.config.header_views;
        let browses = consume.mode == Mode::Browse;
        let seated = match browses {
            true => queue.add_browser(consumer, selector, views),
            false => queue.try_consumer(consumer, selector, views),
        };
        if !seated {
            let text = format!("queue '{}' in vhost '{}' in exclusive use", queue.name, self.vhost.name);
            return Err(Refusal::AccessRefused(text));
        }
        if !browses {
            queue.life.had_consumer.store(true, Ordering::Release);
        }
        self.leases_on(owner, &queue);
        if let Some((_, Owner::Local { consumers, .. })) = self.owners.iter_mut().find(|(ix, _)| *ix == consume.owner) {
            consumers.push((consume.consumer, queue.clone()));
        }
        Ok((Reply::Ok, None, Some(Work::Start(queue, consume.consumer))))
    }

    /// Tells of the queues that match, and goes on with those that come.
    pub(super) fn watch(&mut self, watch: Watch) -> Answer {
        let Watch { watch, names, at_first, .. } = watch;
        Pattern::parse(syntax(names.separator), names.pattern.as_bytes())
            .map_err(|error| Refusal::Invalid { what: "pattern of names", why: error.to_string() })?;
        // First, so that none is missed; one that is made meanwhile is told of twice.
        self.vhost.watches.add(self.outbox.clone(), watch, names.clone());
        let matching = self.vhost.queues.iter().filter(|queue| crate::watch::matches(&names, &self.outbox, &self.vhost, queue));
        let mut all: Vec<Arc<Queue>> = matching.map(|queue| queue.clone()).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.iter().take(at_first as usize).for_each(|queue| crate::watch::found(&self.outbox, watch, queue));
        done(Reply::Ok)
    }

    pub(super) fn cancel(&mut self, consumer: ConsumerIx) -> Answer {
        self.vhost.watches.end(self.outbox.id, Some(consumer));
        let queues = self.queues_of(consumer);
        for (_, owner) in &mut self.owners {
            if let Owner::Local { consumers, .. } = owner {
                consumers.retain(|(ix, _)| *ix != consumer);
            }
        }
        for queue in queues {
            queue.remove_consumer(self.outbox.id, Some(consumer));
            let mut follow = Follow::default();
            // A single active consumer has a successor.
            queue.pump(&self.core.log, self.core.now_ticks(), &mut follow);
            self.core.follow_up(follow);
            self.core.lost_consumer(&self.vhost, &queue);
        }
        done(Reply::Ok)
    }

    pub(super) fn take(&mut self, token: Token, take: &Take) -> Answer {
        self.make_missing(&take.queue);
        let queue = self.named_queue(&take.queue)?;
        if queue.spec.counts_attempts && queue.spec.single_active_consumer {
            return Err(uncounted(&queue, Uncounted::TakePastActive));
        }
        let owner = self.lease_owner(take.owner).ok_or(Refusal::OwnerEnded)?;
        queue.life.used(self.core.now_ms());
        if !take.settled {
            self.leases_on(owner, &queue);
        }
        let mut follow = Follow::default();
        let taken = loop {
            match queue.take(take.max, owner, take.settled, &self.outbox, token, &self.core.log, self.core.now_ticks(), &mut follow) {
                Taken::Done { count, first, left } => break Reply::Taken { count, left, first },
                // Nobody waits here but this connection, which asked for this one message.
                Taken::Read(seq, lsn) => match self.core.log.read_one(lsn) {
                    Ok(held) => queue.loaded(vec![(seq, held, 0)], &self.core.log, self.core.now_ticks(), &mut follow),
                    Err(error) if is_spilled(lsn) => self.core.lose(&queue, seq, lsn, &error),
                    Err(error) => {
                        tracing::error!(queue = %queue.name, lsn, %error, "a message cannot be read and stays where it is");
                        queue.lock().set_aside(seq);
                    }
                },
            }
        };
        self.core.checkpoint.queue(&queue);
        self.core.follow_up(follow);
        done(taken)
    }

    /// Consumers and leases of an owner that dies with its connection.
    pub(super) fn end_local(&mut self, id: u64, consumers: Vec<(ConsumerIx, Arc<Queue>)>) {
        let mut follow = Follow::default();
        // They take nothing any more, but keep their groups until what they hold is back in its place: else what stands behind it could go
        // to somebody else first.
        for (consumer, queue) in &consumers {
            queue.silence_consumer(self.outbox.id, *consumer);
        }
        for queue in self.leased_queues(id) {
            self.core.log_handed(&queue);
            self.core.give_back_all(&queue, id, |_| false, &mut follow);
            follow.pump.push(queue);
        }
        for (consumer, queue) in &consumers {
            if queue.remove_consumer(self.outbox.id, Some(*consumer)) {
                follow.pump.push(queue.clone());
            }
        }
        self.leasing.retain(|(owner, _)| *owner != id);
        self.core.follow_up(follow);
        let vhost = self.vhost.clone();
        for (_, queue) in consumers {
            self.core.lost_consumer(&vhost, &queue);
        }
    }

    /// Everything that an owner holds goes back, to be delivered again.
    pub(super) fn recover(&mut self, owner: OwnerIx) -> Answer {
        let id = self.lease_owner(owner).ok_or(Refusal::OwnerEnded)?;
        let mut follow = Follow::default();
        let settled = self.transactions.settled_by(owner);
        for queue in self.leased_queues(id) {
            // What an open transaction has settled stays, until it is committed or rolled back.
            self.core.give_back_all(&queue, id, |seq| settled.contains(&(queue.id, seq)), &mut follow);
            follow.pump.push(queue);
        }
        self.core.follow_up(follow);
        done(Reply::Ok)
    }

    fn leased_queues(&self, owner: u64) -> Vec<Arc<Queue>> {
        self.leasing.iter().filter(|(o, _)| *o == owner).map(|(_, queue)| queue.clone()).collect()
    }

    /// Notes where an owner may hold leases. The list is as long as the queues that this connection's owners used.
    fn leases_on(&mut self, owner: u64, queue: &Arc<Queue>) {
        if !self.leasing.iter().any(|(o, q)| *o == owner && Arc::ptr_eq(q, queue)) {
            self.leasing.retain(|(_, q)| !q.lock().deleted);
            self.leasing.push((owner, queue.clone()));
        }
    }

    /// Exclusive queues go with their connection.
    pub(super) fn end_exclusive(&mut self) {
        let vhost = self.vhost.clone();
        for queue in std::mem::take(&mut self.exclusive) {
            self.core.end_and_log(&vhost, &queue);
        }
    }
}

fn uncounted(queue: &Queue, what: Uncounted) -> Refusal {
    Refusal::Uncounted { queue: queue.name.to_string(), what }
}

/// In the order in which RabbitMQ compares.
fn equivalent(queue: &Queue, spec: &QueueSpec, config: &Config) -> Result<(), Refusal> {
    let current = &queue.spec;
    let differs = |property: &'static str, given: String, current_value: String| {
        if given == current_value {
            return Ok(());
        }
        let (name, arguments, format) = (queue.name.to_string(), current.arguments.clone(), current.format);
        let inequivalent = Inequivalent { what: "queue", name, property, given, current: current_value, arguments, format };
        Err(Refusal::Inequivalent(Box::new(inequivalent)))
    };
    differs("durable", spec.durable.to_string(), current.durable.to_string())?;
    differs("auto_delete", spec.auto_delete.to_string(), current.auto_delete.to_string())?;
    if spec.exclusive != current.exclusive {
        return Err(Refusal::Locked(queue.name.to_string()));
    }
    differs("arguments", (!same_arguments(spec, current, config)).to_string(), false.to_string())?;
    // Of these nothing need stand among the arguments.
    let text = |selector: &Option<String>| selector.clone().unwrap_or_default();
    differs("selector", text(&spec.selector), text(&current.selector))?;
    differs("no_local", spec.no_local.to_string(), current.no_local.to_string())
}

/// What came as arguments; where it differs the protocol finds out which by comparing the two encodings.
fn same_arguments(given: &QueueSpec, current: &QueueSpec, config: &Config) -> bool {
    if given.format == current.format && given.arguments == current.arguments {
        return true;
    }
    if config.relaxed_redeclare && current.counts_attempts && !given.counts_attempts {
        let meant = |spec: &QueueSpec| QueueSpec { arguments: Vec::new(), format: 0, ..spec.clone() };
        // Who asks for a queue that does not count attempts gets this one, which has no priorities either.
        let as_current =
            QueueSpec { counts_attempts: true, keeps_all: current.keeps_all, max_priority: current.max_priority, ..meant(given) };
        return as_current == meant(current);
    }
    let compared = |spec: &QueueSpec| compared_arguments(&config.header_views, spec.format, &spec.arguments);
    compared(given) == compared(current)
}

/// What a queue's end leaves to fill.
pub(crate) struct Ended {
    pub messages: u64,
    pub logged: Option<(Slot, Filled)>,
}

impl Shared {
    /// Of all virtual hosts together.
    fn check_queues_max(&self, name: &QueueName) -> Result<(), Refusal> {
        let max = self.config.queues_max;
        // Counted only where it matters: there may be thousands of virtual hosts.
        if max == u64::MAX || self.vhosts.iter().map(|vhost| vhost.queues.len() as u64).sum::<u64>() < max {
            return Ok(());
        }
        let why = format!("cannot declare queue '{name}': queue limit in cluster ({max}) is reached");
        Err(Refusal::OverLimit { limit: Limit::Queues, why })
    }

    /// Ends a queue with its bindings: once, whoever asks. `may` looks under the lock.
    pub fn end_queue(
        &self,
        vhost: &Vhost,
        queue: &Arc<Queue>,
        may: impl FnOnce(&crate::queue::State) -> Result<(), Refusal>,
    ) -> Result<Option<Ended>, Refusal> {
        let consumers = {
            let mut state = queue.lock();
            if state.deleted {
                return Ok(None);
            }
            may(&state)?;
            state.deleted = true;
            let mut consumers = std::mem::take(&mut state.consumers);
            consumers.append(&mut state.browsers);
            state.drop_scans();
            consumers
        };
        vhost.queues.remove_if(&queue.name, |_, q| Arc::ptr_eq(q, queue));
        vhost.default_exchange.bump(queue.name.as_str().as_bytes());
        let gone = self.unbind_queue(vhost, queue.id.0);
        let (messages, end) = queue.end(&self.log);
        let mut records = Records::new();
        if queue.durable {
            push_queue_gone(&mut records, queue.id);
        }
        exchange_gone_record(&mut records, &gone);
        let logged = match end.slot {
            _ if records.is_empty() => None,
            Some(slot) => Some((slot, Filled { records, releases: end.releases, ..Filled::default() })),
            None => Some((self.log.reserve(), Filled { records, releases: end.releases, ..Filled::default() })),
        };
        self.queues.remove(&queue.id.0);
        self.checkpoint.queue_gone(queue);
        for consumer in consumers {
            consumer.outbox.signal(Signal::Ended { consumer: consumer.to, why: EndReason::QueueDeleted });
        }
        Ok(Some(Ended { messages, logged }))
    }

    /// Where no connection waits for the commit.
    pub fn end_and_log(&self, vhost: &Vhost, queue: &Arc<Queue>) {
        self.end_if(vhost, queue, |_| true);
    }

    fn end_if(&self, vhost: &Vhost, queue: &Arc<Queue>, over: impl FnOnce(&crate::queue::State) -> bool) {
        let may = |state: &crate::queue::State| if over(state) { Ok(()) } else { Err(Refusal::OwnerEnded) };
        if let Ok(Some(Ended { logged: Some((slot, filled)), .. })) = self.end_queue(vhost, queue, may) {
            slot.fill(filled);
        }
    }

    /// A queue lost a consumer: auto-delete when it was the last, and the clock of `expires` starts again.
    pub fn lost_consumer(&self, vhost: &Vhost, queue: &Arc<Queue>) {
        queue.life.used(self.now_ms());
        if queue.spec.auto_delete && queue.life.had_consumer.load(Ordering::Acquire) {
            self.end_if(vhost, queue, |state| state.consumers.is_empty());
        }
    }

    /// What an owner holds goes back to its places, except what `keep` says; where attempts count, this is one.
    fn give_back_all(&self, queue: &Arc<Queue>, owner: u64, keep: impl Fn(Seq) -> bool, follow: &mut Follow) {
        if !queue.spec.counts_attempts {
            return queue.give_back_all(owner, keep);
        }
        let Modified { requeued, gone } = queue.modify_all(owner, keep, &self.log, follow);
        self.checkpoint.queue(queue);
        if let Some((slot, counts)) = requeued {
            slot.fill(Filled { records: requeue_record(queue.id, &counts), ..Filled::default() });
        }
        follow.fills.extend(gone);
    }

    /// Writes down how far a queue's messages have been handed out, before some of them come back to it.
    fn log_handed(&self, queue: &Arc<Queue>) {
        let slot = queue.durable.then(|| self.log.reserve());
        let marks = queue.mark_handed();
        if let Some(slot) = slot.filter(|_| !marks.is_empty()) {
            let mut records = Records::new();
            push_handed(&mut records, queue.id, &marks);
            self.checkpoint.queue(queue);
            slot.fill(Filled { records, ..Filled::default() });
        }
    }

    /// Starts the clock of a queue that ends when nobody uses it.
    pub fn watch_expiry(&self, queue: &Queue) {
        if let Some(expires_ms) = queue.rules().expires_ms {
            let now = self.now_ms();
            queue.life.used(now);
            self.look_at_expiry(queue, now + expires_ms);
        }
    }

    fn look_at_expiry(&self, queue: &Queue, at_ms: u64) {
        queue.life.look_ms.store(at_ms, Ordering::Release);
        self.timers.add(at_ms, Timer::QueueExpiry { queue: queue.id.0, at_ms });
    }

    pub fn queue_may_expire(&self, id: u64, at_ms: u64) {
        let Some(queue) = self.queue(broker_api::QueueId(id)) else { return };
        let (Some(vhost), Some(expires_ms)) = (self.vhost_by_id(queue.vhost), queue.rules().expires_ms) else { return };
        if queue.life.look_ms.load(Ordering::Acquire) != at_ms {
            return;
        }
        let now = self.now_ms();
        let due = queue.life.used_ms.load(Ordering::Acquire) + expires_ms;
        let used = !queue.lock().consumers.is_empty();
        if !used && due <= now {
            // Its messages are dropped, not dead-lettered, as in RabbitMQ.
            return self.end_if(&vhost, &queue, |state| state.consumers.is_empty());
        }
        let at = if used { now + expires_ms } else { due };
        self.look_at_expiry(&queue, at.max(now + 1));
    }
}
