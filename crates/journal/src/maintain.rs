//! The maintenance thread: room ahead, checkpoints, evacuation, and the removal of what nobody needs.
//!
//! Nothing here acts on anything above the commit point: liveness only counts what is committed, and a root is written only when
//! the commit point has passed everything its objects may contain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Home;
use crate::checkpoint::{self, range_key, Kept, Root};
use crate::cold::{self, ColdFile};
use crate::evacuate;
use crate::journal::{count, Core, Snapshot, Tip};
use crate::mutants::{self, Mutant};
use crate::pages::Table;
use crate::segment::{self, Segment};
use crate::{Copy, ObjectError, ObjectKey, ObjectSink};

/// While the disk is full, how often room is looked for.
const FULL_RETRY_NS: u64 = 20_000_000;
/// While a checkpoint waits for the commit point.
const COMMIT_POLL: Duration = Duration::from_millis(2);
/// A failed checkpoint (a full disk, a snapshot that could not be taken) is tried again after this.
const RETRY_NS: u64 = 1_000_000_000;

pub(crate) struct Maintainer {
    core: Arc<Core>,
    snapshot: Arc<dyn Snapshot>,
    /// At most two, oldest first.
    roots: Vec<Kept>,
    next_root: u64,
    next_cold: u64,
    pending: Option<Pending>,
    /// Evacuated segments that a reader still holds.
    retired: Vec<Arc<Segment>>,
    last_checkpoint_ns: u64,
    retry_after_ns: u64,
}

/// What recovery hands over.
#[derive(Default)]
pub(crate) struct Inherited {
    pub roots: Vec<Kept>,
    pub next_root: u64,
    pub next_cold: u64,
    pub retired: Vec<Arc<Segment>>,
}

/// Ranges by their first LSN, with their encoded state.
type Changed = Vec<(u64, Vec<u8>)>;

/// Objects are copied; the root waits for the commit point.
struct Pending {
    begin: Tip,
    end_ticket: u64,
    table: Table,
    begun_ns: u64,
}

impl Maintainer {
    pub fn new(core: Arc<Core>, snapshot: Arc<dyn Snapshot>, inherited: Inherited) -> Maintainer {
        let now = core.config.clock.boot_ns();
        Maintainer {
            snapshot,
            roots: inherited.roots,
            next_root: inherited.next_root,
            next_cold: inherited.next_cold,
            pending: None,
            retired: inherited.retired,
            last_checkpoint_ns: now,
            retry_after_ns: 0,
            core,
        }
    }

    /// For who goes on with another snapshot.
    pub fn into_inherited(self) -> Inherited {
        Inherited { roots: self.roots, next_root: self.next_root, next_cold: self.next_cold, retired: self.retired }
    }

    pub fn run(&mut self) {
        while !self.core.kick.closing.load(Ordering::Relaxed) && self.core.failure.get().is_none() {
            self.step();
            let mut wanted = self.core.kick.wanted.lock();
            if !*wanted {
                self.core.kick.wake.wait_for(&mut wanted, self.nap());
            }
            *wanted = false;
        }
    }

    fn nap(&self) -> Duration {
        if self.pending.is_some() {
            COMMIT_POLL
        } else if self.core.ring.disk_full() {
            Duration::from_nanos(FULL_RETRY_NS)
        } else {
            self.core.config.checkpoint_interval.clamp(Duration::from_millis(50), Duration::from_secs(1))
        }
    }

    /// One round. `true` when it did something. Errors are in the journal's failure, or are tried again.
    pub fn step(&mut self) -> bool {
        if self.core.failure.get().is_some() {
            return false;
        }
        let mut worked = self.make_room();
        if self.pending.is_none() && self.checkpoint_due() {
            worked |= self.begin_checkpoint();
        }
        if self.pending.as_ref().is_some_and(|pending| self.may_finish(pending)) {
            worked |= self.finish_checkpoint();
        }
        worked |= self.evacuate();
        worked |= self.sweep();
        worked |= self.copies();
        worked
    }

    /// Between two removals, so that everything the newest checkpoint needs is there.
    fn copies(&mut self) -> bool {
        let Some(root) = self.roots.last() else { return false };
        let waiting = std::mem::take(&mut *self.core.copies.lock());
        for asked in &waiting {
            // Who asked may have gone.
            asked.send(Copy::of(&self.core, root.number, &root.page_files)).ok();
        }
        !waiting.is_empty()
    }

