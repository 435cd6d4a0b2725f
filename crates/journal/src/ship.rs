//! The log as a peer gets it: whole batches, read from the files that this node writes, so that a peer that is behind and one that is up to
//! date are served by the same code and nothing waits in memory for either.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::batch::{FrameHead, BATCH_HEADER, FRAME_HEADER};
use crate::catalog::Home;
use crate::journal::Core;
use crate::segment::{Segment, Window, SEGMENT_HEADER};
use crate::{Journal, Lsn, Position};

/// Read from a segment at once; a larger batch is read by itself.
const CHUNK: usize = 1 << 20;
/// A buffer that a huge batch made larger than this is given back.
const CHUNK_KEPT: usize = 8 << 20;

/// How a peer's log stands to this one.
pub enum Meeting {
    /// It is the beginning of this one: what follows comes from here.
    From(LogReader),
    /// It has a tail that this one does not have. It may be equal up to here, and has to ask again when it has cut the rest off.
    Cut(Lsn),
    /// This log does not reach back so far: the peer needs a copy of the store.
    TooOld,
}

/// Reads the log from a position on, batch by batch. Keeps the segments from there on from being removed.
pub struct LogReader {
    core: Arc<Core>,
    /// By first LSN: the one that is read, and those behind it.
    segments: BTreeMap<u64, Arc<Segment>>,
    lsn: u64,
    /// Of the frame at `lsn` in the first segment.
    offset: u64,
    /// What was read last; as large as the largest piece so far.
    chunk: Vec<u8>,
}

impl Journal {
    /// Compares a peer's log with this one.
    pub fn meet(&self, theirs: Position) -> io::Result<Meeting> {
        let segments = hot_segments(&self.core);
        let written = self.core.written.load(Ordering::Acquire);
        let Some((first, _)) = segments.first_key_value() else { return Ok(Meeting::TooOld) };
        if theirs.lsn.0 < *first {
            return Ok(Meeting::TooOld);
        }
        if theirs.lsn.0 <= written {
            if let Some((segment, offset)) = find(&segments, written, theirs)? {
                let segments = segments.into_iter().filter(|(first, _)| *first >= segment).collect();
                return Ok(Meeting::From(LogReader { core: self.core.clone(), segments, lsn: theirs.lsn.0, offset, chunk: Vec::new() }));
            }
        }
        let Some(other) = first_above(&segments, written, theirs.epoch)? else { return Ok(Meeting::TooOld) };
        // Both have the same log of their last common epoch, as far as either has it.
        Ok(if other < theirs.lsn.0 { Meeting::Cut(Lsn(other)) } else { Meeting::TooOld })
    }
}

/// The segments without a gap up to the end of the log.
fn hot_segments(core: &Core) -> BTreeMap<u64, Arc<Segment>> {
    let catalog = core.catalog.read();
    let mut found = BTreeMap::new();
    let mut begins = None;
    for (first, entry) in catalog.ranges.iter().rev() {
        let Home::Hot(segment) = &entry.home else { break };
        if begins.is_some_and(|begins| begins != entry.end) {
            break;
        }
        begins = Some(*first);
        found.insert(*first, segment.clone());
    }
    found
}

/// Walks the frames from the start of a segment to `end`: calls `each` with the LSN, the offset, and the chain and epoch *before* the frame,
/// until it says that it has seen enough.
fn walk(segment: &Segment, end: u64, each: &mut dyn FnMut(At) -> bool) -> io::Result<()> {
    let mut window = Window::new(segment.file.clone(), CHUNK);
    let mut at = At { lsn: segment.head.first_lsn, offset: SEGMENT_HEADER, chain: segment.head.chain, epoch: None, next: None };
    loop {
        if at.lsn >= end {
            each(at);
            return Ok(());
        }
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("no frame stands at {}", at.lsn));
        let frame = window.frame(segment.head.salt, at.offset)?.filter(|frame| frame.lsn == at.lsn).ok_or_else(damaged)?;
        if frame.batch_len == 0 {
            at.offset += frame.frame_len();
            continue;
        }
        let head = window.bytes(at.offset + FRAME_HEADER as u64, BATCH_HEADER)?;
        let head = crate::batch::BatchHead::decode(head).ok_or_else(damaged)?;
        if !each(At { next: Some(head.epoch), ..at }) {
            return Ok(());
        }
        at = At { lsn: head.end(), offset: at.offset + frame.frame_len(), chain: head.chain, epoch: Some(head.epoch), next: None };
    }
}

#[derive(Clone, Copy)]
struct At {
    lsn: u64,
    offset: u64,
    chain: u32,
    /// Of the batch before; not known at the start of a segment.
    epoch: Option<u64>,
    /// Of the batch that begins here.
    next: Option<u64>,
}

/// The segment and the offset at which the peer goes on, if its log is the beginning of this one.
fn find(segments: &BTreeMap<u64, Arc<Segment>>, written: u64, theirs: Position) -> io::Result<Option<(u64, u64)>> {
    let Some((first, segment)) = segments.range(..=theirs.lsn.0).next_back() else { return Ok(None) };
    let mut found = None;
    walk(segment, written, &mut |at| {
        let same = at.chain == theirs.chain && at.epoch.is_none_or(|epoch| epoch == theirs.epoch);
        if at.lsn == theirs.lsn.0 && same {
            found = Some((*first, at.offset));
        }
        at.lsn < theirs.lsn.0
    })?;
    Ok(found)
}

