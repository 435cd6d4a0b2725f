//! The commit thread: the only writer of the log, the only one that gives out LSNs.
//!
//! One turn takes what has been filled since the last, builds one batch of it, writes it with one pwrite, syncs, moves the commit point and
//! tells those who wait. What gathers during a sync is the next batch; there is no timer.

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
use crate::{segment_files, Failure, Filled, Release};

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

/// A batch between its building and its commit. The buffers are used again.
#[derive(Default)]
struct Built {
    frame: Vec<u8>,
    taken: Vec<Filled>,
    ticket_end: u64,
    staged: u64,
    pins: Vec<(u64, u32)>,
    releases: Vec<Release>,
    done: Vec<(Arc<dyn Committed>, u64)>,
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
            self.waiting = !self.make_room()?;
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

    fn idle(&mut self) -> Result<Step, Failure> {
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
        built.ticket_end = self.core.ring.take(&mut built.taken, BATCH_BYTES - BATCH_HEADER);
        if built.taken.is_empty() {
            return false;
        }
        built.frame.resize(FRAME_HEADER + BATCH_HEADER, 0);
        let mut taken = mem::take(&mut built.taken);
        for filled in taken.drain(..) {
            built.add(filled, self.next_lsn);
        }
        built.taken = taken;
        if mutants::active(Mutant::LivenessFromMemory) {
            count_live(&self.core, built, None);
        }
        true
    }

    /// A segment with room for the frame and for a marker after it. `false`: the disk is full, the reserve included.
    fn make_room(&mut self) -> Result<bool, Failure> {
        let needed = (self.built.frame.len() + FRAME_HEADER) as u64;
        if self.offset + needed <= self.segment.head.file_bytes {
            return Ok(true);
        }
        let head = SegmentHead {
            first_lsn: self.next_lsn,
            epoch: self.core.epoch,
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
            epoch: core.epoch,
            commit_lsn: core.committed_lsn.load(Ordering::Relaxed),
            wall_ms: core.clock.now_ms(core.config.clock.as_ref()),
            key_id: 0,
            chain: 0,
        };
        let chain = batch::seal(&mut self.built.frame, self.segment.head.salt, self.synced, self.chain, head);
        if mutants::active(Mutant::ConfirmBeforeSync) {
            tell(&mut self.built.done);
        }
        self.segment.note_frame(self.next_lsn, self.offset);
        self.segment.file.write_at(&self.built.frame, self.offset).map_err(|error| core.fail("writing the log", &error))?;
        self.chain = chain;
        self.next_lsn += (self.built.frame.len() - FRAME_HEADER) as u64;
        self.offset += self.built.frame.len() as u64;
        core.written.store(self.next_lsn, Ordering::Release);
        self.sync()?;
        let core = &self.core;
        count(&core.counters.batches, 1);
        count(&core.counters.records, u64::from(self.built.count));
        count(&core.counters.bytes, self.built.frame.len() as u64);
        self.unkicked += self.built.frame.len() as u64;
        if self.unkicked > core.config.checkpoint_bytes / 8 {
            self.unkicked = 0;
            core.kick.now();
        }
        self.marker_due_ns = Some(core.config.clock.boot_ns() + core.config.marker_delay.as_nanos() as u64);
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

    fn sync(&mut self) -> Result<(), Failure> {
        let core = &self.core;
        let before = core.config.clock.boot_ns();
        mutants::sync_data(self.segment.file.as_ref()).map_err(|error| core.fail("syncing the log", &error))?;
        count(&core.counters.syncs, 1);
        count(&core.counters.sync_ns, core.config.clock.boot_ns().saturating_sub(before));
        self.synced = self.next_lsn;
        Ok(())
    }

    /// An empty frame that says how far the log is synced. There is always room: [`Committer::make_room`] keeps it.
    fn write_marker(&mut self) -> Result<(), Failure> {
        let marker = batch::marker(self.segment.head.salt, self.synced);
        let core = &self.core;
        self.segment.file.write_at(&marker, self.offset).map_err(|error| core.fail("writing the sync marker", &error))?;
        self.offset += marker.len() as u64;
        self.marker_due_ns = None;
        self.core.tip.lock().offset = self.offset;
        count(&self.core.counters.markers, 1);
        self.sync()
    }

    /// The commit point passes the batch: single node, so the local sync is the commit point.
    fn commit(&mut self) {
        let core = &self.core;
        // First: a checkpoint may be finished as soon as the commit point has passed its begin, and a restart counts nothing below that.
        count_live(core, &mut self.built, Some(self.synced));
        core.committed_lsn.store(self.synced, Ordering::Release);
        core.committed_ticket.store(self.built.ticket_end, Ordering::Release);
        tell(&mut self.built.done);
        if core.ring.give_back(self.built.staged) {
            if let Some(hooks) = core.hooks.get() {
                hooks.resumed();
            }
        }
    }
}

impl Built {
    fn clear(&mut self) {
        self.frame.clear();
        if self.frame.capacity() > 2 * BATCH_BYTES {
            self.frame = Vec::new();
        }
        self.pins.clear();
        self.releases.clear();
        self.done.clear();
        (self.staged, self.count, self.level) = (0, 0, 0);
    }

    fn add(&mut self, filled: Filled, batch_lsn: u64) {
        let lsn = batch_lsn + (self.frame.len() - FRAME_HEADER) as u64;
        let records = filled.records;
        if let Some(place) = filled.place {
            place.set(lsn);
        }
        if records.pins() > 0 {
            let pins = &mut self.pins;
            let walked = record::walk(records.bytes(), lsn, |lsn, head, _| {
                if head.pins > 0 {
                    pins.push((lsn.0, head.pins));
                }
            });
            debug_assert!(walked.is_ok());
        }
        self.frame.extend_from_slice(records.bytes());
        self.staged += records.bytes().len() as u64;
        self.count += records.count();
        self.level = self.level.max(records.level());
        self.releases.extend_from_slice(&filled.releases.known);
        for (place, offset, ordinal) in &filled.releases.pending {
            // The ticket of the publish is lower, so its place was set in this batch or an earlier one; a void publish has none.
            if let Some(lsn) = place.get() {
                self.releases.push(Release { lsn: crate::Lsn(lsn.0 + u64::from(*offset)), ordinal: *ordinal });
            }
        }
        self.done.extend(filled.done);
    }
}

fn tell(done: &mut Vec<(Arc<dyn Committed>, u64)>) {
    for (waiter, value) in done.drain(..) {
        waiter.committed(value);
    }
}

/// Counts the references of a committed batch, and those it gave up.
/// One guard for both, so that a checkpoint never sees references without the position that says they are counted.
fn count_live(core: &Core, built: &mut Built, up_to: Option<u64>) {
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
