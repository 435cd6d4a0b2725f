//! Opening: from the directory to a state machine that is up to date and a segment to go on in.
//!
//! 1. The newest valid checkpoint gives objects, liveness and the position where redo begins.
//! 2. The segments from there are read frame by frame. A bad frame with a sync marker above it anywhere is corruption and refused; without
//!    one it is the torn tail, and the log ends there.
//! 3. What follows the last marker was merely read, not synced: it is copied into a new segment that is synced under its final name (file and
//!    directory) before this node says anything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::batch::{self, BATCH_HEADER, FRAME_HEADER};
use crate::catalog::{Catalog, Entry, Home};
use crate::checkpoint::{self, Root};
use crate::clock::BrokerClock;
use crate::cold::{self, ColdFile};
use crate::commit::Committer;
use crate::journal::{epoch_fields, Core, Counters, Tip};
use crate::live::{Liveness, Range};
use crate::maintain::Inherited;
use crate::meta::Meta;
use crate::mutants::{self, Mutant};
use crate::pages::{self, Pages};
use crate::record::KIND_EPOCH_START;
use crate::ring::Ring;
use crate::scan::{Scan, TailFrame};
use crate::segment::{self, file_name, parse_name, Ids, Segment, SegmentHead, Window, SEGMENT_HEADER};
use crate::storage::{File, Lock, Storage, DIRS};
use crate::{segment_files, Apply, Config, Lsn, ObjectError, ObjectKey, ObjectRef, OpenError, RecordRef};

/// A store that is read and belongs to no reign yet.
pub(crate) struct Recovered {
    pub core: Arc<Core>,
    pub committer: Committer,
    pub inherited: Inherited,
    pub meta: Meta,
    /// The epoch of the log's last batch, and the time in it.
    pub epoch: u64,
    pub wall_ms: u64,
}

pub(crate) fn open(storage: Arc<dyn Storage>, config: Config, apply: &mut dyn Apply) -> Result<Recovered, OpenError> {
    let lock = lock(storage.as_ref())?;
    crate::aside::resume(storage.as_ref(), &config)?;
    crate::copy::install(storage.as_ref(), &config)?;
    for dir in DIRS {
        storage.make_dir(dir).map_err(OpenError::io(format!("making the directory {dir}")))?;
    }
    let mut meta = match read_meta(storage.as_ref(), &config)? {
        Some(meta) => {
            remove_leftovers(storage.as_ref())?;
            sync_dirs(storage.as_ref())?;
            meta
        }
        None => make_meta(storage.as_ref(), &config)?,
    };
    let segments = open_segments(storage.as_ref(), &meta.ids)?;
    let (mut roots, highest_root) = checkpoint::read_all(storage.as_ref(), &meta.ids)?;
    let newest = roots.last().cloned();
    let table = newest.as_ref().map(|root| root.objects.clone()).unwrap_or_default();
    let pages = Arc::new(Pages::open(storage.as_ref(), meta.ids, table)?);
    let mut scan = start_scan(newest.as_ref(), &pages, apply)?;
    apply.objects(pages.clone());
    scan.run(&segments, apply)?;
    let end = scan.end();
    if let Some(root) = newest.as_ref().filter(|root| root.counted > end.lsn) {
        let what = format!("the log ends at {}, but the checkpoint was written when {} was committed", end.lsn, root.counted);
        return Err(OpenError::corrupt(checkpoint::file_name(root.number), what));
    }
    let cold = open_cold(storage.as_ref(), &meta.ids)?;
    let begun = begin_segment(storage.as_ref(), &config, &meta, &segments, scan)?;
    let homes = find_homes(&segments, &begun, cold)?;

    meta.epoch = meta.epoch.max(end.epoch);
    meta.boot_id = storage.random();
    // Written by who begins a reign or follows one.
    let was_clean = std::mem::replace(&mut meta.clean, false);

    let counters = Counters::default();
    counters.recovered_batches.store(end.batches, Ordering::Relaxed);
    counters.recovered_records.store(end.records, Ordering::Relaxed);
    counters.recovered_tail_bytes.store(end.tail_bytes, Ordering::Relaxed);
    let tip = begun.tip;
    let core = Arc::new(Core {
        ring: Arc::new(Ring::new(config.staging_bytes)),
        ids: meta.ids,
        boot_id: meta.boot_id,
        was_clean: was_clean.into(),
        epoch: AtomicU64::new(meta.epoch),
        log_epoch: AtomicU64::new(end.epoch),
        catalog: RwLock::new(homes.catalog),
        live: Mutex::new(homes.live),
        clock: BrokerClock::start(config.clock.as_ref(), end.wall_ms),
        level: AtomicU8::new(end.level),
        written: AtomicU64::new(tip.lsn),
        tip: Mutex::new(tip),
        committed_ticket: AtomicU64::new(0),
        committed_lsn: AtomicU64::new(tip.lsn),
        synced: AtomicU64::new(tip.lsn),
        permitted: AtomicU64::new(u64::MAX),
        waiting: Default::default(),
        progress: OnceLock::new(),
        copies: Default::default(),
        hooks: OnceLock::new(),
        failure: OnceLock::new(),
        counters,
        kick: Default::default(),
        spares: Default::default(),
        pages,
        storage,
        config,
        _lock: lock,
    });
    let committer = Committer::new(core.clone(), begun.segment, tip);
    roots.drain(..roots.len().saturating_sub(2));
    let inherited = Inherited {
        roots: roots.iter().map(Root::kept).collect(),
        next_root: highest_root + 1,
        next_cold: homes.next_cold,
        retired: homes.retired,
    };
    Ok(Recovered { core, committer, inherited, meta, epoch: end.epoch, wall_ms: end.wall_ms })
}

