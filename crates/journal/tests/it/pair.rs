//! Two stores, one of which follows the other: what is shipped, confirmed, cut and taken over.

use std::sync::Arc;
use std::time::Duration;

use journal::storage::{DirStorage, Storage};
use journal::{cut, Cut, Follower, Journal, LogReader, Lsn, Meeting, Position, Refused};

use crate::support::{open, publish, small, Confirms, Keep, Nothing};

fn storage(dir: &std::path::Path) -> Arc<dyn Storage> {
    Arc::new(DirStorage::new(dir).unwrap())
}

fn follow(dir: &std::path::Path) -> (Follower, Keep) {
    let mut keep = Keep::default();
    let follower = Follower::open(storage(dir), small(), &mut keep).unwrap();
    (follower, keep)
}

fn reader(journal: &Journal, position: Position) -> LogReader {
    match journal.meet(position).unwrap() {
        Meeting::From(reader) => reader,
        Meeting::Cut(lsn) => panic!("it is to be cut at {lsn}"),
        Meeting::TooOld => panic!("it needs a copy"),
    }
}

/// The batches of a run of bytes.
fn batches(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let (batch, rest) = bytes.split_at(len);
        found.push(batch);
        bytes = rest;
    }
    found
}

/// Ships what there is; answers up to where the follower is synced.
fn ship(reign: u64, reader: &mut LogReader, follower: &mut Follower) -> Lsn {
    let mut bytes = Vec::new();
    while reader.read(&mut bytes, 64 << 10).unwrap() {
        for batch in batches(&bytes) {
            follower.receiver.append(reign, batch).unwrap();
        }
        bytes.clear();
    }
    follower.receiver.sync().unwrap()
}

fn wait_written(journal: &Journal, more_than: Lsn) -> Lsn {
    for _ in 0..20_000 {
        let (_, synced) = journal.written_and_synced();
        if synced > more_than {
            return synced;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("nothing was written behind {more_than}");
}

fn start(journal: &Journal) {
    journal.start(Arc::new(Nothing));
}

#[test]
fn a_confirm_waits_for_the_follower_and_the_follower_can_lead() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (journal, _) = open(a.path(), small());
    journal.permit(Lsn(0));
    start(&journal);
    let confirms = Arc::new(Confirms::default());
    let (mut follower, mut kept) = follow(b.path());
    let mut reader = reader(&journal, follower.receiver.position());
    // What a reign begins with may be a batch of its own.
    wait_written(&journal, follower.receiver.position().lsn);
    journal.permit(ship(1, &mut reader, &mut follower));
    // Rotates several times.
    let body = vec![7; 100_000];
    for n in 0..40 {
        publish(&journal, &body, 1, &confirms, n);
        let end = wait_written(&journal, follower.receiver.position().lsn);
        assert_eq!(confirms.0.lock().len() as u64, n, "nothing is confirmed that the follower does not have");
        let synced = ship(1, &mut reader, &mut follower);
        assert!(synced >= end);
        journal.permit(synced);
        confirms.wait_for(n as usize + 1);
        if n < 39 {
            follower.replayer.redo_up_to(journal.committed_lsn(), &mut kept).unwrap();
        }
    }
    assert!(journal.stats().rotations > 2);
    assert_eq!(kept.records.len(), 39, "the last one is not known to be committed");
    drop(journal);

    let epoch = follower.receiver.promised() + 1;
    let before = follower.receiver.position();
    let led = follower.lead(epoch, Lsn(u64::MAX), &mut kept).unwrap();
    assert_eq!((kept.records.len(), led.epoch(), led.was_clean()), (40, epoch, false));
    start(&led);
    publish(&led, b"after", 1, &confirms, 40);
    confirms.wait_for(41);
    let mut found = Vec::new();
    for (lsn, fields) in &kept.records {
        led.read(*lsn, &mut found).unwrap();
        assert_eq!(&found, fields);
    }
    drop(led);
    let (again, kept) = open(b.path(), small());
    assert_eq!(kept.records.len(), 41);
    assert!(again.committed_lsn() > before.lsn);
}

#[test]
fn what_does_not_continue_the_log_is_refused() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (journal, _) = open(a.path(), small());
    start(&journal);
    let confirms = Arc::new(Confirms::default());
    for n in 0..3 {
        publish(&journal, b"body", 1, &confirms, n);
        confirms.wait_for(n as usize + 1);
    }
    let mut bytes = Vec::new();
    reader(&journal, Position::default()).read(&mut bytes, usize::MAX).unwrap();
    let batches = batches(&bytes);
    let (mut follower, _) = follow(b.path());
    assert!(matches!(follower.receiver.append(1, batches[1]), Err(Refused::Gap { .. })));
    for bit in (0..batches[0].len() * 8).step_by(7) {
        let mut bad = batches[0].to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(follower.receiver.append(1, &bad).is_err(), "bit {bit} went unnoticed");
    }
    follower.receiver.append(1, batches[0]).unwrap();
    follower.receiver.promise(9).unwrap();
    assert!(matches!(follower.receiver.append(1, batches[1]), Err(Refused::Epoch { promised: 9, got: 1 })));
    drop(follower);
    let (follower, _) = follow(b.path());
    assert_eq!(follower.receiver.promised(), 9, "a promise outlives the process");
}

