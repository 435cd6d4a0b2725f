//! The handle, and what the state machine above implements.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{mpsc, Arc, OnceLock, Weak};
use std::thread;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::catalog::Catalog;
use crate::clock::BrokerClock;
use crate::commit::{Committer, Step, Waiting};
use crate::follow::Follower;
use crate::live::{Audit, Liveness};
use crate::maintain::{Inherited, Maintainer};
use crate::meta::Meta;
use crate::pages::Pages;
use crate::record::{known_level, FIRST_LEVEL, KIND_EPOCH_START, KIND_SET_LEVEL};
use crate::ring::Ring;
use crate::segment::Ids;
use crate::spare::Spares;
use crate::storage::{Lock, Storage};
use crate::{ApplyError, CloseError, Committed, Config, Copy, Failure, Filled, Held, Lsn, ObjectError, ObjectKey, ObjectPlace, OpenError};
use crate::{RecordRef, Records, Release, Slot, SnapshotError, Ticket};

/// What the state machine above does at start.
pub trait Apply {
    /// Every object of the checkpoint, in key order. [`ObjectRef::read`] may be put off or left out.
    fn load(&mut self, key: ObjectKey, object: ObjectRef<'_>) -> Result<(), ApplyError>;

    /// Once, between the last object and the first record: where [`Apply::apply`] reads objects that `load` left out.
    fn objects(&mut self, _objects: Arc<dyn Objects>) {}

    /// Every record from the checkpoint's begin, in order, [`KIND_EPOCH_START`] and the journal's other own kinds included. Idempotent:
    /// objects may already contain it. Says which references it released, as it did when it was first written.
    fn apply(&mut self, lsn: Lsn, record: RecordRef<'_>, releases: &mut Vec<Release>) -> Result<(), ApplyError>;
}

/// The checkpoint's objects, by key, for a state machine that put off reading them.
pub trait Objects: Send + Sync {
    /// The object replaces `into`.
    fn read(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError>;
    /// Those of a class with this first part, in order.
    fn keys(&self, class: u8, a: u64) -> Vec<ObjectKey>;
}

/// An object of the checkpoint, not read yet.
pub struct ObjectRef<'a> {
    pub(crate) place: ObjectPlace,
    pub(crate) read: &'a mut dyn FnMut(&mut Vec<u8>) -> Result<(), ObjectError>,
}

impl ObjectRef<'_> {
    pub fn place(&self) -> ObjectPlace {
        self.place
    }

    /// Appends nothing, replaces: `into` holds exactly the object afterwards.
    pub fn read(&mut self, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        into.clear();
        (self.read)(into)
    }
}

/// What the maintenance thread asks when it writes a checkpoint.
pub trait Snapshot: Send + Sync {
    /// Puts every object that changed since it was last put, copying one at a time (fuzzy), and deletes those that are gone.
    fn snapshot(&self, sink: &mut dyn ObjectSink) -> Result<(), SnapshotError>;
}

pub trait ObjectSink {
    fn put(&mut self, key: ObjectKey, bytes: &[u8]) -> Result<(), ObjectError>;
    /// Nothing happens where there is none.
    fn delete(&mut self, key: ObjectKey);
}

/// Told of what others must act on. Called from the journal's threads; must not block.
pub trait Hooks: Send + Sync {
    /// Publishers that were held may try again.
    fn resumed(&self) {}
    /// Publishers are held from now on.
    fn held(&self, _why: Held) {}
    /// Nothing is confirmed any more. The server gives up its role and exits with 75.
    fn failed(&self, _failure: &Failure) {}
}

/// Told by the commit thread how far this node's log has come, so that it can be sent to a peer while it is synced here. Must not block.
pub trait Progress: Send + Sync {
    /// Everything below is in the file, and not yet synced.
    fn written(&self, lsn: Lsn);
    /// Everything below is synced here.
    fn synced(&self, _lsn: Lsn) {}
    /// The commit point has moved.
    fn committed(&self, _lsn: Lsn) {}
}

/// The state of the disk as publishers should see it.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub held: Option<Held>,
    pub staged_bytes: u64,
    pub free_bytes: Option<u64>,
}