/// Hands the checkpoint's objects to the state machine and takes the journal's own.
fn start_scan(root: Option<&Root>, pages: &Pages, apply: &mut dyn Apply) -> Result<Scan, OpenError> {
    let Some(root) = root else { return Ok(Scan::new(Tip::default(), Liveness::default())) };
    let mut live = Liveness { applied: root.counted, ..Liveness::default() };
    let mut bytes = Vec::new();
    for (key, place) in &root.objects {
        let mut failed = None;
        let mut read = |into: &mut Vec<u8>| {
            pages.read_at(*key, *place, into).map_err(|error| match error {
                ObjectError::Io(error) => {
                    failed = Some(std::io::Error::new(error.kind(), error.to_string()));
                    ObjectError::Io(error)
                }
                other => other,
            })
        };
        let loaded = if key.class < ObjectKey::OWN_CLASS {
            let object = ObjectRef { place: *place, read: &mut read };
            apply.load(*key, object).map_err(|source| OpenError::Apply { at: format!("object {key:?}"), source })
        } else {
            read(&mut bytes).map_err(|error| OpenError::corrupt(pages::file_name(place.file), error.to_string())).and_then(|()| {
                let damaged = || OpenError::corrupt(pages::file_name(place.file), format!("the state of range {} is damaged", key.a));
                live.ranges.insert(key.a, Range::decode(&bytes).ok_or_else(damaged)?);
                Ok(())
            })
        };
        match failed {
            // A disk that cannot be read now is not a damaged store, whatever the reader above made of it.
            Some(error) => return Err(OpenError::io(format!("reading {}", pages::file_name(place.file)))(error)),
            None => loaded?,
        }
    }
    live.ranges.retain(|first, _| root.ranges.binary_search(first).is_ok());
    if let Some(missing) = root.ranges.iter().find(|first| !live.ranges.contains_key(first)) {
        return Err(OpenError::corrupt(checkpoint::file_name(root.number), format!("the state of range {missing} is missing")));
    }
    let mut scan = Scan::new(root.begin, live);
    scan.continue_from(root);
    Ok(scan)
}

/// Sealed cold files. One that cannot be read is passed over here: if a range needs it, that is noticed.
fn open_cold(storage: &dyn Storage, ids: &Ids) -> Result<Vec<ColdFile>, OpenError> {
    let mut files = Vec::new();
    for name in storage.list("c").map_err(OpenError::io("listing c"))? {
        let Some(number) = cold::parse_name(&name) else { continue };
        let file = storage.open(&cold::file_name(number)).map_err(OpenError::io(format!("opening c/{name}")))?;
        match ColdFile::open(number, file, ids) {
            Ok(file) => files.push(file),
            Err(error @ (OpenError::Version { .. } | OpenError::Io { .. })) => return Err(error),
            Err(error) => tracing::warn!(%error, "a cold file cannot be used"),
        }
    }
    Ok(files)
}

struct Homes {
    catalog: Catalog,
    live: Liveness,
    retired: Vec<Arc<Segment>>,
    next_cold: u64,
}

