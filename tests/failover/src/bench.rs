//! What a scenario is given.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::pair::Program;

pub struct Bench {
    pub binary: PathBuf,
    /// One that can be the version after this ([`Bench::next_version`]).
    pub debug: Option<PathBuf>,
    /// Of its own.
    pub dir: PathBuf,
    /// The number of its network.
    pub slot: u8,
    /// The long form.
    pub soak: bool,
}

impl Bench {
    pub fn this_version(&self) -> Program {
        Program { binary: self.binary.clone(), env: None }
    }

    /// It writes another format, of which this version understands nothing.
    pub fn next_version(&self) -> Result<Program> {
        let binary = self.debug.clone().context("CARRICK_DEBUG_BIN must name a binary with debug assertions")?;
        Ok(Program { binary, env: Some(("CARRICK_FORMAT", "next")) })
    }
}

/// Times of one kind, and what is published of them.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    fn quantile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        self.quantile(100)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [min, median, p99, max] = [1, 50, 99, 100].map(|percent| self.quantile(percent).as_millis());
        write!(f, "n={} min={min} median={median} p99={p99} max={max} ms", self.0.len())
    }
}
