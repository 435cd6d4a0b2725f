//! Cold files, pages and checkpoints, cut, flipped and extended: the store opens or says why not, and what is read is what was written or an error.

use std::path::Path;
use std::sync::Arc;

use journal::sim::SimStorage;
use journal::{Journal, Lsn, ObjectKey};

use crate::damage::read_all;
use crate::support::Keep;
use crate::whole::{build, config, OBJECT};

type Files = Vec<(String, Vec<u8>)>;

struct Seen {
    opened: u64,
    refused: u64,
    unreadable: u64,
}

/// Opens a copy in memory in which file number `at` has these bytes, and reads everything that was kept.
fn look(files: &Files, at: usize, bytes: Vec<u8>, stuck: &[Lsn], seen: &mut Seen) {
    let storage = SimStorage::new(7);
    for (index, (path, original)) in files.iter().enumerate() {
        storage.plant(path, if index == at { bytes.clone() } else { original.clone() });
    }
    let Ok(journal) = Journal::open(Arc::new(storage), config(), &mut Keep::default()) else {
        seen.refused += 1;
        return;
    };
    seen.opened += 1;
    for (n, lsn) in stuck.iter().enumerate() {
        let mut fields = Vec::new();
        match journal.read(*lsn, &mut fields) {
            Ok(_) => assert_eq!(fields, vec![((n + 1) * 50 - 1) as u8; 700], "{lsn}, {}", files[at].0),
            Err(_) => seen.unreadable += 1,
        }
    }
    let mut object = Vec::new();
    match journal.get_object(ObjectKey::new(1, 7, 0), &mut object) {
        Ok(()) => assert_eq!(object, OBJECT, "{}", files[at].0),
        Err(_) => seen.unreadable += 1,
    }
}

/// All of the beginning, where heads are, and a sample of the rest.
fn offsets(len: usize) -> impl Iterator<Item = usize> {
    (0..len.min(160)).chain((160..len).step_by(61))
}

fn damage(dir: &Path, folder: &str) -> Seen {
    let stuck = build(dir);
    let files: Files = read_all(dir).into_iter().map(|(path, bytes)| (path.to_str().unwrap().to_owned(), bytes)).collect();
    let mut seen = Seen { opened: 0, refused: 0, unreadable: 0 };
    let victims: Vec<usize> = (0..files.len()).filter(|at| files[*at].0.starts_with(folder)).collect();
    assert!(!victims.is_empty(), "{folder}: {:?}", files.iter().map(|(path, _)| path).collect::<Vec<_>>());
    for at in victims {
        let original = files[at].1.clone();
        for offset in offsets(original.len()) {
            let mut flipped = original.clone();
            flipped[offset] ^= 1 << (offset % 8);
            look(&files, at, flipped, &stuck, &mut seen);
            look(&files, at, original[..offset].to_vec(), &stuck, &mut seen);
        }
        for (more, byte) in [(1, 0), (7, 0xff), (600, 0), (600, 0x5a)] {
            let longer = [original.clone(), vec![byte; more]].concat();
            look(&files, at, longer, &stuck, &mut seen);
        }
    }
    println!("{folder}: {} opened, {} refused, {} reads refused", seen.opened, seen.refused, seen.unreadable);
    seen
}

#[test]
fn cold_files_tell_damage() {
    let dir = tempfile::tempdir().unwrap();
    let seen = damage(dir.path(), "c/");
    assert!(seen.opened > 100 && seen.refused + seen.unreadable > 100);
}

#[test]
fn pages_and_checkpoints_tell_damage() {
    let dir = tempfile::tempdir().unwrap();
    let seen = damage(dir.path(), "p/");
    assert!(seen.opened > 100 && seen.refused + seen.unreadable > 0);
    let dir = tempfile::tempdir().unwrap();
    let seen = damage(dir.path(), "x/");
    // There are two checkpoints, and the log still reaches back to the older one.
    assert!(seen.opened > 100 && seen.refused + seen.unreadable == 0);
}
