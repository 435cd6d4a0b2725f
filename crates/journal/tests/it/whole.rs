//! The journal with its threads on a real directory: checkpoints, evacuation, tools, the golden directory, a full disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::storage::DirStorage;
use journal::{Config, Filled, Journal, Lsn, ObjectKey, ObjectSink, Records, Release, Releases, Snapshot, SnapshotError};

use crate::support::{publish, Confirms, Keep, Nothing, KIND};

pub const OBJECT: &[u8] = b"an object of the golden directory";

/// Checkpoints one object with a fixed content.
struct OneObject;

impl Snapshot for OneObject {
    fn snapshot(&self, sink: &mut dyn ObjectSink) -> Result<(), SnapshotError> {
        Ok(sink.put(ObjectKey::new(1, 7, 0), OBJECT)?)
    }
}

pub fn config() -> Config {
    Config { segment_bytes: 32 << 10, checkpoint_bytes: 64 << 10, simulated: true, ..Config::default() }
}

fn settle(journal: &Journal, lsn: Lsn) {
    let mut records = Records::new();
    records.push(21, 1, 0, 0, |out| out.extend_from_slice(&lsn.0.to_le_bytes()));
    let releases = Releases { known: vec![Release { lsn, ordinal: 0 }], ..Releases::default() };
    journal.reserve().fill(Filled { records, releases, ..Filled::default() });
}

/// Publishes 600 messages, settles all but every fiftieth, and waits until they have moved to a cold file. Answers the survivors.
pub fn build(dir: &Path) -> Vec<Lsn> {
    let journal = Journal::open(Arc::new(DirStorage::new(dir).unwrap()), config(), &mut Keep::default()).unwrap();
    journal.start(Arc::new(OneObject));
    let confirms = Arc::new(Confirms::default());
    let mut stuck = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut published = 0u64;
    while journal.stats().evacuated_ranges < 3 || journal.stats().segments_removed < 3 || published < 600 {
        assert!(Instant::now() < deadline, "nothing was evacuated: {:?}", journal.stats());
        let body = vec![published as u8; 700];
        let place = publish(&journal, &body, 1, &confirms, published);
        confirms.wait_for(published as usize + 1);
        let lsn = place.get().unwrap();
        if published % 50 == 49 {
            stuck.push(lsn);
        } else {
            settle(&journal, lsn);
        }
        published += 1;
    }
    // Some that no checkpoint covers, so that a start has something to redo.
    for extra in 0..10 {
        publish(&journal, &[250; 300], 1, &confirms, published + extra);
    }
    confirms.wait_for(published as usize + 10);
    check(&journal, &stuck);
    journal.close().unwrap();
    stuck
}

fn check(journal: &Journal, stuck: &[Lsn]) {
    let mut fields = Vec::new();
    for (at, lsn) in stuck.iter().enumerate() {
        journal.read(*lsn, &mut fields).unwrap();
        assert_eq!(fields, vec![((at + 1) * 50 - 1) as u8; 700]);
    }
}

#[test]
fn survivors_move_to_cold_files_and_are_found_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let stuck = build(dir.path());
    let report = journal::verify::run(dir.path(), &mut Vec::new()).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert!(report.cold_records > 0 && report.checkpoints == 2 && report.objects > 1, "{report:?}");
    let mut text = Vec::new();
    journal::inspect::run(dir.path(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("clean stop") && text.contains(".cold") && text.contains("redo from"), "{text}");

    let journal = Journal::open(Arc::new(DirStorage::new(dir.path()).unwrap()), config(), &mut Keep::default()).unwrap();
    check(&journal, &stuck);
    let mut object = Vec::new();
    journal.get_object(ObjectKey::new(1, 7, 0), &mut object).unwrap();
    assert_eq!(object, OBJECT);
}

#[test]
fn verify_names_a_damaged_cold_record_and_a_damaged_page() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    // Behind the header of a cold file lies its first record.
    let newest = files(&dir.path().join("c")).max().unwrap();
    damaged(dir.path(), &newest, |bytes| bytes[100] ^= 1);
    // The newest checkpoint holds one of the copies of the object, and which one is open: the journal may have been closed after it had
    // copied the object for the next checkpoint and before it wrote that. So each copy of a file is damaged, and a file is found that matters.
    let copies = files(&dir.path().join("p")).filter(|path| damages_every_copy(&mut std::fs::read(path).unwrap()) > 0);
    let problems = copies.map(|path| problems_with(dir.path(), &path, |bytes| assert!(damages_every_copy(bytes) > 0)));
    assert_eq!(problems.filter(|problems| *problems > 0).count(), 1, "one page file holds the object of the newest checkpoint");
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|ext| ext != "tmp"))
}

fn damages_every_copy(bytes: &mut [u8]) -> usize {
    let mut copies = 0;
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(OBJECT) {
            bytes[at] ^= 1;
            copies += 1;
        }
    }
    copies
}

fn damaged(dir: &Path, victim: &Path, damage: impl Fn(&mut Vec<u8>)) {
    assert!(problems_with(dir, victim, damage) > 0, "{}: the damage went unnoticed", victim.display());
}