/// Where the first batch of a higher epoch stands.
fn first_above(segments: &BTreeMap<u64, Arc<Segment>>, written: u64, epoch: u64) -> io::Result<Option<u64>> {
    let list: Vec<_> = segments.iter().collect();
    for (at, (_, segment)) in list.iter().enumerate() {
        let end = list.get(at + 1).map_or(written, |(next, _)| **next);
        // The segment behind it says whether anything in this one can be of a higher epoch.
        if list.get(at + 1).is_some_and(|(_, next)| next.head.epoch <= epoch && segment.head.epoch <= epoch) {
            continue;
        }
        let mut found = None;
        walk(segment, end, &mut |at| {
            if at.next.is_some_and(|next| next > epoch) {
                found = Some(at.lsn);
            }
            found.is_none()
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

impl LogReader {
    /// From a frame of the segment that is written now.
    pub(crate) fn at(core: Arc<Core>, segment: u64, offset: u64, lsn: u64) -> LogReader {
        let held = core.catalog.read().ranges.get(&segment).and_then(|entry| match &entry.home {
            Home::Hot(found) => Some((segment, found.clone())),
            Home::Cold(_) => None,
        });
        let segments = held.into_iter().collect();
        LogReader { core, segments, lsn, offset, chunk: Vec::new() }
    }

    /// Where the next batch begins.
    pub fn position(&self) -> Lsn {
        Lsn(self.lsn)
    }

    /// Appends whole batches, back to back as they stand in the log, until `into` holds `bytes_max` bytes or there are no more; at least one
    /// if there is one. Answers whether any was read.
    pub fn read(&mut self, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<bool> {
        let before = into.len();
        while into.len() < bytes_max {
            match self.next(bytes_max - into.len())? {
                [] => break,
                batches => into.extend_from_slice(batches),
            }
        }
        Ok(into.len() > before)
    }

    /// The next whole batches, back to back: about `bytes_max` bytes at the most, but at least one if there is one.
    pub fn next(&mut self, bytes_max: usize) -> io::Result<&[u8]> {
        let written = self.core.written.load(Ordering::Acquire);
        if self.lsn >= written {
            return Ok(&[]);
        }
        self.pin();
        loop {
            let found = self.take(written, bytes_max)?;
            if !found.is_empty() {
                return Ok(&self.chunk[found]);
            }
        }
    }

    /// Keeps segments that were begun since as well, without reading them.
    pub fn pin(&mut self) {
        let last = self.segments.keys().next_back().copied().unwrap_or(0);
        let catalog = self.core.catalog.read();
        for (first, entry) in catalog.ranges.range(last + 1..) {
            if let Home::Hot(segment) = &entry.home {
                self.segments.insert(*first, segment.clone());
            }
        }
    }

    /// Reads a piece of the segment. Where its batches stand in it, back to back: empty if there were only markers.
    fn take(&mut self, written: u64, bytes_max: usize) -> io::Result<Range<usize>> {
        if self.next_segment_begins() {
            self.segments.pop_first();
            self.offset = SEGMENT_HEADER;
        }
        let Some((_, segment)) = self.segments.first_key_value() else { return Err(gone(self.lsn)) };
        let segment = segment.clone();
        let there = usize::try_from(segment.used().saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if self.chunk.len() > CHUNK_KEPT {
            self.chunk = Vec::new();
        }
        let (begun, mut at) = (self.offset, 0);
        let mut have = self.fill(&segment, begun, 0, CHUNK.min(there))?;
        let mut found = 0..0;
        while self.lsn < written && found.len() < bytes_max {
            let Some(frame) = FrameHead::decode(segment.head.salt, &self.chunk[at..have]) else { break };
            if frame.lsn != self.lsn {
                return Err(gone(self.lsn));
            }
            let (start, end) = (at + FRAME_HEADER, at + frame.frame_len() as usize);
            if end > have && found.is_empty() {
                have = self.fill(&segment, begun, have, end)?;
            }
            if end > have {
                break;
            }
            let batch = start..start + frame.batch_len as usize;
            // The first one stays where it is; those behind it come closer.
            found = match found.is_empty() {
                true => batch,
                false => {
                    self.chunk.copy_within(batch.clone(), found.end);
                    found.start..found.end + batch.len()
                }
            };
            self.lsn += u64::from(frame.batch_len);
            at = end;
            if self.next_segment_begins() {
                break;
            }
        }
        self.offset = begun + at as u64;
        if at == 0 {
            return Err(gone(self.lsn));
        }
        Ok(found)
    }

    fn next_segment_begins(&self) -> bool {
        self.segments.keys().nth(1).is_some_and(|next| *next <= self.lsn)
    }

    /// So that the chunk holds `want` bytes from `offset` on, of which `have` are there. The buffer only grows: what is in it is not made zero again.
    fn fill(&mut self, segment: &Segment, offset: u64, have: usize, want: usize) -> io::Result<usize> {
        if self.chunk.len() < want {
            self.chunk.resize(want, 0);
        }
        Ok(have + segment.file.read_at(&mut self.chunk[have..want], offset + have as u64)?)
    }
}

fn gone(lsn: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log cannot be read at {lsn}"))
}
