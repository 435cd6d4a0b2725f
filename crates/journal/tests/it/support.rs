//! Helpers that the tests share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::storage::DirStorage;
use journal::{
    Apply, ApplyError, Committed, Config, Filled, Journal, Lsn, ObjectKey, ObjectRef, ObjectSink, Place, RecordRef, Records, Release,
};
use journal::{Snapshot, SnapshotError};

pub const KIND: u8 = 20;

/// Keeps every application record it is given.
#[derive(Default)]
pub struct Keep {
    pub records: Vec<(Lsn, Vec<u8>)>,
    pub epochs: u32,
}

impl Apply for Keep {
    fn load(&mut self, _: ObjectKey, _: ObjectRef<'_>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, lsn: Lsn, record: RecordRef<'_>, _: &mut Vec<Release>) -> Result<(), ApplyError> {
        match record.kind {
            KIND => self.records.push((lsn, record.fields.to_vec())),
            journal::record::KIND_EPOCH_START => self.epochs += 1,
            _ => {}
        }
        Ok(())
    }
}

pub struct Nothing;

impl Snapshot for Nothing {
    fn snapshot(&self, _: &mut dyn ObjectSink) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Counts confirms and remembers the highest.
#[derive(Default)]
pub struct Confirms(pub parking_lot::Mutex<Vec<u64>>);

impl Committed for Confirms {
    fn committed(&self, value: u64) {
        self.0.lock().push(value);
    }
}

impl Confirms {
    pub fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.0.lock().len() < count {
            assert!(Instant::now() < deadline, "only {} of {count} confirmed", self.0.lock().len());
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

pub fn small() -> Config {
    Config { segment_bytes: 1 << 20, checkpoint_bytes: 1 << 30, ..Config::default() }
}

pub fn open(dir: &std::path::Path, config: Config) -> (Journal, Keep) {
    let mut keep = Keep::default();
    let journal = Journal::open(Arc::new(DirStorage::new(dir).unwrap()), config, &mut keep).unwrap();
    (journal, keep)
}

pub fn publish(journal: &Journal, body: &[u8], pins: u32, confirms: &Arc<Confirms>, value: u64) -> Arc<Place> {
    let place = Arc::new(Place::new());
    let mut records = Records::with_capacity(body.len() + 16);
    records.push(KIND, 1, 0, pins, |out| out.extend_from_slice(body));
    let done: Arc<dyn Committed> = confirms.clone();
    journal.reserve().fill(Filled { records, place: Some(place.clone()), done: Some((done, value)), ..Filled::default() });
    place
}
