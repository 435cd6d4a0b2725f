//! A queue with priorities over a restart of both nodes: one consumer that then reads all of it finds each producer's messages of a priority in
//! their order, the higher priorities first, and none missing but what was acked (clients/python/drain.py).

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::house;
use crate::pair::LONG;
use crate::program;
use crate::world::World;

/// Of the three producers together, before the nodes go.
const CONFIRMED: usize = 1500;

type Lines = Arc<Mutex<Vec<Vec<String>>>>;

pub fn rig(bench: &Bench) -> Result<()> {
    if program::script("python", "drain.py").is_none() {
        ensure!(!house::is_ci(), "drain.py was not made");
        println!("# drain CANNOT RUN HERE: cargo xtask test makes it");
        return Ok(());
    }
    let world = World::start(bench)?;
    for round in 0..if bench.soak { 20 } else { 2 } {
        one(&world, round).with_context(|| format!("round {round}"))?;
    }
    world.finish("drain")
}

fn start(world: &World, phase: &str, round: usize, node: usize) -> Result<(Child, Lines)> {
    let mut command: Command = program::script("python", "drain.py").context("drain.py was not made")?;
    command.arg(phase).env("HOST", world.pair.host(node).to_string()).env("ROUND", round.to_string());
    let errors = std::fs::File::create(world.pair.file("drain.log"))?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn()?;
    let out = BufReader::new(child.stdout.take().context("it is piped")?);
    let lines = Lines::default();
    let written = lines.clone();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let words = line.split(' ').map(str::to_owned).collect();
            written.lock().unwrap_or_else(PoisonError::into_inner).push(words);
        }
    });
    Ok((child, lines))
}

fn those(lines: &Lines, word: &str) -> Vec<Vec<u64>> {
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let numbers = |line: &Vec<String>| line[1..].iter().filter_map(|word| word.parse().ok()).collect();
    lines.iter().filter(|line| line[0] == word).map(numbers).collect()
}

fn one(world: &World, round: usize) -> Result<()> {
    let pair = &world.pair;
    let primary = world.settled(100)?;
    let (mut pouring, poured) = start(world, "pour", round, primary)?;
    pair.wait("the producers are confirmed", LONG, || those(&poured, "confirmed").len() >= CONFIRMED)?;
    pair.kill9(primary);
    pair.kill9(1 - primary);
    pouring.wait()?;
    let first = if round % 2 == 0 { primary } else { 1 - primary };
    pair.start_node(first)?;
    ensure!(pair.primary()? == first, "the other one is primary");
    let (mut draining, drained) = start(world, "drain", round, first)?;
    ensure!(draining.wait()?.success(), "the consumer failed: {}", crate::node::last_words(&pair.file("drain.log"), 8));
    pair.start_node(1 - first)?;
    pair.whole()?;
    let (confirmed, acked, drained) = (those(&poured, "confirmed"), those(&poured, "acked"), those(&drained, "drained"));
    println!("# drain: {} confirmed, {} acked, {} drained", confirmed.len(), acked.len(), drained.len());
    judge(&confirmed, &acked, &drained)
}

fn judge(confirmed: &[Vec<u64>], acked: &[Vec<u64>], drained: &[Vec<u64>]) -> Result<()> {
    let acked: BTreeSet<&[u64]> = acked.iter().map(Vec::as_slice).collect();
    let there: BTreeSet<&[u64]> = drained.iter().map(|line| &line[..2]).collect();
    ensure!(there.len() == drained.len(), "{} messages came twice", drained.len() - there.len());
    let lost = confirmed.iter().find(|line| !there.contains(line.as_slice()) && !acked.contains(line.as_slice()));
    ensure!(lost.is_none(), "confirmed, not acked, and gone: {lost:?}");
    let mut last: HashMap<(u64, u64), u64> = HashMap::new();
    let mut lowest = u64::MAX;
    for line in drained {
        let [producer, n, priority] = line[..] else { anyhow::bail!("not understood: {line:?}") };
        let before = last.insert((producer, priority), n);
        ensure!(before.is_none_or(|before| before < n), "of producer {producer} and priority {priority}, {n} came after {before:?}");
        ensure!(priority <= lowest, "priority {priority} came after {lowest}");
        lowest = priority;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_twice_or_out_of_order_is_noticed() {
        let confirmed = [vec![1, 1], vec![1, 2], vec![2, 3]];
        let good = [vec![1, 2, 3], vec![2, 3, 1]];
        assert!(judge(&confirmed, &[vec![1, 1]], &good).is_ok());
        assert!(judge(&confirmed, &[], &good).is_err());
        assert!(judge(&confirmed[1..], &[], &[good.as_slice(), &good[1..]].concat()).is_err());
        assert!(judge(&[], &[], &[vec![2, 3, 1], vec![1, 2, 3]]).is_err());
        assert!(judge(&[], &[], &[vec![1, 5, 3], vec![1, 2, 3]]).is_err());
    }
}
