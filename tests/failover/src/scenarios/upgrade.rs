//! From this version to one that writes another format, one node after the other, while clients publish; and the way back, as long as there is one.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::net::{NAMES, W};
use crate::pair::{Pair, Program, LONG};
use crate::scenarios::switchover;
use crate::world::World;

/// What the node with the higher level says in `ha status` as long as the other one does not understand it.
const WAITS: &str = "the log stays at level 1 until";
/// What a program says that cannot open the store any more.
const TOO_LATE: &str = "of level 2, and this program understands levels up to 1";

pub fn rig(bench: &Bench) -> Result<()> {
    let (this, next) = (bench.this_version(), bench.next_version()?);
    let world = World::start(bench)?;
    let pair = &world.pair;
    for round in 0..if bench.soak { 10 } else { 1 } {
        there_and_back(&world, &this, &next).with_context(|| format!("there and back (round {round})"))?;
    }
    // In earnest.
    let begun = Instant::now();
    upgrade_standby(&world, &next)?;
    hand_over(&world)?;
    let primary = pair.whole()?;
    ensure!(says(pair, primary).starts_with(WAITS), "it does not say what it waits for: {}", says(pair, primary));
    upgrade_standby(&world, &next)?;
    pair.wait("the level rises", LONG, || says(pair, primary).is_empty())?;
    pair.install(W, &next);
    pair.kill9(W);
    pair.start_node(W)?;
    println!(
        "# upgrade: all three, in {} ms; no confirm for {} ms",
        begun.elapsed().as_millis(),
        world.ledger.longest_pause(begun).as_millis()
    );
    world.settled(300)?;
    refused(&world, &this, &next)?;
    // What is written in the new format is read by both: in what is left of the log, and by a takeover.
    for _ in 0..2 {
        let primary = world.settled(200)?;
        let killed = pair.kill9(primary);
        world.first_confirm(killed, 1 - primary, LONG)?;
        pair.start_node(primary)?;
    }
    pair.whole()?;
    world.finish("upgrade")
}

fn says(pair: &Pair, at: usize) -> String {
    pair.status(at).map(|status| status.says).unwrap_or_default()
}

fn hand_over(world: &World) -> Result<usize> {
    let primary = world.settled(100)?;
    let (_, answer) = switchover::ask(&world.pair, primary);
    let answer = answer.join().ok().flatten().context("no answer to the request")?;
    ensure!(answer == (200, format!("{{\"node\":\"{}\"}}", NAMES[1 - primary])), "{answer:?}");
    world.settled(100)
}

/// The standby is stopped and comes back as that version.
fn upgrade_standby(world: &World, program: &Program) -> Result<usize> {
    let pair = &world.pair;
    let standby = 1 - world.settled(100)?;
    pair.stop_later(standby)?()?;
    pair.install(standby, program);
    pair.start_node(standby)?;
    world.settled(100)?;
    Ok(standby)
}

/// One node of the next version, as standby and as primary; as long as the other one is of this version, it goes back to this version and reads all
/// that it has written.
fn there_and_back(world: &World, this: &Program, next: &Program) -> Result<()> {
    let pair = &world.pair;
    let newer = upgrade_standby(world, next)?;
    if hand_over(world)? == newer {
        // This version follows, and takes over.
        world.confirm_more(300)?;
        let killed = pair.kill9(newer);
        world.first_confirm(killed, 1 - newer, LONG)?;
        pair.install(newer, this);
        pair.start_node(newer)?;
    } else {
        pair.stop_later(newer)?()?;
        pair.install(newer, this);
        pair.start_node(newer)?;
    }
    world.settled(100)?;
    let primary = hand_over(world)?;
    ensure!(!says(pair, primary).starts_with(WAITS), "it is of the version that it went back from");
    Ok(())
}

/// This version does not open the store, and gets no copy of it either.
fn refused(world: &World, this: &Program, next: &Program) -> Result<()> {
    let pair = &world.pair;
    let standby = 1 - pair.whole()?;
    pair.stop_later(standby)?()?;
    pair.install(standby, this);
    let (code, words) = pair.start_in_vain(standby)?;
    ensure!(code == Some(75) || code == Some(1), "it ended with {code:?}{words}");
    ensure!(words.contains(TOO_LATE), "it does not say why it cannot open the store{words}");
    println!("# upgrade: this version ends with {code:?}: {}", words.lines().last().unwrap_or_default());
    for part in ["meta", "j", "c", "p", "x"] {
        let path = pair.data(standby).join(part);
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    pair.start_node(standby)?;
    pair.wait("it is told that it is too old", LONG, || says(pair, standby).contains("the log is of level 2 by now"))?;
    world.confirm_more(100)?;
    pair.kill9(standby);
    pair.install(standby, next);
    pair.start_node(standby)?;
    world.settled(100)?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}
