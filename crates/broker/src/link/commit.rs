//! Commit and rollback.
//!
//! ```text
//! settlements ─┐                                     ┌─ Returned, Refused (full queues)
//! publishes ───┼─► one slot of the log ─► commit ────┼─ messages show in their queues (Hidden)
//! dead letters ┘   (all of it or nothing)  point     └─ Reply
//! ```
//!
//! Everything stands in memory before the slot is filled, as always; but what a transaction publishes or dead-letters is hidden in its
//! queues until the commit point. Then the reader thread shows it, or the connection's own task, whoever comes first: the task does so
//! before it reads the reply, so a client that was answered finds everything.
//!
//! The slot is reserved before the queues are visited, unlike a settlement's own. That is as good: what is settled here is leased to this
//! connection since before the slot was reserved, so nobody else's record about it can come between.

use super::control::{done, Answer};
use super::publish::{Retains, RouteRun};
use super::scope::Transaction;
use super::stage::{logs_all, prepare, Bundle};
use super::Link;
use crate::core::{Counters, Job, Shared};
use crate::dead_letter::How;
use crate::mutants::{self, Mutant};
use crate::outbox::{Outbox, Work};
use crate::queue::{Follow, Gone, Queue, State};
use crate::store::{push_edits, push_requeue, settle_filled};
use broker_api::{Batch, Limit, Outcome, OwnerIx, QueueId, Refusal, Reply, Seq, Serial, StateEdit, TxIx, HEAD_MANDATORY, HEAD_RETAIN};
use journal::Committed;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// A slot must stay below the journal's 64 MiB; what is left is for the envelopes.
const RECORDS_MAX: usize = 60 << 20;

/// Deliveries that a transaction settles, exactly those that its owner holds.
struct Settling {
    queue: Arc<Queue>,
    runs: Vec<(Seq, u32)>,
    owner: u64,
    outcome: Outcome,
}

/// What is decided before anything changes.
struct Plan {
    batch: Arc<Batch>,
    runs: Vec<RouteRun>,
    states: Vec<StateEdit>,
    settling: Vec<Settling>,
    /// Edits that come with settlements.
    edits: Vec<StateEdit>,
    retains: Vec<Retains>,
    /// Mandatory publishes that reach nobody.
    returned: Vec<(Serial, u32)>,
    publishes: u64,
}

impl Link {
    pub(super) fn rollback(&mut self, owner: OwnerIx, tx: TxIx) -> Answer {
        self.transactions.take(tx, owner)?;
        done(Reply::Ok)
    }

    pub(super) fn commit(&mut self, owner: OwnerIx, tx: TxIx) -> Answer {
        let Some(mut transaction) = self.transactions.take(tx, owner)? else { return done(Reply::Ok) };
        if let Some(why) = transaction.failed.take() {
            return Err(why);
        }
        if self.core.log.failed() {
            return Err(Refusal::StoreFailed);
        }
        let mut plan = self.plan_commit(*transaction)?;
        if plan.log_bytes() > RECORDS_MAX {
            return Err(Refusal::LimitReached(Limit::Transaction));
        }
        let mut bundle = Bundle::default();
        let core = self.core.clone();
        let _under_way = core.digests.under_way();
        let slot = self.core.log.reserve();
        let mut follow = Follow::default();
        let mut hidden = Hidden { owner: self.core.id(), ..Hidden::default() };
        // Writers of a retained topic wait for each other over store and queues; of several topics, in one order.
        let vhost = self.vhost.clone();
        let _order: Vec<_> = vhost.stripes(plan.retains.iter().map(|r| &*r.key)).into_iter().map(Mutex::lock).collect();
        let edits = self.claim_edits(&plan.batch, &mut plan.runs, &plan.states);
        let work = prepare(&self.core, &mut bundle, &plan.batch, &plan.runs, &edits);
        self.logs_all |= logs_all(&work);
        for (serial, index) in &plan.returned {
            self.returned(&plan.batch, *index, *serial);
        }
        for topic in &plan.retains {
            bundle.retain(vhost.id, &plan.batch, topic);
            topic.store(&vhost, &plan.batch);
        }
        self.trace_publishes(&plan.batch, &plan.runs);
        self.settle_edits(&plan.edits, &mut bundle);
        for settling in &plan.settling {
            self.settle_in(settling, &mut bundle, &mut hidden, &mut follow);
        }
        let refused = self.append_all(&plan.batch, &work, &mut bundle, Some(&mut hidden), &mut follow);
        for (_, index, queue) in refused.iter().filter(|(_, _, queue)| queue.rules().dead_letter_refused) {
            let mut how = How::Shared(&mut bundle, &mut hidden);
            self.core.dead_letter_refused(queue, &plan.batch, *index, &mut follow, &mut how);
        }
        self.say_full(refused);
        drop(work);
        plan.runs.into_iter().for_each(|run| hidden.direct(plan.batch.clone(), run));
        Counters::add(&self.core.counters.messages_received, plan.publishes);
        let commit = Commit::new(&self.core, &self.outbox, hidden);
        let ticket = slot.ticket();
        self.last_ticket = Some(ticket);
        let mut filled = bundle.filled();
        filled.done = Some((commit.clone(), ticket.0));
        slot.fill(filled);
        self.core.follow_up(follow);
        Ok((Reply::Ok, Some(ticket), Some(Work::Reveal(commit))))
    }