    /// Keeps the reserve and the spare full; holds publishers while that is impossible.
    fn make_room(&mut self) -> bool {
        let core = &self.core;
        let filled = match core.spares.refill(core) {
            Ok(filled) => filled,
            Err(error) => {
                core.fail("allocating a spare file", &error);
                return false;
            }
        };
        let enough = core.config.min_free_bytes == 0 || core.storage.free_bytes().is_ok_and(|free| free >= core.config.min_free_bytes);
        core.set_disk_full(!(filled && enough));
        false
    }

    fn checkpoint_due(&self) -> bool {
        let now = self.core.config.clock.boot_ns();
        if now < self.retry_after_ns {
            return false;
        }
        let tip = self.core.tip.lock().lsn;
        let newest = self.roots.last().map_or(0, |root| root.begin);
        let moved = tip > newest;
        let aged = now.saturating_sub(self.last_checkpoint_ns) >= self.core.config.checkpoint_interval.as_nanos() as u64;
        if self.roots.is_empty() && moved && !self.core.copies.lock().is_empty() {
            return true;
        }
        let full = self.core.ring.disk_full() && now.saturating_sub(self.last_checkpoint_ns) >= FULL_RETRY_NS;
        tip - newest >= self.core.config.checkpoint_bytes || (moved && aged) || (full && (moved || self.older_begin() < newest))
    }

    /// Redo of every kept root begins here or later: what the log needs no more lies below.
    fn older_begin(&self) -> u64 {
        if self.roots.len() < 2 {
            return 0;
        }
        self.roots[0].begin
    }

    fn begin_checkpoint(&mut self) -> bool {
        let begun_ns = self.core.config.clock.boot_ns();
        let begin = *self.core.tip.lock();
        let mut sink = Sink { core: &self.core };
        if let Err(error) = self.snapshot.snapshot(&mut sink) {
            return self.give_up(&error.to_string());
        }
        let table = self.core.pages.table();
        let end_ticket = self.core.ring.next_ticket();
        self.pending = Some(Pending { begin, end_ticket, table, begun_ns });
        true
    }

    fn give_up(&mut self, why: &str) -> bool {
        tracing::warn!(why, "the checkpoint was given up and is tried again");
        self.pending = None;
        self.retry_after_ns = self.core.config.clock.boot_ns() + RETRY_NS;
        false
    }

    fn may_finish(&self, pending: &Pending) -> bool {
        let passed = self.core.committed_ticket.load(Ordering::Acquire) >= pending.end_ticket;
        passed || mutants::active(Mutant::CkptBeforeCommit)
    }

    fn finish_checkpoint(&mut self) -> bool {
        let Some(pending) = self.pending.take() else { return false };
        match self.write_root(pending) {
            Ok(()) => true,
            Err(error) => {
                // What was taken off as clean may not be in a root.
                self.core.live.lock().ranges.values_mut().for_each(|range| range.dirty = true);
                self.give_up(&error.to_string())
            }
        }
    }

    fn write_root(&mut self, mut pending: Pending) -> Result<(), ObjectError> {
        let core = self.core.clone();
        let (counted, ranges, changed) = self.take_liveness();
        debug_assert!(counted >= pending.begin.lsn, "{counted} counted, redo from {}", pending.begin.lsn);
        let stale: Vec<ObjectKey> = pending.table.keys().filter(|key| key.class == ObjectKey::OWN_CLASS).copied().collect();
        for key in stale.into_iter().filter(|key| ranges.binary_search(&key.a).is_err()) {
            pending.table.remove(&key);
            core.pages.delete(key);
        }
        for (first, bytes) in changed {
            let place = core.pages.put(&core, range_key(first), &bytes)?;
            pending.table.insert(range_key(first), place);
        }
        core.pages.sync(&core)?;
        let root = Root {
            number: self.next_root,
            begin: pending.begin,
            counted,
            epoch: core.log_epoch.load(Ordering::Relaxed),
            level: core.level.load(Ordering::Relaxed),
            ranges,
            objects: pending.table,
        };
        let bytes = root.write(&core)?;
        count(&core.counters.checkpoint_bytes, bytes);
        count(&core.counters.checkpoints, 1);
        self.next_root += 1;
        self.roots.push(root.kept());
        self.last_checkpoint_ns = core.config.clock.boot_ns();
        let took_ns = self.last_checkpoint_ns.saturating_sub(pending.begun_ns);
        count(&core.counters.checkpoint_ns, took_ns);
        core.counters.checkpoint_longest_ns.fetch_max(took_ns, Ordering::Relaxed);
        self.drop_old_roots()?;
        core.pages.compact_one(&core)?;
        Ok(())
    }

