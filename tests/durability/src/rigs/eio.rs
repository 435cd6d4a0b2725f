//! Writes and syncs that fail, at each kind of file. The broker must exit with code 75, must not sync again (the kernel has marked the
//! pages clean and would say yes), and after a restart nothing that it confirmed may be missing. Where disks of our own can be had, the
//! power is cut after the exit, so that what the failed sync left behind is really gone.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::{conclude, power, Bench, PATIENCE, ROUND_CONFIRMS, START_WITHIN};
use crate::broker::{Broker, Recipe, SMALL_JOURNAL};
use crate::disk::Disk;
use crate::load::{Load, Mix};
use crate::report::Figures;
use crate::shim::{Class, Fault, Shim};
use crate::watch::Watch;

/// What fails, where. The torn write is followed by the end of the process, as in a crash.
const CASES: &[(Fault, Class)] = &[
    (Fault::SyncEio, Class::Segment),
    (Fault::SyncEio, Class::Pages),
    (Fault::SyncEio, Class::Checkpoint),
    (Fault::SyncEio, Class::Cold),
    (Fault::SyncEio, Class::Directory),
    (Fault::ShortWrite, Class::Segment),
    (Fault::WriteEio, Class::Segment),
    (Fault::WriteEio, Class::Pages),
    (Fault::TornKill, Class::Segment),
    (Fault::TornKill, Class::Pages),
    (Fault::TornKill, Class::Checkpoint),
    (Fault::TornKill, Class::Cold),
];

pub fn rig(bench: &Bench) -> Result<()> {
    let (recipe, disk) = if bench.disks.is_ok() {
        let stage = power::stage(bench, "eio", SMALL_JOURNAL)?;
        (stage.recipe, Some(stage.disk))
    } else {
        (bench.recipe("eio", SMALL_JOURNAL)?, None)
    };
    run(bench, recipe, disk, "eio", CASES)
}

pub fn segments_only(bench: &Bench, recipe: Recipe, disk: Option<Disk>, name: &str) -> Result<()> {
    run(bench, recipe, disk, name, &CASES[..1])
}

fn run(bench: &Bench, mut recipe: Recipe, mut disk: Option<Disk>, name: &str, cases: &[(Fault, Class)]) -> Result<()> {
    let shim = Shim::attach(&mut recipe)?;
    let mut load = Load::new(Mix::usual(), bench.run(), &recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let watch = Watch::start(&recipe.data);
    let run = rounds(bench, &recipe, disk.as_mut(), &shim, &mut load, cases, &mut figures);
    figures.journal_as_it_came(&watch.finish());
    conclude(name, &mut figures, run, load).map(drop)
}

fn rounds(
    bench: &Bench,
    recipe: &Recipe,
    mut disk: Option<&mut Disk>,
    shim: &Shim,
    load: &mut Load,
    cases: &[(Fault, Class)],
    figures: &mut Figures,
) -> Result<()> {
    let (mut least_confirmed, mut least_in_flight, mut hits) = (u64::MAX, u64::MAX, 0);
    for (round, (fault, class)) in cases.iter().enumerate() {
        let mut broker = recipe.start().with_context(|| format!("before {fault:?} at {class:?}"))?;
        load.world.set_addr(Some(broker.addr));
        let before = load.confirmed();
        if round == 0 {
            load.begin(START_WITHIN)?;
        }
        load.confirm_more(ROUND_CONFIRMS, PATIENCE)?;
        let countdown = if *class == Class::Segment { bench.random.within(1, 20) } else { 1 };
        shim.arm(*fault, &[*class], countdown, 0)?;
        let in_flight = wait_for_end(&mut broker, shim, load, *fault, *class)?;
        least_in_flight = least_in_flight.min(in_flight);
        load.world.set_addr(None);
        hits += shim.hits()?;
        let later = shim.later_syncs()?;
        ensure!(later == 0, "after {fault:?} at {class:?} it asked for {later} more syncs");
        shim.disarm()?;
        if let Some(disk) = disk.as_deref_mut() {
            disk.cut_power()?;
            disk.power_on()?;
        }
        least_confirmed = least_confirmed.min(load.confirmed() - before);
    }
    figures.needs("rounds", cases.len() as u64);
    figures.needs("faults_that_hit", hits);
    figures.needs("least_confirmed_in_a_round", least_confirmed);
    figures.needs("least_in_flight_at_the_fault", least_in_flight);
    figures.shows("power_cut_after_each", u64::from(disk.is_some()));
    let mut broker = recipe.start().context("after the last fault")?;
    load.world.set_addr(Some(broker.addr));
    load.drain(PATIENCE).judge(load)?;
    broker.stop()
}

/// Waits for the fault to hit and the broker to end over it; what was in flight just before.
fn wait_for_end(broker: &mut Broker, shim: &Shim, load: &Load, fault: Fault, class: Class) -> Result<u64> {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut in_flight = 0;
    while shim.hits()? == 0 {
        in_flight = in_flight.max(load.in_flight());
        ensure!(std::time::Instant::now() < deadline, "{fault:?} at {class:?} was never met: no such call within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    match broker.wait(Duration::from_secs(3))? {
        None => bail!("{fault:?} at {class:?}: still alive after 3 s ({} syncs since)", shim.later_syncs()?),
        // SIGKILL, by the shim itself.
        Some(status) if fault == Fault::TornKill && status.code().is_none() => Ok(in_flight),
        Some(status) if fault != Fault::TornKill && status.code() == Some(75) => Ok(in_flight),
        Some(status) => bail!("{fault:?} at {class:?}: {status} instead of exit code 75; {}", broker.last_words()),
    }
}
