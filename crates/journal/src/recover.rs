//! Opening: from the directory to a state machine that is up to date and a segment to go on in.
//!
//! 1. The newest valid checkpoint gives objects, liveness and the position where redo begins.
//! 2. The segments from there are read frame by frame. A bad frame with a sync marker above it anywhere is corruption and refused; without
//!    one it is the torn tail, and the log ends there.
//! 3. What follows the last marker was merely read, not synced: it is copied into a new segment that is synced under its final name (file and
//!    directory) before this node says anything (LOG §5).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicU8};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::batch::{self, BATCH_HEADER, FRAME_HEADER};
use crate::catalog::Catalog;
use crate::clock::BrokerClock;
use crate::commit::Committer;
use crate::journal::{epoch_fields, Core, Counters, Tip};
use crate::live::Liveness;
use crate::meta::Meta;
use crate::mutants::{self, Mutant};
use crate::pages::Pages;
use crate::record::KIND_EPOCH_START;
use crate::ring::Ring;
use crate::scan::Scan;
use crate::segment::{self, file_name, parse_name, Ids, Segment, SegmentHead, Window, SEGMENT_HEADER};
use crate::storage::{File, Lock, Storage};
use crate::{segment_files, Apply, Config, Lsn, OpenError, RecordRef};

pub(crate) fn open(storage: Arc<dyn Storage>, config: Config, apply: &mut dyn Apply) -> Result<(Arc<Core>, Committer), OpenError> {
    let lock = lock(storage.as_ref())?;
    for dir in ["j", "c", "p", "x"] {
        storage.make_dir(dir).map_err(OpenError::io(format!("making the directory {dir}")))?;
    }
    let mut meta = read_meta(storage.as_ref(), &config)?;
    remove_leftovers(storage.as_ref())?;
    let segments = open_segments(storage.as_ref(), &meta.ids)?;
    let pages = Pages::open(storage.as_ref(), meta.ids, Default::default())?;
    let mut scan = Scan::new(Tip::default(), Liveness::default());
    scan.run(&segments, apply)?;
    let end = scan.end();
    let (segment, tip, catalog, live) = begin_segment(storage.as_ref(), &config, &meta, segments, scan)?;

    meta.epoch = meta.epoch.max(end.epoch) + 1;
    meta.boot_id = storage.random();
    meta.clean = false;
    meta.update(storage.as_ref()).map_err(OpenError::io("writing meta"))?;
    announce(apply, &meta, tip.lsn)?;

    let clock = BrokerClock::start(config.clock.as_ref(), end.wall_ms);
    let counters = Counters::default();
    counters.recovered_batches.store(end.batches, std::sync::atomic::Ordering::Relaxed);
    counters.recovered_records.store(end.records, std::sync::atomic::Ordering::Relaxed);
    counters.recovered_tail_bytes.store(end.tail_bytes, std::sync::atomic::Ordering::Relaxed);
    let core = Arc::new(Core {
        ring: Arc::new(Ring::new(config.staging_bytes)),
        ids: meta.ids,
        boot_id: meta.boot_id,
        epoch: meta.epoch,
        catalog: RwLock::new(catalog),
        live: Mutex::new(live),
        clock,
        level: AtomicU8::new(end.level),
        written: AtomicU64::new(tip.lsn),
        tip: Mutex::new(tip),
        committed_ticket: AtomicU64::new(0),
        committed_lsn: AtomicU64::new(tip.lsn),
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
    let committer = Committer::new(core.clone(), segment, tip);
    Ok((core, committer))
}

fn lock(storage: &dyn Storage) -> Result<Box<dyn Lock>, OpenError> {
    storage.lock("lock").map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked { pid: error.to_string().parse().ok() },
        _ => OpenError::io("locking the data directory")(error),
    })
}

