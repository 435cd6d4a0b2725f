//! In how many of a series of runs something happened: a series in which it hardly ever did has not tried it.

use crate::tally::{Counts, Tally};

/// What is counted, and how often it was there.
#[derive(Clone, Copy, Default, Debug)]
pub struct Shares {
    seeds: u64,
    counts: [u64; NAMES.len()],
}

const NAMES: [&str; 6] = ["promotion", "shrink", "growth", "truncation", "torn tail", "evacuation after a fault"];

impl Shares {
    pub fn add(&mut self, tally: &Tally) {
        self.seeds += 1;
        let Counts { promotions, shrinks, growths, truncations, torn_tails, evacuations, .. } = tally.counts;
        // The two come together first of all, which is one growth.
        let happened = [promotions, shrinks, growths.saturating_sub(1), truncations, torn_tails, evacuations];
        self.counts.iter_mut().zip(happened).for_each(|(count, happened)| *count += u64::from(happened > 0));
    }

    pub fn merge(&mut self, other: &Shares) {
        self.seeds += other.seeds;
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
    }

    /// Each by its name, in percent of the runs.
    pub fn percent(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        NAMES.into_iter().zip(self.counts).map(|(name, count)| (name, count as f64 * 100.0 / self.seeds.max(1) as f64))
    }
}

impl std::fmt::Display for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "of {} seeds with", self.seeds)?;
        self.percent().try_for_each(|(name, percent)| write!(f, " {name} {percent:.1} %,"))
    }
}
