//! A store that follows another's log: a recovery that has not ended.
//!
//! [`Follower::open`] recovers and begins no reign. The [`Receiver`] takes replicated batches as they come from the peer, writes them under
//! frames of its own and syncs them; the [`Replayer`] hands to the state machine what is committed, never more, so that the state never has to
//! forget anything, and writes checkpoints of it. They share a list of places and may run in two threads.
//! [`Follower::lead`] redoes what is left and makes a [`Journal`] of it: the same files, a new epoch.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

use crate::batch::{self, BatchHead, BATCH_HEADER, FRAME_HEADER};
use crate::commit::Committer;
use crate::journal::{count, Core, Tip};
use crate::maintain::{Inherited, Maintainer};
use crate::meta::Meta;
use crate::record::known_level;
use crate::scan::redo;
use crate::segment::{file_name, Segment};
use crate::storage::Storage;
use crate::{recover, Apply, Config, Failure, Journal, Lsn, OpenError, Snapshot};

/// Where a log ends. Two logs with equal positions are byte-identical up to there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Of the last batch.
    pub epoch: u64,
    pub lsn: Lsn,
    pub chain: u32,
}

/// Why a batch from the peer was not taken. Nothing was written.
#[derive(Debug, Error)]
pub enum Refused {
    #[error("the bytes are no batch of this version")]
    Malformed,
    #[error("the batch stands at {got}, and this log ends at {expected}")]
    Gap { expected: Lsn, got: Lsn },
    #[error("the batch at {0} does not continue this log")]
    Chain(Lsn),
    #[error("it comes from a reign of epoch {got}, and this node has promised {promised}")]
    Epoch { promised: u64, got: u64 },
    #[error("a batch of epoch {epoch} cannot follow one of epoch {after} in the reign of {reign}")]
    Order { epoch: u64, after: u64, reign: u64 },
    #[error("the batch has records of level {got}; this program understands levels up to {known}")]
    Level { got: u8, known: u8 },
    #[error("the disk is full")]
    Full,
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Of what is not redone yet, at most so many bytes stay in memory; the rest is read from the file again.
const KEPT: usize = 32 << 20;

/// Bytes that somebody else has as well.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A batch that is in the file and not redone yet.
struct Placed {
    segment: Arc<Segment>,
    offset: u64,
    lsn: u64,
    len: u32,
    /// As it came, and was checked.
    kept: Option<(Shared, Range<usize>)>,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Placed>,
    /// Bytes of those that are in memory.
    kept: usize,
}

type Line = Arc<Mutex<Waiting>>;

/// The two halves of a store that follows.
pub struct Follower {
    pub receiver: Receiver,
    pub replayer: Replayer,
}

/// Writes what comes from the peer.
pub struct Receiver {
    core: Arc<Core>,
    committer: Committer,
    meta: Meta,
    /// The epoch of the last batch.
    epoch: u64,
    line: Line,
}

/// Redoes what is committed, and keeps the store small.
pub struct Replayer {
    core: Arc<Core>,
    line: Line,
    inherited: Option<Inherited>,
    maintainer: Option<Maintainer>,
    wall_ms: u64,
    /// What recovery redone lies below; what is not known to be committed of it keeps maintenance waiting.
    recovered: u64,
    commit: u64,
    buffer: Vec<u8>,
}

impl Follower {
    /// Recovers what `storage` holds into `apply`, or makes a new store. Begins no reign.
    pub fn open(storage: Arc<dyn Storage>, config: Config, apply: &mut dyn Apply) -> Result<Follower, OpenError> {
        let mut follower = Follower::recover(storage, config, apply)?;
        let meta = &mut follower.receiver.meta;
        meta.update(follower.receiver.core.storage.as_ref()).map_err(OpenError::io("writing meta"))?;
        Ok(follower)
    }

    /// The same for who leads at once, which writes what has to be written.
    pub(crate) fn recover(storage: Arc<dyn Storage>, config: Config, apply: &mut dyn Apply) -> Result<Follower, OpenError> {
        let recovered = recover::open(storage, config.checked()?, apply)?;
        let core = recovered.core;
        let line = Line::default();
        let receiver = Receiver {
            core: core.clone(),
            committer: recovered.committer,
            meta: recovered.meta,
            epoch: recovered.epoch,
            line: line.clone(),
        };
        let replayer = Replayer {
            recovered: core.written.load(Ordering::Acquire),
            core,
            line,
            inherited: Some(recovered.inherited),
            maintainer: None,
            wall_ms: recovered.wall_ms,
            commit: 0,
            buffer: Vec::new(),
        };
        Ok(Follower { receiver, replayer })
    }

