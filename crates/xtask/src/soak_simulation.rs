//! The long run of the simulation: one seed after the other, by turns through the scenarios, with the release binary. Where it was is kept in a file,
//! so that the next one goes on there.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

use crate::context::Context;
use crate::Options;

const SCENARIOS: [&str; 6] = ["kill", "stop", "partition", "disk-stall", "clock-jump", "chaos"];
/// Seeds of one process.
const CHUNK: u64 = 20;
/// Broken promises after which it is no use to go on.
const FAILURES_MAX: u64 = 10;

/// `--from` (where the last run ended, if it is not given) and `--seeds`, or as many as the time lets through.
pub fn run(context: &Context, options: &Options, time: Duration) -> Result<bool> {
    let binary = context.release_binary()?;
    let kept = context.dir("soak")?.join("simulation.next");
    let first = options.from.unwrap_or_else(|| std::fs::read_to_string(&kept).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0));
    let end = options.seeds.map_or(u64::MAX, |seeds| first.saturating_add(seeds));
    let (begun, mut seed, mut failures) = (Instant::now(), first, 0);
    while seed < end && (options.seeds.is_some() || begun.elapsed() < time) && failures < FAILURES_MAX {
        let seeds = CHUNK.min(end - seed);
        let scenario = SCENARIOS[(seed / CHUNK) as usize % SCENARIOS.len()];
        seed = match broken(&binary, scenario, seed, seeds)? {
            None => {
                println!("ok - {scenario} {seed}..{}", seed + seeds);
                seed + seeds
            }
            Some((at, what)) => {
                println!("not ok - {scenario} seed {at}: {what} (carrick ha drill --scenario {scenario} --seed {at} --verbose)");
                failures += 1;
                at + 1
            }
        };
        std::fs::write(&kept, format!("{seed}\n")).with_context(|| format!("writing {}", kept.display()))?;
    }
    println!("{} seeds from {first} on, {failures} broken, in {:.1} min", seed - first, begun.elapsed().as_secs_f64() / 60.0);
    Ok(failures == 0)
}

/// The first of these seeds that breaks a promise, and what it said.
fn broken(binary: &PathBuf, scenario: &str, seed: u64, seeds: u64) -> Result<Option<(u64, String)>> {
    let (seed, seeds) = (seed.to_string(), seeds.to_string());
    let args = ["ha", "drill", "--scenario", scenario, "--seed", &seed, "--seeds", &seeds];
    let done = Command::new(binary).args(args).output().with_context(|| format!("starting {}", binary.display()))?;
    if done.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&done.stdout);
    let told = said.lines().filter_map(|line| line.strip_prefix(scenario)?.trim().strip_prefix("seed ")?.split(' ').next()?.parse().ok());
    let broken = said.lines().find(|line| line.contains("BROKEN")).map(|line| line.trim().to_owned());
    match (broken, told.max()) {
        (Some(broken), Some(seed)) => Ok(Some((seed, broken))),
        // It died before it could say so: that of which nothing is told yet.
        (None, last) => {
            Ok(Some((last.map_or(seed.parse()?, |last: u64| last + 1), String::from_utf8_lossy(&done.stderr).trim().to_owned())))
        }
        (Some(_), None) => bail!("the drill says what is broken and not in which seed"),
    }
}
