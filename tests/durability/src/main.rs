//! Faults under live load (`cargo xtask test --only durability`): clients of our own, a broker process, something terrible, and a checker
//! that only knows what the clients wrote down. Each rig prints what it injected; a rig that injected nothing fails.

mod amqp;
mod broker;
mod checker;
mod consumer;
mod disk;
mod ledger;
mod link;
mod load;
mod message;
mod producer;
mod random;
mod report;
mod rigs;
mod shim;
mod watch;
mod wire;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, Context, Result};

use crate::random::Random;
use crate::rigs::Bench;

type Rig = fn(&Bench) -> Result<()>;

/// Name, what it is, whether it needs disks of its own (root), the rig.
const RIGS: &[(&str, &str, bool, Rig)] = &[
    ("kill", "kill -9 in a loop under QoS 1 and 2 load", false, rigs::kill::rig),
    ("amqp-kill", "the same under AMQP 0-9-1: several queues, transactions, dead letters, priorities, TTL", false, rigs::amqp::kill),
    ("qos2", "kill -9 at each of the eight QoS 2 boundaries", false, rigs::qos2::rig),
    ("eio", "failed syncs, failed, short and torn writes at each kind of file", false, rigs::eio::rig),
    ("power", "power cuts under load", true, rigs::power::cut),
    ("amqp-power", "the same under AMQP 0-9-1", true, rigs::amqp::power),
    ("full", "a full disk at each kind of file, drained without a restart", true, rigs::full::rig),
    ("amqp-full", "the same under AMQP 0-9-1", true, rigs::amqp::full),
    ("stall", "a disk that stands still", true, rigs::stall::rig),
    ("tail", "kill, restart, confirm, and the power is cut at once", true, rigs::power::tail),
    ("mutants", "brokers with deliberate faults, each to be caught", false, rigs::mutants::rig),
];

/// These take minutes.
const SOAK_RIGS: &[(&str, &str, bool, Rig)] =
    &[("wrap", "QoS 2 over more than 65,535 packet ids with two in flight, and kills", false, rigs::qos2::wrap)];

struct Options {
    only: Vec<String>,
    scale: u64,
    /// All rigs again and again, for `CARRICK_SOAK_SECONDS`.
    soak: bool,
}

fn all_rigs() -> impl Iterator<Item = &'static (&'static str, &'static str, bool, Rig)> {
    RIGS.iter().chain(SOAK_RIGS)
}

fn options() -> Result<Options> {
    let mut options = Options { only: Vec::new(), scale: 1, soak: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => options.only = args.next().context("--only RIG,RIG")?.split(',').map(str::to_string).collect(),
            "--scale" => options.scale = args.next().context("--scale N")?.parse().context("--scale N")?,
            "--soak" => options.soak = true,
            "--list" => {
                all_rigs().for_each(|(name, about, ..)| println!("{name:<14} {about}"));
                std::process::exit(0);
            }
            other => bail!("unknown option {other}; there are --only RIG,RIG, --scale N, --soak and --list"),
        }
    }
    if let Some(unknown) = options.only.iter().find(|name| !all_rigs().any(|(known, ..)| known == name)) {
        bail!("there is no rig '{unknown}'");
    }
    Ok(options)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("durability: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let options = options()?;
    let binary = PathBuf::from(std::env::var_os("CARRICK_BIN").context("CARRICK_BIN must name the broker's binary")?);
    let tmp = std::env::var_os("CARRICK_TMP").map_or_else(|| std::env::temp_dir().join("carrick-durability"), PathBuf::from);
    let (random, seed) = Random::from_env();
    println!("# DURABILITY_SEED={seed}");
    let bench = Bench::new(binary, tmp, random, options.scale)?;
    let ci = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    let wanted = |name: &str| options.only.iter().any(|only| only == name);
    let soak_for = std::env::var("CARRICK_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let begin = Instant::now();
    let mut good = true;
    loop {
        for entry in RIGS.iter().filter(|(name, ..)| options.only.is_empty() || wanted(name)) {
            good &= one(&bench, entry, ci);
        }
        for entry in SOAK_RIGS.iter().filter(|(name, ..)| if options.only.is_empty() { options.soak } else { wanted(name) }) {
            good &= one(&bench, entry, ci);
        }
        if !options.soak || begin.elapsed().as_secs() >= soak_for {
            return Ok(good);
        }
    }
}

fn one(bench: &Bench, (name, about, needs_disks, rig): &(&str, &str, bool, Rig), ci: bool) -> bool {
    if let (true, Err(why)) = (needs_disks, &bench.disks) {
        println!("# {name} CANNOT RUN HERE: it mounts disks of its own, and that does not work: {why}");
        println!("{}ok - {name}: {about}{}", if ci { "not " } else { "" }, if ci { "" } else { " # SKIP needs root and loop devices" });
        return !ci;
    }
    let begin = Instant::now();
    let outcome = rig(bench);
    println!("# {name}: {:.1} s", begin.elapsed().as_secs_f64());
    match outcome {
        Ok(()) => println!("ok - {name}: {about}"),
        Err(ref error) => println!("not ok - {name}: {error:#}"),
    }
    outcome.is_ok()
}
