//! Paths between the three that carry nothing, while every client still reaches both nodes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::{Bench, Times};
use crate::net::{Net, A, B, W};
use crate::world::World;

const GENEROUS: Duration = Duration::from_secs(10);
/// What a pair that may go on alone takes for it: `peer_timeout_ms`, and a write to the register.
const ALONE_WITHIN: Duration = Duration::from_secs(5);

/// From the primary's side: to the other node and to the witness.
type Cut = fn(&Net, usize, usize) -> Result<()>;

/// Whom the others lose: the primary has to stop, and the other one takes over.
const DEPOSED: [(&str, Cut); 3] = [
    ("the primary is cut off from both", |net, p, s| net.cut(p, s).and_then(|()| net.cut(p, W))),
    ("what the primary sends is lost", |net, p, s| net.cut_one_way(p, s).and_then(|()| net.cut_one_way(p, W))),
    ("what the primary is sent is lost", |net, p, s| net.cut_one_way(s, p).and_then(|()| net.cut_one_way(W, p))),
];

/// The primary keeps its witness or its standby, and stays.
const STAYS: [(&str, Cut); 7] = [
    ("the primary and the standby do not reach each other", |net, p, s| net.cut(p, s)),
    ("what the primary sends to the standby is lost", |net, p, s| net.cut_one_way(p, s)),
    ("what the standby sends to the primary is lost", |net, p, s| net.cut_one_way(s, p)),
    ("the primary and the witness do not reach each other", |net, p, _| net.cut(p, W)),
    ("the standby and the witness do not reach each other", |net, _, s| net.cut(s, W)),
    ("the standby is cut off from both", |net, p, s| net.cut(s, p).and_then(|()| net.cut(s, W))),
    ("the witness is cut off from both", |net, p, s| net.cut(W, p).and_then(|()| net.cut(W, s))),
];

/// Also the figure: from the cut to the last confirm of the one that is cut off.
pub fn deposed(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let (mut fenced, mut ended, mut taken_over) = (Times::default(), Times::default(), Times::default());
    for round in 0..if bench.soak { 10 } else { 1 } {
        for (what, cut) in DEPOSED {
            depose(&world, cut, [&mut fenced, &mut ended, &mut taken_over]).with_context(|| format!("{what} (round {round})"))?;
        }
    }
    println!("# deposed: from the cut to the last confirm of the old primary: {fenced}");
    println!("# deposed: from the cut to the end of its process: {ended}");
    println!("# deposed: from the cut to the first confirm of the new one: {taken_over}");
    world.finish("deposed")
}

fn depose(world: &World, cut: Cut, [fenced, ended, taken_over]: [&mut Times; 3]) -> Result<()> {
    let pair = &world.pair;
    pair.reaches_all()?;
    let primary = world.settled(100)?;
    let (ends, since) = (pair.ends(primary).len(), Instant::now());
    cut(pair.net(), primary, 1 - primary)?;
    taken_over.add(world.first_confirm(since, 1 - primary, GENEROUS)?);
    pair.wait("the one that is cut off gives up", GENEROUS, || pair.ends(primary).len() > ends)?;
    ended.add(pair.ends(primary).last().map(|(when, _)| when.duration_since(since)).unwrap_or_default());
    // It is started again, and must not serve as long as it sees nobody.
    world.silent(primary, Duration::from_millis(1500))?;
    fenced.add(world.ledger.last_confirm(since, primary).unwrap_or_default());
    world.confirm_more(100)?;
    pair.net().heal()?;
    ensure!(pair.whole()? == 1 - primary, "the one that was cut off is primary again");
    Ok(())
}

pub fn stays(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let mut waits = Times::default();
    for round in 0..if bench.soak { 10 } else { 1 } {
        for (what, cut) in STAYS {
            stay(&world, cut, &mut waits).with_context(|| format!("{what} (round {round})"))?;
        }
    }
    println!("# stays: the longest time without a confirm around a cut: {waits}");
    world.finish("stays")
}

/// Either stays primary or is told by the register that it is not, but somebody serves all the time.
fn stay(world: &World, cut: Cut, waits: &mut Times) -> Result<()> {
    let pair = &world.pair;
    // A cut beside one that is not mended yet is another failure, and a worse one.
    pair.reaches_all()?;
    let primary = world.settled(100)?;
    let since = Instant::now();
    cut(pair.net(), primary, 1 - primary)?;
    std::thread::sleep(Duration::from_millis(2500));
    let wait = world.ledger.longest_pause(since);
    ensure!(wait < ALONE_WITHIN, "nothing was confirmed for {wait:?}{}", pair.last_words());
    waits.add(wait);
    world.confirm_more(100)?;
    let other = world.ledger.first_confirm(since, Some(1 - primary), None);
    ensure!(other.is_none(), "the standby took over after {other:?}, without need{}", pair.last_words());
    pair.net().heal()?;
    pair.whole()?;
    Ok(())
}

/// The cable: clients do not reach it either. The process sees its clients and the others vanish without a word.
pub fn unplugged(bench: &Bench) -> Result<()> {
    let mut world = World::start(bench)?;
    world.ledger.impatient.store(true, Ordering::Relaxed);
    for (name, first) in [("paho-v5", A), ("stomp-py", B)] {
        world.invite("python", name, first)?;
    }
    let mut taken_over = Times::default();
    let mut others: Vec<Times> = world.programs.iter().map(|_| Times::default()).collect();
    for _ in 0..if bench.soak { 10 } else { 2 } {
        let primary = world.settled(100)?;
        let since = Instant::now();
        world.pair.net().unplug(primary)?;
        taken_over.add(world.first_confirm(since, 1 - primary, GENEROUS)?);
        for (program, times) in world.programs.iter().zip(&mut others) {
            // Nobody tells them: their own sign of life has to fail first.
            times.add(world.first_confirm_of(program, since, GENEROUS * 3)?);
        }
        world.pair.net().heal()?;
        world.pair.whole()?;
    }
    println!("# unplugged: from the cut to the first confirm of the new primary: {taken_over}");
    for (program, times) in world.programs.iter().zip(&others) {
        println!("# unplugged: the same for {}, which finds out by its own heart-beat: {times}", program.name);
    }
    world.finish("unplugged")
}
