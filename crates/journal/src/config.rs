//! What can be set, with its bounds.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::OpenError;

pub const MIB: u64 = 1 << 20;

/// How a segment is prepared before it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentFill {
    /// Reserve the extents. A sync then also logs their conversion.
    Allocate,
    /// Also write zeros once, in the background, one segment ahead: cheaper syncs for twice the writing.
    Zero,
}

#[derive(Clone)]
pub struct Config {
    /// Bytes of a hot segment file: 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// Log bytes between two checkpoints, from 4 MiB. With 128 MiB a cold restart reads at most about that much (0.55 GB/s measured).
    pub checkpoint_bytes: u64,
    /// A checkpoint is also taken when something changed this long ago.
    pub checkpoint_interval: Duration,
    /// Publishes are held while more than this is staged and not committed. Never more than a segment, so that what was staged
    /// when the disk ran full fits into the reserve.
    pub staging_bytes: u64,
    /// Publishes are held while the file system has less than this left.
    pub min_free_bytes: u64,
    /// A range of the log is moved to a cold file when at least this part of its references is dead.
    pub evacuate_dead_percent: u8,
    pub fill: SegmentFill,
    pub shard: u32,
    /// An empty frame with the sync marker is written when nothing followed a sync for this long.
    pub marker_delay: Duration,
    pub clock: Arc<dyn Clock>,
    /// Lifts the lower bounds of the sizes, so that a simulation rotates and evacuates within a few records.
    pub simulated: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            segment_bytes: 64 * MIB,
            checkpoint_bytes: 128 * MIB,
            checkpoint_interval: Duration::from_secs(30),
            staging_bytes: 64 * MIB,
            min_free_bytes: 0,
            evacuate_dead_percent: 70,
            fill: SegmentFill::Allocate,
            shard: 0,
            marker_delay: Duration::from_millis(100),
            clock: Arc::new(SystemClock),
            simulated: false,
        }
    }
}

impl Config {
    pub(crate) fn checked(mut self) -> Result<Config, OpenError> {
        let refuse = |text: String| Err(OpenError::Config(text));
        let least = if self.simulated { 16 << 10 } else { MIB };
        if !(least..=1024 * MIB).contains(&self.segment_bytes) {
            return refuse(format!("journal.segment_bytes = {}: must be 1 MiB to 1 GiB", self.segment_bytes));
        }
        if self.checkpoint_bytes < 4 * least {
            return refuse(format!("journal.checkpoint_bytes = {}: must be at least 4 MiB", self.checkpoint_bytes));
        }
        if !(10..=100).contains(&self.evacuate_dead_percent) {
            return refuse(format!("journal.evacuate_dead_percent = {}: must be 10 to 100", self.evacuate_dead_percent));
        }
        self.staging_bytes = self.staging_bytes.clamp(least / 2, self.segment_bytes);
        Ok(self)
    }
}