/// Where each live range lies: in the newest cold file that names it, else in its segment. A range without either must be dead by now:
/// it went after the checkpoint, and redo has released its last references again.
fn find_homes(segments: &Segments, begun: &Begun, cold: Vec<ColdFile>) -> Result<Homes, OpenError> {
    let mut live = begun.live.take();
    let mut catalog = Catalog::default();
    let mut cold_of: BTreeMap<u64, Arc<ColdFile>> = BTreeMap::new();
    let next_cold = cold.last().map_or(0, |file| file.number + 1);
    for file in cold {
        let file = Arc::new(file);
        file.ranges.iter().for_each(|(first, _)| drop(cold_of.insert(*first, file.clone())));
        catalog.add_cold(file);
    }
    let active = begun.segment.head.first_lsn;
    let mut ghosts = Vec::new();
    for (first, range) in &live.ranges {
        let home = match (cold_of.get(first), segments.get(first)) {
            _ if *first == active => Home::Hot(begun.segment.clone()),
            (Some(file), _) => Home::Cold(file.clone()),
            (None, Some(segment)) => Home::Hot(segment.clone()),
            (None, None) if range.live == 0 => {
                ghosts.push(*first);
                continue;
            }
            (None, None) => {
                let what = format!("it is missing (or its cold file is damaged), but {} references to it are alive", range.live);
                return Err(OpenError::corrupt(file_name(*first), what));
            }
        };
        catalog.ranges.insert(*first, Entry { end: range.end.unwrap_or(u64::MAX), home });
    }
    for ghost in ghosts {
        live.ranges.remove(&ghost);
    }
    let unused = |first: &u64| *first < active && !matches!(catalog.ranges.get(first), Some(Entry { home: Home::Hot(_), .. }));
    let retired = segments.iter().filter(|(first, _)| unused(first)).map(|(_, segment)| segment.clone()).collect();
    Ok(Homes { catalog, live, retired, next_cold })
}

pub(crate) fn lock(storage: &dyn Storage) -> Result<Box<dyn Lock>, OpenError> {
    storage.lock("lock").map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked { pid: error.to_string().parse().ok() },
        _ => OpenError::io("locking the data directory")(error),
    })
}

/// `None`: there is no store yet.
pub(crate) fn read_meta(storage: &dyn Storage, config: &Config) -> Result<Option<Meta>, OpenError> {
    if let Some(meta) = Meta::read(storage)? {
        if meta.ids.shard != config.shard {
            return Err(OpenError::Foreign { file: "meta".into() });
        }
        return Ok(Some(meta));
    }
    if let Some(orphan) = storage.list("j").map_err(OpenError::io("listing j"))?.into_iter().find(|name| parse_name(name).is_some()) {
        return Err(OpenError::corrupt("meta", format!("it is missing, but there is a log (j/{orphan})")));
    }
    Ok(None)
}

/// The identity of a new store. The directory sync in here makes the new directories durable as well.
fn make_meta(storage: &dyn Storage, config: &Config) -> Result<Meta, OpenError> {
    let cluster = u128::from(storage.random()) << 64 | u128::from(storage.random());
    let ids = Ids { cluster, node: storage.random(), shard: config.shard };
    let meta = Meta { number: 0, ids, epoch: 0, boot_id: 0, clean: true };
    meta.create(storage).map_err(OpenError::io("writing meta"))?;
    Ok(meta)
}

/// Files under temporary names were never part of the store.
fn remove_leftovers(storage: &dyn Storage) -> Result<(), OpenError> {
    for dir in DIRS {
        for name in storage.list(dir).map_err(OpenError::io(format!("listing {dir}")))? {
            if name.ends_with(".tmp") {
                storage.remove(&format!("{dir}/{name}")).map_err(OpenError::io(format!("removing {dir}/{name}")))?;
            }
        }
    }
    Ok(())
}

/// Names that are merely read are not trusted either: a process that died between a rename and its directory sync left one that a power
/// cut would still take back.
fn sync_dirs(storage: &dyn Storage) -> Result<(), OpenError> {
    for dir in [""].into_iter().chain(DIRS) {
        mutants::sync_dir(storage, dir).map_err(OpenError::io(format!("syncing the directory {dir}")))?;
    }
    Ok(())
}

pub(crate) type Segments = BTreeMap<u64, Arc<Segment>>;

pub(crate) fn open_segments(storage: &dyn Storage, ids: &Ids) -> Result<Segments, OpenError> {
    let mut segments = BTreeMap::new();
    for name in storage.list("j").map_err(OpenError::io("listing j"))? {
        let Some(first) = parse_name(&name) else { continue };
        let path = file_name(first);
        let file = storage.open(&path).map_err(OpenError::io(format!("opening {path}")))?;
        let head = segment::read_head(&path, file.as_ref())?;
        if head.first_lsn != first {
            return Err(OpenError::corrupt(path, "the header names another position than the file name"));
        }
        if !head.ids.same_store(ids) {
            return Err(OpenError::Foreign { file: path });
        }
        segments.insert(first, Arc::new(Segment::new(head, file)));
    }
    if let Some((_, last)) = segments.last_key_value() {
        let len = last.file.len().map_err(OpenError::io("measuring the last segment"))?;
        if len < last.head.file_bytes {
            let what = format!("the file has {len} bytes and was made with {}", last.head.file_bytes);
            return Err(OpenError::corrupt(file_name(last.head.first_lsn), what));
        }
    }
    Ok(segments)
}

