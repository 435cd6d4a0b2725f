//! Reading the log from a position to its end: checks, applies, and tells the torn tail from corruption.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::{self, BatchHead, FrameHead, BATCH_HEADER, FRAME_HEADER, FRAME_MAGIC};
use crate::checkpoint::Root;
use crate::commit::level_of;
use crate::journal::Tip;
use crate::live::Liveness;
use crate::segment::{file_name, Segment, Window, SEGMENT_HEADER};
use crate::{next, record, Apply, Lsn, OpenError, RecordRef, Release};

const READ_AHEAD: usize = 1 << 20;

/// Where the log ended and what stood there.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ScanEnd {
    pub lsn: u64,
    pub chain: u32,
    pub epoch: u64,
    pub wall_ms: u64,
    pub level: u8,
    pub batches: u64,
    pub records: u64,
    pub tail_bytes: u64,
    /// The highest sync marker seen.
    pub marker: u64,
}

/// A batch that no marker covers yet, with what it would count.
#[derive(Clone, Debug)]
pub(crate) struct TailFrame {
    pub segment: u64,
    pub offset: u64,
    pub lsn: u64,
    pub len: u32,
    pub chain_before: u32,
    pins: Vec<(u64, u32)>,
    releases: Vec<Release>,
}

pub(crate) struct Scan {
    end: ScanEnd,
    begin: Tip,
    tail: Vec<TailFrame>,
    live: Liveness,
    /// Where the used part of each segment that was read ends.
    used: BTreeMap<u64, u64>,
}

impl Scan {
    pub fn new(begin: Tip, live: Liveness) -> Scan {
        let end = ScanEnd { lsn: begin.lsn, chain: begin.chain, wall_ms: begin.wall_ms, marker: begin.lsn, ..ScanEnd::default() };
        Scan { end, begin, tail: Vec::new(), live, used: BTreeMap::new() }
    }

    /// What a checkpoint knows beyond its begin: everything it counted was committed, hence synced.
    pub fn continue_from(&mut self, root: &Root) {
        (self.end.level, self.end.epoch) = (root.level, root.epoch);
        self.end.marker = self.end.marker.max(root.counted);
    }

    pub fn end(&self) -> ScanEnd {
        let tail_bytes = self.tail.iter().map(|frame| u64::from(frame.len)).sum();
        ScanEnd { tail_bytes, ..self.end }
    }

    pub fn tail(&self) -> Vec<TailFrame> {
        self.tail.clone()
    }

    pub fn into_live(self) -> Liveness {
        self.live
    }

    /// Reads everything from the begin to the end of the log.
    pub fn run(&mut self, segments: &BTreeMap<u64, Arc<Segment>>, apply: &mut dyn Apply) -> Result<(), OpenError> {
        let Some((first, _)) = segments.range(..=self.begin.lsn).next_back() else {
            return match segments.first_key_value() {
                None if self.begin.lsn == 0 => Ok(()),
                Some((first, _)) => {
                    let what = format!("the log begins at {first}, but it is needed from {}", self.begin.lsn);
                    Err(OpenError::corrupt(file_name(*first), what))
                }
                None => Err(OpenError::corrupt("j", format!("no segment holds {}", self.begin.lsn))),
            };
        };
        let needed: Vec<(u64, Arc<Segment>)> = segments.range(first..).map(|(first, segment)| (*first, segment.clone())).collect();
        for (at, (first, segment)) in needed.iter().enumerate() {
            let limit = needed.get(at + 1).map(|(next, _)| *next);
            self.enter(*first, segment)?;
            self.segment(segment, limit, apply)?;
        }
        Ok(())
    }

    /// The header of a segment must continue what was read before it, and is a sync marker itself.
    fn enter(&mut self, first: u64, segment: &Segment) -> Result<(), OpenError> {
        let begins_inside = first < self.begin.lsn;
        if !begins_inside && (segment.head.chain != self.end.chain || first != self.end.lsn) {
            return Err(OpenError::corrupt(file_name(first), "the segment does not continue the one before it"));
        }
        if !self.live.ranges.contains_key(&first) {
            self.seal_before(first);
            self.live.add_range(first);
        }
        if !begins_inside {
            self.mark(segment.head.synced_lsn.min(first));
            segment.index_complete();
        }
        Ok(())
    }

    fn seal_before(&mut self, first: u64) {
        let open = self.live.ranges.iter().find(|(_, range)| range.end.is_none()).map(|(first, _)| *first);
        if let Some(open) = open {
            self.live.seal_range(open, first);
        }
        // Where a tail was cut off, the segment before had been sealed further on.
        let before = self.live.ranges.range(..first).next_back().filter(|(_, range)| range.end.is_some_and(|end| end > first));
        if let Some(longer) = before.map(|(first, _)| *first) {
            self.live.seal_range(longer, first);
        }
    }

