//! A person as the coordinator: a pair without a third voter. Nothing takes over by itself.
//!
//! Each node keeps the register as it knows it, and is told of changes by the other one ([`Manual::learn`]). A node becomes primary, also again after
//! a restart, only when an operator has said so for exactly the epoch that comes next ([`Manual::promote`]); he has made sure that the other one is off.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::error;

use super::{grant, kept, BoxFuture, Cas, Coordinator, Lease, NodeName, Read, Refused, Register, Version};

pub struct Manual {
    folder: PathBuf,
    me: NodeName,
    lease: Duration,
    /// The epoch that an operator has given to this node, in this life of it.
    promoted: watch::Sender<Option<u64>>,
    /// The files are one call's at a time.
    files: tokio::sync::Mutex<()>,
}

impl Manual {
    pub fn open(folder: &Path, me: NodeName, lease: Duration) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), me, lease, promoted: watch::Sender::new(None), files: tokio::sync::Mutex::new(()) })
    }

    /// The epoch that this node is to be primary in, if somebody has said so.
    pub fn promoted(&self) -> Option<u64> {
        *self.promoted.borrow()
    }

    /// What was said does not fit, and is forgotten.
    pub fn revoke(&self) {
        self.promoted.send_replace(None);
    }

    /// The operator's word: this node is to be primary in `epoch`, which has to be the one after the one it knows.
    pub async fn promote(&self, epoch: u64) -> Result<(), String> {
        let stored = self.with_files(|folder| kept::load(&folder)).await.ok_or("the register cannot be read")?;
        if let Some((_, register)) = &stored {
            if Some(epoch) != register.epoch.checked_add(1) {
                return Err(format!("the epoch here is {}, so the next one is {}", register.epoch, register.epoch.saturating_add(1)));
            }
            if !register.in_sync.contains(&self.me) {
                return Err(Refused::NotEligible(self.me.clone()).to_string());
            }
        }
        self.promoted.send_replace(Some(epoch));
        Ok(())
    }

    /// What the primary has told of its register. Older than what is known changes nothing.
    pub async fn learn(&self, version: Version, register: Register) -> Result<(), String> {
        let learned = self.with_files(move |folder| {
            let stored = kept::load(&folder)?;
            let newer =
                |(known, old): &(Version, Register)| (register.epoch, version) > (old.epoch, *known) && register.cluster == old.cluster;
            match stored.as_ref().is_none_or(newer) {
                true => kept::save(&folder, version, &register),
                false => Ok(()),
            }
        });
        learned.await.ok_or_else(|| "the register cannot be written".to_owned())
    }

    async fn with_files<T: Send + 'static>(&self, work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static) -> Option<T> {
        let _one = self.files.lock().await;
        let folder = self.folder.clone();
        match tokio::task::spawn_blocking(move || work(folder)).await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(answer) => Some(answer),
            Err(error) => {
                error!(folder = %self.folder.display(), %error, "the register cannot be used");
                None
            }
        }
    }

    fn may_reign(&self, epoch: u64) -> bool {
        self.promoted() == Some(epoch)
    }
}

impl Coordinator for Manual {
    fn read(&self) -> BoxFuture<'_, Read> {
        Box::pin(async { self.with_files(|folder| kept::load(&folder)).await.map_or(Read::Unknown, Read::Known) })
    }

    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas> {
        Box::pin(async move {
            if new.primary != self.me || !self.may_reign(new.epoch) {
                return Cas::Refused(Refused::NotPromoted(new.primary, new.epoch));
            }
            self.with_files(move |folder| kept::cas(&folder, expect, &new)).await.unwrap_or(Cas::Unknown)
        })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            let until = Instant::now() + grant(self.lease);
            let Read::Known(stored) = self.read().await else { return Lease::Unknown };
            let named = stored.is_some_and(|(_, register)| register.epoch == epoch && register.primary == self.me);
            match named && self.may_reign(epoch) {
                true => Lease::Granted { until },
                false => Lease::Refused,
            }
        })
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut promoted = self.promoted.subscribe();
            // The sender is our own, so this ends only with what is waited for.
            let _ = promoted.wait_for(Option::is_some).await;
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.revoke() })
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn describe(&self) -> String {
        match self.promoted() {
            Some(epoch) => format!("an operator decides; this node was promoted in epoch {epoch}"),
            None => "an operator decides: carrick ha promote --epoch N, when the other node is off".into(),
        }
    }

    fn by_hand(&self) -> Option<&Manual> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{name, register};
    use super::*;
    use std::task::{Context, Waker};

    fn open(folder: &Path, node: &str) -> Manual {
        Manual::open(folder, name(node), Duration::from_millis(500)).unwrap()
    }

    #[tokio::test]
    async fn nothing_happens_before_an_operator_says_so_and_nothing_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let a = open(folder.path(), "a");
        assert_eq!(a.read().await, Read::Known(None));
        assert!(a.vacant().as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let first = register(1, "a", &["a", "b"]);
        assert_eq!(a.cas(None, first.clone()).await, Cas::Refused(Refused::NotPromoted(name("a"), 1)));
        a.promote(1).await.unwrap();
        a.vacant().await;
        assert_eq!(a.cas(None, first.clone()).await, Cas::Won(Version(1)));
        assert!(matches!(a.renew(1).await, Lease::Granted { .. }));
        assert_eq!(a.cas(None, first.clone()).await, Cas::Lost(Some((Version(1), first.clone()))));
        assert_eq!(a.cas(Some(Version(1)), register(1, "a", &["a"])).await, Cas::Won(Version(2)));
        // Only its own reign, and only in the epoch it was given.
        assert!(matches!(a.cas(Some(Version(2)), register(2, "a", &["a"])).await, Cas::Refused(Refused::NotPromoted(..))));
        drop(a);
        let a = open(folder.path(), "a");
        assert_eq!(a.read().await, Read::Known(Some((Version(2), register(1, "a", &["a"])))));
        assert_eq!(a.renew(1).await, Lease::Refused);
        assert!(a.promote(1).await.unwrap_err().contains("the next one is 2"));
        a.promote(2).await.unwrap();
        assert_eq!(a.cas(Some(Version(2)), register(2, "a", &["a"])).await, Cas::Won(Version(3)));
        assert!(matches!(a.renew(2).await, Lease::Granted { .. }));
        a.release().await;
        assert_eq!(a.renew(2).await, Lease::Refused);
    }

    #[tokio::test]
    async fn the_other_node_takes_over_by_what_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let b = open(folder.path(), "b");
        b.learn(Version(4), register(3, "a", &["a", "b"])).await.unwrap();
        b.learn(Version(3), register(3, "a", &["a"])).await.unwrap();
        assert_eq!(b.read().await, Read::Known(Some((Version(4), register(3, "a", &["a", "b"])))));
        b.learn(Version(5), register(3, "a", &["a"])).await.unwrap();
        assert!(b.promote(4).await.unwrap_err().contains("not in sync"));
        b.learn(Version(6), register(3, "a", &["a", "b"])).await.unwrap();
        b.promote(4).await.unwrap();
        assert_eq!(b.cas(Some(Version(6)), register(4, "b", &["b"])).await, Cas::Won(Version(7)));
        // What the old primary says late is older now.
        b.learn(Version(9), register(3, "a", &["a", "b"])).await.unwrap();
        assert_eq!(b.read().await, Read::Known(Some((Version(7), register(4, "b", &["b"])))));
    }
}
