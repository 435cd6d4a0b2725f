//! How fast a standby that is behind gets what it lacks, so that the primary's clients notice little of it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::machine::Machine;

/// What a standby that asked for nothing meanwhile may get at once.
const SAVED: Duration = Duration::from_millis(20);
/// Pieces a second: small ones leave the disk and the processors to others in between.
const PIECES: u64 = 200;
const PIECE_MIN: usize = 64 << 10;

pub struct Pace {
    machine: Arc<dyn Machine>,
    /// Bytes a second; `None`: without a limit.
    rate: Option<NonZeroU64>,
    /// When what was sent so far has been earned.
    earned: Instant,
}

impl Pace {
    pub fn new(machine: Arc<dyn Machine>, rate: Option<NonZeroU64>) -> Pace {
        Pace { earned: machine.now(), machine, rate }
    }

    pub fn took(&mut self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let from = self.machine.now().checked_sub(SAVED).map_or(self.earned, |now| self.earned.max(now));
        self.earned = from + Duration::from_nanos((bytes as u128 * 1_000_000_000 / u128::from(rate.get())) as u64);
    }

    /// How long to wait before anything more is sent.
    pub fn owed(&self) -> Duration {
        self.earned.saturating_duration_since(self.machine.now())
    }

    /// How much to send at once.
    pub fn piece(&self, most: usize) -> usize {
        self.rate.map_or(most, |rate| usize::try_from(rate.get() / PIECES).unwrap_or(most).clamp(PIECE_MIN, most))
    }
}
