//! Child processes: each in a process group of its own, with its output in a file and a deadline.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{kill_process_group, test_kill_process_group, Pid, Signal};

/// The groups that a signal to xtask must take along: they are not in the terminal's foreground group, so Ctrl-C misses them.
static LIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn live() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    LIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn stop_children_on_signals() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held to the end, so that nothing new is started meanwhile.
            let groups = live();
            groups.iter().for_each(|group| signal_group(*group, Signal::TERM));
            let deadline = Instant::now() + GRACE;
            while groups.iter().any(|group| group_lives(*group)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            groups.iter().for_each(|group| signal_group(*group, Signal::KILL));
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // The group may be gone already; then there is nothing to stop.
        let _ = kill_process_group(pid, signal);
    }
}

fn group_lives(leader: u32) -> bool {
    i32::try_from(leader).ok().and_then(Pid::from_raw).is_some_and(|pid| test_kill_process_group(pid).is_ok())
}

/// How long a group that ran out of time has to put things back (unmount, thaw, stop its own children) before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A child that leads its own process group. Dropping it kills the whole group.
pub struct Group {
    child: Child,
    status: Option<ExitStatus>,
    killed: bool,
}

impl Group {
    pub fn spawn(mut command: Command) -> Result<Group> {
        command.process_group(0);
        // Taken before the start: between it and the entry a signal would miss the child.
        let mut live = live();
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        live.insert(child.id());
        Ok(Group { child, status: None, killed: false })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status, or none when the deadline came first.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.status = Some(status);
                return Ok(Some(status));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            thread::sleep(pause.min(deadline - now));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Asks the group to end.
    pub fn terminate(&self) {
        signal_group(self.child.id(), Signal::TERM);
    }

    /// Kills the group and reaps its leader.
    pub fn kill(&mut self) {
        // Once only: an id that nobody holds any more may be given to a stranger. While the leader is unreaped it is held, so
        // signal before the wait; a leader that already ended may have left children, and they hold the group's id.
        if std::mem::replace(&mut self.killed, true) {
            return;
        }
        signal_group(self.child.id(), Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
        live().remove(&self.child.id());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

pub struct Outcome {
    pub success: bool,
    pub timed_out: bool,
    pub status: Option<ExitStatus>,
    pub took: Duration,
}

impl Outcome {
    /// How it ended, for a message: empty after a plain success.
    pub fn why(&self) -> String {
        if self.timed_out {
            return format!(": stopped after its {} s", self.took.as_secs());
        }
        match self.status {
            Some(status) if status.success() => String::new(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!(": exit code {code}"),
                (None, Some(signal)) => format!(": ended by signal {signal}"),
                (None, None) => ": ended".to_string(),
            },
            None => ": could not be waited for".to_string(),
        }
    }
}

/// Runs a command to its end or its limit, whichever is first; appends what it prints to `log`.
pub fn run(mut command: Command, log: &Path, limit: Duration) -> Result<Outcome> {
    let out = open_log(log)?;
    let err = out.try_clone()?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let start = Instant::now();
    let mut group = Group::spawn(command)?;
    let status = group.wait_until(start + limit)?;
    if status.is_none() {
        group.terminate();
        group.wait_until(Instant::now() + GRACE)?;
    }
    group.kill();
    let timed_out = status.is_none();
    Ok(Outcome { success: status.is_some_and(|s| s.success()), timed_out, status, took: start.elapsed() })
}

/// What a short command prints, or none when it is missing, fails or takes over 20 s.
pub fn probe(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command).ok()?;
    let mut stdout = group.child().stdout.take()?;
    let mut stderr = group.child().stderr.take()?;
    let status = group.wait_until(Instant::now() + Duration::from_secs(20)).ok()??;
    let mut text = String::new();
    // Version texts are far smaller than a pipe, so reading after the end cannot deadlock. Some print them on stderr (java).
    std::io::Read::read_to_string(&mut stdout, &mut text).ok()?;
    std::io::Read::read_to_string(&mut stderr, &mut text).ok()?;
    status.success().then_some(text)
}

pub fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The last lines of a log, indented, for a failure message.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all[from..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_command_is_stopped_with_its_children() {
        let log = std::env::temp_dir().join(format!("xtask-process-{}.log", std::process::id()));
        let _ = fs::remove_file(&log);
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $!; wait"]);
        let outcome = run(command, &log, Duration::from_millis(300)).unwrap();
        assert!(outcome.timed_out && !outcome.success);
        let child: i32 = fs::read_to_string(&log).unwrap().trim().parse().unwrap();
        let gone_by = Instant::now() + Duration::from_secs(5);
        // Killed, it is a zombie until init reaps it, or gone.
        loop {
            let state = fs::read_to_string(format!("/proc/{child}/stat")).ok();
            if state.is_none_or(|s| s.contains(") Z ")) {
                break;
            }
            assert!(Instant::now() < gone_by, "the child {child} outlived its group");
            thread::sleep(Duration::from_millis(10));
        }
        fs::remove_file(&log).unwrap();
    }

    #[test]
    fn a_missing_program_is_no_probe() {
        assert!(probe("no-such-program-here", &[]).is_none());
        assert!(probe("sh", &["-c", "exit 3"]).is_none());
        assert_eq!(probe("sh", &["-c", "echo hello"]).unwrap().trim(), "hello");
    }
}
