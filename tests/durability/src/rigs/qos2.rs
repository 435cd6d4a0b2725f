//! QoS 2, and a kill at each of the eight packet boundaries: four on the publisher's side, four on the subscriber's. Nothing may be lost
//! and nothing may come twice. Packet ids of the publishers start just below 65,535, so they wrap in the first round.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{ensure, Result};

use super::{conclude, Bench, PATIENCE, ROUND_CONFIRMS, START_WITHIN};
use crate::broker::{Broker, Recipe, SMALL_JOURNAL};
use crate::load::{Load, Mix};
use crate::report::Figures;
use crate::shim::{Class, Fault, Shim};
use crate::world::{wait_for, Point, World, POINTS};

const PAIRS: u16 = 6;

pub fn rig(bench: &Bench) -> Result<()> {
    let recipe = bench.recipe("qos2", SMALL_JOURNAL)?;
    let kills = POINTS.iter().cycle().take(POINTS.len() * bench.scale as usize).copied().collect();
    run(bench, &recipe, "qos2", &Schedule { kills, confirms: ROUND_CONFIRMS })?;
    run_slow(bench, bench.recipe("qos2-slow", SMALL_JOURNAL)?, "qos2-slow", &POINTS)
}

/// The boundaries to kill at, one after the other, and how many messages are confirmed before each.
struct Schedule {
    kills: Vec<Point>,
    confirms: u64,
}

fn run(bench: &Bench, recipe: &Recipe, name: &str, schedule: &Schedule) -> Result<()> {
    let mut load = Load::new(Mix::exactly_once(PAIRS), bench.run(), &recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let run = rounds(bench, recipe, &mut load, &mut figures, schedule);
    figures.needs("publisher_ids_wrapped", load.world.wraps.load(Ordering::Relaxed));
    conclude(name, &mut figures, run, load).map(drop)
}

/// With writes of the log slowed down: what leaves before it is in the log is nearly always ahead of it when the kill comes.
pub fn run_slow(bench: &Bench, mut recipe: Recipe, name: &str, kills: &[Point]) -> Result<()> {
    let shim = Shim::attach(&mut recipe)?;
    shim.arm(Fault::WritePause, &[Class::Segment], 1, 10_000)?;
    run(bench, &recipe, name, &Schedule { kills: kills.to_vec(), confirms: 200 })
}

/// Both sides use up all 65,535 packet ids with two in flight, over kills. Takes minutes: for the soak.
pub fn wrap(bench: &Bench) -> Result<()> {
    const KILLS: u64 = 6;
    const PAIRS: u64 = 2;
    let recipe = bench.recipe("wrap", SMALL_JOURNAL)?;
    let mut load = Load::new(Mix::exactly_once(PAIRS as u16), bench.run(), &recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let run = (|| {
        for kill in 0..=KILLS {
            let mut broker = recipe.start()?;
            load.world.set_addr(Some(broker.addr));
            if kill == 0 {
                load.begin(START_WITHIN)?;
            }
            if kill == KILLS {
                load.drain(PATIENCE).judge(&load)?;
                return broker.stop();
            }
            // A seventh more than the range for each pair.
            load.confirm_more(PAIRS * 75_000 / KILLS, Duration::from_secs(600))?;
            broker.kill9();
            load.world.set_addr(None);
        }
        Ok(())
    })();
    figures.needs("kills", KILLS);
    figures.needs("deliveries_over_the_id_range", load.confirmed().saturating_sub(PAIRS * 65_535));
    conclude("wrap", &mut figures, run, load).map(drop)
}

fn rounds(bench: &Bench, recipe: &Recipe, load: &mut Load, figures: &mut Figures, schedule: &Schedule) -> Result<()> {
    let (mut least_confirmed, mut least_in_flight) = (u64::MAX, u64::MAX);
    let broker: Arc<Mutex<Option<Broker>>> = Arc::default();
    let start = |world: &World| -> Result<()> {
        let started = recipe.start()?;
        world.set_addr(Some(started.addr));
        *broker.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(())
    };
    start(&load.world)?;
    load.begin(START_WITHIN)?;
    for &point in &schedule.kills {
        let before = load.confirmed();
        load.confirm_more(schedule.confirms, PATIENCE)?;
        // At the packet, or while the broker is busy with it.
        let late = bench.random.pause(Duration::ZERO, Duration::from_millis(3)) * u32::from(bench.random.within(0, 2) == 1);
        let (victim, world) = (broker.clone(), load.world.clone());
        load.world.arm(
            point,
            bench.random.within(1, 200),
            Box::new(move || {
                std::thread::sleep(late);
                if let Some(mut broker) = victim.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    broker.kill9();
                }
                world.set_addr(None);
            }),
        );
        let gone = || broker.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let fired = wait_for(PATIENCE, gone);
        least_in_flight = least_in_flight.min(load.in_flight());
        load.world.disarm();
        ensure!(fired, "no client came past {point:?} for {PATIENCE:?}; last trouble: {}", load.world.trouble());
        least_confirmed = least_confirmed.min(load.confirmed() - before);
        start(&load.world)?;
    }
    figures.needs("kills_at_a_boundary", schedule.kills.len() as u64);
    figures.needs("least_confirmed_in_a_round", least_confirmed);
    figures.needs("least_in_flight_at_the_kill", least_in_flight);
    load.drain(PATIENCE).judge(load)
}
