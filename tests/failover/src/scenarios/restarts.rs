//! Both nodes go, and come back in each order; with a witness and without.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::house::run;
use crate::net::{NAMES, W};
use crate::pair::{Pair, LONG};
use crate::world::World;

/// So long is looked whether somebody does what he must not do.
const LOOK: Duration = Duration::from_millis(2500);

fn must_not_serve(pair: &Pair, at: usize, why: &str) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < LOOK {
        ensure!(!pair.serves(at), "{} serves, though {why}{}", NAMES[at], pair.last_words());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The other node is killed, and the register says that this one is alone in sync.
fn alone(world: &World) -> Result<usize> {
    let primary = world.pair.whole()?;
    world.pair.kill9(1 - primary);
    world.pair.wait("the primary is alone in sync", LONG, || {
        world.pair.status(primary).is_some_and(|status| status.in_sync == [NAMES[primary]])
    })?;
    world.confirm_more(200)?;
    Ok(primary)
}

pub fn in_each_order(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let pair = &world.pair;
    for round in 0..if bench.soak { 10 } else { 1 } {
        for standby_first in [true, false] {
            both_at_once(&world, standby_first).with_context(|| format!("both at once, {standby_first} (round {round})"))?;
        }
        // One after the other: the last one has what the first one never saw.
        let last = alone(&world)?;
        pair.kill9(last);
        pair.start_node(1 - last)?;
        must_not_serve(pair, 1 - last, "it lacks what the other one confirmed alone")?;
        pair.start_node(last)?;
        ensure!(pair.whole()? == last, "the one that lacks messages became primary");
        world.confirm_more(100)?;
        // And the one that has everything comes first.
        let last = alone(&world)?;
        pair.kill9(last);
        pair.start_node(last)?;
        ensure!(pair.primary()? == last, "the one that lacks messages became primary");
        world.confirm_more(100)?;
        pair.start_node(1 - last)?;
        pair.whole()?;
    }
    world.finish("restarts")
}

fn both_at_once(world: &World, standby_first: bool) -> Result<()> {
    let pair = &world.pair;
    let primary = world.settled(100)?;
    pair.kill9(primary);
    pair.kill9(1 - primary);
    let first = if standby_first { 1 - primary } else { primary };
    pair.start_node(first)?;
    ensure!(pair.primary()? == first, "with the witness the first one may serve: both had everything");
    world.confirm_more(100)?;
    pair.start_node(1 - first)?;
    pair.whole()?;
    Ok(())
}

/// The witness alone, the witness and the standby, the witness and both.
pub fn witness(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let pair = &world.pair;
    for round in 0..if bench.soak { 10 } else { 1 } {
        let primary = pair.whole()?;
        pair.kill9(W);
        let since = Instant::now();
        std::thread::sleep(LOOK);
        let pause = world.ledger.longest_pause(since);
        ensure!(pause < Duration::from_secs(2), "without the witness nothing was confirmed for {pause:?} (round {round})");
        ensure!(pair.whole()? == primary, "the primary changed");
        let ends = pair.ends(primary).len();
        let since = pair.kill9(1 - primary);
        pair.wait("who cannot know whether it is alone gives up", LONG, || pair.ends(primary).len() > ends)?;
        let last = world.ledger.last_confirm(since, primary).unwrap_or_default();
        println!("# witness: standby and witness lost: the last confirm came {} ms after", last.as_millis());
        must_not_serve(pair, primary, "it is one of three voters")?;
        pair.start_node(1 - primary)?;
        let primary = pair.whole().context("two of three are back")?;
        world.confirm_more(100)?;
        pair.kill9(1 - primary);
        pair.kill9(primary);
        for at in [primary, 1 - primary] {
            pair.start_node(at)?;
        }
        pair.whole().context("both nodes came back without the witness")?;
        world.confirm_more(100)?;
        pair.start_node(W)?;
        // It votes again: with it, one may go.
        pair.wait("the witness is back", LONG, || pair.serves(W))?;
        std::thread::sleep(Duration::from_millis(500));
        let primary = pair.whole()?;
        let killed = pair.kill9(primary);
        world.first_confirm(killed, 1 - primary, LONG)?;
        pair.start_node(primary)?;
    }
    world.finish("witness")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    run("cp", &["-a", &from.display().to_string(), &to.display().to_string()])
}

/// The witness comes back with an empty directory while one node is alone in sync: with the other one, which knows nothing of that, it must not
/// make a majority.
pub fn witness_wiped(bench: &Bench) -> Result<()> {
    forgetful_witness(bench, "witness-wiped", |data, _| Ok(fs::remove_dir_all(data)?))
}

/// The same with a copy of its directory from when both were in sync.
pub fn witness_restored(bench: &Bench) -> Result<()> {
    forgetful_witness(bench, "witness-restored", |data, kept| copy(kept, data))
}

fn forgetful_witness(bench: &Bench, name: &str, forget: fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let world = World::start(bench)?;
    let pair = &world.pair;
    pair.whole()?;
    let (data, kept) = (pair.data(W), pair.file("kept-w"));
    pair.kill9(W);
    copy(&data, &kept)?;
    pair.start_node(W)?;
    pair.wait("the witness is back", LONG, || pair.serves(W))?;
    std::thread::sleep(Duration::from_millis(500));
    let last = alone(&world)?;
    pair.kill9(W);
    pair.kill9(last);
    forget(&data, &kept)?;
    pair.start_node(W)?;
    pair.start_node(1 - last)?;
    must_not_serve(pair, 1 - last, "it lacks what the other one confirmed alone")?;
    pair.start_node(last)?;
    ensure!(pair.whole()? == last, "the one that lacks messages became primary");
    world.confirm_more(200)?;
    // Once an operator has said so it votes again: with it, one may go.
    let answer = pair.post(last, "/api/ha/replace-voter", "{\"voter\":\"w\"}");
    ensure!(answer.as_ref().is_some_and(|(code, _)| *code == 200), "replace-voter: {answer:?}");
    let killed = pair.kill9(pair.whole()?);
    world.first_confirm(killed, 1 - last, LONG)?;
    pair.start_node(last)?;
    world.finish(name)
}

/// The standby, not in its first life, loses its directory: it gets a copy and a new vote, and then takes over.
pub fn node_wiped(bench: &Bench) -> Result<()> {
    let world = World::start(bench)?;
    let pair = &world.pair;
    for round in 0..if bench.soak { 10 } else { 2 } {
        let primary = world.settled(100)?;
        let lost = 1 - primary;
        for _ in 0..2 {
            pair.kill9(lost);
            pair.start_node(lost)?;
            ensure!(pair.whole()? == primary, "the primary changed");
        }
        pair.kill9(lost);
        fs::remove_dir_all(pair.data(lost))?;
        pair.start_node(lost)?;
        let begun = Instant::now();
        let mut answer = None;
        pair.wait("the voter is replaced", LONG, || {
            answer = pair.post(primary, "/api/ha/replace-voter", &format!("{{\"voter\":\"{}\"}}", NAMES[lost]));
            answer.as_ref().is_some_and(|(code, _)| *code == 200)
        })
        .with_context(|| format!("replace-voter: {answer:?} (round {round})"))?;
        ensure!(pair.whole()? == primary, "the primary changed");
        println!("# node-wiped: in sync again after {} ms", begun.elapsed().as_millis());
        world.confirm_more(200)?;
        let killed = pair.kill9(primary);
        world.first_confirm(killed, lost, LONG)?;
        pair.start_node(primary)?;
    }
    pair.whole()?;
    world.finish("node-wiped")
}