    fn plan_commit(&mut self, transaction: Transaction) -> Result<Plan, Refusal> {
        let Transaction { mut batch, publishes, settles, states, .. } = transaction;
        batch.arrived_ms = self.core.now_ms();
        self.time_all(&mut batch);
        self.core.memory.count(&mut batch);
        let batch = Arc::new(batch);
        let (mut runs, mut returned, mut retains) = (Vec::new(), Vec::new(), Vec::new());
        for (first, count, serial) in &publishes {
            for index in *first..*first + *count {
                let serial = Serial(serial.0 + u64::from(index - first));
                let head = &batch.heads[index as usize];
                // Before it is routed: what is retained has an order by then.
                if head.has(HEAD_RETAIN) {
                    retains.push(self.may_retain(&batch, index)?);
                }
                // An exchange that went since the publish leads nowhere, as one without bindings does.
                let nowhere = self.gather(&batch, index, serial, &mut runs).unwrap_or(head.has(HEAD_MANDATORY));
                if nowhere {
                    returned.push((serial, index));
                }
            }
        }
        let mut settling = Vec::new();
        for settle in &settles {
            let (Some(owner), Some(queue)) = (self.lease_owner(settle.owner), self.queue(settle.queue)) else { continue };
            let (runs, _) = queue.held_by(settle.first, settle.count, owner);
            settling.push(Settling { queue, runs, owner, outcome: settle.outcome });
        }
        let edits = settles.iter().filter_map(|s| states.get(s.state.checked_sub(1)? as usize).cloned()).collect();
        let publishes = publishes.iter().map(|(_, count, _)| u64::from(*count)).sum();
        Ok(Plan { batch, runs, states, settling, edits, retains, returned, publishes })
    }

    fn settle_edits(&mut self, edits: &[StateEdit], bundle: &mut Bundle) {
        let made: Vec<_> = edits.iter().filter_map(|edit| Some((self.claim(edit)?, edit))).collect();
        let logged: Vec<(u64, &StateEdit)> = made.iter().filter(|(s, _)| s.is_durable()).map(|(s, edit)| (s.id, *edit)).collect();
        if !logged.is_empty() {
            push_edits(&mut bundle.records, &logged);
        }
    }

    /// Settles by the transaction's records. The slots that queues reserve for this stay void.
    fn settle_in(&self, settling: &Settling, bundle: &mut Bundle, hidden: &mut Hidden, follow: &mut Follow) {
        let Settling { queue, runs, owner, outcome } = settling;
        let (owner, log) = (*owner, &self.core.log);
        let mut left = Follow::default();
        for (first, count) in runs {
            let gone = match outcome {
                Outcome::Accepted => queue.settle(*first, *count, owner, Gone::Accepted, log, &mut left),
                Outcome::Rejected => queue.settle(*first, *count, owner, Gone::Rejected, log, &mut left),
                Outcome::Released => {
                    queue.give_back(*first, *count, owner, false);
                    left.pump.push(queue.clone());
                    None
                }
                Outcome::Modified => {
                    let modified = queue.modify(*first, *count, owner, log, &mut left);
                    if let Some((_, counts)) = modified.requeued {
                        push_requeue(&mut bundle.records, queue.id, &counts);
                    }
                    left.pump.push(queue.clone());
                    modified.gone
                }
            };
            match gone {
                Some(gone) if mutants::active(Mutant::TornCommit) => {
                    settle_filled(gone, &[]).into_iter().for_each(|(slot, filled)| mutants::fill_late(slot, filled));
                }
                Some(gone) => bundle.gone(gone),
                None => {}
            }
        }
        for leaving in std::mem::take(&mut left.leaving) {
            self.core.dead_letter(leaving, follow, &mut How::Shared(bundle, hidden));
        }
        self.core.checkpoint.queue(queue);
        follow.fills.append(&mut left.fills);
        follow.load.append(&mut left.load);
        follow.look.append(&mut left.look);
        follow.pump.append(&mut left.pump);
    }
}

