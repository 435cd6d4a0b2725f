//! A place of our own: this program starts itself again in new network, mount and process namespaces, and is the first process there. Whatever
//! becomes of it, the kernel ends every process in it and takes every network, interface and mount away; none of them has a name outside.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};

const INSIDE: &str = "FAILOVER_INSIDE";
const NAMESPACES: [&str; 7] = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// Where what is missing is a failure, and not a reason to leave something out.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

pub fn are_we_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why it cannot be had here, if so: tried, not guessed.
pub fn probe() -> Result<(), String> {
    let try_it = Command::new("unshare").args(NAMESPACES).args(["ip", "link", "add", "probe", "type", "bridge"]).output();
    match try_it {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("no network namespaces: {}", String::from_utf8_lossy(&done.stderr).trim())),
        Err(error) => Err(format!("no network namespaces: unshare: {error}")),
    }
}

/// Does not come back if it works.
pub fn move_in() -> anyhow::Error {
    let Ok(ourselves) = std::env::current_exe() else { return anyhow::anyhow!("where this program lies is not known") };
    let error = Command::new("unshare").args(NAMESPACES).arg(ourselves).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    anyhow::Error::new(error).context("unshare")
}

/// Once, inside: where `ip netns` keeps its names is ours alone too.
pub fn furnish() -> Result<()> {
    std::fs::create_dir_all("/run/netns").context("/run/netns")?;
    run("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"])?;
    ip("link set lo up")
}

pub fn ip(words: &str) -> Result<()> {
    run("ip", &words.split(' ').collect::<Vec<_>>())
}

pub fn run(program: &str, args: &[&str]) -> Result<()> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(done.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}
