//! kill -9 of whoever is primary, again and again.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::bench::{Bench, Times};
use crate::net::{A, B, W};
use crate::world::World;

/// Far above what is promised of it: this is a test of right and wrong, on a machine that does other things.
const GENEROUS: Duration = Duration::from_secs(10);

pub fn rig(bench: &Bench) -> Result<()> {
    let mut world = World::start(bench)?;
    for (name, first) in [("paho-v311", A), ("pika", B), ("paho-qos2", A)] {
        world.invite("python", name, first)?;
    }
    let rounds = if bench.soak { 100 } else { 10 };
    let (mut times, mut back, mut in_flight) = (Times::default(), Times::default(), 0);
    let mut others: Vec<Times> = world.programs.iter().map(|_| Times::default()).collect();
    for _ in 0..rounds {
        let primary = world.settled(100)?;
        in_flight += world.ledger.unconfirmed();
        let killed = world.pair.kill9(primary);
        times.add(world.first_confirm(killed, 1 - primary, GENEROUS)?);
        for (program, times) in world.programs.iter().zip(&mut others) {
            times.add(world.first_confirm_of(program, killed, GENEROUS)?);
        }
        let begun = Instant::now();
        world.pair.start_node(primary)?;
        world.pair.whole()?;
        back.add(begun.elapsed());
    }
    println!("# kill: from kill -9 to the first confirm by the other node: {times}");
    for (program, times) in world.programs.iter().zip(&others) {
        println!("# kill: the same for {}, which has both addresses: {times}", program.name);
    }
    println!("# kill: from the start of the killed one until it is in sync: {back}; in flight at a kill, over all: {in_flight}");
    println!("# kill: the witness has {:.1} MiB in memory", world.pair.resident_mib(W));
    ensure!(in_flight > 0, "nothing was in flight at any kill: the rig has no teeth");
    world.finish("kill")
}