fn read_meta(storage: &dyn Storage, config: &Config) -> Result<Meta, OpenError> {
    if let Some(meta) = Meta::read(storage)? {
        if meta.ids.shard != config.shard {
            return Err(OpenError::Foreign { file: "meta".into() });
        }
        return Ok(meta);
    }
    if let Some(orphan) = storage.list("j").map_err(OpenError::io("listing j"))?.into_iter().find(|name| parse_name(name).is_some()) {
        return Err(OpenError::corrupt("meta", format!("it is missing, but there is a log (j/{orphan})")));
    }
    let cluster = u128::from(storage.random()) << 64 | u128::from(storage.random());
    let ids = Ids { cluster, node: storage.random(), shard: config.shard };
    let meta = Meta { number: 0, ids, epoch: 0, boot_id: 0, clean: true };
    meta.create(storage).map_err(OpenError::io("writing meta"))?;
    Ok(meta)
}

/// Files under temporary names were never part of the store.
fn remove_leftovers(storage: &dyn Storage) -> Result<(), OpenError> {
    for dir in ["j", "c", "p", "x"] {
        for name in storage.list(dir).map_err(OpenError::io(format!("listing {dir}")))? {
            if name.ends_with(".tmp") {
                storage.remove(&format!("{dir}/{name}")).map_err(OpenError::io(format!("removing {dir}/{name}")))?;
            }
        }
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

type Begun = (Arc<Segment>, Tip, Catalog, Liveness);

/// Starts the segment of this reign with the unsynced tail, if there is one, at its head; cuts the tail off the old one.
fn begin_segment(storage: &dyn Storage, config: &Config, meta: &Meta, segments: Segments, mut scan: Scan) -> Result<Begun, OpenError> {
    let end = scan.end();
    let trusted = mutants::active(Mutant::TrustRecoveredTail);
    let tail = if trusted { Vec::new() } else { scan.tail() };
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
        let old = &segments[&frame.segment];
        let copied = copy_frame(old, frame.offset, frame.lsn, frame.chain_before, file.as_ref(), &head, offset)?;
        notes.push((frame.lsn, offset));
        offset += copied;
    }
    let segment = segment_files::complete(storage, file, segment_files::FRESH, head, |_| Ok(())).map_err(making())?;
    notes.iter().for_each(|(lsn, offset)| segment.note_frame(*lsn, *offset));

    let mut catalog = Catalog::default();
    let mut firsts: Vec<u64> = segments.keys().copied().filter(|first| *first < start.0).collect();
    firsts.push(start.0);
    for pair in firsts.windows(2) {
        catalog.add_hot(segments[&pair[0]].clone());
        catalog.seal(pair[0], pair[1]);
    }
    catalog.add_hot(segment.clone());
    scan.finish_live(start.0);
    if let Some(before) = firsts.len().checked_sub(2).map(|at| &segments[&firsts[at]]) {
        // What was allocated and never used goes back to the file system; the tail is in the new segment. Not a matter of safety.
        if let Some(cut) = scan.used_bytes(before.head.first_lsn, &tail) {
            before.file.truncate(cut).map_err(making())?;
        }
    }
    let tip = Tip { lsn: end.lsn, chain: end.chain, segment: start.0, offset, wall_ms: end.wall_ms };
    Ok((segment, tip, catalog, scan.into_live()))
}

/// Copies one batch of the tail under a new frame, and checks again what is copied.
fn copy_frame(old: &Segment, offset: u64, lsn: u64, chain: u32, into: &dyn File, head: &SegmentHead, at: u64) -> Result<u64, OpenError> {
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
fn announce(apply: &mut dyn Apply, meta: &Meta, end: u64) -> Result<(), OpenError> {
    let lsn = Lsn(end + BATCH_HEADER as u64);
    let fields = epoch_fields(meta.epoch, meta.boot_id);
    let record = RecordRef { kind: KIND_EPOCH_START, level: 1, flags: 0, pins: 0, fields: &fields };
    apply.apply(lsn, record, &mut Vec::new()).map_err(|source| OpenError::Apply { at: "the start of this reign".into(), source })
}