/// Counters since start, and sizes now.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    pub batches: u64,
    pub records: u64,
    pub bytes: u64,
    pub syncs: u64,
    pub sync_ns: u64,
    pub markers: u64,
    pub rotations: u64,
    pub checkpoints: u64,
    pub checkpoint_bytes: u64,
    /// Time that checkpoints took from their begin until their root was durable, and the longest one.
    pub checkpoint_ns: u64,
    pub checkpoint_longest_ns: u64,
    pub evacuated_ranges: u64,
    pub evacuated_bytes: u64,
    pub segments_removed: u64,
    pub cold_removed: u64,
    pub hot_segments: u64,
    pub cold_files: u64,
    pub page_files: u64,
    pub objects: u64,
    pub live_references: u64,
    pub recovered_batches: u64,
    pub recovered_records: u64,
    pub recovered_tail_bytes: u64,
    pub stalls: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub batches: AtomicU64,
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_ns: AtomicU64,
    pub markers: AtomicU64,
    pub rotations: AtomicU64,
    pub checkpoints: AtomicU64,
    pub checkpoint_bytes: AtomicU64,
    pub checkpoint_ns: AtomicU64,
    pub checkpoint_longest_ns: AtomicU64,
    pub evacuated_ranges: AtomicU64,
    pub evacuated_bytes: AtomicU64,
    pub segments_removed: AtomicU64,
    pub cold_removed: AtomicU64,
    pub recovered_batches: AtomicU64,
    pub recovered_records: AtomicU64,
    pub recovered_tail_bytes: AtomicU64,
    pub stalls: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// A position of the log where everything below is synced: where a checkpoint may say that redo begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tip {
    pub lsn: u64,
    pub chain: u32,
    /// The segment that holds it, by its first LSN, and the offset of the frame that will stand there.
    pub segment: u64,
    pub offset: u64,
    /// Of that segment: a file of the same name made by a later start has another.
    pub salt: u32,
    pub wall_ms: u64,
}

/// What the threads share.
pub(crate) struct Core {
    pub storage: Arc<dyn Storage>,
    pub config: Config,
    pub ids: Ids,
    pub boot_id: u64,
    pub was_clean: AtomicBool,
    /// Of this node's reign, or the one that it has promised to follow.
    pub epoch: AtomicU64,
    /// Of the batches that the state machine has got to. Of a store that follows it is behind the promise while it catches up.
    pub log_epoch: AtomicU64,
    pub ring: Arc<Ring>,
    pub catalog: RwLock<Catalog>,
    pub live: Mutex<Liveness>,
    pub clock: BrokerClock,
    pub level: AtomicU8,
    /// Everything below is in the file, synced or not.
    pub written: AtomicU64,
    pub tip: Mutex<Tip>,
    /// Tickets below are committed.
    pub committed_ticket: AtomicU64,
    pub committed_lsn: AtomicU64,
    /// Everything below is synced here.
    pub synced: AtomicU64,
    /// Up to where others let this node commit: `u64::MAX` where nobody else is asked.
    pub permitted: AtomicU64,
    /// Batches that are written and not committed, in order.
    pub waiting: Mutex<VecDeque<Waiting>>,
    pub progress: OnceLock<Arc<dyn Progress>>,
    /// Who waits for a copy of the store.
    pub copies: Mutex<Vec<mpsc::Sender<std::io::Result<Copy>>>>,
    pub hooks: OnceLock<Arc<dyn Hooks>>,
    pub failure: OnceLock<Failure>,
    pub counters: Counters,
    pub kick: Kick,
    pub spares: Spares,
    pub pages: Arc<Pages>,
    pub _lock: Box<dyn Lock>,
}

/// Wakes the maintenance thread.
#[derive(Default)]
pub(crate) struct Kick {
    pub wanted: Mutex<bool>,
    pub wake: Condvar,
    pub closing: AtomicBool,
}

impl Kick {
    pub fn now(&self) {
        *self.wanted.lock() = true;
        self.wake.notify_one();
    }
}

impl Core {
    /// The first failure counts; there is no way back from it.
    pub fn fail(&self, doing: &str, error: &std::io::Error) -> Failure {
        let failure = Failure { doing: doing.to_string(), error: error.to_string() };
        if self.failure.set(failure.clone()).is_ok() {
            tracing::error!(doing, %error, "the journal has failed; nothing is confirmed any more");
            self.ring.set_failed();
            if let Some(hooks) = self.hooks.get() {
                hooks.failed(&failure);
            }
        }
        failure
    }

