//! A folder as the coordinator of two processes on one host: for development and tests, never for two machines, whatever file system they share.
//!
//! `register.json` is the register; `holder.json` says who has the lease and until when by the host's own clock, which both processes read. Each
//! call has the folder to itself (`flock` on `lock`), which a process gives back when it dies, also in the middle of one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation};
use rustix::time::{clock_gettime, ClockId};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::error;

use super::{grant, kept, BoxFuture, Cas, Coordinator, Lease, NodeName, Read, Register, Version};

#[derive(Clone)]
pub struct Folder {
    folder: PathBuf,
    me: NodeName,
    lease: Duration,
    /// Of the machine's current life: its clock begins anew with the next.
    machine: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    name: NodeName,
    machine: String,
    until_nanos: u64,
}

fn nanos() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Folder {
    /// Makes the folder if there is none.
    pub fn open(folder: &Path, me: NodeName, lease: Duration) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { folder: folder.to_owned(), me, lease, machine })
    }

    /// Does something while no other process does. `None`: it failed, and was said in the log.
    async fn alone<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static) -> Option<T> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let lock = File::options().write(true).create(true).truncate(false).open(this.folder.join("lock"))?;
            flock(&lock, FlockOperation::LockExclusive)?;
            work(&this)
        });
        match done.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(answer) => Some(answer),
            Err(error) => {
                error!(folder = %self.folder.display(), %error, "the coordinator's folder cannot be used");
                None
            }
        }
    }

    fn holder(&self) -> io::Result<Option<Holder>> {
        let holder: Option<Holder> = kept::read(&self.folder.join("holder.json"))?;
        Ok(holder.filter(|holder| holder.machine == self.machine && nanos() < holder.until_nanos))
    }

    /// Whether the lease is ours now.
    fn hold(&self) -> io::Result<bool> {
        if self.holder()?.is_some_and(|holder| holder.name != self.me) {
            return Ok(false);
        }
        let until_nanos = nanos() + self.lease.as_nanos() as u64;
        self.write_holder(&Holder { name: self.me.clone(), machine: self.machine.clone(), until_nanos })?;
        Ok(true)
    }

    /// Not synced: what a crash of the machine takes away has no meaning after it.
    fn write_holder(&self, holder: &Holder) -> io::Result<()> {
        let new = self.folder.join("holder.json.new");
        fs::write(&new, serde_json::to_vec(holder)?)?;
        fs::rename(&new, self.folder.join("holder.json"))
    }
}

impl Coordinator for Folder {
    fn read(&self) -> BoxFuture<'_, Read> {
        Box::pin(async { self.alone(|this| kept::load(&this.folder)).await.map_or(Read::Unknown, Read::Known) })
    }

    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas> {
        Box::pin(async move { self.alone(move |this| kept::cas(&this.folder, expect, &new)).await.unwrap_or(Cas::Unknown) })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            let until = Instant::now() + grant(self.lease);
            let held = self.alone(move |this| {
                let named = |(_, register): &(Version, Register)| register.epoch == epoch && register.primary == this.me;
                Ok(kept::load(&this.folder)?.as_ref().is_some_and(named) && this.hold()?)
            });
            match held.await {
                Some(true) => Lease::Granted { until },
                Some(false) => Lease::Refused,
                None => Lease::Unknown,
            }
        })
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            while self.alone(Self::hold).await != Some(true) {
                sleep(self.lease / 16).await;
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let released = self.alone(|this| match this.holder()? {
                Some(holder) if holder.name == this.me => this.write_holder(&Holder { until_nanos: 0, ..holder }),
                _ => Ok(()),
            });
            released.await;
        })
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn describe(&self) -> String {
        let holder = self.holder().ok().flatten().map_or("nobody".to_owned(), |holder| holder.name.to_string());
        format!("the folder {}, for one host only; the lease is with {holder}", self.folder.display())
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{self, known, name, register, vacant, write, Rig};
    use super::*;
    use std::sync::Arc;

    struct OneHost(tempfile::TempDir);

    impl OneHost {
        fn open(&self, node: &str) -> Folder {
            Folder::open(self.0.path(), name(node), Duration::from_millis(300)).unwrap()
        }
    }

    impl Rig for OneHost {
        fn node<'a>(&'a mut self, node: &'a str) -> BoxFuture<'a, Arc<dyn Coordinator>> {
            let node: Arc<dyn Coordinator> = Arc::new(self.open(node));
            Box::pin(async { node })
        }

        fn restart(&mut self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_contract() {
        contract::all(|| async { OneHost(tempfile::tempdir().unwrap()) }).await;
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_unknown() {
        let host = OneHost(tempfile::tempdir().unwrap());
        let a = host.open("a");
        vacant(&a).await;
        let version = write(&a, None, register(1, "a", &["a"])).await;
        // Another process, and a machine that was started again: its clock says nothing of the lease.
        let mut b = host.open("b");
        assert_eq!(known(&b).await.unwrap().0, version);
        assert!(!b.hold().unwrap());
        b.machine = "another life".into();
        assert!(b.hold().unwrap());
        fs::write(host.0.path().join("register.json"), b"{").unwrap();
        assert_eq!(a.read().await, Read::Unknown);
        assert_eq!(a.cas(Some(version), register(1, "a", &["a"])).await, Cas::Unknown);
        assert_eq!(a.renew(1).await, Lease::Unknown);
    }
}
