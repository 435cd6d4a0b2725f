//! `carrick journal verify DIR`: reads everything there is, changes nothing, and says what is wrong.

use std::io::Write;
use std::path::Path;

use crate::checkpoint::{self, range_key, Root};
use crate::cold::{self, ColdFile};
use crate::evacuate::walk_hot;
use crate::journal::Tip;
use crate::live::{Liveness, Range};
use crate::meta::Meta;
use crate::pages::{self, read_object};
use crate::recover::{open_segments, Segments};
use crate::scan::Scan;
use crate::segment::{file_name, Ids};
use crate::storage::{DirStorage, Storage};
use crate::{Apply, ApplyError, Lsn, ObjectKey, ObjectRef, OpenError, RecordRef, Release};

/// What was read, and what was wrong with it.
#[derive(Default, Debug, Clone)]
pub struct Report {
    pub segments: u64,
    pub batches: u64,
    pub records: u64,
    /// Bytes at the end that no sync marker covers; the next start copies and syncs them.
    pub unsynced_tail_bytes: u64,
    pub end_lsn: u64,
    pub checkpoints: u64,
    pub objects: u64,
    pub cold_files: u64,
    pub cold_records: u64,
    pub problems: Vec<String>,
}

struct Ignore;

impl Apply for Ignore {
    fn load(&mut self, _: ObjectKey, _: ObjectRef<'_>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, _: Lsn, _: RecordRef<'_>, _: &mut Vec<Release>) -> Result<(), ApplyError> {
        Ok(())
    }
}

/// Verifies the store in `dir`, which no process may be using. `Err` when it cannot be read at all.
pub fn run(dir: &Path, out: &mut impl Write) -> Result<Report, OpenError> {
    let writing = || OpenError::io("writing the report");
    let storage = open_store(dir)?;
    let meta = Meta::read(&storage)?.ok_or(OpenError::NoStore)?;
    let mut report = Report::default();
    let (roots, _) = note(&mut report, checkpoint::read_all(&storage, &meta.ids)).unwrap_or_default();
    report.checkpoints = roots.len() as u64;
    if let Some(root) = roots.last() {
        objects(&storage, root, &mut report)?;
    }
    let opened = open_segments(&storage, &meta.ids);
    if let Some(segments) = note(&mut report, opened) {
        report.segments = segments.len() as u64;
        log(&storage, &segments, roots.last(), &mut report)?;
    }
    cold_files(&storage, &meta.ids, &mut report)?;
    for problem in &report.problems {
        writeln!(out, "PROBLEM  {problem}").map_err(writing())?;
    }
    writeln!(
        out,
        "{} segments, {} batches, {} records up to LSN {} ({} bytes not yet under a sync marker); {} checkpoints, {} objects; {} cold files, {} records: {}",
        report.segments,
        report.batches,
        report.records,
        report.end_lsn,
        report.unsynced_tail_bytes,
        report.checkpoints,
        report.objects,
        report.cold_files,
        report.cold_records,
        if report.problems.is_empty() { "sound" } else { "DAMAGED" },
    )
    .map_err(writing())?;
    Ok(report)
}

/// The directory must be there already: looking at a store must not make one.
pub(crate) fn open_store(dir: &Path) -> Result<DirStorage, OpenError> {
    if !dir.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(OpenError::Io { doing: format!("opening {}", dir.display()), source });
    }
    DirStorage::new(dir).map_err(OpenError::io(format!("opening {}", dir.display())))
}

fn note<T>(report: &mut Report, result: Result<T, OpenError>) -> Option<T> {
    result.map_err(|error| report.problems.push(error.to_string())).ok()
}

fn objects(storage: &dyn Storage, root: &Root, report: &mut Report) -> Result<(), OpenError> {
    let mut bytes = Vec::new();
    for (key, place) in &root.objects {
        let name = pages::file_name(place.file);
        let read = storage.open(&name).map_err(|error| format!("{name}: {error}"));
        match read.and_then(|file| read_object(file.as_ref(), *key, *place, &mut bytes).map_err(|error| error.to_string())) {
            Ok(()) => report.objects += 1,
            Err(problem) => report.problems.push(problem),
        }
    }
    Ok(())
}

/// The log from the checkpoint's begin as a start would read it, and every older segment by itself.
fn log(storage: &dyn Storage, segments: &Segments, root: Option<&Root>, report: &mut Report) -> Result<(), OpenError> {
    let mut scan = Scan::new(root.map_or(Tip::default(), |root| root.begin), Liveness::default());
    if let Some(root) = root {
        scan.continue_from(root);
    }
    let scanned = scan.run(segments, &mut Ignore);
    note(report, scanned);
    let end = scan.end();
    (report.batches, report.records) = (end.batches, end.records);
    (report.end_lsn, report.unsynced_tail_bytes) = (end.lsn, end.tail_bytes);
    let Some(root) = root else { return Ok(()) };
    let mut bytes = Vec::new();
    for first in root.ranges.iter().filter(|first| **first < root.begin.segment) {
        let Some((segment, place)) = segments.get(first).zip(root.objects.get(&range_key(*first))) else { continue };
        let Ok(file) = storage.open(&pages::file_name(place.file)) else { continue };
        let range = read_object(file.as_ref(), range_key(*first), *place, &mut bytes).ok().and_then(|()| Range::decode(&bytes));
        let Some(end) = range.and_then(|range| range.end) else { continue };
        let mut records = 0;
        match walk_hot(segment, end, &mut |_, _, _| records += 1) {
            Ok(()) => report.records += records,
            Err(error) => report.problems.push(format!("{}: {error}", file_name(*first))),
        }
    }
    Ok(())
}

fn cold_files(storage: &dyn Storage, ids: &Ids, report: &mut Report) -> Result<(), OpenError> {
    for name in storage.list("c").map_err(OpenError::io("listing c"))? {
        let Some(number) = cold::parse_name(&name) else { continue };
        let file = storage.open(&cold::file_name(number)).map_err(OpenError::io(format!("opening c/{name}")))?;
        let Some(file) = note(report, ColdFile::open(number, file, ids)) else { continue };
        report.cold_files += 1;
        let mut bytes = Vec::new();
        let mut records = 0;
        let read = file.each_entry(|entry| {
            records += 1;
            file.read_entry(&entry, &mut bytes)
        });
        report.cold_records += records;
        if let Err(error) = read {
            report.problems.push(format!("c/{name}: {error}"));
        }
    }
    Ok(())
}
