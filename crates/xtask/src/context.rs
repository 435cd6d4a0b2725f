//! Where things are, found once and passed down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::process;

pub struct Context {
    /// The checkout.
    pub root: PathBuf,
    /// Cargo's target directory; everything fetched or written by the suites lives below it.
    pub target: PathBuf,
    /// On CI a tool that cannot be had is a failure; elsewhere its suite is skipped by name.
    pub ci: bool,
}

impl Context {
    pub fn from_env() -> Result<Context> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("crates/xtask has no grandparent")?.to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => std::env::current_dir()?.join(dir),
            _ => root.join("target"),
        };
        let ci = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
        Ok(Context { root, target, ci })
    }

    /// A folder below the target directory, made if missing.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target.join("xtask").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// The cargo that runs us, at the root of the checkout.
    pub fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// The release binary, from `CARRICK_BIN` if that is set, else built now.
    pub fn release_binary(&self) -> Result<PathBuf> {
        if let Some(given) = std::env::var_os("CARRICK_BIN") {
            let given = PathBuf::from(given);
            if !given.is_file() {
                bail!("CARRICK_BIN names {}, which is no file", given.display());
            }
            return Ok(given);
        }
        let log = self.dir("logs")?.join("build.log");
        println!("building the release binary (log: {})", log.display());
        let outcome = process::run(self.cargo(&["build", "--release", "-p", "server", "--bins"]), &log, Duration::from_secs(1800))?;
        if !outcome.success {
            bail!("cargo build --release failed{}:\n{}", outcome.why(), process::tail(&log, 60));
        }
        let binary = self.target.join("release/carrick");
        if !binary.is_file() {
            bail!("cargo build --release left no {}", binary.display());
        }
        Ok(binary)
    }
}