    pub fn check(&self) -> Result<(), Failure> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    pub fn set_disk_full(&self, full: bool) {
        if !self.ring.set_disk_full(full) {
            return;
        }
        if full {
            tracing::warn!("the disk is full: publishers are held, consumers go on in the reserve");
        } else {
            tracing::info!("the disk has room again: publishers go on");
        }
        if let Some(hooks) = self.hooks.get() {
            if full {
                hooks.held(Held::DiskFull);
            } else {
                hooks.resumed();
            }
        }
    }
}

/// A level that is in force once it is committed.
struct Raise(Weak<Core>);

impl Committed for Raise {
    fn committed(&self, level: u64) {
        if let Some(core) = self.0.upgrade() {
            core.level.store(level as u8, Ordering::Relaxed);
        }
    }
}

pub struct Journal {
    pub(crate) core: Arc<Core>,
    /// Nobody follows this log, so nobody has to understand it but this program.
    alone: bool,
    /// The highest level that was asked for.
    raised: AtomicU8,
    committer: Mutex<Option<Committer>>,
    maintainer: Mutex<Option<Maintainer>>,
    inherited: Mutex<Option<Inherited>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Journal {
    /// Recovers what `storage` holds into `apply`, or makes a new store. Nothing is confirmed before [`Journal::start`].
    ///
    /// The last call of `apply` is this reign's own EpochStart, which `start` writes: the application skips its sequence numbers for it
    /// exactly as for those of former reigns.
    pub fn open(storage: Arc<dyn Storage>, config: Config, apply: &mut dyn Apply) -> Result<Journal, OpenError> {
        let follower = Follower::recover(storage, config, apply)?;
        let epoch = follower.receiver.promised() + 1;
        let mut journal = follower.lead(epoch, Lsn(u64::MAX), apply)?;
        journal.alone = true;
        Ok(journal)
    }

    pub(crate) fn new(core: Arc<Core>, committer: Committer, inherited: Inherited) -> Journal {
        Journal {
            core,
            alone: false,
            raised: AtomicU8::new(0),
            committer: Mutex::new(Some(committer)),
            maintainer: Mutex::default(),
            inherited: Mutex::new(Some(inherited)),
            threads: Mutex::default(),
        }
    }

    /// Who wants to hear how far the log has come. Before [`Journal::start`]; the first one counts.
    pub fn set_progress(&self, progress: Arc<dyn Progress>) {
        self.core.progress.set(progress).ok();
    }

    /// Others have this log synced up to `lsn`: the commit point may move there as far as this node has it too. `u64::MAX`: nobody else is
    /// asked. It may be lowered: what has been committed stays so.
    pub fn permit(&self, lsn: Lsn) {
        self.core.permitted.store(lsn.0, Ordering::Release);
        self.core.advance();
    }

    /// Asks the maintenance thread for a copy of the store. It makes a checkpoint before, if there is none.
    pub fn copy(&self) -> mpsc::Receiver<std::io::Result<Copy>> {
        let (sender, receiver) = mpsc::channel();
        self.core.copies.lock().push(sender);
        self.core.kick.now();
        receiver
    }

    /// Everything below is in this node's file; and synced there.
    pub fn written_and_synced(&self) -> (Lsn, Lsn) {
        (Lsn(self.core.written.load(Ordering::Acquire)), Lsn(self.core.synced.load(Ordering::Acquire)))
    }

    /// Who wants to hear of held publishers and of failure. Before [`Journal::start`]; the first one counts.
    pub fn set_hooks(&self, hooks: Arc<dyn Hooks>) {
        self.core.hooks.set(hooks).ok();
    }

    /// Begins this node's reign: writes EpochStart, and starts the commit and the maintenance thread.
    pub fn start(&self, snapshot: Arc<dyn Snapshot>) {
        self.begin_reign(snapshot);
        let Some(mut committer) = self.committer.lock().take() else { return };
        let commit = thread::Builder::new().name("journal-commit".into()).spawn(move || committer.run());
        let mut maintainer = self.maintainer.lock().take();
        let maintain = thread::Builder::new().name("journal-maint".into()).spawn(move || {
            if let Some(maintainer) = &mut maintainer {
                maintainer.run();
            }
        });
        let threads = [commit, maintain].map(|thread| thread.expect("the system gives us two threads at start"));
        self.threads.lock().extend(threads);
    }

    /// The same without threads: a simulation drives [`Journal::step_commit`] itself.
    pub fn start_stepped(&self, snapshot: Arc<dyn Snapshot>) {
        self.begin_reign(snapshot);
    }

    fn begin_reign(&self, snapshot: Arc<dyn Snapshot>) {
        if let Some(inherited) = self.inherited.lock().take() {
            *self.maintainer.lock() = Some(Maintainer::new(self.core.clone(), snapshot, inherited));
        }
        let mut records = Records::new();
        records.push(KIND_EPOCH_START, 1, 0, 0, |out| out.extend_from_slice(&epoch_fields(self.epoch(), self.core.boot_id)));
        if self.level() == 0 {
            records.push(KIND_SET_LEVEL, FIRST_LEVEL, 0, 0, |out| out.push(FIRST_LEVEL));
            self.core.level.store(FIRST_LEVEL, Ordering::Relaxed);
        }
        self.core.ring.reserve().fill(Filled { records, ..Filled::default() });
        if self.alone {
            self.raise_level(known_level());
        }
    }

    /// Once this is committed, records up to `level` may follow. To be called when every node that has this log, or is to have it, understands
    /// them: there is no way back.
    pub fn raise_level(&self, level: u8) {
        assert!(level <= known_level(), "level {level} is unknown here");
        if level <= self.level().max(self.raised.fetch_max(level, Ordering::Relaxed)) {
            return;
        }
        tracing::info!(level, "the level of the log rises: earlier versions cannot open this store any more");
        let mut records = Records::new();
        // Of that level itself, so that whoever does not understand it takes nothing of the batch.
        records.push(KIND_SET_LEVEL, level, 0, 0, |out| out.push(level));
        let waiter: Arc<dyn Committed> = Arc::new(Raise(Arc::downgrade(&self.core)));
        self.core.ring.reserve().fill(Filled { records, done: Some((waiter, u64::from(level))), ..Filled::default() });
    }

    /// One turn of the commit thread: take, write, sync, tell. For simulations.
    pub fn step_commit(&self) -> bool {
        self.committer.lock().as_mut().is_some_and(|committer| committer.step() == Step::Worked)
    }

    /// One turn of the maintenance thread.
    pub fn step_maintain(&self) -> bool {
        self.maintainer.lock().as_mut().is_some_and(Maintainer::step)
    }

    /// The next place in the order. For settlements and everything that must not be held.
    pub fn reserve(&self) -> Slot {
        self.core.ring.reserve()
    }

    /// The same for a publish, which may have to wait.
    pub fn reserve_publish(&self) -> Result<Slot, Held> {
        self.core.ring.reserve_publish()
    }

    /// Writes an object to the page files and makes it the current one of its key: the next checkpoint refers to it. Not synced here.
    pub fn put_object(&self, key: ObjectKey, bytes: &[u8]) -> Result<ObjectPlace, ObjectError> {
        own_class(key)?;
        self.core.pages.put(&self.core, key, bytes)
    }

    /// The current object of `key` replaces `into`. By key, because the journal moves objects when page files grow sparse.
    pub fn get_object(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        self.core.pages.get(key, into)
    }

    /// The keys of current objects of a class with this first part, in order.
    pub fn object_keys(&self, class: u8, a: u64) -> Vec<ObjectKey> {
        self.core.pages.keys(class, a)
    }

    /// Nothing happens where there is none.
    pub fn delete_object(&self, key: ObjectKey) {
        self.core.pages.delete(key);
    }

    /// Why a publish would have to wait now. Cheap.
    pub fn held(&self) -> Option<Held> {
        self.core.ring.held()
    }

    /// Tickets below this one are committed.
    pub fn committed(&self) -> Ticket {
        Ticket(self.core.committed_ticket.load(Ordering::Acquire))
    }

    pub fn committed_lsn(&self) -> Lsn {
        Lsn(self.core.committed_lsn.load(Ordering::Acquire))
    }

    /// Compares the references that somebody holds with those that are counted, for tests and tools.
    pub fn audit(&self, held: &[Release]) -> Audit {
        let settled = self.core.ring.next_ticket() == self.core.committed_ticket.load(Ordering::Acquire);
        Audit { settled, ..self.core.live.lock().audit(held) }
    }

    pub fn failed(&self) -> Option<Failure> {
        self.core.failure.get().cloned()
    }

    /// Which stores can follow this one, or be followed by it.
    pub fn cluster(&self) -> u128 {
        self.core.ids.cluster
    }

    pub fn boot_id(&self) -> u64 {
        self.core.boot_id
    }

    pub fn epoch(&self) -> u64 {
        self.core.epoch.load(Ordering::Relaxed)
    }

    /// Whether the reign before this one ended by [`Journal::close`]. A new store counts as clean.
    pub fn was_clean(&self) -> bool {
        self.core.was_clean.load(Ordering::Relaxed)
    }

    /// The highest level of records that may be written now.
    pub fn level(&self) -> u8 {
        self.core.level.load(Ordering::Relaxed)
    }

    pub fn broker_time_ms(&self) -> u64 {
        self.core.clock.now_ms(self.core.config.clock.as_ref())
    }

    pub fn space(&self) -> Space {
        Space { held: self.core.ring.held(), staged_bytes: self.core.ring.staged(), free_bytes: self.core.storage.free_bytes().ok() }
    }

    pub fn stats(&self) -> Stats {
        let core = &self.core;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &core.counters;
        Stats {
            batches: get(&counters.batches),
            records: get(&counters.records),
            bytes: get(&counters.bytes),
            syncs: get(&counters.syncs),
            sync_ns: get(&counters.sync_ns),
            markers: get(&counters.markers),
            rotations: get(&counters.rotations),
            checkpoints: get(&counters.checkpoints),
            checkpoint_bytes: get(&counters.checkpoint_bytes),
            checkpoint_ns: get(&counters.checkpoint_ns),
            checkpoint_longest_ns: get(&counters.checkpoint_longest_ns),
            evacuated_ranges: get(&counters.evacuated_ranges),
            evacuated_bytes: get(&counters.evacuated_bytes),
            segments_removed: get(&counters.segments_removed),
            cold_removed: get(&counters.cold_removed),
            recovered_batches: get(&counters.recovered_batches),
            recovered_records: get(&counters.recovered_records),
            recovered_tail_bytes: get(&counters.recovered_tail_bytes),
            stalls: get(&counters.stalls),
            live_references: core.live.lock().live(),
            hot_segments: core.catalog.read().hot_count(),
            cold_files: core.catalog.read().cold.len() as u64,
            page_files: core.pages.sizes().0,
            objects: core.pages.sizes().1,
        }
    }

    /// Clean stop: commits what is staged, writes the final marker, marks the store clean. Slots still open must have been filled or dropped.
    pub fn close(&self) -> Result<(), CloseError> {
        self.core.kick.closing.store(true, Ordering::Relaxed);
        self.core.kick.now();
        self.core.ring.close();
        for thread in self.threads.lock().drain(..) {
            thread.join().ok();
        }
        if let Some(mut committer) = self.committer.lock().take() {
            committer.finish();
        }
        // Where no thread had it: it holds the state machine, which holds this journal.
        let maintainer = self.maintainer.lock().take();
        drop(maintainer);
        self.core.check()?;
        let storage = self.core.storage.as_ref();
        let marked = Meta::read(storage).map_err(|error| std::io::Error::other(error.to_string())).and_then(|meta| match meta {
            Some(mut meta) if !meta.clean => {
                meta.clean = true;
                meta.update(storage)
            }
            _ => Ok(()),
        });
        Ok(marked.map_err(|error| self.core.fail("marking the store clean", &error))?)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.threads.lock().is_empty() {
            self.close().ok();
        }
    }
}

fn own_class(key: ObjectKey) -> Result<(), ObjectError> {
    if key.class >= ObjectKey::OWN_CLASS {
        return Err(ObjectError::Reserved);
    }
    Ok(())
}

pub(crate) fn epoch_fields(epoch: u64, boot_id: u64) -> [u8; 16] {
    let mut fields = [0; 16];
    fields[..8].copy_from_slice(&epoch.to_le_bytes());
    fields[8..].copy_from_slice(&boot_id.to_le_bytes());
    fields
}
