//! Where the core leaves what a connection has to be told: a swap buffer with one waker.
//!
//! Only the push that finds the outbox empty wakes the task. Replies and completions that wait for the commit point stand in `pending`, in
//! one order with their tickets; the commit thread releases them by [`journal::Committed`]. The lock is a leaf: nothing is locked under it.

use crate::auth::Principal;
use crate::link::Sending;
use crate::queue::Queue;
use crate::session::Session;
use arc_swap::ArcSwapOption;
use broker_api::{Batch, ConsumerIx, DeliverTo, Delivery, Event, EventBatch, QueueId, Refusal, Reply, Serial, Side, Signal, Token};
use journal::{Committed, Ticket};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Deliveries that may wait for one connection, in bytes, before queues keep theirs and at-most-once messages are dropped.
pub(crate) const OUTBOX_BYTES: usize = 8 << 20;
/// From this many events on the buffers change hands.
const SWAP_FROM: usize = 64;
/// What a delivery weighs beside its key and body.
const DELIVERY_WEIGHT: usize = 48;

/// Done by the connection's own task when it swaps, because it takes locks that the commit thread must not take.
pub(crate) enum Work {
    /// The command that made this consumer has been answered: it may receive now.
    Activate(Arc<Session>),
    /// The subscription has been answered: what is retained follows.
    Retained(Arc<Session>, Box<Sending>),
    /// There may be room for more of what is retained.
    MoreRetained,
    /// The command that made this consumer has been answered: it may receive now.
    Start(Arc<Queue>, ConsumerIx),
    /// Publishes that were held may go on.
    Resume,
    /// This transaction has passed the commit point: what it did shows before its answer is read.
    Reveal(Arc<crate::link::Commit>),
}

enum Held {
    Done(Serial),
    Reply(Token, Box<Result<Reply, Refusal>>, Option<Work>),
}

#[derive(Default)]
struct State {
    events: EventBatch,
    pending: VecDeque<(Ticket, Held)>,
    work: Vec<Work>,
    /// Queues that found no room here.
    stalled: Vec<Arc<Queue>>,
    /// The highest ticket that has called back here.
    committed: Option<u64>,
    waker: Option<Waker>,
    closed: bool,
    /// Weight of deliveries in `events`, and of those swapped out but not yet written.
    queued: usize,
    handed: usize,
}

impl State {
    fn has_something(&self) -> bool {
        !self.events.is_empty() || !self.work.is_empty()
    }
    fn room(&self) -> bool {
        self.queued + self.handed < OUTBOX_BYTES
    }
    fn release(&mut self, held: Held) {
        match held {
            Held::Done(through) => self.done(through),
            Held::Reply(token, reply, work) => {
                self.events.events.push(Event::Reply(token, reply));
                self.work.extend(work);
            }
        }
    }
    fn done(&mut self, through: Serial) {
        if let Some(Event::Done { through: last }) = self.events.events.last_mut() {
            *last = through;
            return;
        }
        self.events.events.push(Event::Done { through });
    }
}

pub(crate) struct Outbox {
    pub id: u64,
    /// Who the connection is, once logged in: here, where a reload of the users finds it.
    pub principal: ArcSwapOption<Principal>,
    state: Mutex<State>,
}

impl Outbox {
    pub fn new(id: u64) -> Arc<Outbox> {
        Arc::new(Outbox { id, principal: ArcSwapOption::empty(), state: Mutex::new(State::default()) })
    }

    /// Runs `change` and wakes the task if it may be asleep.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let waker = if state.has_something() { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Neighbouring heads that no queue keeps; `false` = no room, nothing was taken.
    pub fn direct(&self, to: ConsumerIx, batch: &Arc<Batch>, first: u32, count: u32, side: Option<Arc<Side>>, flags: u8) -> bool {
        self.with(|state| {
            if state.closed || !state.room() {
                return false;
            }
            let heads = &batch.heads[first as usize..(first + count) as usize];
            state.queued += heads.iter().map(|h| (h.key.len + h.body.len) as usize + DELIVERY_WEIGHT).sum::<usize>();
            // A run that goes on where the last one ended is one run.
            if let Some(Event::Direct { to: last, batch: b, first: f, count: n, side: s, flags: fl }) = state.events.events.last_mut() {
                if *last == to && Arc::ptr_eq(b, batch) && *f + *n == first && *fl == flags && s.is_none() && side.is_none() {
                    *n += count;
                    return true;
                }
            }
            state.events.events.push(Event::Direct { to, batch: batch.clone(), first, count, side, flags });
            true
        })
    }