    /// Begins the reign of `epoch` here: redoes what is left, and tells the state machine of the new reign. Nothing is written to the log before
    /// [`Journal::start`]. What lies above `permitted` is committed when the others have it ([`Journal::permit`]); `u64::MAX`: nobody else is
    /// asked.
    pub fn lead(mut self, epoch: u64, permitted: Lsn, apply: &mut dyn Apply) -> Result<Journal, OpenError> {
        self.receiver.sync().map_err(|failure| OpenError::Io { doing: failure.doing, source: std::io::Error::other(failure.error) })?;
        self.replayer.redo_up_to(Lsn(u64::MAX), apply)?;
        let Receiver { core, committer, mut meta, epoch: of_log, .. } = self.receiver;
        if epoch <= meta.epoch.max(of_log) {
            let text = format!("epoch {epoch} cannot begin: this store has promised {} and its log is in {of_log}", meta.epoch);
            return Err(OpenError::Config(text));
        }
        meta.epoch = epoch;
        meta.update(core.storage.as_ref()).map_err(OpenError::io("writing meta"))?;
        core.epoch.store(epoch, Ordering::Relaxed);
        core.log_epoch.store(epoch, Ordering::Relaxed);
        core.permitted.store(permitted.0, Ordering::Release);
        core.clock.restart(core.config.clock.as_ref(), self.replayer.wall_ms);
        recover::announce(apply, &meta, core.written.load(Ordering::Acquire))?;
        let inherited = match self.replayer.maintainer {
            Some(maintainer) => maintainer.into_inherited(),
            None => self.replayer.inherited.unwrap_or_default(),
        };
        Ok(Journal::new(core, committer, inherited))
    }
}

impl Receiver {
    /// Where the log in the files ends.
    pub fn position(&self) -> Position {
        let (lsn, chain) = self.committer.end();
        Position { epoch: self.epoch, lsn: Lsn(lsn), chain }
    }

    /// Everything below is synced here.
    pub fn synced(&self) -> Lsn {
        Lsn(self.core.synced.load(Ordering::Acquire))
    }

    /// Bytes that the start found behind the last sync that it could be sure of.
    pub fn recovered_tail_bytes(&self) -> u64 {
        self.core.counters.recovered_tail_bytes.load(Ordering::Relaxed)
    }

    /// The highest epoch that this node has promised to follow; a batch of a lower one is refused.
    pub fn promised(&self) -> u64 {
        self.meta.epoch
    }

    /// From now on nothing of a lower epoch is taken, also after a restart.
    pub fn promise(&mut self, epoch: u64) -> Result<(), Failure> {
        if epoch <= self.meta.epoch {
            return Ok(());
        }
        self.meta.epoch = epoch;
        let core = &self.core;
        core.epoch.store(epoch, Ordering::Relaxed);
        self.meta.update(core.storage.as_ref()).map_err(|error| core.fail("writing meta", &error))
    }

    pub fn cluster(&self) -> u128 {
        self.meta.ids.cluster
    }

    /// Of this store, for as long as its directory lives.
    pub fn store_id(&self) -> u64 {
        self.meta.ids.node
    }

    /// New at each start.
    pub fn boot_id(&self) -> u64 {
        self.meta.boot_id
    }

    pub fn failed(&self) -> Option<Failure> {
        self.core.failure.get().cloned()
    }

    /// Writes one batch, not synced yet. It must be exactly what follows. `reign`: the epoch of who sends it, which may well send what earlier
    /// reigns wrote.
    pub fn append(&mut self, reign: u64, bytes: &[u8]) -> Result<(), Refused> {
        self.put(reign, bytes, None)
    }

    /// The same of a part of `frame`, which is kept until the batch is redone, if there is not too much of that: then it need not be read again.
    pub fn append_shared(&mut self, reign: u64, frame: &Shared, part: Range<usize>) -> Result<(), Refused> {
        let bytes = frame.as_ref().as_ref().get(part.clone()).ok_or(Refused::Malformed)?;
        self.put(reign, bytes, Some((frame, part)))
    }

    fn put(&mut self, reign: u64, bytes: &[u8], shared: Option<(&Shared, Range<usize>)>) -> Result<(), Refused> {
        self.core.check()?;
        let inner = BatchHead::decode(bytes).filter(|inner| inner.len as usize == bytes.len()).ok_or(Refused::Malformed)?;
        let at = self.position();
        if reign < self.meta.epoch {
            return Err(Refused::Epoch { promised: self.meta.epoch, got: reign });
        }
        if inner.epoch < at.epoch || inner.epoch > reign {
            return Err(Refused::Order { epoch: inner.epoch, after: at.epoch, reign });
        }
        if inner.lsn != at.lsn.0 {
            return Err(Refused::Gap { expected: at.lsn, got: Lsn(inner.lsn) });
        }
        if batch::chain_of(at.chain, bytes) != inner.chain {
            return Err(Refused::Chain(at.lsn));
        }
        if inner.level > known_level() {
            return Err(Refused::Level { got: inner.level, known: known_level() });
        }
        self.promise(reign)?;
        let Some((segment, offset)) = self.committer.append(bytes, &inner)? else { return Err(Refused::Full) };
        self.epoch = inner.epoch;
        self.core.was_clean.store(false, Ordering::Relaxed);
        let mut line = self.line.lock();
        let kept = shared.filter(|_| line.kept + bytes.len() <= KEPT).map(|(frame, part)| (frame.clone(), part));
        line.kept += kept.as_ref().map_or(0, |_| bytes.len());
        line.batches.push_back(Placed { segment, offset, lsn: inner.lsn, len: inner.len, kept });
        Ok(())
    }

