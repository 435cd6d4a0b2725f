//! kill -9, and back again.

use std::fs::File;
use std::os::unix::fs::FileExt;
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

/// A broker that was started again.
pub(super) struct Started {
    pub at: u64,
    pub process: Process,
    child: Child,
    /// What it says to stderr: a file without a name.
    log: File,
}

/// Runs the start command in its own process group; it outlives this tool.
///
/// So it must not hold this tool's own stderr either: behind `carrick bench ... 2>&1 | tail` the reader of that pipe would wait for the end
/// of the *broker*, and the report would never be seen.
pub(super) fn start(restart: &Restart) -> Result<Started> {
    use std::os::unix::process::CommandExt;
    let Some(command) = &restart.start else { bail!("--start is needed to bring the broker back") };
    if restart.drop_caches {
        sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("--drop-caches needs root")?;
    }
    let log = nameless_file().context("a file for what the started broker says")?;
    let stderr = log.try_clone()?;
    let at = clock::now();
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .context("--start")?;
    let process = Process::new(child.id())?;
    Ok(Started { at, process, child, log })
}

impl Started {
    /// Waiting for a broker that has ended is in vain. It may have left others behind (`--start 'carrick serve &'`), so a good end counts for nothing.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) if !status.success() => bail!("--start ended with {status}: {}", self.last_words()),
            _ => Ok(()),
        }
    }

    /// For the message that it did not come back.
    pub fn last_words(&self) -> String {
        let mut said = vec![0; 1_000];
        let from = self.log.metadata().map_or(0, |log| log.len().saturating_sub(said.len() as u64));
        let len = self.log.read_at(&mut said, from).unwrap_or(0);
        match String::from_utf8_lossy(&said[..len]).trim() {
            "" => "it said nothing".into(),
            said => said.into(),
        }
    }
}

fn nameless_file() -> std::io::Result<File> {
    let path = std::env::temp_dir().join(format!("carrick-bench-{}-{}", std::process::id(), clock::now()));
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Only clean pages can be dropped.
fn sync() {
    let _ = Command::new("sync").status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(command: &str) -> Started {
        start(&Restart { start: Some(command.into()), drop_caches: false, max_start: 1.0 }).unwrap()
    }

    #[test]
    fn the_started_broker_holds_nothing_of_what_this_tool_writes_to() {
        let seen = std::env::temp_dir().join(format!("carrick-bench-fds-{}", std::process::id()));
        let mut broker = started(&format!("fds=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo \"$fds\" > {}", seen.display()));
        assert!(broker.child.wait().unwrap().success());
        let fds = std::fs::read_to_string(&seen).unwrap();
        std::fs::remove_file(&seen).unwrap();
        let own = std::env::temp_dir().join("carrick-bench-");
        assert!(fds.starts_with(&format!("/dev/null\n/dev/null\n{}", own.display())), "{fds}");
    }

    #[test]
    fn a_broker_that_cannot_start_is_told_with_its_reason() {
        let mut broker = started("echo no such port >&2; exit 3");
        broker.child.wait().unwrap();
        let why = broker.check().unwrap_err().to_string();
        assert!(why.contains("exit status: 3") && why.contains("no such port"), "{why}");
        let mut quiet = started("exit 0");
        quiet.child.wait().unwrap();
        quiet.check().unwrap();
    }
}
