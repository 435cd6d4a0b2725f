//! The commit thread: the only writer of the log, the only one that gives out LSNs.
//!
//! One turn takes what has been filled since the last, builds one batch of it, writes it with one pwrite, syncs, moves the commit point and
//! tells those who wait. What gathers during a sync is the next batch; there is no timer.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{self, BatchHead, BATCH_BYTES, BATCH_HEADER, FRAME_HEADER};
use crate::journal::{count, Core, Tip};
use crate::mutants::{self, Mutant};
use crate::record::{self, KIND_SET_LEVEL};
use crate::ring::Committed;
use crate::segment::{Segment, SegmentHead, SEGMENT_HEADER};
use crate::{next, segment_files, Failure, Filled, Release};

/// How long the thread sleeps before it looks again for a segment when the disk, reserve included, is full.
const STALL_RETRY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Worked,
    Idle,
    /// A batch is built, but no segment can be had.
    Stalled,
    Failed,
}

pub(crate) struct Committer {
    core: Arc<Core>,
    segment: Arc<Segment>,
    /// Where the next frame goes.
    offset: u64,
    next_lsn: u64,
    chain: u32,
    synced: u64,
    /// When the marker for `synced` is due; `None`: the file has it already.
    marker_due_ns: Option<u64>,
    built: Built,
    waiting: bool,
    /// Bytes written since maintenance was last woken for a checkpoint.
    unkicked: u64,
}

/// What is to be done when the commit point passes a batch.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Where the batch ends.
    end: u64,
    ticket_end: u64,
    staged: u64,
    pins: Vec<(u64, u32)>,
    releases: Vec<Release>,
    done: Vec<(Arc<dyn Committed>, u64)>,
}

/// A batch between its building and its writing. The buffers are used again.
#[derive(Default)]
struct Built {
    frame: Vec<u8>,
    taken: Vec<Filled>,
    after: Waiting,
    count: u32,
    level: u8,
}

impl Committer {
    pub fn new(core: Arc<Core>, segment: Arc<Segment>, tip: Tip) -> Committer {
        Committer {
            core,
            segment,
            offset: tip.offset,
            next_lsn: tip.lsn,
            chain: tip.chain,
            synced: tip.lsn,
            marker_due_ns: None,
            built: Built::default(),
            waiting: false,
            unkicked: 0,
        }
    }

    pub fn run(&mut self) {
        loop {
            match self.step() {
                Step::Worked => {}
                Step::Failed => return,
                // What was never confirmed may be lost; a stop must not wait for a disk that stays full.
                Step::Stalled if self.core.ring.closing() => return,
                Step::Stalled => std::thread::sleep(STALL_RETRY),
                Step::Idle if self.core.ring.closing() => return self.finish(),
                Step::Idle => self.core.ring.wait(self.until_marker()),
            }
        }
    }

    fn until_marker(&self) -> Option<Duration> {
        let due = self.marker_due_ns?;
        Some(Duration::from_nanos(due.saturating_sub(self.core.config.clock.boot_ns()) + 1))
    }

    /// One turn. Errors end in [`Step::Failed`] and stay there.
    pub fn step(&mut self) -> Step {
        if self.core.failure.get().is_some() {
            return Step::Failed;
        }
        self.try_step().unwrap_or(Step::Failed)
    }

    fn try_step(&mut self) -> Result<Step, Failure> {
        if !self.waiting && !self.build() {
            return self.idle();
        }
        if self.built.count > 0 {
            self.waiting = !self.make_room((self.built.frame.len() + FRAME_HEADER) as u64)?;
            if self.waiting {
                count(&self.core.counters.stalls, 1);
                return Ok(Step::Stalled);
            }
            self.write()?;
        }
        self.commit();
        Ok(Step::Worked)
    }

