//! A hot segment file: a 4 KiB header, then local frames back to back.
//!
//! A segment gets its final name only after its header was synced, so a file of that name whose header is bad is damaged, not torn.
//! LSNs are found through a sparse index: one (LSN, offset) per [`INDEX_STEP`] bytes of file or per larger batch, from there the frame
//! headers are walked.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::batch::{BatchHead, FrameHead, BATCH_HEADER, FRAME_HEADER};
use crate::storage::{self, File};
use crate::wire::{crc_of, Reader};
use crate::OpenError;

pub const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"CkSegm01");
pub const SEGMENT_VERSION: u32 = 1;
pub const SEGMENT_HEADER: u64 = 4096;
const HEADER_USED: usize = 8 + 4 + Ids::BYTES + 8 + 8 + 4 + 4 + 8 + 8 + 8 + 4;
const INDEX_STEP: u64 = 16 << 10;

/// Who wrote a file; in every header, so that a stray file of another store is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    pub cluster: u128,
    pub node: u64,
    pub shard: u32,
}

impl Ids {
    pub const BYTES: usize = 28;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<Ids> {
        let cluster = u128::from_le_bytes(reader.take(16)?.try_into().ok()?);
        Some(Ids { cluster, node: reader.u64()?, shard: reader.u32()? })
    }