    fn segment(&mut self, segment: &Segment, limit: Option<u64>, apply: &mut dyn Apply) -> Result<(), OpenError> {
        let name = file_name(segment.head.first_lsn);
        let mut window = Window::new(segment.file.clone(), READ_AHEAD);
        let mut offset = self.offset_in(segment)?;
        // The header of a segment made at start covers the tail that was copied into it.
        let head_marker = segment.head.synced_lsn;
        while limit.is_none_or(|limit| self.end.lsn < limit) {
            let Some(frame) = self.frame(segment, &mut window, offset)? else {
                self.judge(segment, &name, limit, offset, head_marker)?;
                break;
            };
            if frame.batch_len > 0 {
                let (inner, bytes) =
                    window.batch(&frame, offset).map_err(OpenError::io(format!("reading {name}")))?.ok_or_else(|| again(&name))?;
                if limit.is_some_and(|limit| inner.end() > limit) {
                    return Err(OpenError::corrupt(name, format!("the batch at {} runs into the next segment", inner.lsn)));
                }
                self.mark(frame.synced_lsn);
                self.batch(segment, offset, &inner, bytes, apply)?;
                segment.note_frame(inner.lsn, offset);
            } else {
                self.mark(frame.synced_lsn);
            }
            offset += frame.frame_len();
            self.used.insert(segment.head.first_lsn, offset);
        }
        self.mark(head_marker.min(self.end.lsn));
        Ok(())
    }

    /// Where reading starts: at the checkpoint's begin in the segment that holds it, else behind the header.
    fn offset_in(&self, segment: &Segment) -> Result<u64, OpenError> {
        let first = segment.head.first_lsn;
        if first >= self.begin.lsn {
            return Ok(SEGMENT_HEADER);
        }
        if first != self.begin.segment || segment.head.salt != self.begin.salt {
            return Err(OpenError::corrupt(file_name(first), "it is not the segment that the checkpoint begins in"));
        }
        Ok(self.begin.offset)
    }

    /// A valid frame that continues the log at `offset`, its chain checked.
    fn frame(&mut self, segment: &Segment, window: &mut Window, offset: u64) -> Result<Option<FrameHead>, OpenError> {
        let reading = || OpenError::io(format!("reading {}", file_name(segment.head.first_lsn)));
        let Some(frame) = window.frame(segment.head.salt, offset).map_err(reading())? else { return Ok(None) };
        if frame.lsn != self.end.lsn || offset + frame.frame_len() > segment.head.file_bytes {
            return Ok(None);
        }
        if frame.batch_len == 0 {
            return Ok(Some(frame));
        }
        let Some((inner, bytes)) = window.batch(&frame, offset).map_err(reading())? else { return Ok(None) };
        let fine = inner.lsn == frame.lsn && inner.epoch >= self.end.epoch && batch::chain_of(self.end.chain, bytes) == inner.chain;
        Ok(fine.then_some(frame))
    }

    /// Everything below `synced` had been synced: those batches count for good.
    fn mark(&mut self, synced: u64) {
        self.end.marker = self.end.marker.max(synced);
        let covered = self.tail.iter().take_while(|frame| frame.lsn + u64::from(frame.len) <= synced).count();
        for frame in self.tail.drain(..covered) {
            count_live(&mut self.live, &frame);
        }
    }

    fn batch(&mut self, segment: &Segment, offset: u64, inner: &BatchHead, bytes: &[u8], apply: &mut dyn Apply) -> Result<(), OpenError> {
        let mut frame = TailFrame {
            segment: segment.head.first_lsn,
            offset,
            lsn: inner.lsn,
            len: inner.len,
            chain_before: self.end.chain,
            pins: Vec::new(),
            releases: Vec::new(),
        };
        let redone = redo(inner, bytes, apply).map_err(|error| error.at(segment.head.first_lsn))?;
        (frame.pins, frame.releases) = (redone.pins, redone.releases);
        self.end.level = redone.level.unwrap_or(self.end.level);
        self.tail.push(frame);
        self.end = ScanEnd {
            lsn: inner.end(),
            chain: inner.chain,
            epoch: inner.epoch,
            wall_ms: self.end.wall_ms.max(inner.wall_ms),
            batches: self.end.batches + 1,
            records: self.end.records + u64::from(inner.count),
            ..self.end
        };
        self.mark(self.end.marker);
        Ok(())
    }

    /// Nothing valid stands at `offset`. The end of the log, unless something says that more had been synced.
    fn judge(&mut self, segment: &Segment, name: &str, limit: Option<u64>, offset: u64, head_marker: u64) -> Result<(), OpenError> {
        let lsn = self.end.lsn;
        let damaged = |marker: u64| {
            let what = format!("the batch at {lsn} (byte {offset}) is damaged, and everything up to {marker} had been synced");
            OpenError::corrupt(name, what)
        };
        if let Some(limit) = limit {
            return Err(damaged(limit));
        }
        let marker = self.end.marker.max(head_marker);
        if marker > lsn {
            return Err(damaged(marker));
        }
        match later_marker(segment, offset, lsn).map_err(OpenError::io(format!("reading {name}")))? {
            Some(marker) => Err(damaged(marker)),
            None => Ok(()),
        }
    }

