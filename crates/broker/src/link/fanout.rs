//! A message for very many queues that keep it: its body is written once, and its references in slices that others are served between.
//!
//! ```text
//! Publish (body, first references) ─ Refs ─ Refs ─ ... ─ Refs, last     each in a slot of its own
//!                                                          └─ from here on consumers see it, and the publisher is confirmed
//! ```
//!
//! The reader thread works on one slice at a time. The publisher's connection waits meanwhile (what it sends is held), so that its order holds in
//! every queue; if it goes away, it finishes the rest itself. Recovery takes back what has no last part. No checkpoint begins while a fan-out
//! is half made: its references before the checkpoint could not be taken back.

use super::publish::RouteRun;
use super::stage::{part_record, targets_between, Append, Bundle, PartOf, Rejected, Target, Written, VOLUME};
use super::Link;
use crate::core::{Job, Shared};
use crate::dead_letter::How;
use crate::outbox::{Outbox, Work};
use crate::queue::{Follow, Held, Queue};
use ahash::AHashMap;
use broker_api::{Batch, Event, Refusal, Serial};
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Neighbouring messages that one fan-out takes together, at most.
pub(super) const TOGETHER: u32 = 64;
/// References in a slice of one message. The log stands still behind a slice until it is made, so its length is what others wait for.
const SLICE: usize = 256;
/// Places of the route that are looked at in one go.
const LOOKED_AT: usize = 4096;
/// Queues that are pumped in one go once it shows.
const PUMPS: usize = 1024;

pub(crate) struct FanOut {
    slices: Mutex<Option<Slices>>,
    shown: AtomicBool,
    /// Of its last part, once it shows.
    ticket: AtomicU64,
    /// Queues that wait to hand it out.
    waiting: Mutex<AHashMap<u64, Arc<Queue>>>,
}

struct Slices {
    id: u64,
    batch: Arc<Batch>,
    run: RouteRun,
    /// How much of the route was looked at. All of it is, before the first slice is made: a body's record says how many references there are.
    looked_at: usize,
    /// Those that are logged come first; `logged` of them are.
    targets: Vec<Target>,
    logged: usize,
    /// The others, until all are known.
    unlogged: Vec<Target>,
    next: usize,
    per: usize,
    outbox: Arc<Outbox>,
    /// The batch as entries hold it, and where its bodies' records are in their slot.
    held: Option<Arc<Held>>,
    bodies: Vec<u32>,
    refused: Vec<Rejected>,
    last_ticket: u64,
    opened: bool,
}

impl FanOut {
    pub fn is_shown(&self) -> bool {
        self.shown.load(Ordering::Acquire)
    }

    pub fn ticket(&self) -> u64 {
        self.ticket.load(Ordering::Acquire)
    }

    /// A queue that meets it before it shows is pumped when it does.
    pub fn shown_or_wait(&self, queue: &Arc<Queue>) -> bool {
        if self.is_shown() {
            return true;
        }
        let mut waiting = self.waiting.lock();
        if !self.is_shown() {
            waiting.insert(queue.id.0, queue.clone());
        }
        self.is_shown()
    }

    /// Makes one slice. `false`: there is nothing left to do.
    pub fn step(self: &Arc<FanOut>, core: &Shared) -> bool {
        let mut slices = self.slices.lock();
        let Some(mine) = slices.as_mut() else { return false };
        if !mine.opened && !core.fans.open() {
            // A checkpoint wants to begin and waits for those that are under way.
            std::thread::yield_now();
            return true;
        }
        mine.opened = true;
        if mine.looked_at < mine.run.route.width() {
            mine.look();
            return true;
        }
        let mut follow = Follow::default();
        mine.slice(self, core, &mut follow);
        if mine.next == mine.targets.len() {
            if let Some(mine) = slices.take() {
                drop(slices);
                self.show(mine, core, &mut follow);
            }
        }
        core.follow_up(follow);
        true
    }

    fn show(&self, mine: Slices, core: &Shared, follow: &mut Follow) {
        self.ticket.store(mine.last_ticket, Ordering::Release);
        self.shown.store(true, Ordering::Release);
        core.fans.close();
        let waiting: Vec<Arc<Queue>> = std::mem::take(&mut *self.waiting.lock()).into_values().collect();
        for some in waiting.chunks(PUMPS) {
            // The reader thread ends only with the process.
            let _ = core.loader.send(Job::Pump(some.to_vec()));
        }
        for (_, index, queue) in mine.refused.iter().filter(|(_, _, queue)| queue.rules().dead_letter_refused) {
            core.dead_letter_refused(queue, &mine.batch, *index, follow, &mut How::Own(&mut |slot, filled| slot.fill(filled)));
        }
        let mut refused: Vec<u64> = mine.refused.iter().map(|(serial, _, _)| *serial).collect();
        refused.sort_unstable();
        refused.dedup();
        for serial in refused.into_iter().map(Serial) {
            mine.outbox.push(Event::Refused { first: serial, last: serial, why: Refusal::QueueFull });
        }
        mine.outbox.work(Work::Resume);
    }
}

