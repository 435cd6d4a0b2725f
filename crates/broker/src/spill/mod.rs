//! Backlogs of messages that are not logged, beyond what memory should hold of them.
//!
//! What is logged can leave memory when the log has it. What is not (delivery mode 1, QoS 1 to a session that ends with its connection) would stay there
//! until it is consumed. So above a share of memory (`transient_memory`) a thread of its own writes the longest such backlogs to files, all but
//! what their consumers need next:
//!
//! ```text
//!      head                                                                back
//!   ┌──────────┬───────────────────────────┬────────────────────────┬───────────┐
//!   │ AHEAD    │ before: the next to go    │ spilled                │ new: goes │
//!   │ in memory│ when the back was not     │ entry.lsn = its place  │ first     │
//!   │          │ enough, from the right    │ entry.held = None      │           │
//!   └──────────┴───────────────────────────┴────────────────────────┴───────────┘
//! ```
//!
//! The thread notes a run under the queue's lock, writes without any lock, and then lets go of those entries that still are as they were. A queue
//! reads such an entry back like one that only the log has (`queue::paging`, `Log::read_many`). When it leaves the queue, its file is told.
//!
//! Nothing here can fail the store: who cannot write keeps what he has in memory, and `memory_high` is the bound again.

mod files;
mod spiller;

pub(crate) use files::{is_spilled, name_of};
pub(crate) use spiller::{spill_backlogs, Spiller};

use crate::outbox::{Outbox, Work};
use crate::queue::{Entry, Queue, State};
use broker_api::{Batch, Counted};
use files::Files;
use journal::storage::Storage;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A backlog is known to the spiller from this size on, and then to this accuracy.
const REPORT: u64 = 16 << 10;
const PRUNE_FROM: usize = 1024;

/// Where the messages of one batch stand in spill files, by head; 0 = they do not.
#[derive(Default)]
pub(crate) struct Spilled(OnceLock<Box<[AtomicU64]>>);

impl Spilled {
    fn place(&self, head: u32) -> Option<u64> {
        let place = self.0.get()?.get(head as usize)?.load(Ordering::Relaxed);
        (place != 0).then_some(place)
    }

    pub fn note(&self, heads: usize, head: u32, place: u64) {
        let places = self.0.get_or_init(|| (0..heads).map(|_| AtomicU64::new(0)).collect());
        if let Some(at) = places.get(head as usize) {
            at.store(place, Ordering::Relaxed);
        }
    }
}

/// What spilling has done and holds, for metrics and tests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SpillStats {
    pub files: u64,
    /// References to messages in them.
    pub messages: u64,
    /// Since the start: messages and bytes written, messages read back, messages that could not be and are lost.
    pub written: u64,
    pub bytes_written: u64,
    pub read: u64,
    pub lost: u64,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    bytes_written: AtomicU64,
    read: AtomicU64,
    lost: AtomicU64,
}

/// Settings of the spiller.
pub(crate) struct Limits {
    /// Bytes of messages in memory above which backlogs go; 0: never.
    pub share: u64,
    /// Where publishers wait: half of it is reason enough, whatever holds the memory.
    pub high: u64,
    pub file_bytes: u64,
    /// What stays free on the disk.
    pub keep_free: u64,
}

pub(crate) struct Spill {
    files: Files,
    limits: Limits,
    /// Bytes in memory, those of the references to spilled messages among them.
    held: &'static AtomicU64,
    references: AtomicU64,
    /// What the backlogs on the list weigh in memory alone, as far as they have said.
    total: AtomicU64,
    list: Mutex<Vec<Arc<Queue>>>,
    /// So long a list is looked through for what is none any more.
    prune_at: AtomicUsize,
    counts: Counts,
    /// It writes, and what it writes becomes less in memory.
    works: AtomicBool,
    /// More comes than it writes: publishers wait for it.
    behind: AtomicBool,
    waiting: Mutex<Vec<Arc<Outbox>>>,
    woken: AtomicBool,
    stopped: AtomicBool,
    sleeping: Mutex<()>,
    wake: Condvar,
}

impl Spill {
    pub fn new(storage: Arc<dyn Storage>, limits: Limits, held: &'static AtomicU64) -> Arc<Spill> {
        let share = limits.share.min(limits.high / 2);
        Arc::new(Spill {
            files: Files::new(storage),
            limits: Limits { share, ..limits },
            held,
            references: AtomicU64::new(0),
            total: AtomicU64::new(0),
            list: Mutex::default(),
            prune_at: AtomicUsize::new(PRUNE_FROM),
            counts: Counts::default(),
            works: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            waiting: Mutex::default(),
            woken: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            sleeping: Mutex::default(),
            wake: Condvar::new(),
        })
    }