    /// Commits what is left and leaves the marker: a clean stop.
    pub fn finish(&mut self) {
        while self.step() == Step::Worked {}
        if self.core.failure.get().is_none() && self.marker_due_ns.is_some() && self.write_marker().is_err() {
            tracing::warn!("the final sync marker could not be written");
        }
    }

    /// Where the next batch goes, and the chain before it.
    pub fn end(&self) -> (u64, u32) {
        (self.next_lsn, self.chain)
    }

    /// Writes a batch of another node as it is, under a frame of this one. `None`: there is no room on the disk.
    pub fn append(&mut self, bytes: &[u8], inner: &BatchHead) -> Result<Option<(Arc<Segment>, u64)>, Failure> {
        if !self.make_room((2 * FRAME_HEADER + bytes.len()) as u64)? {
            return Ok(None);
        }
        let frame = &mut self.built.frame;
        frame.clear();
        frame.extend_from_slice(&batch::reframe(bytes, self.segment.head.salt, self.synced, inner.lsn));
        frame.extend_from_slice(bytes);
        let offset = self.offset;
        self.put(inner.chain, inner.count)?;
        Ok(Some((self.segment.clone(), offset)))
    }

    pub fn sync_appended(&mut self) -> Result<(), Failure> {
        if self.synced < self.next_lsn {
            self.sync()?;
        }
        Ok(())
    }

    pub fn idle(&mut self) -> Result<Step, Failure> {
        let due = self.marker_due_ns.is_some_and(|due| due <= self.core.config.clock.boot_ns());
        if due {
            self.write_marker()?;
        }
        Ok(Step::Idle)
    }

    /// Takes the filled front of the ring and encodes it behind room for the headers. LSNs and places are given out here.
    fn build(&mut self) -> bool {
        let built = &mut self.built;
        built.clear();
        built.after.ticket_end = self.core.ring.take(&mut built.taken, BATCH_BYTES - BATCH_HEADER);
        if built.taken.is_empty() {
            return false;
        }
        built.frame.resize(FRAME_HEADER + BATCH_HEADER, 0);
        let mut taken = mem::take(&mut built.taken);
        for filled in taken.drain(..) {
            built.add(filled, self.next_lsn);
        }
        built.taken = taken;
        if let Some(records) = next::of_batch(&self.core, self.next_lsn) {
            built.add(Filled { records, ..Filled::default() }, self.next_lsn);
        }
        if mutants::active(Mutant::LivenessFromMemory) {
            count_live(&self.core, &mut built.after, None);
        }
        true
    }

    /// A segment with room for the frame and for a marker after it. `false`: the disk is full, the reserve included.
    fn make_room(&mut self, needed: u64) -> Result<bool, Failure> {
        if self.offset + needed <= self.segment.head.file_bytes {
            return Ok(true);
        }
        // A store that follows writes several batches between two syncs, and a sync reaches one file.
        if self.synced < self.next_lsn {
            self.sync()?;
        }
        let head = SegmentHead {
            first_lsn: self.next_lsn,
            epoch: self.core.epoch.load(Ordering::Relaxed),
            salt: self.core.storage.random() as u32,
            chain: self.chain,
            synced_lsn: self.synced,
            file_bytes: self.core.config.segment_bytes.max(SEGMENT_HEADER + needed),
            ids: self.core.ids,
        };
        let Some(segment) = segment_files::next(&self.core, head)? else { return Ok(false) };
        let old = mem::replace(&mut self.segment, segment.clone());
        self.offset = SEGMENT_HEADER;
        {
            let mut catalog = self.core.catalog.write();
            catalog.seal(old.head.first_lsn, self.next_lsn);
            catalog.add_hot(segment);
        }
        let mut live = self.core.live.lock();
        live.seal_range(old.head.first_lsn, self.next_lsn);
        live.add_range(self.next_lsn);
        drop(live);
        count(&self.core.counters.rotations, 1);
        self.core.kick.now();
        Ok(true)
    }

