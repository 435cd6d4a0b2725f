//! `cargo xtask soak --only fuzz`: every target of `fuzz/` with libFuzzer, from its committed corpus on. The stable toolchain suffices: the
//! coverage that libFuzzer steers by is a pass of LLVM, and only the address sanitizer, which crates without `unsafe` gain little from, is not.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use crate::context::Context;
use crate::process;

const BUILD: Duration = Duration::from_secs(1800);
const LEAST: u64 = 10;
/// An input that takes longer than this, or more memory, is a finding.
const INPUT_SECS: u64 = 10;
const MEMORY_MIB: u64 = 1024;

const COVERAGE: &str =
    "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=yes -Ccodegen-units=1";

/// Builds the targets and runs each for its share of `CARRICK_SOAK_SECONDS`. What a target finds stays in target/xtask/fuzz, inputs included.
pub fn fuzz(context: &Context) -> Result<bool> {
    let names = targets(context)?;
    let all: u64 = std::env::var("CARRICK_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let share = (all / names.len() as u64).max(LEAST);
    let triple = host()?;
    let built = context.target.join("fuzz");
    let log = context.dir("logs")?.join("fuzz-build.log");
    let mut build = context.cargo(&["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target", &triple]);
    // With a target named, the flags are not for build scripts, which are not linked with libFuzzer.
    build.env("CARGO_TARGET_DIR", &built).env("RUSTFLAGS", COVERAGE);
    let outcome = process::run(build, &log, BUILD)?;
    ensure!(outcome.success, "building the targets failed{}:\n{}", outcome.why(), process::tail(&log, 40));
    let mut good = true;
    for name in &names {
        let work = context.dir(&format!("fuzz/{name}"))?;
        let log = context.dir("logs")?.join(format!("fuzz-{name}.log"));
        let _ = fs::remove_file(&log);
        let mut command = Command::new(built.join(&triple).join("release").join(name));
        command.arg(format!("-max_total_time={share}")).arg(format!("-timeout={INPUT_SECS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        command.arg(format!("-artifact_prefix={}/", context.dir("fuzz")?.join(format!("{name}-found")).display())).arg(&work);
        let corpus = context.root.join("fuzz/corpus").join(name);
        command.args(corpus.is_dir().then_some(&corpus));
        fs::create_dir_all(context.dir("fuzz")?.join(format!("{name}-found")))?;
        let outcome = process::run(command, &log, Duration::from_secs(share + 120))?;
        let said = process::tail(&log, 1);
        match outcome.success {
            true => println!("ok - fuzz {name}: {}", said.trim()),
            false => println!("not ok - fuzz {name}{}; see {}\n{}", outcome.why(), log.display(), process::tail(&log, 30)),
        }
        good &= outcome.success;
    }
    Ok(good)
}

fn targets(context: &Context) -> Result<Vec<String>> {
    let folder = context.root.join("fuzz/fuzz_targets");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths: Vec<_> = files.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let mut names: Vec<String> = paths.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect();
    names.sort();
    ensure!(!names.is_empty(), "no fuzz targets in {}", folder.display());
    Ok(names)
}

fn host() -> Result<String> {
    let said = process::probe("rustc", &["-vV"]).context("cannot ask rustc for its host")?;
    Ok(said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?.to_string())
}