    /// A backlog has grown or shrunk. Called with the queue locked.
    pub fn report(&self, queue: &Arc<Queue>, state: &mut State) {
        if state.unspilled.abs_diff(state.reported) < REPORT || self.limits.share == 0 {
            return;
        }
        if !state.listed_backlog {
            state.listed_backlog = true;
            self.list.lock().push(queue.clone());
        }
        self.account(state);
        if self.is_over() || self.is_list_long() {
            let late = self.limits.share.saturating_add(self.limits.share / 2);
            if self.works.load(Ordering::Relaxed) && self.exceeds(late) {
                self.behind.store(true, Ordering::Release);
            }
            // Behind that, so that a step of the spiller follows which sees who waits.
            self.wake();
        }
    }

    /// Must publishers wait until more has been written? Never where nothing can be written: then memory has a bound of its own.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// The connection hears by `Work::Resume` when it may go on.
    pub fn when_it_has_caught_up(&self, outbox: &Arc<Outbox>) {
        self.waiting.lock().push(outbox.clone());
        // It may have, before this one stood on the list.
        if !self.is_behind() {
            self.let_go_on();
        }
    }

    fn let_go_on(&self) {
        self.behind.store(false, Ordering::Release);
        for outbox in std::mem::take(&mut *self.waiting.lock()) {
            outbox.work(Work::Resume);
        }
    }

    /// After each step of the spiller: whether it writes, and whether that is enough for publishers to go on.
    fn after_step(&self, works: bool) {
        self.works.store(works, Ordering::Release);
        if self.is_behind() && (!works || !self.exceeds(self.limits.share)) {
            self.let_go_on();
        }
    }

    fn is_list_long(&self) -> bool {
        self.list.lock().len() >= self.prune_at.load(Ordering::Relaxed)
    }

    pub fn account(&self, state: &mut State) {
        self.total.fetch_add(state.unspilled.wrapping_sub(state.reported), Ordering::Relaxed);
        state.reported = state.unspilled;
    }

    /// Messages in memory: what is counted, without the references to spilled ones, which no spilling makes fewer.
    fn in_memory(&self) -> u64 {
        self.held.load(Ordering::Relaxed).saturating_sub(self.references.load(Ordering::Relaxed))
    }

    fn exceeds(&self, share: u64) -> bool {
        let (memory, total) = (self.in_memory(), self.total.load(Ordering::Relaxed));
        // A few messages may hold the blocks of many: what memory is short of counts then, not what they weigh.
        let short = memory > (self.limits.high / 2).max(share);
        total > 0 && memory > share && (total > share || short)
    }

    fn is_over(&self) -> bool {
        self.limits.share > 0 && self.exceeds(self.limits.share)
    }

    /// Once it begins it goes on to somewhat less, so that it is not done message by message.
    fn is_enough(&self) -> bool {
        !self.exceeds(self.limits.share - self.limits.share / 8)
    }

    /// How much there is beyond what is enough.
    fn excess(&self) -> u64 {
        let goal = self.limits.share - self.limits.share / 8;
        self.in_memory().max(self.total.load(Ordering::Relaxed)).saturating_sub(goal)
    }

    /// An entry with this place is gone.
    pub fn release(&self, place: u64) {
        self.count_references(1, false);
        if self.files.release(place) {
            self.wake();
        }
    }

    /// References to spilled messages stay in memory: they count there, so that a backlog of them has a bound too.
    fn count_references(&self, n: u64, more: bool) {
        let bytes = n * std::mem::size_of::<Entry>() as u64;
        for counter in [self.held, &self.references] {
            match more {
                true => counter.fetch_add(bytes, Ordering::Relaxed),
                false => counter.fetch_sub(bytes, Ordering::Relaxed),
            };
        }
    }

    /// See [`Files::read`].
    pub fn read(&self, places: &[u64], into: &mut Vec<u8>) -> Result<Vec<(usize, usize)>, (u64, String)> {
        let found = self.files.read(places, into)?;
        self.counts.read.fetch_add(places.len() as u64, Ordering::Relaxed);
        Ok(found)
    }

    /// A batch that was read back counts as one that came.
    pub fn count(&self, batch: &mut Batch) {
        batch.counted = Some(Counted::new(batch.footprint() as u64, self.held));
    }

    pub fn count_lost(&self) {
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// There is something for the thread to look at.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let _guard = self.sleeping.lock();
            self.wake.notify_one();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// `false`: it is over.
    fn wait(&self, at_most: Duration) -> bool {
        let mut guard = self.sleeping.lock();
        if !self.woken.load(Ordering::Acquire) && !self.is_stopped() {
            self.wake.wait_for(&mut guard, at_most);
        }
        self.woken.swap(false, Ordering::AcqRel);
        !self.is_stopped()
    }

    /// A clean stop: the files go.
    pub fn close(&self) {
        self.stopped.store(true, Ordering::Release);
        {
            let _guard = self.sleeping.lock();
            self.wake.notify_one();
        }
        self.files.close();
    }

    pub fn stats(&self) -> SpillStats {
        let (files, messages) = self.files.count();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpillStats {
            files,
            messages,
            written: get(&self.counts.written),
            bytes_written: get(&self.counts.bytes_written),
            read: get(&self.counts.read),
            lost: get(&self.counts.lost),
        }
    }
}
