//! What a broker's process tree used, from /proc.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Result};
use rustix::process::{kill_process, Pid, Signal};

use crate::clock::SECOND;

/// A process and its descendants. The tree is walked when asked, since a walk over /proc takes milliseconds.
#[derive(Clone)]
pub(crate) struct Process {
    root: u32,
    pids: Vec<u32>,
}

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Usage {
    /// User and system time.
    pub cpu_ns: u64,
    pub rss_kib: u64,
    /// The peak since the last [`Process::reset_peak`].
    pub peak_kib: u64,
    /// What the kernel was told to write to disks.
    pub written: u64,
}

impl Process {
    pub fn new(pid: u32) -> Result<Process> {
        ensure!(Path::new(&format!("/proc/{pid}")).exists(), "--pid {pid}: there is no such process");
        let mut process = Process { root: pid, pids: Vec::new() };
        process.refresh();
        Ok(process)
    }

    /// Looks for new children.
    pub fn refresh(&mut self) {
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, stat(pid)?.parent)))
            .collect();
        self.pids = vec![self.root];
        let mut at = 0;
        while at < self.pids.len() {
            let parent = self.pids[at];
            self.pids.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
            at += 1;
        }
    }

    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for &pid in &self.pids {
            sum.cpu_ns += cpu_ns(pid);
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            sum.rss_kib += field(&status, "VmRSS:");
            sum.peak_kib += field(&status, "VmHWM:");
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            sum.written += field(&io, "write_bytes:");
        }
        sum
    }

    /// Makes the peak memory speak of what comes, where we are allowed to.
    pub fn reset_peak(&self) {
        for pid in &self.pids {
            // proc(5): 5 resets the peak resident set. Without permission the peak is that of the whole life.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// SIGKILL to the whole tree.
    pub fn kill(&self) -> Result<()> {
        for &pid in &self.pids {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                match kill_process(pid, Signal::KILL) {
                    // A child may have ended by itself.
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(e) => return Err(anyhow::anyhow!("kill {}: {e}", pid.as_raw_nonzero())),
                }
            }
        }
        Ok(())
    }

    /// True while the root runs; a zombie waits for its parent only and counts as ended.
    pub fn is_alive(&self) -> bool {
        stat(self.root).is_some_and(|s| s.state != 'Z')
    }
}

struct Stat {
    state: char,
    parent: u32,
    cpu_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): the name may hold anything, so fields are counted from the last parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
    })
}

/// `stat` counts ended threads too but in ticks of 10 ms; `schedstat` counts nanoseconds but of live threads only.
/// Neither can exceed the truth, so the larger one is the better one.
fn cpu_ns(pid: u32) -> u64 {
    let tick = SECOND / rustix::param::clock_ticks_per_second().max(1);
    let coarse = stat(pid).map_or(0, |s| s.cpu_ticks * tick);
    let fine: u64 = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    coarse.max(fine)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes on disk under a folder: allocated blocks, as du counts.
pub(crate) fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_usage(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_survives_a_hostile_name() {
        let s = parse_stat("12 (a) b (c) S 7 12 12 0 -1 0 0 0 0 0 30 12 0 0 20 0 3 0").unwrap();
        assert_eq!((s.state, s.parent, s.cpu_ticks), ('S', 7, 42));
        assert!(parse_stat("12 (short) S 1").is_none());
    }

    #[test]
    fn the_own_process_is_alive_and_uses_memory_and_time() {
        let process = Process::new(std::process::id()).unwrap();
        let before = process.usage();
        assert!(process.is_alive() && before.rss_kib > 0 && before.peak_kib >= before.rss_kib);
        let mut x = 1u64;
        while process.usage().cpu_ns == before.cpu_ns {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(process.usage().cpu_ns > before.cpu_ns);
        assert!(Process::new(u32::MAX).is_err());
    }
}
