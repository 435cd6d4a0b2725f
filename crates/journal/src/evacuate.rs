//! Evacuation: the survivors of mostly dead ranges move to a cold file, so that a stuck message keeps its own bytes and not a segment.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::batch::{self, BATCH_HEADER};
use crate::catalog::Home;
use crate::cold::{ColdFile, ColdWriter, Stop};
use crate::journal::{count, Core};
use crate::live::Survivors;
use crate::record::{self, RecordHead};
use crate::segment::{Segment, Window, SEGMENT_HEADER};
use crate::Lsn;

/// More than this many small cold files are merged into one.
const SMALL_FILES: usize = 8;
/// Ranges moved in one round.
const ROUND: usize = 32;

pub(crate) struct Source {
    first: u64,
    end: u64,
    home: Home,
}

/// Ranges that are worth moving: sealed, below the older root's begin (so that the segment can go at once), dead enough.
pub(crate) fn choose(core: &Core, older_begin: u64) -> Vec<Source> {
    let percent = u64::from(core.config.evacuate_dead_percent);
    let live = core.live.lock();
    let catalog = core.catalog.read();
    let mut hot = Vec::new();
    let mut cold: BTreeMap<u64, (u64, u64, u64, Vec<Source>)> = BTreeMap::new();
    for (first, entry) in &catalog.ranges {
        let Some(range) = live.ranges.get(first) else { continue };
        let source = Source { first: *first, end: entry.end, home: entry.home.clone() };
        match &entry.home {
            Home::Hot(_) => {
                let ready = range.end.is_some_and(|end| end <= older_begin && end <= live.applied);
                if ready && range.live > 0 && (range.pins - range.live) * 100 >= range.pins * percent {
                    hot.push(source);
                }
            }
            Home::Cold(file) => {
                let group = cold.entry(file.number).or_default();
                (group.0, group.1, group.2) = (group.0 + range.pins, group.1 + range.live, file.bytes);
                group.3.push(source);
            }
        }
    }
    let small = |bytes: u64| bytes < core.config.segment_bytes / 4;
    let merge = cold.values().filter(|group| small(group.2)).count() > SMALL_FILES;
    let worth =
        |group: &(u64, u64, u64, Vec<Source>)| group.1 > 0 && ((group.0 - group.1) * 100 >= group.0 * percent || (merge && small(group.2)));
    hot.truncate(ROUND);
    hot.extend(cold.into_values().filter(worth).flat_map(|group| group.3));
    hot
}

/// Copies the survivors of `sources` into one new cold file and moves the ranges there. Answers the segments that are no longer needed.
pub(crate) fn run(core: &Core, number: u64, sources: &[Source]) -> Result<Vec<Arc<Segment>>, Stop> {
    let moved = copy(core, number, sources);
    if moved.is_err() {
        let mut live = core.live.lock();
        sources.iter().for_each(|source| live.cancel_evacuation(source.first));
    }
    moved
}

struct Copied {
    first: u64,
    survivors: Survivors,
    kept: Vec<(u64, u32)>,
}

fn copy(core: &Core, number: u64, sources: &[Source]) -> Result<Vec<Arc<Segment>>, Stop> {
    let mut writer = ColdWriter::new(core, number)?;
    let mut copied = Vec::with_capacity(sources.len());
    for source in sources {
        let Some(survivors) = core.live.lock().begin_evacuation(source.first) else { continue };
        let mut kept = Vec::new();
        let mut stop = None;
        let mut take = |lsn: u64, head: RecordHead, bytes: &[u8]| {
            if stop.is_none() && lsn < source.end && head.pins > 0 && survivors.has(Lsn(lsn), head.pins) {
                stop = writer.add(lsn, bytes).err();
                kept.push((lsn, head.pins));
            }
        };
        let walked = match &source.home {
            Home::Hot(segment) => walk_hot(segment, source.end, &mut take),
            Home::Cold(file) => walk_cold(file, source, &mut take),
        };
        if let Some(stop) = stop {
            return Err(stop);
        }
        walked.map_err(|error| Stop::Failed(core.fail("reading what is to be evacuated", &error)))?;
        copied.push(Copied { first: source.first, survivors, kept });
    }
    let ranges: Vec<(u64, u64)> = sources.iter().map(|source| (source.first, source.end)).collect();
    let file = Arc::new(writer.seal(&ranges)?);
    Ok(register(core, &file, sources, &copied))
}

fn register(core: &Core, file: &Arc<ColdFile>, sources: &[Source], copied: &[Copied]) -> Vec<Arc<Segment>> {
    let mut live = core.live.lock();
    for copied in copied {
        live.finish_evacuation(copied.first, &copied.survivors, &copied.kept);
    }
    drop(live);
    let mut retired = Vec::new();
    let mut catalog = core.catalog.write();
    for source in sources {
        let Some(entry) = catalog.ranges.get_mut(&source.first) else { continue };
        if let Home::Hot(segment) = std::mem::replace(&mut entry.home, Home::Cold(file.clone())) {
            retired.push(segment);
        }
        count(&core.counters.evacuated_ranges, 1);
    }
    catalog.add_cold(file.clone());
    retired
}

/// Every record of a segment, its chain checked: damage must not be copied as if it were sound.
pub(crate) fn walk_hot(segment: &Segment, end: u64, take: &mut dyn FnMut(u64, RecordHead, &[u8])) -> io::Result<()> {
    let damaged = |lsn: u64| io::Error::new(io::ErrorKind::InvalidData, format!("the batch at {lsn} is damaged"));
    let mut window = Window::new(segment.file.clone(), (end.saturating_sub(segment.head.first_lsn) as usize).clamp(64 << 10, 1 << 20));
    let (mut offset, mut lsn, mut chain) = (SEGMENT_HEADER, segment.head.first_lsn, segment.head.chain);
    while lsn < end {
        let frame = window.frame(segment.head.salt, offset)?.filter(|frame| frame.lsn == lsn).ok_or_else(|| damaged(lsn))?;
        if frame.batch_len > 0 {
            let (inner, bytes) = window.batch(&frame, offset)?.ok_or_else(|| damaged(lsn))?;
            if batch::chain_of(chain, bytes) != inner.chain {
                return Err(damaged(lsn));
            }
            let body = &bytes[BATCH_HEADER..];
            record::walk(body, lsn + BATCH_HEADER as u64, |lsn, head, bytes| take(lsn.0, head, bytes)).map_err(io::Error::other)?;
            (lsn, chain) = (inner.end(), inner.chain);
        }
        offset += frame.frame_len();
    }
    Ok(())
}

fn walk_cold(file: &ColdFile, source: &Source, take: &mut dyn FnMut(u64, RecordHead, &[u8])) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.each_entry(|entry| {
        if (source.first..source.end).contains(&entry.lsn) {
            file.read_entry(&entry, &mut bytes)?;
            let head = RecordHead::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no record"))?;
            take(entry.lsn, head, &bytes);
        }
        Ok(())
    })
}