    /// Syncs what was appended and answers up to where.
    pub fn sync(&mut self) -> Result<Lsn, Failure> {
        self.core.check()?;
        self.committer.sync_appended()?;
        Ok(self.synced())
    }

    /// For when nothing comes: leaves the sync marker in the file once it is due.
    pub fn idle(&mut self) -> Result<(), Failure> {
        self.sync()?;
        self.committer.idle().map(drop)
    }
}

impl Replayer {
    /// What the state machine has.
    pub fn redone(&self) -> Lsn {
        Lsn(self.core.committed_lsn.load(Ordering::Acquire))
    }

    /// Batches that are in the file and wait for the commit point or for this thread.
    pub fn behind(&self) -> usize {
        self.line.lock().batches.len()
    }

    /// Who writes the objects of checkpoints. From now on [`Replayer::maintain`] works.
    pub fn set_snapshot(&mut self, snapshot: Arc<dyn Snapshot>) {
        if let Some(inherited) = self.inherited.take() {
            self.maintainer = Some(Maintainer::new(self.core.clone(), snapshot, inherited));
        }
    }

    /// Hands whole batches below `commit` to the state machine, as far as they are synced here: what a checkpoint says is committed has to be in
    /// this log whatever happens.
    pub fn redo_up_to(&mut self, commit: Lsn, apply: &mut dyn Apply) -> Result<Lsn, OpenError> {
        self.commit = self.commit.max(commit.0);
        let limit = self.commit.min(self.core.synced.load(Ordering::Acquire));
        loop {
            let next = {
                let mut line = self.line.lock();
                match line.batches.front() {
                    Some(placed) if placed.lsn + u64::from(placed.len) <= limit => {
                        let placed = line.batches.pop_front();
                        line.kept -= placed.as_ref().and_then(|placed| placed.kept.as_ref()).map_or(0, |(_, part)| part.len());
                        placed
                    }
                    _ => None,
                }
            };
            let Some(placed) = next else { return Ok(self.redone()) };
            match &placed.kept {
                Some((frame, part)) => self.redo(&placed, &frame.as_ref().as_ref()[part.clone()], apply)?,
                None => {
                    let mut bytes = std::mem::take(&mut self.buffer);
                    let read = read_batch(&placed, &mut bytes);
                    let redone = read.and_then(|()| self.redo(&placed, &bytes, apply));
                    if bytes.capacity() <= 2 * batch::BATCH_BYTES {
                        self.buffer = bytes;
                    }
                    redone?;
                }
            }
        }
    }

    fn redo(&mut self, placed: &Placed, bytes: &[u8], apply: &mut dyn Apply) -> Result<(), OpenError> {
        let core = &self.core;
        let changed = || {
            let text = format!("the batch at {} reads differently than it was written", placed.lsn);
            OpenError::corrupt(file_name(placed.segment.head.first_lsn), text)
        };
        let inner =
            BatchHead::decode(bytes).filter(|inner| inner.lsn == placed.lsn && inner.len as usize == bytes.len()).ok_or_else(changed)?;
        let redone = redo(&inner, bytes, apply).map_err(|error| error.at(placed.segment.head.first_lsn))?;
        if let Some(level) = redone.level {
            core.level.store(level, Ordering::Relaxed);
        }
        {
            let mut live = core.live.lock();
            redone.pins.into_iter().for_each(|(lsn, pins)| live.pin(lsn, pins));
            redone.releases.into_iter().for_each(|release| live.release(release));
            live.advance(inner.end());
        }
        self.wall_ms = self.wall_ms.max(inner.wall_ms);
        count(&core.counters.recovered_batches, 1);
        count(&core.counters.recovered_records, u64::from(inner.count));
        core.log_epoch.store(inner.epoch, Ordering::Relaxed);
        *core.tip.lock() = Tip {
            lsn: inner.end(),
            chain: inner.chain,
            segment: placed.segment.head.first_lsn,
            salt: placed.segment.head.salt,
            offset: placed.offset + (FRAME_HEADER + bytes.len()) as u64,
            wall_ms: inner.wall_ms,
        };
        core.committed_lsn.store(inner.end(), Ordering::Release);
        debug_assert!(inner.len as usize >= BATCH_HEADER);
        Ok(())
    }

    /// One round of checkpoint, evacuation and removal. `false`: there was nothing to do, or it is not known yet whether all that recovery read is
    /// committed.
    pub fn maintain(&mut self) -> bool {
        let known = self.commit >= self.recovered;
        known && self.maintainer.as_mut().is_some_and(Maintainer::step)
    }
}

fn read_batch(placed: &Placed, into: &mut Vec<u8>) -> Result<(), OpenError> {
    let name = file_name(placed.segment.head.first_lsn);
    into.resize(placed.len as usize, 0);
    let read = placed.segment.file.read_at(into, placed.offset + FRAME_HEADER as u64);
    match read.map_err(|source| OpenError::Io { doing: format!("reading {name}"), source })? {
        read if read == into.len() => Ok(()),
        _ => Err(OpenError::corrupt(name, format!("the batch at {} is cut short", placed.lsn))),
    }
}