    /// Files of the peer may lie here after a snapshot install, so the node may differ.
    pub fn same_store(&self, other: &Ids) -> bool {
        self.cluster == other.cluster && self.shard == other.shard
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    pub ids: Ids,
    pub first_lsn: u64,
    pub epoch: u64,
    pub salt: u32,
    /// The chain CRC before the first batch.
    pub chain: u32,
    /// Everything below was synced when this header was written: the sync marker of the segment before.
    pub synced_lsn: u64,
    /// The size the file was made with. A shorter one has been cut from outside.
    pub file_bytes: u64,
}

impl SegmentHead {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER as usize);
        out.extend_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        out.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        self.ids.encode(&mut out);
        out.extend_from_slice(&self.first_lsn.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.extend_from_slice(&self.synced_lsn.to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(&0u64.to_le_bytes()); // flags and key id, for later
        debug_assert_eq!(out.len(), HEADER_USED - 4);
        let crc = crc_of(0, &[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(SEGMENT_HEADER as usize, 0);
        out
    }

    pub fn decode(name: &str, bytes: &[u8]) -> Result<SegmentHead, OpenError> {
        let bad = || OpenError::corrupt(name, "the segment header is damaged");
        let used = bytes.get(..HEADER_USED).ok_or_else(bad)?;
        let mut reader = Reader::new(used);
        if reader.u64() != Some(SEGMENT_MAGIC) || crc_of(0, &[&used[..HEADER_USED - 4]]).to_le_bytes() != used[HEADER_USED - 4..] {
            return Err(bad());
        }
        let version = reader.u32().ok_or_else(bad)?;
        if version != SEGMENT_VERSION {
            return Err(OpenError::Version { file: name.to_string(), found: version, known: SEGMENT_VERSION });
        }
        let mut fields = || {
            Some(SegmentHead {
                ids: Ids::decode(&mut reader)?,
                first_lsn: reader.u64()?,
                epoch: reader.u64()?,
                salt: reader.u32()?,
                chain: reader.u32()?,
                synced_lsn: reader.u64()?,
                file_bytes: reader.u64()?,
            })
        };
        fields().ok_or_else(bad)
    }
}

pub fn file_name(first_lsn: u64) -> String {
    format!("j/{first_lsn:020}.log")
}

pub fn parse_name(name: &str) -> Option<u64> {
    name.strip_suffix(".log").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// One hot segment, shared by the writer, readers and maintenance.
pub struct Segment {
    pub head: SegmentHead,
    pub file: Arc<dyn File>,
    index: RwLock<Index>,
    /// Where the last frame ends that this process wrote; `u64::MAX` of a segment that it only reads.
    used: AtomicU64,
}

#[derive(Default)]
struct Index {
    /// (LSN - first, offset), ascending; complete up to `known`.
    steps: Vec<(u32, u32)>,
    last_offset: u64,
    /// Everything below is covered by the steps; a segment opened for reading only is walked once, when first asked.
    complete: bool,
}

impl Segment {
    pub fn new(head: SegmentHead, file: Arc<dyn File>) -> Segment {
        Segment { head, file, index: RwLock::default(), used: AtomicU64::new(u64::MAX) }
    }

    /// The frame of the batch at `lsn` stands at `offset`. Called in order.
    pub fn note_frame(&self, lsn: u64, offset: u64) {
        let mut index = self.index.write();
        if index.steps.is_empty() || offset - index.last_offset >= INDEX_STEP {
            index.steps.push(((lsn - self.head.first_lsn) as u32, offset as u32));
            index.last_offset = offset;
        }
    }

    /// Frames stand up to there now. Said before anybody is told of their LSNs.
    pub fn set_used(&self, end: u64) {
        self.used.store(end, Ordering::Release);
    }

    /// Whoever reads the end of the log reads no further: what lies behind was allocated and never written, and reading it fills the page cache
    /// with zeros, and with what the kernel reads ahead of it.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// From here on the index covers the segment (it is being written, or was scanned).
    pub fn index_complete(&self) {
        self.index.write().complete = true;
    }

    /// Where the frame walk that will meet `lsn` starts.
    pub fn walk_from(&self, lsn: u64) -> io::Result<u64> {
        if !self.index.read().complete {
            self.build_index()?;
        }
        let index = self.index.read();
        let wanted = (lsn - self.head.first_lsn) as u32;
        let after = index.steps.partition_point(|(first, _)| *first <= wanted);
        Ok(after.checked_sub(1).map_or(SEGMENT_HEADER, |step| u64::from(index.steps[step].1)))
    }

    /// Walks all frame headers of a segment that recovery did not need to read. Only the headers are read when batches are large.
    fn build_index(&self) -> io::Result<()> {
        let mut fresh = Index { complete: true, ..Index::default() };
        let mut window = Window::new(self.file.clone(), 64 << 10);
        let mut offset = SEGMENT_HEADER;
        while let Some(head) = window.frame(self.head.salt, offset)? {
            if head.batch_len > 0 && (fresh.steps.is_empty() || offset - fresh.last_offset >= INDEX_STEP) {
                fresh.steps.push(((head.lsn - self.head.first_lsn) as u32, offset as u32));
                fresh.last_offset = offset;
            }
            offset += head.frame_len();
        }
        *self.index.write() = fresh;
        Ok(())
    }
}

/// A read-ahead buffer over a file.
pub struct Window {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    start: u64,
    ahead: usize,
}

impl Window {
    pub fn new(file: Arc<dyn File>, ahead: usize) -> Self {
        Window { file, buffer: Vec::new(), start: 0, ahead }
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file.
    pub fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            let want = len.max(self.ahead);
            self.buffer.resize(want, 0);
            let read = self.file.read_at(&mut self.buffer, offset)?;
            self.buffer.truncate(read);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..self.buffer.len().min(from + len)])
    }

    /// The frame header at `offset`, if a valid one of this salt stands there.
    pub fn frame(&mut self, salt: u32, offset: u64) -> io::Result<Option<FrameHead>> {
        Ok(FrameHead::decode(salt, self.bytes(offset, FRAME_HEADER + BATCH_HEADER)?))
    }

    /// The whole batch of the frame at `offset` with its header; `None` when the file ends before it or it is no batch.
    pub fn batch(&mut self, head: &FrameHead, offset: u64) -> io::Result<Option<(BatchHead, &[u8])>> {
        let bytes = self.bytes(offset + FRAME_HEADER as u64, head.batch_len as usize)?;
        let inner = BatchHead::decode(bytes).filter(|inner| inner.len == head.batch_len && bytes.len() == inner.len as usize);
        Ok(inner.map(|inner| (inner, bytes)))
    }
}

/// Reads and checks the header of a segment file.
pub fn read_head(name: &str, file: &dyn File) -> Result<SegmentHead, OpenError> {
    let mut bytes = vec![0; HEADER_USED];
    match storage::read_exact(file, &mut bytes, 0) {
        Ok(()) => SegmentHead::decode(name, &bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(OpenError::corrupt(name, "the file ends within its header")),
        Err(error) => Err(OpenError::io(format!("reading {name}"))(error)),
    }
}
