//! Power cuts on an ext4 of our own: every byte that was not synced is gone, names included. A round counts only if bytes were really
//! lost, which a file that nobody syncs shows. The second rig cuts right after a restart, when what recovery found in the page cache must
//! already be on the disk.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::{conclude, Bench, PATIENCE, ROUND_CONFIRMS, START_WITHIN};
use crate::broker::{Broker, Recipe, SMALL_JOURNAL};
use crate::disk::{Canary, Disk};
use crate::load::{Load, Mix};
use crate::report::Figures;
use crate::shim::{Class, Fault, Shim};
use crate::watch::Watch;

const DISK_MIB: u64 = 160;

pub struct Stage {
    pub disk: Disk,
    pub recipe: Recipe,
}

pub fn stage(bench: &Bench, rig: &str, toml: &str) -> Result<Stage> {
    let mut recipe = bench.recipe(rig, toml)?;
    let disk = Disk::ext4(&recipe.scratch, DISK_MIB)?;
    recipe.data = disk.data();
    Ok(Stage { disk, recipe })
}

#[derive(Default)]
struct Tally {
    rounds: u64,
    least_confirmed: Option<u64>,
    least_in_flight: Option<u64>,
    least_lost: Option<u64>,
    exits_75: u64,
}

fn least(so_far: &mut Option<u64>, value: u64) {
    *so_far = Some(so_far.map_or(value, |least| least.min(value)));
}

impl Tally {
    fn print(&self, figures: &mut Figures) {
        figures.needs("rounds", self.rounds);
        figures.needs("least_confirmed_in_a_round", self.least_confirmed.unwrap_or(0));
        figures.needs("least_in_flight_at_the_cut", self.least_in_flight.unwrap_or(0));
        figures.needs("least_unsynced_bytes_lost_in_a_round", self.least_lost.unwrap_or(0));
        figures.shows("exits_with_75", self.exits_75);
    }

    /// Cuts the power now, ends the broker, and gives the power back.
    fn cut(&mut self, stage: &mut Stage, load: &Load, broker: &mut Broker, canary: &mut Canary) -> Result<()> {
        least(&mut self.least_in_flight, load.catch_in_flight(PATIENCE));
        load.world.set_addr(None);
        stage.disk.cut_power()?;
        // Its next sync fails, and then it must end by itself. Where the cut is the whole fault it may also have nothing to sync.
        match broker.wait(Duration::from_secs(2))? {
            Some(status) => {
                ensure!(status.code() == Some(75), "after its disk failed: {status}, not exit code 75; {}", broker.last_words());
                self.exits_75 += 1;
            }
            None => drop(broker.kill9()),
        }
        canary.stop();
        stage.disk.power_on()?;
        least(&mut self.least_lost, canary.lost());
        self.rounds += 1;
        Ok(())
    }
}

pub fn cut(bench: &Bench) -> Result<()> {
    let mut stage = stage(bench, "power", SMALL_JOURNAL)?;
    run_cut(bench, &mut stage, Mix::usual(), "power", 4 * bench.scale)
}

/// With syncs slowed down: a confirm that does not wait for its sync is nearly always ahead of it.
pub fn run_slow_cut(bench: &Bench, stage: &mut Stage, name: &str, rounds: u64) -> Result<()> {
    let shim = Shim::attach(&mut stage.recipe)?;
    // Far longer than a machine that does other things leaves the broker without work: the cut has to fall into a sync.
    shim.arm(Fault::SyncPause, &[Class::Segment], 1, 150_000)?;
    run_cut(bench, stage, Mix::usual(), name, rounds)
}

pub fn run_cut(bench: &Bench, stage: &mut Stage, mix: Mix, name: &str, rounds: u64) -> Result<()> {
    let mut load = Load::new(mix, bench.run(), &stage.recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let mut tally = Tally::default();
    let watch = Watch::start(&stage.recipe.data);
    let run = cuts(bench, stage, &mut load, &mut tally, rounds);
    figures.journal(&watch.finish());
    tally.print(&mut figures);
    conclude(name, &mut figures, run, load).map(drop)
}

fn cuts(bench: &Bench, stage: &mut Stage, load: &mut Load, tally: &mut Tally, rounds: u64) -> Result<()> {
    for round in 0..rounds {
        let mut broker = stage.recipe.start().context("after a power cut")?;
        let mut canary = Canary::start(&stage.disk)?;
        load.world.set_addr(Some(broker.addr));
        let before = load.confirmed();
        if round == 0 {
            load.begin(START_WITHIN)?;
        }
        load.confirm_more(ROUND_CONFIRMS, PATIENCE)?;
        std::thread::sleep(bench.random.pause(Duration::from_millis(200), Duration::from_millis(1500)));
        tally.cut(stage, load, &mut broker, &mut canary)?;
        least(&mut tally.least_confirmed, load.confirmed() - before);
    }
    settle_and_stop(stage, load)
}

fn settle_and_stop(stage: &Stage, load: &Load) -> Result<()> {
    let mut broker = stage.recipe.start().context("after the last power cut")?;
    load.world.set_addr(Some(broker.addr));
    load.drain(PATIENCE).judge(load)?;
    broker.stop()
}

pub fn tail(bench: &Bench) -> Result<()> {
    let mut stage = stage(bench, "tail", SMALL_JOURNAL)?;
    run_tail(bench, &mut stage, "tail", 4 * bench.scale)
}

pub fn run_tail(bench: &Bench, stage: &mut Stage, name: &str, rounds: u64) -> Result<()> {
    // Syncs are slowed down so that the kill nearly always falls between a write and its sync.
    let shim = Shim::attach(&mut stage.recipe)?;
    let mut load = Load::new(Mix::usual(), bench.run(), &stage.recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let mut tally = Tally::default();
    let watch = Watch::start(&stage.recipe.data);
    let run = tails(bench, stage, &shim, &mut load, &mut tally, rounds);
    figures.journal_as_it_came(&watch.finish());
    tally.print(&mut figures);
    figures.needs("syncs_slowed_down", shim.hits()?);
    conclude(name, &mut figures, run, load).map(drop)
}

fn tails(bench: &Bench, stage: &mut Stage, shim: &Shim, load: &mut Load, tally: &mut Tally, rounds: u64) -> Result<()> {
    for round in 0..rounds {
        let mut broker = stage.recipe.start().context("after a power cut")?;
        let mut canary = Canary::start(&stage.disk)?;
        load.world.set_addr(Some(broker.addr));
        let before = load.confirmed();
        if round == 0 {
            load.begin(START_WITHIN)?;
        }
        load.confirm_more(ROUND_CONFIRMS, PATIENCE)?;
        shim.arm(Fault::SyncPause, &[Class::Segment], 1, 30_000)?;
        std::thread::sleep(bench.random.pause(Duration::from_millis(100), Duration::from_millis(300)));
        broker.kill9();
        load.world.set_addr(None);
        shim.disarm()?;
        let mut broker = stage.recipe.start().context("after a kill")?;
        load.world.set_addr(Some(broker.addr));
        load.confirm_more(1, PATIENCE)?;
        tally.cut(stage, load, &mut broker, &mut canary)?;
        least(&mut tally.least_confirmed, load.confirmed() - before);
    }
    settle_and_stop(stage, load)
}