impl Plan {
    /// Bytes that it may take in the log, at most.
    fn log_bytes(&self) -> usize {
        let of = |s: &Settling| match s.outcome {
            Outcome::Rejected | Outcome::Modified if s.queue.rules().dead_letter_exchange.is_some() => {
                s.runs.iter().map(|(first, count)| s.queue.held_by(*first, *count, s.owner).1).sum()
            }
            _ => s.runs.iter().map(|(_, count)| 64 + 10 * *count as usize).sum::<usize>(),
        };
        let retained = self.retains.iter().map(|r| self.batch.message_bytes(r.index) + 128).sum::<usize>();
        let edits = (self.states.len() + self.edits.len()) * 128;
        self.runs.iter().map(|run| run.log_bytes(&self.batch)).sum::<usize>()
            + self.settling.iter().map(of).sum::<usize>()
            + retained
            + edits
    }
}

/// What a transaction put somewhere and nobody sees yet.
#[derive(Default)]
pub(crate) struct Hidden {
    owner: u64,
    /// By queue: one visit shows all of it.
    queues: BTreeMap<QueueId, InQueue>,
    /// For those who are there when it shows: at most once, no queue keeps it.
    direct: Vec<(Arc<Batch>, RouteRun)>,
}

struct InQueue {
    queue: Arc<Queue>,
    runs: Vec<(Seq, u32)>,
}

impl Hidden {
    pub fn hide(&mut self, queue: &Arc<Queue>, state: &mut State, seq: Seq) {
        state.hide(seq, self.owner);
        let runs = &mut self.queues.entry(queue.id).or_insert_with(|| InQueue { queue: queue.clone(), runs: Vec::new() }).runs;
        match runs.last_mut() {
            Some((first, count)) if first.plus(u64::from(*count)) == seq => *count += 1,
            _ => runs.push((seq, 1)),
        }
    }

    pub fn direct(&mut self, batch: Arc<Batch>, run: RouteRun) {
        if run.has_direct() {
            self.direct.push((batch, run));
        }
    }
}

/// A committed transaction, until what it did has been shown.
pub(crate) struct Commit {
    this: Weak<Commit>,
    core: Weak<Shared>,
    outbox: Arc<Outbox>,
    hidden: Mutex<Option<Hidden>>,
}

impl Commit {
    fn new(core: &Arc<Shared>, outbox: &Arc<Outbox>, hidden: Hidden) -> Arc<Commit> {
        let (core, outbox, hidden) = (Arc::downgrade(core), outbox.clone(), Mutex::new(Some(hidden)));
        Arc::new_cyclic(|this| Commit { this: this.clone(), core, outbox, hidden })
    }

    /// Once, and who comes second waits until it is done.
    pub fn reveal(&self, core: &Shared, follow: &mut Follow) {
        let mut hidden = self.hidden.lock();
        let Some(Hidden { owner, queues, direct }) = hidden.take() else { return };
        for (batch, run) in &direct {
            core.deliver_direct(batch, run);
        }
        for InQueue { queue, runs } in queues.into_values() {
            queue.reveal(&runs, owner, &core.log, core.now_ticks(), follow);
            if queue.delays {
                core.arm(&queue, &mut queue.lock());
            }
            core.checkpoint.queue(&queue);
        }
    }
}

impl Committed for Commit {
    fn committed(&self, value: u64) {
        // Locks of queues are not for the commit thread. The reader does it even if the connection is gone.
        if let (Some(core), Some(this)) = (self.core.upgrade(), self.this.upgrade()) {
            let _ = core.loader.send(Job::Reveal(this));
        }
        self.outbox.committed(value);
    }
}
