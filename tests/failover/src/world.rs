//! What most scenarios have: a pair, clients that publish all the time, and a verdict.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::ledger::Ledger;
use crate::pair::{Pair, Settings, LONG};
use crate::program::Program;
use crate::publisher::{Drain, Publisher};

pub struct World {
    pub pair: Pair,
    pub ledger: Arc<Ledger>,
    publishers: Vec<Publisher>,
    pub programs: Vec<Program>,
    drain: Drain,
}

impl World {
    pub fn start(bench: &Bench) -> Result<World> {
        World::with(bench, Settings::default())
    }

    pub fn with(bench: &Bench, settings: Settings) -> Result<World> {
        let pair = Pair::start(bench.slot, &bench.dir, &bench.binary, settings)?;
        let primary = pair.whole()?;
        let drain = Drain::subscribe(&pair, primary)?;
        let ledger = Ledger::open();
        let publishers = Publisher::three(&pair, &ledger);
        let world = World { pair, ledger, publishers, programs: Vec::new(), drain };
        world.confirm_more(200)?;
        Ok(world)
    }

    /// A client of somebody else's, which tries `first` first; waits until it has published a little.
    pub fn invite(&mut self, kind: &str, name: &'static str, first: usize) -> Result<()> {
        let Some(program) = Program::start(&self.pair, &self.ledger, kind, name, first)? else { return Ok(()) };
        let id = program.id;
        self.programs.push(program);
        self.pair.wait(name, LONG, || self.ledger.confirmed_of(Some(id)).len() > 20)
    }

    /// So many more are confirmed, by whomever.
    pub fn confirm_more(&self, count: u64) -> Result<()> {
        let goal = self.ledger.total() + count;
        let waited = self.pair.wait("messages are confirmed", LONG, || self.ledger.total() >= goal);
        waited.with_context(|| format!("a client's last complaint: {}", self.ledger.trouble()))
    }

    /// So many more are confirmed, and both are in sync now: a busy machine may have cost a primary its lease meanwhile. Answers who is primary.
    pub fn settled(&self, count: u64) -> Result<usize> {
        loop {
            let primary = self.pair.whole()?;
            self.confirm_more(count)?;
            if self.pair.is_whole(primary) {
                return Ok(primary);
            }
        }
    }

    /// How long after `since` that node first confirmed anything.
    pub fn first_confirm(&self, since: Instant, node: usize, patience: Duration) -> Result<Duration> {
        let mut first = None;
        let waited = self.pair.wait("the other node confirms", patience, || {
            first = self.ledger.first_confirm(since, Some(node), None);
            first.is_some()
        });
        waited.with_context(|| format!("a client's last complaint: {}", self.ledger.trouble()))?;
        first.context("the other node confirms")
    }

    /// The same for a client of somebody else's, wherever it is.
    pub fn first_confirm_of(&self, program: &Program, since: Instant, patience: Duration) -> Result<Duration> {
        let mut first = None;
        self.pair.wait(program.name, patience, || {
            first = self.ledger.first_confirm(since, None, Some(program.id));
            first.is_some()
        })?;
        first.context(program.name)
    }

    /// Nothing is confirmed by that node for so long.
    pub fn silent(&self, node: usize, how_long: Duration) -> Result<()> {
        let since = Instant::now();
        std::thread::sleep(how_long);
        let first = self.ledger.first_confirm(since, Some(node), None);
        ensure!(first.is_none(), "node {node} confirmed something {first:?} into a time in which it may not{}", self.pair.last_words());
        Ok(())
    }

    /// No more new messages, and what is under way is confirmed or given up; then all is read, and judged.
    pub fn finish(mut self, name: &str) -> Result<()> {
        self.ledger.closing.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        self.publishers.clear();
        self.programs.drain(..).try_for_each(Program::finish)?;
        let primary = self.pair.primary()?;
        self.drain.read(&self.pair, primary, &self.ledger)?;
        let verdict = self.ledger.verdict();
        println!("# {name}: {verdict} epochs={}", self.pair.epochs());
        self.pair.judge()?;
        ensure!(verdict.is_clean(), "{verdict}{}", self.pair.last_words());
        ensure!(verdict.confirmed > 1000, "only {} messages were confirmed: the rig has no teeth", verdict.confirmed);
        Ok(())
    }
}
