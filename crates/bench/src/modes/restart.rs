//! kill -9, and back again.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::args::Restart;
use crate::clock::{self, SECOND};
use crate::procfs::Process;

/// Kills the whole tree. The caller goes on publishing until [`wait_dead`].
pub(super) fn kill(process: &mut Process) -> Result<()> {
    process.refresh();
    process.kill()
}

pub(super) fn wait_dead(process: &Process) -> Result<()> {
    let deadline = clock::now() + 10 * SECOND;
    while process.is_alive() {
        ensure!(clock::now() < deadline, "the broker survived SIGKILL for 10 s");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs the start command in its own process group; it outlives this tool. Returns when it was started.
pub(super) fn start(restart: &Restart) -> Result<(u64, Process, Child)> {
    use std::os::unix::process::CommandExt;
    let Some(command) = &restart.start else { bail!("--start is needed to bring the broker back") };
    if restart.drop_caches {
        sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("--drop-caches needs root")?;
    }
    let at = clock::now();
    let child =
        Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().context("--start")?;
    let process = Process::new(child.id())?;
    Ok((at, process, child))
}

/// Only clean pages can be dropped.
fn sync() {
    let _ = Command::new("sync").status();
}