    /// The state of the ranges as of the commit point: position, names, and the encoded state of those that changed.
    fn take_liveness(&self) -> (u64, Vec<u64>, Changed) {
        let mut live = self.core.live.lock();
        let mut changed = Vec::new();
        // One that begins above may still be cut off, and a root must not name what never was.
        let counted = live.applied;
        for (first, range) in live.ranges.range_mut(..=counted) {
            if std::mem::take(&mut range.dirty) {
                changed.push((*first, range.encode()));
            }
        }
        (counted, live.ranges.range(..=counted).map(|(first, _)| *first).collect(), changed)
    }

    fn drop_old_roots(&mut self) -> Result<(), ObjectError> {
        let core = &self.core;
        let failed = |error: std::io::Error| ObjectError::Failed(core.fail("removing an old checkpoint", &error));
        while self.roots.len() > 2 {
            self.roots.remove(0);
        }
        let kept: BTreeSet<u64> = self.roots.iter().map(|root| root.number).collect();
        let mut removed = false;
        for name in core.storage.list("x").map_err(failed)? {
            if checkpoint::parse_name(&name).is_some_and(|number| !kept.contains(&number)) {
                core.storage.remove(&format!("x/{name}")).map_err(failed)?;
                removed = true;
            }
        }
        if removed {
            mutants::sync_dir(core.storage.as_ref(), "x").map_err(failed)?;
        }
        let page_files: BTreeSet<u64> = self.roots.iter().flat_map(|root| root.page_files.iter().copied()).collect();
        core.pages.clean(core, &page_files).map_err(failed)?;
        Ok(())
    }

    fn evacuate(&mut self) -> bool {
        let sources = evacuate::choose(&self.core, self.older_begin());
        if sources.is_empty() {
            return false;
        }
        match evacuate::run(&self.core, self.next_cold, &sources) {
            Ok(retired) => {
                self.next_cold += 1;
                self.retired.extend(retired);
                true
            }
            Err(_) => {
                self.core.storage.remove(cold::TEMPORARY).ok();
                false
            }
        }
    }

    /// Removes dead ranges, the files that no range needs, and retired segments that nobody holds.
    fn sweep(&mut self) -> bool {
        let older_begin = self.older_begin();
        let mut cold_gone: BTreeMap<u64, Arc<ColdFile>> = BTreeMap::new();
        {
            let mut live = self.core.live.lock();
            let mut catalog = self.core.catalog.write();
            let dead: Vec<u64> = (live.ranges.iter())
                .filter(|(_, range)| range.live == 0 && range.end.is_some_and(|end| end <= older_begin && end <= live.applied))
                .map(|(first, _)| *first)
                .collect();
            for first in dead {
                live.ranges.remove(&first);
                match catalog.ranges.remove(&first).map(|entry| entry.home) {
                    Some(Home::Hot(segment)) => self.retired.push(segment),
                    Some(Home::Cold(_)) | None => {}
                }
            }
            catalog.take_unused(&mut cold_gone);
        }
        let mut worked = false;
        for (number, _) in cold_gone {
            worked |= self.unlink(&cold::file_name(number), "c", &self.core.counters.cold_removed);
        }
        for segment in std::mem::take(&mut self.retired) {
            if Arc::strong_count(&segment) > 1 {
                self.retired.push(segment);
                continue;
            }
            worked |= self.unlink(&segment::file_name(segment.head.first_lsn), "j", &self.core.counters.segments_removed);
        }
        worked
    }

    fn unlink(&self, name: &str, dir: &str, counter: &std::sync::atomic::AtomicU64) -> bool {
        let core = &self.core;
        if let Err(error) = core.storage.remove(name).and_then(|()| mutants::sync_dir(core.storage.as_ref(), dir)) {
            core.fail("removing a dead file", &error);
            return false;
        }
        count(counter, 1);
        true
    }
}

struct Sink<'a> {
    core: &'a Core,
}

impl ObjectSink for Sink<'_> {
    fn put(&mut self, key: ObjectKey, bytes: &[u8]) -> Result<(), ObjectError> {
        if key.class >= ObjectKey::OWN_CLASS {
            return Err(ObjectError::Reserved);
        }
        self.core.pages.put(self.core, key, bytes).map(drop)
    }

    fn delete(&mut self, key: ObjectKey) {
        self.core.pages.delete(key);
    }
}