#[test]
fn a_tail_that_the_other_never_had_is_cut_and_kept_aside() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (old, _) = open(a.path(), small());
    old.permit(Lsn(0));
    start(&old);
    let confirms = Arc::new(Confirms::default());
    let (mut follower, mut kept) = follow(b.path());
    publish(&old, b"both have it", 1, &confirms, 1);
    wait_written(&old, Lsn(0));
    let mut shipped = Lsn(0);
    let mut link = reader(&old, follower.receiver.position());
    while follower.replayer.behind() < 2 && shipped < old.written_and_synced().1 || confirms.0.lock().is_empty() {
        shipped = ship(1, &mut link, &mut follower);
        old.permit(shipped);
    }
    for n in 2..30 {
        let end = old.written_and_synced().1;
        publish(&old, &[n as u8; 80_000], 1, &confirms, n);
        wait_written(&old, end);
    }
    assert_eq!(confirms.0.lock().len(), 1, "the rest was never confirmed");
    let lost = old.written_and_synced().1;
    drop((old, link));

    let epoch = follower.receiver.promised() + 1;
    let new = follower.lead(epoch, Lsn(u64::MAX), &mut kept).unwrap();
    start(&new);
    publish(&new, b"the new one's", 1, &confirms, 100);
    confirms.wait_for(2);
    let (back, tail) = follow(a.path());
    assert_eq!((back.receiver.position().lsn, tail.records.len()), (lost, 29));
    let Meeting::Cut(to) = new.meet(back.receiver.position()).unwrap() else { panic!("it has to be cut") };
    assert_eq!(to, shipped);
    drop(back);
    for _ in 0..2 {
        let Cut::Done { kept_in } = cut(storage(a.path()).as_ref(), &small(), to).unwrap() else { panic!("it can be cut") };
        if let Some(name) = kept_in {
            assert!(std::fs::metadata(a.path().join(name)).unwrap().len() > 28 * 80_000);
        }
    }
    let (mut back, mut kept) = follow(a.path());
    assert_eq!((back.receiver.position().lsn, kept.records.len()), (to, 1));
    ship(epoch, &mut reader(&new, back.receiver.position()), &mut back);
    back.replayer.redo_up_to(new.committed_lsn(), &mut kept).unwrap();
    assert_eq!(kept.records.last().unwrap().1, b"the new one's");
    assert_eq!(back.receiver.position().lsn, new.written_and_synced().0);
    drop((back, new));
    let report = journal::verify::run(a.path(), &mut Vec::new()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