    /// May a queue hand over more now? If not, it is remembered and pumped when room comes back.
    pub fn room_for(&self, queue: &Arc<Queue>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        if state.room() {
            return true;
        }
        if !state.stalled.iter().any(|q| Arc::ptr_eq(q, queue)) {
            state.stalled.push(queue.clone());
        }
        false
    }

    /// Is there no room now?
    pub fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.closed || !state.room()
    }

    /// Deliveries of one queue, all in one batch of messages. Called under that queue's lock, so that they keep its order.
    pub fn run(&self, to: DeliverTo, queue: QueueId, batch: &Arc<Batch>, deliveries: impl Iterator<Item = Delivery>) {
        self.with(|state| {
            let start = state.events.deliveries.len() as u32;
            state.events.deliveries.extend(deliveries);
            let count = state.events.deliveries.len() as u32 - start;
            let fresh = &state.events.deliveries[start as usize..];
            let weight = |d: &Delivery| {
                let head = &batch.heads[d.index as usize];
                (head.key.len + head.body.len) as usize + DELIVERY_WEIGHT
            };
            state.queued += fresh.iter().map(weight).sum::<usize>();
            if let Some(Event::Run { to: t, queue: q, batch: b, start: s, count: n }) = state.events.events.last_mut() {
                if *t == to && *q == queue && Arc::ptr_eq(b, batch) && *s + *n == start {
                    *n += count;
                    return;
                }
            }
            state.events.events.push(Event::Run { to, queue, batch: batch.clone(), start, count });
        })
    }

    pub fn push(&self, event: Event) {
        self.with(|state| state.events.events.push(event));
    }

    pub fn signal(&self, signal: Signal) {
        self.push(Event::Signal(signal));
    }

    pub fn work(&self, work: Work) {
        self.with(|state| state.work.push(work));
    }

    /// A ticket must have this outbox as its callback. Everything up to `serial` is done once it has passed the commit point (`None`: as soon as what is pending before it has).
    pub fn done_at(&self, ticket: Option<Ticket>, serial: Serial) {
        self.at(ticket, Held::Done(serial));
    }

    pub fn reply_at(&self, ticket: Option<Ticket>, token: Token, reply: Result<Reply, Refusal>, work: Option<Work>) {
        self.at(ticket, Held::Reply(token, Box::new(reply), work));
    }

    fn at(&self, ticket: Option<Ticket>, held: Held) {
        self.with(|state| match (ticket.filter(|t| state.committed.is_none_or(|c| t.0 > c)), state.pending.back()) {
            (None, None) => state.release(held),
            (None, Some((last, _))) => {
                let last = *last;
                state.pending.push_back((last, held));
            }
            (Some(ticket), _) => state.pending.push_back((ticket, held)),
        });
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.has_something() {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            slot => *slot = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Moves the events into `into` (empty) and answers the work to do.
    pub fn swap(&self, into: &mut EventBatch) -> Vec<Work> {
        let mut state = self.state.lock();
        if state.events.events.len() > SWAP_FROM {
            std::mem::swap(&mut state.events, into);
        } else {
            // A few events are moved over, so that a quiet connection does not end up with the buffers of a busy one. It keeps none: there
            // are thousands of them, and a busy one pays for a buffer once per swap.
            into.events.append(&mut std::mem::take(&mut state.events.events));
            into.deliveries.append(&mut state.events.deliveries);
        }
        state.handed += std::mem::take(&mut state.queued);
        std::mem::take(&mut state.work)
    }

    /// `bytes` have reached the socket; answers the queues that may go on.
    pub fn written(&self, bytes: usize) -> Vec<Arc<Queue>> {
        let mut state = self.state.lock();
        state.handed = state.handed.saturating_sub(bytes);
        if state.stalled.is_empty() || state.queued + state.handed > OUTBOX_BYTES / 2 {
            return Vec::new();
        }
        std::mem::take(&mut state.stalled)
    }

    /// Events that wait to be taken.
    pub fn events(&self) -> usize {
        self.state.lock().events.events.len()
    }

    /// Bytes of deliveries that have not reached the socket.
    pub fn weight(&self) -> usize {
        let state = self.state.lock();
        state.queued + state.handed
    }

    pub fn close(&self) {
        let mut state = self.state.lock();
        *state = State { closed: true, ..State::default() };
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

impl Committed for Outbox {
    /// `value` is the ticket that has passed the commit point; everything pending up to it goes out.
    fn committed(&self, value: u64) {
        self.with(|state| {
            state.committed = Some(value);
            while state.pending.front().is_some_and(|(ticket, _)| ticket.0 <= value) {
                if let Some((_, held)) = state.pending.pop_front() {
                    if !state.closed {
                        state.release(held);
                    }
                }
            }
        });
    }
}
