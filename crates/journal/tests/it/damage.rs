//! Real files cut, flipped and extended at each offset. What must come out: exactly a prefix of whole batches that holds every batch at or
//! below the last sync marker, or a refusal that says corruption; never anything else, and never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::sim::SimStorage;
use journal::{Config, Journal, OpenError};

use crate::support::{open, publish, Confirms, Keep, Nothing};

/// The bytes of a small store: meta and one segment. `clean` leaves the final marker.
struct Store {
    files: Vec<(PathBuf, Vec<u8>)>,
    segment: usize,
    bodies: Vec<Vec<u8>>,
    /// Bytes of the segment that are in use.
    used: usize,
}

/// The smallest segments there are: every offset means thousands of copies.
fn small() -> Config {
    Config { segment_bytes: 16 << 10, checkpoint_bytes: 1 << 30, simulated: true, ..Config::default() }
}

fn store(batches: usize, clean: bool) -> Store {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    journal.start(Arc::new(Nothing));
    let confirms = Arc::new(Confirms::default());
    let mut bodies = Vec::new();
    for batch in 0..batches {
        let body = vec![batch as u8 + 1; 20 + batch * 7];
        publish(&journal, &body, 1, &confirms, batch as u64);
        confirms.wait_for(batch + 1);
        bodies.push(body);
    }
    if clean {
        journal.close().unwrap();
    }
    let files = read_all(dir.path());
    drop(journal);
    let segment = files.iter().position(|(path, _)| path.starts_with("j") && path.extension().is_some_and(|ext| ext == "log")).unwrap();
    let used = files[segment].1.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    Store { files, segment, bodies, used }
}

pub fn read_all(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for sub in ["", "j", "c", "p", "x"] {
        for entry in fs::read_dir(dir.join(sub)).unwrap() {
            let path = entry.unwrap().path();
            let keep = path.is_file() && path.extension().is_none_or(|ext| ext != "tmp");
            if keep {
                files.push((path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap()));
            }
        }
    }
    files
}

impl Store {
    /// Opens a copy in which file number `at` has these bytes. The bytes were written by the real storage; the copies are opened in memory,
    /// because thousands of them would mean tens of thousands of syncs.
    fn open_with(&self, at: usize, bytes: &[u8]) -> Result<Vec<Vec<u8>>, OpenError> {
        let storage = SimStorage::new(7);
        for (index, (path, original)) in self.files.iter().enumerate() {
            let content = if index == at { bytes } else { original };
            storage.plant(path.to_str().unwrap(), content.to_vec());
        }
        let mut keep = Keep::default();
        let opened = Journal::open(Arc::new(storage), small(), &mut keep);
        opened.map(|_| keep.records.into_iter().map(|(_, fields)| fields).collect())
    }

    fn segment_bytes(&self) -> &[u8] {
        &self.files[self.segment].1
    }
}

#[test]
fn a_flip_below_a_marker_is_refused_and_one_above_cuts_the_tail_only() {
    for clean in [false, true] {
        let store = store(6, clean);
        let (mut refused, mut whole, mut shorter) = (0, 0, 0);
        for at in 0..store.used + 64 {
            let mut bytes = store.segment_bytes().to_vec();
            bytes[at] ^= 1 << (at % 8);
            match store.open_with(store.segment, &bytes) {
                Ok(bodies) if bodies == store.bodies => whole += 1,
                Ok(bodies) => {
                    assert!(!clean, "byte {at}: a batch below the final marker was cut");
                    assert_eq!(bodies, store.bodies[..store.bodies.len() - 1], "byte {at}: more than the unmarked tail was cut");
                    shorter += 1;
                }
                Err(OpenError::Corrupt { .. } | OpenError::Version { .. }) => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        assert!(refused > 300 && whole > 3000, "refused {refused}, unharmed {whole}");
        assert!(clean || shorter > 50, "the tail was never cut: {shorter}");
    }
}

#[test]
fn a_tail_cut_to_zeros_at_each_offset_leaves_a_prefix_or_is_refused() {
    // Cut by zeroing: the file keeps its size, as after a power cut that lost the last writes.
    let store = store(5, false);
    let mut lengths = std::collections::BTreeMap::new();
    for cut in 4096..=store.used {
        let mut bytes = store.segment_bytes().to_vec();
        bytes[cut..].fill(0);
        let bodies = store.open_with(store.segment, &bytes).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(bodies, store.bodies[..bodies.len()], "cut at {cut}");
        *lengths.entry(bodies.len()).or_insert(0) += 1;
    }
    assert_eq!(lengths.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_shorter_file_is_refused_and_a_longer_one_is_fine() {
    let store = store(4, true);
    let bytes = store.segment_bytes();
    let mut refused = 0;
    for cut in (0..store.used).chain([bytes.len() / 2, bytes.len() - 1]) {
        match store.open_with(store.segment, &bytes[..cut]) {
            Err(OpenError::Corrupt { .. }) => refused += 1,
            other => panic!("cut at {cut}: {:?}", other.map(|bodies| bodies.len())),
        }
    }
    assert_eq!(refused, store.used + 2);
    let last_frame = bytes[store.used - 200..store.used].to_vec();
    for tail in [vec![0; 700], vec![0xff; 700], bytes[..store.used].to_vec(), last_frame] {
        let longer = [bytes, &tail].concat();
        assert_eq!(store.open_with(store.segment, &longer).unwrap(), store.bodies);
    }
}

#[test]
fn garbage_and_old_frames_behind_the_end_are_not_taken_for_the_log() {
    let store = store(4, false);
    let mut tried = 0;
    for from in (4096..store.used).step_by(3) {
        let mut bytes = store.segment_bytes().to_vec();
        let old = bytes[from..store.used].to_vec();
        let end = store.used;
        bytes[end..end + old.len()].copy_from_slice(&old);
        assert_eq!(store.open_with(store.segment, &bytes).unwrap(), store.bodies, "copied from {from}");
        tried += 1;
    }
    assert!(tried > 100);
}

#[test]
fn each_flip_in_meta_leaves_the_other_slot_or_is_refused() {
    let store = store(2, true);
    let at_meta = store.files.iter().position(|(path, _)| path == Path::new("meta")).unwrap();
    for at in 0..store.files[at_meta].1.len() {
        let mut bytes = store.files[at_meta].1.clone();
        bytes[at] ^= 0x40;
        match store.open_with(at_meta, &bytes) {
            Ok(bodies) => assert_eq!(bodies, store.bodies),
            Err(OpenError::Corrupt { .. } | OpenError::Version { .. }) => {}
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}