impl Slices {
    /// Touches a queue for each place, which takes as long as making a slice does.
    fn look(&mut self) {
        let width = self.run.route.width();
        let to = width.min(self.looked_at + LOOKED_AT);
        for mut target in targets_between(&self.run, self.looked_at, to) {
            match &mut target.ordinal {
                Some(ordinal) => {
                    *ordinal = (0, (self.targets.len() % self.per) as u16);
                    self.targets.push(target);
                }
                None => self.unlogged.push(target),
            }
        }
        self.looked_at = to;
        if to == width {
            self.logged = self.targets.len();
            self.targets.append(&mut self.unlogged);
        }
    }

    fn slice(&mut self, fan: &Arc<FanOut>, core: &Shared, follow: &mut Follow) {
        let from = self.next;
        let end = if from < self.logged { self.logged } else { self.targets.len() };
        let to = end.min(from + self.per);
        self.next = to;
        let mut bundle = Bundle::default();
        let logged = from < self.logged;
        let written = if logged { self.write(&mut bundle, fan, from, to) } else { Written::default() };
        // As late as can be, for what comes after it in the log waits for it; but before anything changes that a checkpoint would find.
        let slot = logged.then(|| core.log.reserve());
        let held = self.held.get_or_insert_with(|| Held::new(self.batch.clone(), Some(bundle.place.clone()), Some(fan.clone())));
        let now_ticks = core.now_ticks();
        for target in &self.targets[from..to] {
            let queue = &target.queue;
            let mut state = queue.lock();
            Append { queue, target, held, written: &written, bundle: &mut bundle, hidden: None, refused: &mut self.refused }
                .run(&self.run, &mut state, &core.log, follow);
            core.arm(queue, &mut state);
            queue.pump_locked(&mut state, &core.log, now_ticks, follow);
            drop(state);
            core.checkpoint.queue(queue);
        }
        if let Some(slot) = slot {
            self.last_ticket = slot.ticket().0;
            slot.fill(bundle.filled());
        }
    }

    /// The records of one slice; every `VOLUME` references a body stands before them again.
    fn write(&mut self, bundle: &mut Bundle, fan: &Arc<FanOut>, from: usize, to: usize) -> Written {
        let starts = from % VOLUME == 0;
        if starts {
            self.bodies.clear();
            self.held = Some(Held::new(self.batch.clone(), Some(bundle.place.clone()), Some(fan.clone())));
        }
        let part: Vec<&Target> = self.targets[from..to].iter().collect();
        let pins = starts.then(|| (self.logged - from).min(VOLUME) as u32);
        let mut written = Written { base: from as u32, parts: 1, ..Written::default() };
        for n in 0..self.run.count {
            let index = self.run.first + n;
            let of = PartOf { fan: Some((self.id + u64::from(n), to == self.logged)), first: (from % VOLUME) as u32, pins };
            let (record, references) = part_record(&mut bundle.records, &self.batch, index, &part, of, None);
            if starts {
                self.bodies.push(record);
            }
            written.at.push((self.bodies[n as usize], references));
        }
        written
    }
}

impl Link {
    /// Hands a run to the reader thread; its direct deliveries leave at once.
    pub(super) fn fan_out(&mut self, batch: &Arc<Batch>, run: RouteRun) {
        self.core.deliver_direct(batch, &run);
        self.logs_all |= !run.durable;
        // A power of two, so that bodies are written again at the border of a slice.
        let per = (SLICE / run.count.next_power_of_two() as usize).max(16);
        let id = self.core.ids(u64::from(run.count));
        let slices = Slices {
            id,
            batch: batch.clone(),
            run,
            looked_at: 0,
            targets: Vec::new(),
            logged: 0,
            unlogged: Vec::new(),
            next: 0,
            per,
            outbox: self.outbox.clone(),
            held: None,
            bodies: Vec::new(),
            refused: Vec::new(),
            last_ticket: 0,
            opened: false,
        };
        let fan = Arc::new(FanOut {
            slices: Mutex::new(Some(slices)),
            shown: AtomicBool::new(false),
            ticket: AtomicU64::new(0),
            waiting: Mutex::default(),
        });
        self.fan = Some(fan.clone());
        // The reader thread ends only with the process.
        let _ = self.core.loader.send(Job::Fan(fan));
    }
}

/// How many fan-outs are half made, and a checkpoint that waits for none to be.
#[derive(Default)]
pub(crate) struct Fans {
    state: Mutex<(u32, bool)>,
    none: Condvar,
}

impl Fans {
    /// `false`: not now.
    fn open(&self) -> bool {
        let mut state = self.state.lock();
        if state.1 {
            return false;
        }
        state.0 += 1;
        true
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.0 -= 1;
        if state.0 == 0 {
            self.none.notify_all();
        }
    }

    /// Is there a moment without one? New ones do not begin while this waits.
    pub fn wait_for_none(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        state.1 = true;
        if state.0 > 0 && !at_most.is_zero() {
            self.none.wait_while_for(&mut state, |(open, _)| *open > 0, at_most);
        }
        state.1 = false;
        state.0 == 0
    }
}
