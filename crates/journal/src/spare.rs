//! Room ahead of need: one spare segment, and the reserve that lets consumers drain a full disk.
//!
//! The reserve is two segments, one cold file and one checkpoint's worth of page file. It is filled in the background after start, before
//! the spare; publishes never reach it, because they are held as soon as no spare can be had while the reserve is in use or short.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::journal::Core;
use crate::segment_files;
use crate::storage::File;
use crate::SegmentFill;

const SPARE: &str = "j/spare.tmp";
/// Kept for settlements: their records, while nothing can be allocated.
pub(crate) const RESERVE_SEGMENTS: [&str; 2] = ["j/reserve-0.tmp", "j/reserve-1.tmp"];
/// Kept for maintenance, which gives them back to the file system and allocates what it needs.
pub(crate) const RESERVE_COLD: &str = "c/reserve.tmp";
pub(crate) const RESERVE_CHECKPOINT: &str = "p/reserve.tmp";

#[derive(Default)]
pub(crate) struct Spares {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spare: Option<Arc<dyn File>>,
    reserve: [Option<Arc<dyn File>>; 2],
    cold: bool,
    checkpoint: bool,
}

impl Spares {
    /// A file of at least `bytes` and its name: the spare, a new one, or one of the reserve.
    pub fn take(&self, core: &Core, bytes: u64) -> io::Result<Option<(Arc<dyn File>, String)>> {
        let storage = core.storage.as_ref();
        let fits = bytes <= core.config.segment_bytes;
        if fits {
            if let Some(spare) = self.state.lock().spare.take() {
                storage.rename(SPARE, segment_files::FRESH)?;
                return Ok(Some((spare, segment_files::FRESH.into())));
            }
        }
        if let Some(file) = segment_files::allocate(storage, segment_files::FRESH, bytes)? {
            return Ok(Some((file, segment_files::FRESH.into())));
        }
        core.set_disk_full(true);
        core.kick.now();
        if !fits {
            return Ok(None);
        }
        let taken = {
            let mut state = self.state.lock();
            let found = (0..2).find(|at| state.reserve[*at].is_some());
            found.and_then(|at| Some((state.reserve[at].take()?, RESERVE_SEGMENTS[at].to_string())))
        };
        if taken.is_some() {
            return Ok(taken);
        }
        // The last resort. A checkpoint that waits for staged records, which wait for a segment, would wait for ever; evacuation can wait.
        if !self.open_cold_reserve(core)? {
            return Ok(None);
        }
        let last = segment_files::allocate(storage, segment_files::FRESH, bytes)?;
        Ok(last.map(|file| (file, segment_files::FRESH.into())))
    }

    /// Fills the reserve, then the spare. `false`: the disk is too full for all of it.
    pub fn refill(&self, core: &Core) -> io::Result<bool> {
        let storage = core.storage.as_ref();
        let bytes = core.config.segment_bytes;
        for (at, name) in RESERVE_SEGMENTS.iter().enumerate() {
            if self.state.lock().reserve[at].is_none() {
                let Some(file) = segment_files::allocate(storage, name, bytes)? else { return Ok(false) };
                self.state.lock().reserve[at] = Some(file);
            }
        }
        if !self.state.lock().cold {
            if segment_files::allocate(storage, RESERVE_COLD, bytes)?.is_none() {
                return Ok(false);
            }
            self.state.lock().cold = true;
        }
        if !self.state.lock().checkpoint {
            if segment_files::allocate(storage, RESERVE_CHECKPOINT, reserve_checkpoint_bytes(core))?.is_none() {
                return Ok(false);
            }
            self.state.lock().checkpoint = true;
        }
        if self.state.lock().spare.is_none() {
            let Some(file) = segment_files::allocate(storage, SPARE, bytes)? else { return Ok(false) };
            if core.config.fill == SegmentFill::Zero {
                zero(file.as_ref(), bytes)?;
            }
            self.state.lock().spare = Some(file);
        }
        Ok(true)
    }

    /// Gives the cold file's part of the reserve back to the file system. `false`: it was in use already.
    pub fn open_cold_reserve(&self, core: &Core) -> io::Result<bool> {
        let mut state = self.state.lock();
        if state.cold {
            core.storage.remove(RESERVE_COLD)?;
        }
        Ok(std::mem::take(&mut state.cold))
    }

    pub fn open_checkpoint_reserve(&self, core: &Core) -> io::Result<bool> {
        let mut state = self.state.lock();
        if state.checkpoint {
            core.storage.remove(RESERVE_CHECKPOINT)?;
        }
        Ok(std::mem::take(&mut state.checkpoint))
    }
}

/// Written and synced once, so that syncs of the log need not convert extents. In pieces, each synced, so that a commit never waits behind
/// a whole segment of zeros.
fn zero(file: &dyn File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 4 << 20];
    for offset in (0..bytes).step_by(zeros.len()) {
        file.write_at(&zeros[..zeros.len().min((bytes - offset) as usize)], offset)?;
        file.sync_data()?;
    }
    Ok(())
}

/// A checkpoint writes at most what changed since the last; with small checkpoints the reserve is small too.
fn reserve_checkpoint_bytes(core: &Core) -> u64 {
    core.config.checkpoint_bytes.min(16 << 20)
}