    fn write(&mut self) -> Result<(), Failure> {
        let core = &self.core;
        let head = BatchHead {
            level: self.built.level,
            flags: 0,
            len: 0,
            count: self.built.count,
            lsn: self.next_lsn,
            epoch: core.epoch.load(Ordering::Relaxed),
            commit_lsn: core.committed_lsn.load(Ordering::Relaxed),
            wall_ms: core.clock.now_ms(core.config.clock.as_ref()),
            key_id: 0,
            chain: 0,
        };
        let chain = batch::seal(&mut self.built.frame, self.segment.head.salt, self.synced, self.chain, head);
        if mutants::active(Mutant::ConfirmBeforeSync) {
            tell(&mut self.built.after.done);
        }
        self.put(chain, self.built.count)?;
        if let Some(progress) = self.core.progress.get() {
            progress.written(crate::Lsn(self.next_lsn));
        }
        self.sync()?;
        let core = &self.core;
        *core.tip.lock() = Tip {
            lsn: self.synced,
            chain,
            segment: self.segment.head.first_lsn,
            salt: self.segment.head.salt,
            offset: self.offset,
            wall_ms: head.wall_ms,
        };
        Ok(())
    }

    /// Writes the frame that stands ready at the end of the log.
    fn put(&mut self, chain: u32, records: u32) -> Result<(), Failure> {
        let core = &self.core;
        self.segment.note_frame(self.next_lsn, self.offset);
        self.segment.file.write_at(&self.built.frame, self.offset).map_err(|error| core.fail("writing the log", &error))?;
        self.chain = chain;
        self.next_lsn += (self.built.frame.len() - FRAME_HEADER) as u64;
        self.offset += self.built.frame.len() as u64;
        self.segment.set_used(self.offset);
        core.written.store(self.next_lsn, Ordering::Release);
        count(&core.counters.batches, 1);
        count(&core.counters.records, u64::from(records));
        count(&core.counters.bytes, self.built.frame.len() as u64);
        self.unkicked += self.built.frame.len() as u64;
        if self.unkicked > core.config.checkpoint_bytes / 8 {
            self.unkicked = 0;
            core.kick.now();
        }
        self.marker_due_ns = Some(core.config.clock.boot_ns() + core.config.marker_delay.as_nanos() as u64);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        let core = &self.core;
        let before = core.config.clock.boot_ns();
        mutants::sync_data(self.segment.file.as_ref()).map_err(|error| core.fail("syncing the log", &error))?;
        count(&core.counters.syncs, 1);
        count(&core.counters.sync_ns, core.config.clock.boot_ns().saturating_sub(before));
        self.synced = self.next_lsn;
        core.synced.store(self.synced, Ordering::Release);
        if let Some(progress) = core.progress.get() {
            progress.synced(crate::Lsn(self.synced));
        }
        Ok(())
    }

    /// An empty frame that says how far the log is synced. There is always room: [`Committer::make_room`] keeps it.
    fn write_marker(&mut self) -> Result<(), Failure> {
        let marker = batch::marker(self.segment.head.salt, self.synced);
        let core = &self.core;
        self.segment.file.write_at(&marker, self.offset).map_err(|error| core.fail("writing the sync marker", &error))?;
        self.offset += marker.len() as u64;
        self.marker_due_ns = None;
        {
            // Of a store that follows, it stands where the state machine is.
            let mut tip = self.core.tip.lock();
            if tip.lsn == self.synced {
                tip.offset = self.offset;
            }
        }
        count(&self.core.counters.markers, 1);
        self.sync()
    }

    /// The batch is synced here. Where nobody else is asked, the commit point passes it now; otherwise it waits for the others, and this thread
    /// goes on with the next one.
    fn commit(&mut self) {
        let core = self.core.clone();
        let mut waiting = core.waiting.lock();
        if waiting.is_empty() && core.permitted.load(Ordering::Acquire) >= self.synced {
            core.pass(self.built.ends(self.synced));
            return;
        }
        waiting.push_back(mem::take(self.built.ends(self.synced)));
        core.advance_to(&mut waiting);
    }
}

