//! A small generator of chance for kill times and fault places. The seed is printed, so that a run can be repeated as far as real time lets it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

pub struct Random(AtomicU64);

impl Random {
    /// From `DURABILITY_SEED`, else from the clock.
    pub fn from_env() -> (Random, u64) {
        let given = std::env::var("DURABILITY_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
        });
        (Random(AtomicU64::new(seed)), seed)
    }

    /// splitmix64.
    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn fork(&self) -> Random {
        Random(AtomicU64::new(self.next()))
    }

    pub fn within(&self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from).max(1)
    }

    pub fn pause(&self, from: Duration, to: Duration) -> Duration {
        Duration::from_micros(self.within(from.as_micros() as u64, to.as_micros() as u64))
    }
}