/// How many problems `verify` names while `victim` is damaged.
fn problems_with(dir: &Path, victim: &Path, damage: impl Fn(&mut Vec<u8>)) -> usize {
    let original = std::fs::read(victim).unwrap();
    let mut bytes = original.clone();
    damage(&mut bytes);
    std::fs::write(victim, &bytes).unwrap();
    let report = journal::verify::run(dir, &mut Vec::new()).unwrap();
    std::fs::write(victim, &original).unwrap();
    report.problems.len()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/journal-1")
}

/// Format 1 must open for ever. `JOURNAL_GOLDEN=write` makes the directory anew (only ever for a new format, beside the old one).
#[test]
fn the_golden_directory_opens() {
    if std::env::var("JOURNAL_GOLDEN").is_ok_and(|value| value == "write") {
        let stuck = build(&golden());
        let text: Vec<String> = stuck.iter().map(|lsn| lsn.0.to_string()).collect();
        std::fs::write(golden().join("survivors.txt"), text.join("\n")).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&golden(), dir.path());
    let text = std::fs::read_to_string(golden().join("survivors.txt")).unwrap();
    let stuck: Vec<Lsn> = text.lines().map(|line| Lsn(line.parse().unwrap())).collect();
    assert!(stuck.len() >= 12);
    let report = journal::verify::run(dir.path(), &mut Vec::new()).unwrap();
    assert!(report.problems.is_empty() && report.cold_records > 0 && report.segments > 1, "{report:?}");
    let mut keep = Keep::default();
    let journal = Journal::open(Arc::new(DirStorage::new(dir.path()).unwrap()), config(), &mut keep).unwrap();
    assert!(!keep.records.is_empty());
    check(&journal, &stuck);
}

/// By a process that is the version after this one ([`journal::next`]), which raises the level of the log at once and reads what it has written;
/// and this version does not open it any more.
#[test]
fn the_next_version_opens_the_golden_directory_and_there_is_no_way_back() {
    if let Some(dir) = std::env::var_os("JOURNAL_AS_NEXT") {
        return as_the_next_version(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&golden(), dir.path());
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "whole::the_next_version_opens_the_golden_directory_and_there_is_no_way_back"]);
    let done = again.env("CARRICK_FORMAT", "next").env("JOURNAL_AS_NEXT", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
    let storage = Arc::new(DirStorage::new(dir.path()).unwrap());
    let error = Journal::open(storage, config(), &mut Keep::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("of level 2, and this program understands levels up to 1"), "{error}");
}

fn as_the_next_version(dir: &Path) {
    let open = || {
        let mut keep = Keep::default();
        let journal = Journal::open(Arc::new(DirStorage::new(dir).unwrap()), config(), &mut keep).unwrap();
        journal.start(Arc::new(Nothing));
        (journal, keep.records.len())
    };
    let (journal, _) = open();
    let deadline = Instant::now() + Duration::from_secs(20);
    while journal.level() < 2 {
        assert!(Instant::now() < deadline, "the level does not rise");
        std::thread::sleep(Duration::from_millis(1));
    }
    let confirms = Arc::new(Confirms::default());
    for n in 0..50 {
        let mut records = Records::new();
        records.push(KIND, 1, 0, 0, |out| out.push(n));
        journal.reserve().fill(Filled { records, done: Some((confirms.clone(), u64::from(n))), ..Filled::default() });
        confirms.wait_for(usize::from(n) + 1);
    }
    journal.close().unwrap();
    drop(journal);
    assert!(open().1 >= 50);
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Lets the checkpoints run while the commit thread tells who waits for a batch.
struct Hasty(std::sync::Weak<Journal>);

impl journal::Committed for Hasty {
    fn committed(&self, _: u64) {
        if let Some(journal) = self.0.upgrade() {
            journal.step_maintain();
        }
    }
}

#[test]
fn a_checkpoint_counts_every_reference_below_its_begin() {
    let storage = journal::sim::SimStorage::new(7);
    let config = || Config { clock: storage.clock(), ..config() };
    let open = || Arc::new(Journal::open(Arc::new(storage.clone()), config(), &mut Keep::default()).unwrap());
    let journal = open();
    journal.start_stepped(Arc::new(OneObject));
    let hasty: Arc<dyn journal::Committed> = Arc::new(Hasty(Arc::downgrade(&journal)));
    for n in 0..600u64 {
        let mut records = Records::new();
        records.push(20, 1, 0, 1, |out| out.extend_from_slice(&[n as u8; 700]));
        journal.reserve().fill(Filled { records, done: Some((hasty.clone(), n)), ..Filled::default() });
        // A checkpoint begins behind what is written and not yet committed.
        while journal.step_commit() {}
    }
    assert!(journal.stats().checkpoints > 3, "{:?}", journal.stats());
    drop((hasty, journal));
    storage.crash(journal::sim::Crash::Kill);
    assert_eq!(open().stats().live_references, 600);
}
