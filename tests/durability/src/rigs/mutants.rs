//! The rigs against brokers with a deliberate fault (`CARRICK_MUTANT` in a debug build; the lists are in src/mutants.rs of crates/journal and
//! crates/broker, qos2_early in crates/mqtt): each must be noticed, and for the reason it should be. A mutant that a rig lets pass means that the rig proves nothing.
//! `DURABILITY_MUTANTS=qos2_early,no_sync` tries these only.
//!
//! | mutant | what it does | caught here by | otherwise by |
//! |---|---|---|---|
//! | no_sync | never syncs | power cut | journal simulation |
//! | confirm_before_sync | confirms, then syncs | power cut with slow syncs | journal simulation |
//! | retry_fsync | tries a failed sync again | failed sync | journal simulation |
//! | trust_recovered_tail | goes on behind an unsynced tail | power cut after a restart | journal simulation |
//! | torn_commit | logs what a transaction settles behind it | kill under AMQP load | |
//! | copy_dead_letter | logs where a dead letter arrives, then that it left | kill under AMQP load | |
//! | qos2_early | a QoS 2 delivery leaves before its id is in the log | kill at each QoS 2 boundary with slow writes | |
//! | skip_dirsync, ckpt_before_commit, liveness_from_memory | | | journal simulation: ext4 makes names durable with the file |

use std::path::PathBuf;
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use super::{amqp, eio, power, qos2, Bench};
use crate::broker::SMALL_JOURNAL;
use crate::load::Mix;
use crate::world::Point;

type Attempt = fn(&Bench, &str) -> Result<()>;

/// Mutant, what a rig must say about it (one of), the rig, and whether it needs disks of our own.
const MUTANTS: &[(&str, &[&str], Attempt, bool)] = &[
    ("no_sync", &["lost ", "did not start", "exit code"], power_cut, true),
    ("confirm_before_sync", &["lost ", "did not start"], slow_power_cut, true),
    ("retry_fsync", &["still alive", "more syncs"], failed_sync, false),
    ("trust_recovered_tail", &["lost ", "did not start"], tail, true),
    // What was settled too late comes again: before its consumer was told, or after.
    ("torn_commit", &["duplicates ", "resurrected "], amqp_kill, false),
    ("copy_dead_letter", &["duplicates ", "resurrected "], amqp_kill, false),
    ("qos2_early", &["duplicates ", "lost "], boundaries, false),
];

pub fn rig(bench: &Bench) -> Result<()> {
    let binary = binary()?;
    let mut survivors = Vec::new();
    let only = std::env::var("DURABILITY_MUTANTS").ok();
    for (mutant, words, attempt, needs_disks) in MUTANTS {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|wanted| wanted == *mutant)) {
            continue;
        }
        if let (true, Err(why)) = (needs_disks, &bench.disks) {
            println!("# mutant {mutant} CANNOT BE TRIED HERE: {why}");
            continue;
        }
        let mutated = bench.with_binary(binary.clone());
        // On a busy machine a rig may not come to do what it needs; that says nothing of the mutant.
        let toothless = |outcome: &Result<()>| outcome.as_ref().is_err_and(|error| format!("{error:#}").contains("no teeth"));
        let mut outcome = attempt(&mutated, mutant);
        for _ in 0..2 {
            if toothless(&outcome) {
                println!("# mutant {mutant}: once more");
                outcome = attempt(&mutated, mutant);
            }
        }
        match outcome {
            Err(caught) if words.iter().any(|word| format!("{caught:#}").contains(word)) => {
                println!("# mutant {mutant}: caught: {caught:#}");
            }
            Err(other) => survivors.push(format!("{mutant} (it failed for another reason: {other:#})")),
            Ok(()) => survivors.push((*mutant).to_string()),
        }
    }
    ensure!(survivors.is_empty(), "not caught: {}", survivors.join(", "));
    Ok(())
}

/// A broker built for debugging, which has the mutants in it; `CARRICK_MUTANT_BIN` names one that exists already.
fn binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CARRICK_MUTANT_BIN") {
        return Ok(given.into());
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("tests/durability has no grandparent")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let begin = std::time::Instant::now();
    // The broker that the tests of the workspace have built, with the features that third-party crates have there.
    let done = Command::new(cargo)
        .args(["test", "--workspace", "--test", "it", "--no-run"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .context("cannot run cargo")?;
    if !done.status.success() {
        bail!("the debug build failed: {}", String::from_utf8_lossy(&done.stderr));
    }
    println!("# built the mutants in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(target.join("debug/carrick"))
}

fn env(mutant: &str) -> (String, String) {
    ("CARRICK_MUTANT".into(), mutant.into())
}

fn power_cut(bench: &Bench, mutant: &str) -> Result<()> {
    let mut stage = power::stage(bench, mutant, SMALL_JOURNAL)?;
    stage.recipe.env.push(env(mutant));
    power::run_cut(bench, &mut stage, Mix::usual(), mutant, 1)
}

fn slow_power_cut(bench: &Bench, mutant: &str) -> Result<()> {
    let mut stage = power::stage(bench, mutant, SMALL_JOURNAL)?;
    stage.recipe.env.push(env(mutant));
    power::run_slow_cut(bench, &mut stage, mutant, 3)
}

fn tail(bench: &Bench, mutant: &str) -> Result<()> {
    let mut stage = power::stage(bench, mutant, SMALL_JOURNAL)?;
    stage.recipe.env.push(env(mutant));
    power::run_tail(bench, &mut stage, mutant, 3)
}

fn failed_sync(bench: &Bench, mutant: &str) -> Result<()> {
    let mut recipe = bench.recipe(mutant, SMALL_JOURNAL)?;
    recipe.env.push(env(mutant));
    eio::segments_only(bench, recipe, None, mutant)
}

fn amqp_kill(bench: &Bench, mutant: &str) -> Result<()> {
    let mut recipe = bench.recipe(mutant, SMALL_JOURNAL)?;
    recipe.env.push(env(mutant));
    amqp::kills(bench, recipe, mutant, 4)
}

fn boundaries(bench: &Bench, mutant: &str) -> Result<()> {
    let mut recipe = bench.recipe(mutant, SMALL_JOURNAL)?;
    recipe.env.push(env(mutant));
    qos2::run_slow(bench, recipe, mutant, &[Point::GotPublish, Point::SentPubrec, Point::GotPublish])
}
