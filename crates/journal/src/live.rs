//! Liveness: which references of a range of the log are still held, so that a dead range can go and a nearly dead one be evacuated.
//!
//! A *range* is what one hot segment held, and keeps its name (its first LSN) when its survivors move to a cold file: everything here is keyed
//! by LSN, never by place. Per 64 KiB of LSN space a chunk holds a count of references and the set of the dead ones; sets, because redo
//! after a crash reports releases again. A complete chunk whose references are all dead is dropped: no chunk, no survivor. Once a range has been
//! evacuated its chunks list the survivors instead. Only what is committed is ever applied here.

use std::collections::BTreeMap;

use crate::wire::{put_varint, Reader};
use crate::{Lsn, Release};

const CHUNK_BITS: u32 = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk {
    /// `(LSN within the chunk) << 16 | ordinal` of the dead, ascending; `pins` references were ever held here.
    Dead { pins: u32, dead: Vec<u32> },
    /// The same of the living.
    Live(Vec<u32>),
}

impl Chunk {
    fn live(&self) -> u64 {
        match self {
            Chunk::Dead { pins, dead } => u64::from(*pins) - dead.len() as u64,
            Chunk::Live(live) => live.len() as u64,
        }
    }

    /// Answers whether the reference was alive.
    fn release(&mut self, entry: u32) -> bool {
        match self {
            Chunk::Live(live) => live.binary_search(&entry).map(|at| live.remove(at)).is_ok(),
            Chunk::Dead { pins, dead } => {
                if dead.len() as u64 >= u64::from(*pins) {
                    return false;
                }
                if dead.last().is_none_or(|last| *last < entry) {
                    dead.push(entry);
                    return true;
                }
                dead.binary_search(&entry).map_err(|at| dead.insert(at, entry)).is_err()
            }
        }
    }

    fn is_dead(&self, entry: u32) -> bool {
        match self {
            Chunk::Dead { dead, .. } => dead.binary_search(&entry).is_ok(),
            Chunk::Live(live) => live.binary_search(&entry).is_err(),
        }
    }
}

#[derive(Default, Debug)]
pub(crate) struct Range {
    /// `None` while it is being written.
    pub end: Option<u64>,
    /// References that records of this range ever had.
    pub pins: u64,
    pub live: u64,
    chunks: BTreeMap<u64, Chunk>,
    /// Changed since it was last written to a checkpoint.
    pub dirty: bool,
    /// While an evacuation reads this range: what died meanwhile.
    delta: Option<Vec<Release>>,
}

/// What [`crate::Journal::audit`] finds.
#[derive(Default, Debug)]
pub struct Audit {
    /// Held, but counted dead: their bodies may be gone.
    pub dead: Vec<Release>,
    /// Of each range its first LSN, the references that are counted, and those of them that were said to be held.
    pub ranges: Vec<(u64, u64, u64)>,
    /// Nothing is on its way to the log: then what nobody holds is a leak, else it may be a release that is not committed.
    pub settled: bool,
}

#[derive(Default, Debug)]
pub(crate) struct Liveness {
    pub ranges: BTreeMap<u64, Range>,
    /// Everything below has been counted.
    pub applied: u64,
}

fn split(lsn: u64, ordinal: u16) -> (u64, u32) {
    (lsn >> CHUNK_BITS, ((lsn & 0xffff) as u32) << 16 | u32::from(ordinal))
}

impl Liveness {
    pub fn add_range(&mut self, first: u64) {
        self.ranges.insert(first, Range { dirty: true, ..Range::default() });
    }

    pub fn seal_range(&mut self, first: u64, end: u64) {
        if let Some(range) = self.ranges.get_mut(&first) {
            range.end = Some(end);
            range.dirty = true;
        }
        self.settle_chunks(end, end);
    }

    fn range_of(&mut self, lsn: u64) -> Option<(u64, &mut Range)> {
        let (first, range) = self.ranges.range_mut(..=lsn).next_back()?;
        range.end.is_none_or(|end| lsn < end).then_some((*first, range))
    }

    pub fn pin(&mut self, lsn: u64, pins: u32) {
        let Some((_, range)) = self.range_of(lsn) else { return };
        range.dirty = true;
        range.pins += u64::from(pins);
        range.live += u64::from(pins);
        match range.chunks.entry(lsn >> CHUNK_BITS).or_insert(Chunk::Dead { pins: 0, dead: Vec::new() }) {
            Chunk::Dead { pins: held, .. } => *held += pins,
            Chunk::Live(_) => debug_assert!(false, "an evacuated range takes no new records"),
        }
    }

