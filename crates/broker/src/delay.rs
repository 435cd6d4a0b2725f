//! Exchanges that hold messages back (`x-delayed-message`).
//!
//! ```text
//! publish ─► route: delayed? ─► the exchange's own queue ─► due ─► routed by its table ─► queues
//!                └ no ────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What has a delay goes into a queue that nobody sees and that has the exchange's id (see `queue::delays`): confirms, the log, checkpoints,
//! pages and restarts are those of any queue. When it is due it is routed, by the bindings of that moment, and moves as dead letters do:
//! one slot of the log takes it out here and puts it in there, so that a crash finds it in exactly one place. The reader thread does
//! this, because what waited long has to be read first.

use crate::core::{Core, Job, Shared};
use crate::dead_letter::How;
use crate::exchange::Exchange;
use crate::queue::{Due, Follow, Queue, State};
use crate::timers::Timer;
use broker_api::{QueueId, Seq};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// What a delaying exchange holds back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delayed {
    pub exchange: String,
    pub messages: u64,
    /// Keys and bodies.
    pub bytes: u64,
    /// When the first is due, in broker time (ms since 1970); `None` where there is none or nobody knows yet.
    pub next_ms: Option<u64>,
}

impl Core {
    /// What the delaying exchanges of a virtual host hold back, by name.
    pub fn delayed(&self, vhost: &str) -> Vec<Delayed> {
        let Some(vhost) = self.0.vhosts.get(vhost).map(|vhost| vhost.clone()) else { return Vec::new() };
        let mut all: Vec<Delayed> = vhost.exchanges.iter().filter_map(|exchange| listed(&exchange)).collect();
        all.sort_by(|a, b| a.exchange.cmp(&b.exchange));
        all
    }
}

fn listed(exchange: &Exchange) -> Option<Delayed> {
    let state = exchange.delays.get()?.lock();
    let next_ms = state.delays.as_ref().and_then(|delays| delays.first_ms()).filter(|ms| *ms > 0);
    Some(Delayed { exchange: exchange.name.to_string(), messages: state.ready + state.leased, bytes: state.bytes, next_ms })
}

impl Shared {
    /// Gives an exchange that delays the queue that it needs, the one that recovery found where there is one.
    pub fn hold_back_for(&self, vhost: u32, exchange: &Exchange) {
        if !exchange.is_delaying() {
            return;
        }
        let queue = self.queue(QueueId(exchange.id)).unwrap_or_else(|| {
            let (name, durable) = (exchange.name.as_str(), exchange.spec.durable);
            let queue = Queue::delaying(exchange.id, name, vhost, durable, self.config.delayed_max);
            self.queues.insert(exchange.id, queue.clone());
            queue
        });
        self.checkpoint.queue(&queue);
        if exchange.cron_header.is_some() {
            self.crons.store(true, Ordering::Relaxed);
        }
        // Once: the exchange is being made.
        let _ = exchange.delays.set(queue);
    }

    /// Queues whose exchange went just before a crash.
    pub fn drop_orphan_delays(&self) {
        let all: Vec<Arc<Queue>> = self.queues.iter().filter(|queue| queue.delays).map(|queue| queue.clone()).collect();
        for queue in all.iter().filter(|queue| self.exchange_of(queue).is_none()) {
            self.drop_queue(queue);
        }
    }

    /// The exchange that holds back what stands in here.
    pub fn exchange_of(&self, queue: &Queue) -> Option<Arc<Exchange>> {
        let found = self.vhost_by_id(queue.vhost)?.exchange(queue.name.as_str())?;
        (found.id == queue.id.0).then_some(found)
    }

    /// Sets the timer for what is due first. Under the queue's lock.
    pub fn arm_delays(&self, queue: &Queue, state: &mut State) {
        let Some(delays) = &mut state.delays else { return };
        let at = delays.first_ms();
        let alarm = at.map(|at| (at, self.timers.add(at, Timer::Due { queue: queue.id.0 })));
        if let Some(old) = delays.set_alarm(alarm) {
            self.timers.remove(old);
        }
    }

    /// The timer's thread only says so: messages may have to be read first. Of any other queue it is about what rests there.
    pub fn delays_are_due(&self, id: u64) {
        if let Some(queue) = self.queue(QueueId(id)) {
            if !queue.delays {
                return self.wake_rested(&queue);
            }
            // The reader thread ends only with the process.
            let _ = self.loader.send(Job::Due(queue));
        }
    }

    /// Sends on what is due, so much at a time that others are served in between.
    pub fn release_due(&self, queue: &Arc<Queue>) {
        let mut follow = Follow::default();
        let due = queue.take_due(self.now_ms(), &mut follow);
        self.fetch_due(queue, &follow);
        let mut next = Follow::default();
        for leaving in std::mem::take(&mut follow.leaving) {
            self.dead_letter(leaving, &mut next, &mut How::Own(&mut |slot, filled| slot.fill(filled)));
        }
        self.follow_up(next);
        match due {
            Due::Read(number) => {
                match self.log.read_page(queue.id, 0, number) {
                    Ok(entries) => queue.page_read(0, number, entries),
                    Err(error) => {
                        tracing::error!(exchange = %queue.name, number, %error, "a page of delayed messages cannot be read");
                        queue.skip_due(number);
                    }
                }
                self.delays_are_due(queue.id.0);
            }
            Due::More => self.delays_are_due(queue.id.0),
            Due::Nothing => self.arm_delays(queue, &mut queue.lock()),
        }
    }

    /// Reads all of them at once; what cannot be read so is tried again one by one.
    fn fetch_due(&self, queue: &Queue, follow: &Follow) {
        let wanted: Vec<(Seq, u64)> = follow
            .leaving
            .iter()
            .filter_map(|leaving| Some((leaving.seq, queue.peek_moving(leaving.seq)?)))
            .filter_map(|(seq, peek)| (peek.held.is_none() && peek.lsn != 0).then_some((seq, peek.lsn)))
            .collect();
        let places: Vec<u64> = wanted.iter().map(|(_, lsn)| *lsn).collect();
        if places.is_empty() {
            return;
        }
        if let Ok(found) = self.log.read_many(&places) {
            queue.put_back(wanted.into_iter().zip(found).map(|((seq, _), (held, head))| (seq, held, head)));
        }
    }
}