    /// The tail counts now as well: it lies in the segment that begins at `first`.
    pub fn finish_live(&mut self, first: u64) {
        if !self.live.ranges.contains_key(&first) {
            self.seal_before(first);
            self.live.add_range(first);
        }
        for frame in std::mem::take(&mut self.tail) {
            count_live(&mut self.live, &frame);
        }
        self.live.advance(self.end.lsn);
    }

    /// How much of a segment is used below the tail, where that is known.
    pub fn used_bytes(&self, first: u64, tail: &[TailFrame]) -> Option<u64> {
        match tail.first() {
            Some(frame) if frame.segment == first => Some(frame.offset),
            _ => self.used.get(&first).copied(),
        }
    }
}

fn count_live(live: &mut Liveness, frame: &TailFrame) {
    let counted = live.applied;
    for (lsn, pins) in &frame.pins {
        if *lsn >= counted {
            live.pin(*lsn, *pins);
        }
    }
    for release in &frame.releases {
        live.release(*release);
    }
    live.advance(frame.lsn + u64::from(frame.len));
}

/// What a batch adds to what is counted.
pub(crate) struct Redone {
    pub pins: Vec<(u64, u32)>,
    pub releases: Vec<Release>,
    /// Set by a SetLevel record in it.
    pub level: Option<u8>,
}

/// Why a batch could not be redone.
pub(crate) enum RedoError {
    Open(OpenError),
    /// Its chain was right, and yet it is no batch.
    Malformed(String),
}

impl RedoError {
    pub fn at(self, segment: u64) -> OpenError {
        match self {
            RedoError::Open(error) => error,
            RedoError::Malformed(what) => OpenError::corrupt(file_name(segment), what),
        }
    }
}

/// Hands every record of a batch to the state machine.
pub(crate) fn redo(inner: &BatchHead, bytes: &[u8], apply: &mut dyn Apply) -> Result<Redone, RedoError> {
    let mut redone = Redone { pins: Vec::new(), releases: Vec::new(), level: None };
    let mut result = Ok(());
    let walked = record::walk(&bytes[BATCH_HEADER..], inner.lsn + BATCH_HEADER as u64, |lsn, head, encoded| {
        if result.is_ok() {
            result = record::check_known(lsn, &head);
        }
        if result.is_err() {
            return;
        }
        if head.pins > 0 {
            redone.pins.push((lsn.0, head.pins));
        }
        let fields = &encoded[head.head_len as usize..];
        redone.level = level_of(head.kind, fields).or(redone.level);
        if next::knows(&head) {
            result = next::read(lsn, fields);
            return;
        }
        let record = RecordRef { kind: head.kind, level: head.level, flags: head.flags, pins: head.pins, fields };
        result = apply.apply(lsn, record, &mut redone.releases).map_err(|source| refused(lsn, head.kind, source));
    });
    result.map_err(RedoError::Open)?;
    match walked {
        Ok(count) if count == inner.count => Ok(redone),
        Ok(count) => Err(RedoError::Malformed(format!("the batch at {} holds {count} records and says {}", inner.lsn, inner.count))),
        Err(what) => Err(RedoError::Malformed(what.to_string())),
    }
}

fn refused(lsn: Lsn, kind: u8, source: crate::ApplyError) -> OpenError {
    OpenError::Apply { at: format!("the record at {lsn} (kind {kind})"), source }
}

fn again(name: &str) -> OpenError {
    OpenError::corrupt(name, "a batch reads differently the second time")
}

/// Looks behind a bad frame for a valid one of this segment whose marker is above `lsn`. The batch behind it cannot be checked (its chain
/// hangs on the bad one), but its salted header proves that the marker was written by this life of the file.
fn later_marker(segment: &Segment, from: u64, lsn: u64) -> std::io::Result<Option<u64>> {
    const CHUNK: usize = 1 << 20;
    let overlap = FRAME_HEADER + BATCH_HEADER;
    let mut chunk = vec![0; CHUNK + overlap];
    let mut at = from;
    let mut highest = None;
    loop {
        let read = segment.file.read_at(&mut chunk, at)?;
        let bytes = &chunk[..read];
        let mut position = 0;
        while let Some(found) = find_magic(bytes, position) {
            if found >= CHUNK {
                break;
            }
            if let Some(frame) = FrameHead::decode(segment.head.salt, &bytes[found..]) {
                if frame.synced_lsn > lsn {
                    highest = highest.max(Some(frame.synced_lsn));
                }
            }
            position = found + 1;
        }
        if read < chunk.len() {
            return Ok(highest);
        }
        at += CHUNK as u64;
    }
}

fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let magic = FRAME_MAGIC.to_le_bytes();
    let mut at = from;
    while at + 4 <= bytes.len() {
        // Most of what lies behind the end of a log is zeros; go over them a line at a time.
        if bytes[at] == 0 && bytes.get(at..at + 64).is_some_and(|line| line.iter().all(|byte| *byte == 0)) {
            at += 64;
            continue;
        }
        if bytes[at..at + 4] == magic {
            return Some(at);
        }
        at += 1;
    }
    None
}