struct Begun {
    segment: Arc<Segment>,
    tip: Tip,
    live: std::cell::Cell<Liveness>,
}

/// Starts the segment of this reign with the unsynced tail, if there is one, at its head; cuts the tail off the old one.
fn begin_segment(storage: &dyn Storage, config: &Config, meta: &Meta, segments: &Segments, mut scan: Scan) -> Result<Begun, OpenError> {
    let end = scan.end();
    let tail = if mutants::active(Mutant::TrustRecoveredTail) { Vec::new() } else { scan.tail() };
    let start = tail.first().map_or((end.lsn, end.chain), |first| (first.lsn, first.chain_before));
    let tail_bytes: u64 = tail.iter().map(|frame| u64::from(frame.len) + FRAME_HEADER as u64).sum();
    let head = SegmentHead {
        ids: meta.ids,
        first_lsn: start.0,
        epoch: end.epoch,
        salt: storage.random() as u32,
        chain: start.1,
        synced_lsn: end.lsn,
        file_bytes: config.segment_bytes.max(SEGMENT_HEADER + tail_bytes + FRAME_HEADER as u64),
    };
    let making = || OpenError::io("making the segment of this start");
    let file = storage.create(segment_files::FRESH).map_err(making())?;
    file.allocate(head.file_bytes).map_err(making())?;
    let mut notes = Vec::new();
    let mut offset = SEGMENT_HEADER;
    for frame in &tail {
        let copied = copy_frame(&segments[&frame.segment], frame, file.as_ref(), &head, offset)?;
        notes.push((frame.lsn, offset));
        offset += copied;
    }
    let segment = segment_files::complete(storage, file, segment_files::FRESH, head, |_| Ok(())).map_err(making())?;
    notes.iter().for_each(|(lsn, offset)| segment.note_frame(*lsn, *offset));

    scan.finish_live(start.0);
    if let Some((first, before)) = segments.range(..start.0).next_back() {
        // What was allocated and never used goes back to the file system; the tail is in the new segment. Not a matter of safety.
        if let Some(cut) = scan.used_bytes(*first, &tail) {
            before.file.truncate(cut).map_err(making())?;
        }
    }
    let tip = Tip { lsn: end.lsn, chain: end.chain, salt: head.salt, segment: start.0, offset, wall_ms: end.wall_ms };
    Ok(Begun { segment, tip, live: std::cell::Cell::new(scan.into_live()) })
}

/// Copies one batch of the tail under a new frame, and checks again what is copied.
fn copy_frame(old: &Segment, tail: &TailFrame, into: &dyn File, head: &SegmentHead, at: u64) -> Result<u64, OpenError> {
    let (offset, lsn, chain) = (tail.offset, tail.lsn, tail.chain_before);
    let name = file_name(old.head.first_lsn);
    let mut window = Window::new(old.file.clone(), 0);
    let reading = || OpenError::io(format!("reading {name}"));
    let changed = || OpenError::corrupt(name.clone(), format!("the batch at {lsn} reads differently the second time"));
    let outer = window.frame(old.head.salt, offset).map_err(reading())?.ok_or_else(changed)?;
    let (inner, bytes) = window.batch(&outer, offset).map_err(reading())?.ok_or_else(changed)?;
    if inner.lsn != lsn || batch::chain_of(chain, bytes) != inner.chain {
        return Err(changed());
    }
    let mut frame = Vec::with_capacity(FRAME_HEADER + bytes.len());
    frame.extend_from_slice(&batch::reframe(bytes, head.salt, head.first_lsn, lsn));
    frame.extend_from_slice(bytes);
    into.write_at(&frame, at).map_err(OpenError::io("copying the tail"))?;
    Ok(frame.len() as u64)
}

/// Tells the state machine of the reign that begins.
pub(crate) fn announce(apply: &mut dyn Apply, meta: &Meta, end: u64) -> Result<(), OpenError> {
    let lsn = Lsn(end + BATCH_HEADER as u64);
    let fields = epoch_fields(meta.epoch, meta.boot_id);
    let record = RecordRef { kind: KIND_EPOCH_START, level: 1, flags: 0, pins: 0, fields: &fields };
    apply.apply(lsn, record, &mut Vec::new()).map_err(|source| OpenError::Apply { at: "the start of this reign".into(), source })
}