impl Core {
    /// The commit point goes on as far as this node has synced and the others permit.
    pub fn advance(&self) {
        self.advance_to(&mut self.waiting.lock());
    }

    fn advance_to(&self, waiting: &mut VecDeque<Waiting>) {
        let point = self.synced.load(Ordering::Acquire).min(self.permitted.load(Ordering::Acquire));
        while waiting.front().is_some_and(|batch| batch.end <= point) {
            if let Some(mut batch) = waiting.pop_front() {
                self.pass(&mut batch);
            }
        }
    }

    /// The commit point passes a batch. In order: whoever calls holds `waiting`.
    fn pass(&self, batch: &mut Waiting) {
        // First: a checkpoint may be finished as soon as the commit point has passed its begin, and a restart counts nothing below that.
        count_live(self, batch, Some(batch.end));
        self.committed_lsn.store(batch.end, Ordering::Release);
        self.committed_ticket.store(batch.ticket_end, Ordering::Release);
        tell(&mut batch.done);
        if self.ring.give_back(batch.staged) {
            if let Some(hooks) = self.hooks.get() {
                hooks.resumed();
            }
        }
        if let Some(progress) = self.progress.get() {
            progress.committed(crate::Lsn(batch.end));
        }
    }
}

impl Built {
    fn clear(&mut self) {
        self.frame.clear();
        if self.frame.capacity() > 2 * BATCH_BYTES {
            self.frame = Vec::new();
        }
        let after = &mut self.after;
        after.pins.clear();
        after.releases.clear();
        after.done.clear();
        (after.staged, self.count, self.level) = (0, 0, 0);
    }

    fn ends(&mut self, at: u64) -> &mut Waiting {
        self.after.end = at;
        &mut self.after
    }

    fn add(&mut self, filled: Filled, batch_lsn: u64) {
        let lsn = batch_lsn + (self.frame.len() - FRAME_HEADER) as u64;
        let records = filled.records;
        if let Some(place) = filled.place {
            place.set(lsn);
        }
        if records.pins() > 0 {
            let pins = &mut self.after.pins;
            let walked = record::walk(records.bytes(), lsn, |lsn, head, _| {
                if head.pins > 0 {
                    pins.push((lsn.0, head.pins));
                }
            });
            debug_assert!(walked.is_ok());
        }
        self.frame.extend_from_slice(records.bytes());
        self.after.staged += records.bytes().len() as u64;
        self.count += records.count();
        self.level = self.level.max(records.level());
        self.after.releases.extend_from_slice(&filled.releases.known);
        for (place, offset, ordinal) in &filled.releases.pending {
            // The ticket of the publish is lower, so its place was set in this batch or an earlier one; a void publish has none.
            if let Some(lsn) = place.get() {
                self.after.releases.push(Release { lsn: crate::Lsn(lsn.0 + u64::from(*offset)), ordinal: *ordinal });
            }
        }
        self.after.done.extend(filled.done);
    }
}

fn tell(done: &mut Vec<(Arc<dyn Committed>, u64)>) {
    for (waiter, value) in done.drain(..) {
        waiter.committed(value);
    }
}

/// Counts the references of a committed batch, and those it gave up.
/// One guard for both, so that a checkpoint never sees references without the position that says they are counted.
fn count_live(core: &Core, built: &mut Waiting, up_to: Option<u64>) {
    let mut live = core.live.lock();
    for (lsn, pins) in built.pins.drain(..) {
        live.pin(lsn, pins);
    }
    for release in built.releases.drain(..) {
        live.release(release);
    }
    if let Some(lsn) = up_to {
        live.advance(lsn);
    }
}

/// The level that a SetLevel record sets.
pub(crate) fn level_of(kind: u8, fields: &[u8]) -> Option<u8> {
    (kind == KIND_SET_LEVEL).then(|| fields.first().copied()).flatten()
}
