//! The rigs, one file per kind of fault, and what they share.

pub mod amqp;
pub mod eio;
pub mod full;
pub mod kill;
pub mod mutants;
pub mod power;
pub mod qos2;
pub mod stall;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::broker::Recipe;
use crate::checker::Verdict;
use crate::disk;
use crate::load::Load;
use crate::random::Random;
use crate::report::{judge, Figures};

/// What a rig is given.
pub struct Bench {
    pub binary: PathBuf,
    pub tmp: PathBuf,
    pub random: Random,
    /// Rounds are multiplied by this; 1 in the test command.
    pub scale: u64,
    /// Whether disks of our own can be mounted and cut off; if not, why.
    pub disks: Result<(), String>,
    runs: AtomicU32,
}

pub const START_WITHIN: Duration = Duration::from_secs(20);
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Confirmed messages that make a round count.
pub const ROUND_CONFIRMS: u64 = 1_001;

impl Bench {
    pub fn new(binary: PathBuf, tmp: PathBuf, random: Random, scale: u64) -> Result<Bench> {
        let mut bench = Bench { binary, tmp, random, scale, disks: Ok(()), runs: AtomicU32::new(0) };
        bench.disks = disk::probe(&bench.scratch("probe")?);
        Ok(bench)
    }

    /// The same, for another broker.
    pub fn with_binary(&self, binary: PathBuf) -> Bench {
        Bench {
            binary,
            tmp: self.tmp.join("mutants"),
            random: self.random.fork(),
            scale: 1,
            disks: self.disks.clone(),
            runs: AtomicU32::new(self.run() >> 24),
        }
    }

    /// A number that is in every message, so that leftovers of another run are found out.
    pub fn run(&self) -> u32 {
        let count = self.runs.fetch_add(1, Ordering::Relaxed);
        count << 24 | self.random.within(0, 1 << 24) as u32
    }

    /// An empty folder for one rig.
    pub fn scratch(&self, rig: &str) -> Result<PathBuf> {
        let dir = self.tmp.join(rig);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    pub fn recipe(&self, rig: &str, toml: &str) -> Result<Recipe> {
        let scratch = self.scratch(rig)?;
        let (binary, data) = (self.binary.clone(), scratch.join("data"));
        Ok(Recipe { binary, data, scratch, toml: toml.to_string(), env: Vec::new(), protocol: "mqtt" })
    }
}

/// Prints figures and verdict, ends the clients, and fails if anything is wrong; what went wrong first is what is said.
pub fn conclude(rig: &str, figures: &mut Figures, run: Result<()>, load: Load) -> Result<Verdict> {
    let trouble = load.world.trouble();
    let verdict = load.finish()?;
    figures.needs("confirmed_total", verdict.confirmed);
    figures.needs("received_total", verdict.received);
    figures.print(rig);
    println!("# {rig}: {verdict}");
    // A run that ended early did not drain, so that it counts as lost what nobody fetched: its own reason is the one to read first.
    run.with_context(|| format!("[{}]; last trouble of a client: {trouble}", verdict.broken()))?;
    judge(&verdict)?;
    figures.judge()?;
    Ok(verdict)
}
