//! Append, confirm, read, restart: the main path with real threads and files.

use std::sync::Arc;

use journal::{Journal, OpenError};

use crate::support::{open, publish, small, Confirms, Keep, Nothing};

#[test]
fn what_was_confirmed_is_read_back_and_recovered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for reign in 0..3u64 {
        let (journal, keep) = open(dir.path(), small());
        assert_eq!(keep.epochs as u64, reign + 1, "each reign has its EpochStart, this one included");
        assert_eq!(keep.records.iter().map(|(_, fields)| fields.clone()).collect::<Vec<_>>(), expected);
        journal.start(Arc::new(Nothing));
        let confirms = Arc::new(Confirms::default());
        let mut places = Vec::new();
        for number in 0..2000u64 {
            let body = vec![number as u8; 1 + (number as usize * 37) % 3000];
            places.push(publish(&journal, &body, 1, &confirms, number));
            expected.push(body);
        }
        confirms.wait_for(2000);
        assert_eq!(*confirms.0.lock(), (0..2000).collect::<Vec<_>>());
        let mut fields = Vec::new();
        let lsns: Vec<_> = places.iter().map(|place| place.get().unwrap()).collect();
        for (lsn, body) in lsns.iter().zip(&expected[reign as usize * 2000..]) {
            let head = journal.read(*lsn, &mut fields).unwrap();
            assert_eq!((head.pins, &fields), (1, body));
        }
        let mut seen = 0;
        journal
            .read_run(&lsns, &mut |index, _, fields| {
                assert_eq!(fields, expected[reign as usize * 2000 + index]);
                seen += 1;
            })
            .unwrap();
        assert_eq!(seen, 2000);
        for (lsn, body) in &keep.records {
            journal.read(*lsn, &mut fields).unwrap();
            assert_eq!(&fields, body);
        }
        assert!(journal.stats().rotations > 0);
        journal.close().unwrap();
    }
}

#[test]
fn an_empty_store_opens_with_few_syncs() {
    // The 50 ms to `ready` leave no room for more: a sync is 1 to 3 ms on a modest disk. A simulated stall of 5 s per sync counts them.
    let storage = journal::sim::SimStorage::new(3);
    storage.stall_syncs(1000);
    let journal = Journal::open(Arc::new(storage.clone()), journal::Config { clock: storage.clock(), ..small() }, &mut Keep::default());
    assert!(journal.is_ok());
    assert_eq!(storage.injected().stalls, 3, "meta, the first segment, meta again");
}

#[test]
fn a_second_process_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, _) = open(dir.path(), small());
    let storage = Arc::new(journal::storage::DirStorage::new(dir.path()).unwrap());
    let error = Journal::open(storage, small(), &mut Keep::default()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid) } if pid == std::process::id()), "{error}");
}

#[test]
fn a_slot_larger_than_a_batch_gets_a_segment_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let big = vec![7; 9 << 20];
    let (journal, _) = open(dir.path(), small());
    journal.start(Arc::new(Nothing));
    let confirms = Arc::new(Confirms::default());
    let place = publish(&journal, &big, 1, &confirms, 1);
    publish(&journal, b"after", 1, &confirms, 2);
    confirms.wait_for(2);
    let mut fields = Vec::new();
    journal.read(place.get().unwrap(), &mut fields).unwrap();
    assert_eq!(fields, big);
    drop(journal);
    let (_journal, keep) = open(dir.path(), small());
    assert_eq!(keep.records.len(), 2);
    assert_eq!(keep.records[0].1, big);
}
