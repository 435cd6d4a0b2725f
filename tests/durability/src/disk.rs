//! Disks of our own, to hurt: an ext4 in a file, mounted through a loop device, and a small tmpfs. Both need root.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::shim;
use crate::world::wait_for;

fn run(program: &str, args: &[&str]) -> Result<()> {
    let done = Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(done.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// The name of its copy: as long after a thousand power cuts as after one.
fn beside(image: &Path, inode: u64) -> PathBuf {
    image.with_file_name(format!("disk.{inode}.img"))
}

pub struct Disk {
    image: Option<PathBuf>,
    pub mount: PathBuf,
    options: String,
    mounted: bool,
    cutter: Option<PathBuf>,
}

impl Disk {
    /// An ext4 on a loop device.
    pub fn ext4(scratch: &Path, mib: u64) -> Result<Disk> {
        let image = scratch.join("disk.img");
        File::create(&image)?.set_len(mib << 20)?;
        run("mkfs.ext4", &["-q", "-F", text(&image)])?;
        let cutter = shim::compile("cutpower.c", false, scratch)?;
        let mut disk =
            Disk { image: Some(image), mount: scratch.join("mnt"), options: "loop".into(), mounted: false, cutter: Some(cutter) };
        disk.mount()?;
        Ok(disk)
    }

    pub fn tmpfs(scratch: &Path, mib: u64) -> Result<Disk> {
        let mut disk = Disk { image: None, mount: scratch.join("mnt"), options: format!("size={mib}m"), mounted: false, cutter: None };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.mount)?;
        let (kind, source) = match &self.image {
            Some(image) => ("ext4", text(image)),
            None => ("tmpfs", "tmpfs"),
        };
        run("mount", &["-t", kind, "-o", &self.options, source, text(&self.mount)])?;
        self.mounted = true;
        Ok(())
    }

    pub fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// What is not synced is gone. The file system answers everything with an error until [`Disk::power_on`].
    pub fn cut_power(&self) -> Result<()> {
        let cutter = self.cutter.as_deref().context("only an ext4 has power")?;
        run(text(cutter), &[text(&self.mount)])
    }

    /// Off and on again; ext4 replays its log.
    pub fn power_on(&mut self) -> Result<()> {
        self.unmount()?;
        self.leave_copies_behind()?;
        self.mount()
    }

    /// Who made himself a mount namespace while ours was mounted (`ip netns exec` does) still has it mounted, shut down as it is, and the same
    /// image would be the same file system again.
    fn leave_copies_behind(&mut self) -> Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        let attached = Command::new("losetup").args(["--associated", text(image)]).output().context("cannot run losetup")?;
        if attached.stdout.is_empty() {
            return Ok(());
        }
        let copy = beside(image, image.metadata()?.ino());
        run("cp", &["--sparse=always", text(image), text(&copy)])?;
        std::fs::remove_file(image)?;
        self.image = Some(copy);
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        // A process that was just killed may hold the mount for a moment.
        let gone = wait_for(Duration::from_secs(10), || run("umount", &[text(&self.mount)]).is_ok());
        ensure!(gone, "cannot unmount {}", self.mount.display());
        self.mounted = false;
        Ok(())
    }

    /// Every write stands still for `stall`. Another process thaws it, whatever becomes of us: nothing can kill a writer to a frozen disk.
    pub fn freeze(&self, stall: Duration) -> Result<()> {
        let mount = text(&self.mount);
        let thaw = format!("sleep {}; fsfreeze -u '{mount}'", stall.as_secs_f64());
        let mut thawer = Command::new("setsid").args(["sh", "-c", &thaw]).spawn().context("the process that thaws")?;
        std::thread::spawn(move || thawer.wait());
        run("fsfreeze", &["-f", mount])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = run("umount", &["-l", text(&self.mount)]);
        }
        // For whoever looks into what a rig found.
        let keep = std::env::var_os("DURABILITY_KEEP").is_some();
        if let (Some(image), false) = (&self.image, keep) {
            let _ = std::fs::remove_file(image);
        }
    }
}

/// Why disks of our own cannot be had here, if so: tried, not guessed.
pub fn probe(scratch: &Path) -> Result<(), String> {
    let attempt = || -> Result<()> {
        let mut disk = Disk::ext4(scratch, 16)?;
        // With somebody who keeps a copy of the mount, as a suite with namespaces beside this one does.
        let mut holder = Command::new("unshare").args(["--mount", "sleep", "60"]).spawn().context("unshare")?;
        let copied = || std::fs::read_to_string(format!("/proc/{}/mounts", holder.id())).is_ok_and(|all| all.contains(text(&disk.mount)));
        let own = std::fs::read_link("/proc/self/ns/mnt")?;
        let apart = || std::fs::read_link(format!("/proc/{}/ns/mnt", holder.id())).is_ok_and(|theirs| theirs != own);
        let held = wait_for(Duration::from_secs(10), || apart() && copied());
        std::fs::write(disk.mount.join("canary"), [1; 4096])?;
        let cut = disk.cut_power().and_then(|()| disk.power_on());
        let _ = holder.kill().and_then(|()| holder.wait());
        cut?;
        ensure!(held, "another namespace does not keep the mount");
        std::fs::write(disk.mount.join("alive"), [1])?;
        let left = std::fs::metadata(disk.mount.join("canary")).map_or(0, |meta| meta.len());
        if left == 4096 {
            bail!("a power cut lost nothing: the file system does not take it");
        }
        Ok(())
    };
    attempt().map_err(|error| format!("{error:#}"))
}

/// Writes to the disk without ever syncing; what is missing of it after a power cut is what such a cut takes.
pub struct Canary {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Canary {
    pub fn start(disk: &Disk) -> Result<Canary> {
        let path = disk.mount.join("canary");
        let mut file = File::create(&path)?;
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) && file.write_all(&[0xca; 4096]).is_ok() {
                count.fetch_add(4096, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Canary { stop, written, path, thread: Some(thread) })
    }

    /// To be called while the power is off: lets go of the disk.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// With the power back on: how many bytes are gone.
    pub fn lost(&self) -> u64 {
        let left = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        self.written.load(Ordering::Relaxed).saturating_sub(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_copies_have_names_of_their_own_that_do_not_grow() {
        let mut image = PathBuf::from("/scratch/disk.img");
        for inode in 1..1000 {
            let copy = beside(&image, inode);
            assert!(copy != image && text(&copy).len() <= "/scratch/disk.1000.img".len(), "{}", copy.display());
            image = copy;
        }
    }
}
