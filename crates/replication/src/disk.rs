//! The disk's pulse: a lease is renewed only while this node's disk still syncs. A primary whose disk hangs looks well to everybody else.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::storage::Storage;

const NAME: &str = "pulse.tmp";

/// A thread that writes a few bytes and syncs them, again and again. It ends with its handle.
pub struct Pulse {
    base: Instant,
    /// Nanoseconds from the base to the begin of the last write that was synced.
    last: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Pulse {
    pub fn start(storage: Arc<dyn Storage>, every: Duration) -> io::Result<Pulse> {
        let pulse = Pulse { base: Instant::now(), last: Arc::default(), over: Arc::default() };
        let (base, last, over) = (pulse.base, pulse.last.clone(), pulse.over.clone());
        let file = storage.create(NAME)?;
        let beat = move || {
            let mut count = 0u64;
            while !over.load(Ordering::Acquire) {
                let begun = base.elapsed().as_nanos() as u64;
                count += 1;
                if file.write_at(&count.to_le_bytes(), 0).and_then(|()| file.sync_data()).is_err() {
                    // The log's own writes find out what is wrong, and say so.
                    return;
                }
                last.store(begun, Ordering::Release);
                std::thread::sleep(every);
            }
        };
        std::thread::Builder::new().name("ha-pulse".into()).spawn(beat)?;
        Ok(pulse)
    }

    /// How old the last sign of life is.
    pub fn since(&self) -> Duration {
        self.base.elapsed().saturating_sub(Duration::from_nanos(self.last.load(Ordering::Acquire)))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}
