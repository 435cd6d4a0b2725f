//! `cargo xtask check`: everything that is not a test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};

use crate::context::Context;
use crate::{process, tidy, Options};

type Step = (&'static str, fn(&Context) -> Result<bool>);

const STEPS: &[Step] = &[("fmt", fmt), ("clippy", clippy), ("doc", doc), ("deny", deny), ("tidy", tidy::tidy)];

pub fn check(context: &Context, options: &Options) -> Result<bool> {
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
    if options.list {
        println!("{}", names.join("\n"));
        return Ok(true);
    }
    options.check_names(&names)?;
    let mut rows = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| options.wants(name)) {
        let start = Instant::now();
        let ok = step(context).unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            false
        });
        println!("{name}: {} in {:.1} min", if ok { "ok" } else { "FAILED" }, start.elapsed().as_secs_f64() / 60.0);
        rows.push((*name, ok));
    }
    let failed: Vec<&str> = rows.iter().filter(|(_, ok)| !ok).map(|(name, _)| *name).collect();
    if failed.is_empty() {
        println!("check: {} steps ok", rows.len());
    } else {
        println!("check: failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn fmt(context: &Context) -> Result<bool> {
    run(context, "fmt", context.cargo(&["fmt", "--all", "--check"]), 2)
}

fn clippy(context: &Context) -> Result<bool> {
    run(context, "clippy", context.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]), 20)
}

fn doc(context: &Context) -> Result<bool> {
    let mut command = context.cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    run(context, "doc", command, 20)
}

/// Licences, duplicate versions and sources. Advisories need a database from outside; `cargo deny check advisories` is for where it can be had.
fn deny(context: &Context) -> Result<bool> {
    let tool = cargo_deny(context)?;
    let mut command = Command::new(tool);
    command.current_dir(&context.root).env("CARGO_TARGET_DIR", &context.target);
    command.args(["--workspace", "check", "licenses", "bans", "sources"]);
    run(context, "deny", command, 5)
}

const CARGO_DENY: &str = "0.19.9";

fn cargo_deny(context: &Context) -> Result<PathBuf> {
    let wanted = format!("cargo-deny {CARGO_DENY}");
    let root = context.target.join("tools");
    let ours = root.join("bin/cargo-deny");
    for candidate in [ours.clone(), PathBuf::from("cargo-deny")] {
        if process::probe(&candidate.to_string_lossy(), &["--version"]).is_some_and(|version| version.trim() == wanted) {
            return Ok(candidate);
        }
    }
    println!("installing {wanted} into {}", root.display());
    fs::create_dir_all(&root)?;
    let log = fresh_log(context, "cargo-deny-install")?;
    let mut install = context.cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--no-default-features", "--root"]);
    // It runs for seconds and takes minutes to optimise.
    install.arg(&root).arg("--debug").env("CARGO_TARGET_DIR", root.join("build"));
    install.env("CARGO_PROFILE_DEV_DEBUG", "false").env("CARGO_INCREMENTAL", "0");
    let outcome = process::run(install, &log, Duration::from_secs(1200))?;
    if !outcome.success {
        bail!("cargo install cargo-deny failed{}:\n{}", outcome.why(), process::tail(&log, 20));
    }
    let _ = fs::remove_dir_all(root.join("build"));
    Ok(ours)
}

fn run(context: &Context, name: &str, command: Command, minutes: u64) -> Result<bool> {
    let log = fresh_log(context, name)?;
    let outcome = process::run(command, &log, Duration::from_secs(minutes * 60))?;
    if !outcome.success {
        println!("{name} failed{} (log: {}):\n{}", outcome.why(), log.display(), process::tail(&log, 80));
    }
    Ok(outcome.success)
}

fn fresh_log(context: &Context, name: &str) -> Result<PathBuf> {
    let log = context.dir("logs")?.join(format!("check-{name}.log"));
    if log.exists() {
        fs::remove_file(&log)?;
    }
    Ok(log)
}
