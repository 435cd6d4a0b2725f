//! kill -9 under load, again and again, on one store. It keeps the page cache, so it says nothing about syncs: it tests recovery, sessions,
//! and that confirms, order and exactly once hold over a restart.

use std::time::Duration;

use anyhow::Result;

use super::{conclude, Bench, PATIENCE, ROUND_CONFIRMS, START_WITHIN};
use crate::broker::{Recipe, SMALL_JOURNAL};
use crate::load::{Load, Mix};
use crate::report::Figures;
use crate::watch::Watch;

pub fn rig(bench: &Bench) -> Result<()> {
    let recipe = bench.recipe("kill", SMALL_JOURNAL)?;
    run(bench, &recipe, Mix::usual(), "kill", 6 * bench.scale)
}

pub fn run(bench: &Bench, recipe: &Recipe, mix: Mix, name: &str, kills: u64) -> Result<()> {
    let mut load = Load::new(mix, bench.run(), &recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let watch = Watch::start(&recipe.data);
    let run = rounds(bench, recipe, &mut load, &mut figures, kills);
    figures.journal(&watch.finish());
    conclude(name, &mut figures, run, load).map(drop)
}

fn rounds(bench: &Bench, recipe: &Recipe, load: &mut Load, figures: &mut Figures, rounds: u64) -> Result<()> {
    let (mut least_confirmed, mut least_in_flight, mut slowest) = (u64::MAX, u64::MAX, Duration::ZERO);
    for round in 0..rounds {
        let mut broker = recipe.start()?;
        slowest = slowest.max(broker.started_in);
        load.world.set_addr(Some(broker.addr));
        let before = load.confirmed();
        if round == 0 {
            load.begin(START_WITHIN)?;
        }
        load.confirm_more(ROUND_CONFIRMS, PATIENCE)?;
        // Every other reign is too short for a checkpoint of its own, so that the next one starts from what was recovered.
        if round % 2 == 1 {
            std::thread::sleep(bench.random.pause(Duration::from_millis(200), Duration::from_millis(2000)));
        }
        least_in_flight = least_in_flight.min(load.catch_in_flight(PATIENCE));
        broker.kill9();
        load.world.set_addr(None);
        least_confirmed = least_confirmed.min(load.confirmed() - before);
    }
    figures.needs("rounds", rounds);
    figures.needs("least_confirmed_in_a_round", least_confirmed);
    figures.needs("least_in_flight_at_the_kill", least_in_flight);
    figures.needs("kills", rounds + 1);
    let mut broker = recipe.start()?;
    load.world.set_addr(Some(broker.addr));
    load.drain(PATIENCE).judge(load)?;
    // Everything is settled behind confirmed fences: one more kill, and none of it may come back.
    broker.kill9();
    load.world.set_addr(None);
    let mut broker = recipe.start()?;
    load.world.set_addr(Some(broker.addr));
    load.expect_silence(PATIENCE)?;
    figures.shows("slowest_start_ms", slowest.max(broker.started_in).as_millis() as u64);
    broker.stop()
}
