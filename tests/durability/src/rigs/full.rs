//! A disk that runs full, at each kind of file: just before the broker makes a segment, a cold file, a page file or a checkpoint, something
//! else takes all the space there is. Publishers must be held, consumers must go on and drain everything that was confirmed, and when
//! they have, publishers must go on as well: no restart, and no help from outside until then.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{conclude, Bench, PATIENCE, ROUND_CONFIRMS, START_WITHIN};
use crate::broker::{Broker, SMALL_JOURNAL};
use crate::consumer::{self, Presence};
use crate::disk::Disk;
use crate::load::{Load, Mix};
use crate::report::Figures;
use crate::shim::{Class, Fault, Shim};
use crate::watch::Watch;
use crate::world::wait_for;

const DISK_MIB: u64 = 40;
const CASES: [Class; 4] = [Class::Segment, Class::Cold, Class::Pages, Class::Checkpoint];
/// Held: nothing was confirmed for this long although messages wait.
const HELD_FOR: Duration = Duration::from_millis(1200);

/// Nobody here publishes fences: a client that publishes is held on a full disk, its acknowledgements included.
fn mix() -> Mix {
    let mut mix = Mix::usual();
    let mut hoarder = consumer::Plan::new(24, 1);
    hoarder.presence = Presence::WhenAsked;
    mix.consumers.push(hoarder);
    mix.consumers.iter_mut().for_each(|plan| plan.fences = false);
    mix
}

pub fn rig(bench: &Bench) -> Result<()> {
    run(bench, "mqtt", mix(), "full", &CASES)
}

pub fn run(bench: &Bench, protocol: &'static str, mix: Mix, name: &str, cases: &[Class]) -> Result<()> {
    let mut recipe = bench.recipe(name, SMALL_JOURNAL)?;
    recipe.protocol = protocol;
    let disk = Disk::tmpfs(&recipe.scratch, DISK_MIB)?;
    recipe.data = disk.data();
    let ballast = disk.mount.join("ballast");
    recipe.env.push(("FAULT_BALLAST".into(), ballast.display().to_string()));
    let shim = Shim::attach(&mut recipe)?;
    let mut load = Load::new(mix, bench.run(), &recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let watch = Watch::start(&recipe.data);
    let run = (|| {
        let mut broker = recipe.start()?;
        load.world.set_addr(Some(broker.addr));
        load.begin(START_WITHIN)?;
        let (mut least_confirmed, mut least_in_flight) = (u64::MAX, u64::MAX);
        for &class in cases {
            let before = load.confirmed();
            let in_flight = round(&mut broker, &shim, &load, class).with_context(|| format!("disk full at {class:?}"))?;
            least_in_flight = least_in_flight.min(in_flight);
            least_confirmed = least_confirmed.min(load.confirmed() - before);
            std::fs::remove_file(&ballast).context("the ballast")?;
        }
        figures.needs("rounds", cases.len() as u64);
        figures.needs("least_confirmed_in_a_round", least_confirmed);
        figures.needs("least_in_flight_while_held", least_in_flight);
        load.world.asked.store(true, Ordering::Relaxed);
        load.drain(PATIENCE).judge(&load)?;
        broker.stop()
    })();
    figures.journal(&watch.finish());
    let full = shim.full()?;
    let names = ["enospc_at_segments", "enospc_at_cold_files", "enospc_at_pages", "enospc_at_checkpoints"];
    for ((class, name), count) in CASES.iter().zip(names).zip(full) {
        match cases.contains(class) {
            true => figures.needs(name, count),
            false => figures.shows(name, count),
        }
    }
    conclude(name, &mut figures, run, load).map(drop)
}

/// One disk full: what was in flight while publishers were held.
fn round(broker: &mut Broker, shim: &Shim, load: &Load, class: Class) -> Result<u64> {
    let world = &load.world;
    world.all_online.store(false, Ordering::Relaxed);
    // Cold files are only made when something is dead; afterwards, and in the other rounds, a session that takes everything stays away,
    // so that nothing can be freed and the disk stays full.
    world.asked.store(class == Class::Cold, Ordering::Relaxed);
    // Enough segments that what draining frees is more than what the broker keeps in reserve.
    load.confirm_more(5 * ROUND_CONFIRMS, PATIENCE)?;
    let before = shim.full()?;
    shim.arm(Fault::Fill, &[class], 1, 0)?;
    ensure!(wait_for(PATIENCE, || shim.hits().is_ok_and(|hits| hits > 0)), "no file of this kind grew within {PATIENCE:?}");
    world.asked.store(false, Ordering::Relaxed);
    let in_flight = wait_until_held(broker, load)?;
    ensure!(shim.full()? != before, "publishers are held, but the system never said that the disk was full");
    let confirmed = load.confirmed();
    world.asked.store(true, Ordering::Relaxed);
    world.all_online.store(true, Ordering::Relaxed);
    ensure!(load.keep_up(PATIENCE), "consumers could not drain the full disk; last trouble: {}", world.trouble());
    let resumed = wait_for(PATIENCE, || load.confirmed() > confirmed + ROUND_CONFIRMS);
    ensure!(resumed, "everything is drained, and publishers are still held; last trouble: {}", world.trouble());
    ensure!(broker.wait(Duration::ZERO)?.is_none(), "the broker ended: {}", broker.last_words());
    shim.disarm()?;
    Ok(in_flight)
}

fn wait_until_held(broker: &mut Broker, load: &Load) -> Result<u64> {
    let (mut last, mut since) = (load.confirmed(), Instant::now());
    let deadline = Instant::now() + Duration::from_secs(30);
    while since.elapsed() < HELD_FOR {
        if let Some(status) = broker.wait(Duration::ZERO)? {
            anyhow::bail!("the broker ended: {status}; {}", broker.last_words());
        }
        ensure!(Instant::now() < deadline, "publishers are not held");
        if load.confirmed() != last {
            (last, since) = (load.confirmed(), Instant::now());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(load.in_flight())
}
