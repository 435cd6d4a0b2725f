//! The primary's place is given to the other one on purpose.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::{Bench, Times};
use crate::net::{NAMES, W};
use crate::pair::{Pair, LONG};
use crate::world::World;

const GENEROUS: Duration = Duration::from_secs(10);

/// Asks the primary to hand over; answers when it was asked. It answers when it is done, so somebody else waits for that.
pub fn ask(pair: &Pair, primary: usize) -> (Instant, std::thread::JoinHandle<Option<(u16, String)>>) {
    let asking = pair.ask_later(primary, "/api/ha/switchover");
    (Instant::now(), asking)
}

pub fn rig(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let (mut asked, mut stopped) = (Times::default(), Times::default());
    for _ in 0..if bench.soak { 50 } else { 5 } {
        let primary = world.settled(100)?;
        let (since, answer) = ask(&world.pair, primary);
        asked.add(world.first_confirm(since, 1 - primary, GENEROUS)?);
        let answer = answer.join().ok().flatten().context("no answer to the request")?;
        ensure!(answer == (200, format!("{{\"node\":\"{}\"}}", NAMES[1 - primary])), "{answer:?}");
        let primary = world.settled(100)?;
        let since = Instant::now();
        let stopping = world.pair.stop_later(primary)?;
        stopped.add(world.first_confirm(since, 1 - primary, GENEROUS)?);
        stopping()?;
        world.pair.start_node(primary)?;
    }
    println!("# switchover: from the request to the first confirm by the other node: {asked}");
    println!("# switchover: from SIGTERM to the same: {stopped}");
    world.finish("switchover")
}

/// The standby is told, or is not, and its answer is lost: it may be primary, or not, and the old one must not be meanwhile.
pub fn lost_answers(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let pair = &world.pair;
    let mut times = Times::default();
    for round in 0..if bench.soak { 40 } else { 4 } {
        let primary = world.settled(100)?;
        let ends = pair.ends(primary).len();
        let (since, answer) = ask(pair, primary);
        // Each time a little later, so that each of the words gets lost in turn.
        std::thread::sleep(Duration::from_millis([0, 4, 8, 15][round % 4]));
        match round / 4 % 2 {
            0 => pair.net().cut_one_way(1 - primary, primary)?,
            _ => pair.net().cut_one_way(primary, 1 - primary)?,
        }
        if round % 2 == 1 {
            pair.net().cut(primary, W)?;
        }
        pair.wait("the old primary has ended", GENEROUS, || pair.ends(primary).len() > ends)?;
        let ended = pair.ends(primary).last().map_or(since, |(when, _)| *when);
        // Whoever it is: the old one may be back before the other one misses it.
        let mut back = None;
        pair.wait("somebody confirms", LONG, || {
            let other = world.ledger.first_confirm(since, Some(1 - primary), None);
            back = other.or_else(|| Some(world.ledger.first_confirm(ended, None, None)? + ended.duration_since(since)));
            back.is_some()
        })?;
        times.add(back.unwrap_or_default());
        pair.net().heal()?;
        let _ = answer.join();
    }
    println!("# lost-answers: from the request to the first confirm of the next reign: {times}");
    world.finish("lost-answers")
}
