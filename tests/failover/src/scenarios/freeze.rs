//! Processes that stand still for ten seconds and wake up.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use rustix::process::Signal;

use crate::bench::{Bench, Times};
use crate::net::{NAMES, W};
use crate::world::World;

const FROZEN: Duration = Duration::from_secs(10);
const GENEROUS: Duration = Duration::from_secs(10);

/// The primary: it is another's turn long before it wakes up, and then it may confirm nothing.
pub fn primary(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let mut times = Times::default();
    for _ in 0..if bench.soak { 10 } else { 1 } {
        let primary = world.settled(100)?;
        let ends = world.pair.ends(primary).len();
        world.pair.signal(primary, Signal::STOP)?;
        let since = Instant::now();
        times.add(world.first_confirm(since, 1 - primary, GENEROUS)?);
        std::thread::sleep(FROZEN.saturating_sub(since.elapsed()));
        let woken = Instant::now();
        world.pair.signal(primary, Signal::CONT)?;
        world.pair.wait("it gives up", GENEROUS, || world.pair.ends(primary).len() > ends)?;
        let gave_up = world.pair.ends(primary).last().map(|(when, _)| when.duration_since(woken)).unwrap_or_default();
        println!("# freeze-primary: it ended {} ms after it woke up", gave_up.as_millis());
        let late = world.ledger.first_confirm(woken, Some(primary), None);
        ensure!(late.is_none(), "{} confirmed something {late:?} after it woke up", NAMES[primary]);
        world.pair.whole()?;
    }
    println!("# freeze-primary: from SIGSTOP to the first confirm by the other node: {times}");
    world.finish("freeze-primary")
}

/// The standby, and after it the witness: confirms wait for a moment at most.
pub fn others(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let mut waits = Times::default();
    for round in 0..if bench.soak { 10 } else { 2 } {
        let primary = world.pair.whole()?;
        let who = if round % 2 == 0 { 1 - primary } else { W };
        world.confirm_more(100)?;
        world.pair.signal(who, Signal::STOP)?;
        let since = Instant::now();
        std::thread::sleep(FROZEN);
        waits.add(world.ledger.longest_pause(since));
        world.pair.signal(who, Signal::CONT)?;
        ensure!(world.pair.whole()? == primary, "the primary changed though only {} was frozen", NAMES[who]);
    }
    ensure!(waits.max() < Duration::from_secs(5), "confirms waited: {waits}");
    println!("# freeze-others: the longest time without a confirm: {waits}");
    world.finish("freeze-others")
}
