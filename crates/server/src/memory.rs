//! How much memory there is for us: the machine's, or the container's.

use std::fs;
use std::path::Path;

/// Two fifths of the machine's memory, or three fifths of what the control group allows, whichever is less. `None` where nobody says.
pub fn default_high() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text)).map(|bytes| bytes / 5 * 2);
    let group = group_limit().map(|bytes| bytes / 5 * 3);
    machine.into_iter().chain(group).min()
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The lowest limit from our control group up to the root (version 2), or version 1's.
fn group_limit() -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let ours = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = ours.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let v2 = root.join(own).ancestors().take_while(|dir| dir.starts_with(root)).filter_map(|dir| limit_in(&dir.join("memory.max"))).min();
    v2.or_else(|| limit_in(&root.join("memory/memory.limit_in_bytes")))
}

fn limit_in(file: &Path) -> Option<u64> {
    // "max", and in version 1 a number close to 2^63, say that there is none.
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total_of("MemTotal:       24610048 kB\nMemFree:  1 kB\n"), Some(24_610_048 * 1024));
        assert_eq!(total_of("MemFree:  1 kB\n"), None);
        assert!(default_high().is_none_or(|high| high > 1 << 20));
    }
}