    pub fn release(&mut self, release: Release) {
        let applied = self.applied;
        let Some((_, range)) = self.range_of(release.lsn.0) else { return };
        if let Some(delta) = &mut range.delta {
            delta.push(release);
        }
        let (key, entry) = split(release.lsn.0, release.ordinal);
        let Some(chunk) = range.chunks.get_mut(&key) else { return };
        if chunk.release(entry) {
            range.live -= 1;
            range.dirty = true;
            if chunk.live() == 0 && is_complete(key, range.end, applied) {
                range.chunks.remove(&key);
            }
        }
    }

    /// Everything up to `lsn` has been counted now.
    pub fn advance(&mut self, lsn: u64) {
        let before = self.applied;
        self.applied = before.max(lsn);
        if before >> CHUNK_BITS != self.applied >> CHUNK_BITS {
            self.settle_chunks(before, self.applied);
        }
    }

    /// Drops the dead chunks of `from..=to` that have become complete.
    fn settle_chunks(&mut self, from: u64, to: u64) {
        let applied = self.applied;
        for (_, range) in self.ranges.range_mut(..=to).rev().take_while(|(_, range)| range.end.is_none_or(|end| end >= from)) {
            let end = range.end;
            let keys: Vec<u64> = (range.chunks.range(from >> CHUNK_BITS..=to >> CHUNK_BITS))
                .filter(|(key, chunk)| chunk.live() == 0 && is_complete(**key, end, applied))
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                range.chunks.remove(&key);
            }
        }
    }

    /// Starts to note what dies in the range while its survivors are copied; answers the state to copy by.
    pub fn begin_evacuation(&mut self, first: u64) -> Option<Survivors> {
        let range = self.ranges.get_mut(&first)?;
        range.delta = Some(Vec::new());
        Some(Survivors { chunks: range.chunks.clone() })
    }

    /// The survivors are in a synced cold file: from now on the range lists the living. `kept`: LSN and reference count of each survivor.
    pub fn finish_evacuation(&mut self, first: u64, survivors: &Survivors, kept: &[(u64, u32)]) {
        let Some(range) = self.ranges.get_mut(&first) else { return };
        let mut chunks: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (lsn, pins) in kept {
            for ordinal in 0..*pins {
                let (key, entry) = split(*lsn, ordinal as u16);
                if survivors.chunks.get(&key).is_some_and(|chunk| !chunk.is_dead(entry)) {
                    chunks.entry(key).or_default().push(entry);
                }
            }
        }
        let delta = range.delta.take().unwrap_or_default();
        for release in delta {
            let (key, entry) = split(release.lsn.0, release.ordinal);
            if let Some(live) = chunks.get_mut(&key) {
                live.binary_search(&entry).map(|at| live.remove(at)).ok();
            }
        }
        range.chunks = chunks.into_iter().filter(|(_, live)| !live.is_empty()).map(|(key, live)| (key, Chunk::Live(live))).collect();
        let listed = range.chunks.values().map(Chunk::live).sum::<u64>();
        debug_assert_eq!(range.live, listed);
        if range.live != listed {
            // A sum that no checkpoint could be read back with.
            tracing::error!(range = first, counted = range.live, listed, "the references of a range were counted wrongly");
        }
        // What counts as dead from here on is measured against what was moved.
        (range.live, range.pins) = (listed, listed);
        range.dirty = true;
    }

    pub fn cancel_evacuation(&mut self, first: u64) {
        if let Some(range) = self.ranges.get_mut(&first) {
            range.delta = None;
        }
    }

    /// Compares what is said to be held with what is counted.
    pub fn audit(&self, held: &[Release]) -> Audit {
        let mut audit = Audit::default();
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        for release in held.iter().filter(|release| release.lsn.0 < self.applied) {
            let (key, entry) = split(release.lsn.0, release.ordinal);
            let range = self.ranges.range(..=release.lsn.0).next_back();
            let range = range.filter(|(_, range)| range.end.is_none_or(|end| release.lsn.0 < end));
            if let Some((first, range)) = range {
                *found.entry(*first).or_default() += 1;
                if range.chunks.get(&key).is_some_and(|chunk| !chunk.is_dead(entry)) {
                    continue;
                }
            }
            audit.dead.push(*release);
        }
        audit.ranges = self.ranges.iter().map(|(first, range)| (*first, range.live, found.get(first).copied().unwrap_or(0))).collect();
        audit
    }

    pub fn live(&self) -> u64 {
        self.ranges.values().map(|range| range.live).sum()
    }
}

/// No record can be added to the chunk any more.
fn is_complete(key: u64, end: Option<u64>, applied: u64) -> bool {
    let chunk_end = (key + 1) << CHUNK_BITS;
    applied >= end.map_or(chunk_end, |end| end.min(chunk_end))
}

/// A copy of a range's state, taken when its evacuation began.
pub(crate) struct Survivors {
    chunks: BTreeMap<u64, Chunk>,
}

