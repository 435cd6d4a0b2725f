//! Measures the append path with really synced commits: `cargo run --release -p journal --example append -- DIR [SECONDS]`.
//!
//! Rounds of 1 KiB records with 100 and 4,096 in flight, segments allocated or written with zeros first; prints confirmed messages per second,
//! CPU per message of the whole process, and what a reserve with its fill costs alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::storage::DirStorage;
use journal::{
    Apply, ApplyError, Committed, Config, Filled, Journal, Lsn, ObjectKey, ObjectRef, ObjectSink, Place, RecordRef, Records, Release,
};
use journal::{SegmentFill, Snapshot, SnapshotError};

struct Nothing;

impl Apply for Nothing {
    fn load(&mut self, _: ObjectKey, _: ObjectRef<'_>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, _: Lsn, _: RecordRef<'_>, _: &mut Vec<Release>) -> Result<(), ApplyError> {
        Ok(())
    }
}

impl Snapshot for Nothing {
    fn snapshot(&self, _: &mut dyn ObjectSink) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Counts confirms and wakes the producer when its window opens.
struct Window {
    confirmed: AtomicU64,
    producer: std::thread::Thread,
    wake_at: AtomicU64,
}

impl Committed for Window {
    fn committed(&self, value: u64) {
        self.confirmed.store(value, Ordering::Release);
        if value >= self.wake_at.load(Ordering::Acquire) {
            self.wake_at.store(u64::MAX, Ordering::Release);
            self.producer.unpark();
        }
    }
}

fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}

fn round(dir: &str, fill: SegmentFill, in_flight: u64, run_for: Duration) {
    std::fs::remove_dir_all(dir).ok();
    let storage = DirStorage::new(dir).expect("the directory can be made");
    let config = Config { fill, checkpoint_bytes: 256 << 20, ..Config::default() };
    let journal = Journal::open(Arc::new(storage), config, &mut Nothing).expect("the journal opens");
    journal.start(Arc::new(Nothing));
    std::thread::sleep(Duration::from_millis(1500));
    let window = Arc::new(Window { confirmed: AtomicU64::new(0), producer: std::thread::current(), wake_at: AtomicU64::new(u64::MAX) });
    let body = [7u8; 1024];
    let (cpu, start, before) = (cpu_ticks(), Instant::now(), journal.stats());
    let mut sent = 0u64;
    while start.elapsed() < run_for {
        while sent - window.confirmed.load(Ordering::Acquire) < in_flight {
            sent += 1;
            let mut records = Records::with_capacity(body.len() + 16);
            records.push(20, 1, 0, 1, |out| out.extend_from_slice(&body));
            let done: Arc<dyn Committed> = window.clone();
            let place = Some(Arc::new(Place::new()));
            journal.reserve().fill(Filled { records, place, done: Some((done, sent)), ..Filled::default() });
        }
        // Half a window at a time, as a client with batched confirms does.
        window.wake_at.store(sent - in_flight / 2, Ordering::Release);
        if sent - window.confirmed.load(Ordering::Acquire) >= in_flight {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    while window.confirmed.load(Ordering::Acquire) < sent {
        std::thread::sleep(Duration::from_micros(100));
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = journal.stats();
    let syncs = stats.syncs - before.syncs;
    println!(
        "{fill:?} {in_flight:>5} in flight: {:>8.0} msg/s, CPU {:.2} us/msg, {syncs} syncs of {:.0} us, {:.0} msg/sync, write amplification {:.2}",
        sent as f64 / seconds,
        (cpu_ticks() - cpu) as f64 * 10_000.0 / sent as f64,
        (stats.sync_ns - before.sync_ns) as f64 / 1000.0 / syncs as f64,
        sent as f64 / syncs as f64,
        (stats.bytes - before.bytes) as f64 / (sent * 1024) as f64,
    );
    journal.close().expect("a clean stop");
}

/// Reserve and fill alone, the commit between the runs.
fn staging(dir: &str) {
    std::fs::remove_dir_all(dir).ok();
    let storage = DirStorage::new(dir).expect("the directory can be made");
    let journal = Journal::open(Arc::new(storage), Config::default(), &mut Nothing).expect("the journal opens");
    journal.start_stepped(Arc::new(Nothing));
    let mut times = Vec::new();
    for _ in 0..300 {
        let filled: Vec<Filled> = (0..1000).map(|_| Filled::default()).collect();
        let start = Instant::now();
        for filled in filled {
            journal.reserve().fill(filled);
        }
        times.push(start.elapsed().as_nanos() / 1000);
        while journal.step_commit() {}
    }
    times.sort_unstable();
    println!("reserve + fill: {} ns (median of 300 runs of 1,000)", times[150]);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "/tmp/journal-append".into());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    staging(&dir);
    for _ in 0..2 {
        for in_flight in [100, 4096] {
            for fill in [SegmentFill::Allocate, SegmentFill::Zero] {
                round(&dir, fill, in_flight, Duration::from_secs(seconds));
            }
        }
    }
    std::fs::remove_dir_all(&dir).ok();
}
