//! Whether the disk still syncs. A lease is renewed only while it does: a primary whose disk hangs looks well to everybody else.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::storage::Storage;
use tracing::warn;

use crate::machine::Machine;

const NAME: &str = "pulse.tmp";

/// Writes a few bytes and syncs them, again and again, until its handle is dropped.
pub struct DiskProbe {
    machine: Arc<dyn Machine>,
    base: Instant,
    /// Nanoseconds from the base to the begin of the last write that was synced.
    last: Arc<AtomicU64>,
}

impl DiskProbe {
    pub fn start(machine: Arc<dyn Machine>, storage: &dyn Storage, every: Duration) -> io::Result<DiskProbe> {
        let probe = DiskProbe { base: machine.now(), machine, last: Arc::default() };
        let file = storage.create(NAME)?;
        let (machine, base, last) = (probe.machine.clone(), probe.base, Arc::downgrade(&probe.last));
        probe.machine.spawn(Box::pin(async move {
            let (mut count, mut failing) = (0u64, false);
            loop {
                let begun = machine.now().duration_since(base);
                count += 1;
                let file = file.clone();
                let synced = move || file.write_at(&count.to_le_bytes(), 0).and_then(|()| file.sync_data());
                let result = machine.blocking(synced).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
                let Some(last) = last.upgrade() else { return };
                match result {
                    Ok(()) => {
                        last.store(begun.as_nanos() as u64, Ordering::Release);
                        failing = false;
                    }
                    // What that means is for the log's own writes to find out; a full disk, for one, is nothing to die of.
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        warn!(%error, "the disk does not sync a probe: the lease is not renewed until it does");
                    }
                    Err(_) => {}
                }
                drop(last);
                machine.sleep(every).await;
            }
        }));
        Ok(probe)
    }

    /// How old the last sign of life is.
    pub fn since(&self) -> Duration {
        let last = Duration::from_nanos(self.last.load(Ordering::Acquire));
        self.machine.now().duration_since(self.base).saturating_sub(last)
    }
}