impl Survivors {
    /// Whether any of the record's references is alive.
    pub fn has(&self, lsn: Lsn, pins: u32) -> bool {
        let (key, _) = split(lsn.0, 0);
        let Some(chunk) = self.chunks.get(&key) else { return false };
        (0..pins).any(|ordinal| !chunk.is_dead(split(lsn.0, ordinal as u16).1))
    }
}

impl Range {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.chunks.len() * 16);
        put_varint(&mut out, self.pins);
        put_varint(&mut out, self.live);
        put_varint(&mut out, self.end.map_or(0, |end| end + 1));
        put_varint(&mut out, self.chunks.len() as u64);
        let mut last_key = 0;
        for (key, chunk) in &self.chunks {
            put_varint(&mut out, key - last_key);
            last_key = *key;
            let entries = match chunk {
                Chunk::Dead { pins, dead } => {
                    put_varint(&mut out, u64::from(*pins) << 1);
                    dead
                }
                Chunk::Live(live) => {
                    put_varint(&mut out, 1);
                    live
                }
            };
            put_varint(&mut out, entries.len() as u64);
            let mut last = 0;
            for entry in entries {
                put_varint(&mut out, u64::from(entry - last));
                last = *entry;
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Range> {
        let mut reader = Reader::new(bytes);
        let mut range = Range { pins: reader.varint()?, live: reader.varint()?, ..Range::default() };
        range.end = reader.varint()?.checked_sub(1);
        let mut key = 0u64;
        for _ in 0..reader.varint()? {
            key = key.checked_add(reader.varint()?)?;
            let tag = reader.varint()?;
            let count = reader.varint()? as usize;
            if count > reader.left() {
                return None;
            }
            let mut entries = Vec::with_capacity(count);
            let mut last = 0u32;
            for _ in 0..count {
                last = last.checked_add(u32::try_from(reader.varint()?).ok()?)?;
                entries.push(last);
            }
            let chunk = match tag {
                1 => Chunk::Live(entries),
                tag if tag & 1 == 0 && tag >> 1 >= count as u64 => Chunk::Dead { pins: u32::try_from(tag >> 1).ok()?, dead: entries },
                _ => return None,
            };
            range.chunks.insert(key, chunk);
        }
        let counted: u64 = range.chunks.values().map(Chunk::live).sum();
        (reader.left() == 0 && counted == range.live).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(lsn: u64, ordinal: u16) -> Release {
        Release { lsn: Lsn(lsn), ordinal }
    }

    fn filled() -> Liveness {
        let mut live = Liveness::default();
        live.add_range(0);
        for at in 0..1000u64 {
            live.pin(100 + at * 300, 2);
        }
        live.advance(300_200);
        live
    }

    #[test]
    fn releases_are_a_set_and_dead_chunks_vanish() {
        let mut live = filled();
        for _ in 0..3 {
            for at in 0..900 {
                live.release(release(100 + at * 300, 0));
                live.release(release(100 + at * 300, 1));
            }
        }
        assert_eq!((live.live(), live.ranges[&0].pins), (200, 2000));
        assert!(live.ranges[&0].chunks.len() < 3);
        for at in 0..1000 {
            live.release(release(100 + at * 300, 1));
        }
        assert_eq!(live.live(), 100);
        let bytes = live.ranges[&0].encode();
        let again = Range::decode(&bytes).unwrap();
        assert_eq!((again.live, &again.chunks), (100, &live.ranges[&0].chunks));
        for cut in 0..bytes.len() {
            assert!(Range::decode(&bytes[..cut]).is_none());
        }
    }

    #[test]
    fn an_evacuated_range_ignores_what_it_dropped_and_keeps_what_died_meanwhile() {
        let mut live = filled();
        live.seal_range(0, 300_200);
        for at in 0..900 {
            live.release(release(100 + at * 300, 0));
            live.release(release(100 + at * 300, 1));
        }
        let survivors = live.begin_evacuation(0).unwrap();
        let kept: Vec<(u64, u32)> =
            (0..1000).map(|at| 100 + at * 300).filter(|lsn| survivors.has(Lsn(*lsn), 2)).map(|lsn| (lsn, 2)).collect();
        assert_eq!(kept.len(), 100);
        live.release(release(100 + 950 * 300, 1));
        live.finish_evacuation(0, &survivors, &kept);
        assert_eq!(live.live(), 199);
        live.release(release(100 + 5 * 300, 0));
        live.release(release(100 + 950 * 300, 1));
        assert_eq!(live.live(), 199);
        for at in 900..1000 {
            live.release(release(100 + at * 300, 0));
            live.release(release(100 + at * 300, 1));
        }
        assert_eq!((live.live(), live.ranges[&0].chunks.len()), (0, 0));
    }
}
