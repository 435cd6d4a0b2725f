//! Cold files: the survivors of ranges that are mostly dead, with their original LSNs. Immutable; found through a footer sorted by LSN.
//! ```text
//! header:  magic u64 | version u32 | ids | file number u64 | crc u32
//! records: as they stood in the log, back to back
//! entries: lsn u64 | offset u64 | len u32 | crc u32 (of the record), in pages of 128
//! fence:   first lsn u64 | crc u32, one per page
//! ranges:  first u64 | end u64: whose survivors are all in here
//! trailer: magic u64 | entries offset u64 | entries u64 | ranges u64 | crc u32 (of fence, ranges and the fields before)
//! ```
//! The fence stays in memory (12 bytes per 128 records), a lookup reads one page of entries.

use std::io;
use std::sync::Arc;

use crate::journal::{count, Core};
use crate::record::{RecordHead, RECORD_BYTES_MAX};
use crate::segment::Ids;
use crate::storage::{self, File};
use crate::wire::{crc_of, Reader};
use crate::{mutants, Failure, Lsn, OpenError, ReadError};

const MAGIC: u64 = u64::from_le_bytes(*b"CkCold01");
pub(crate) const COLD_VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + Ids::BYTES + 8 + 4;
const ENTRY: usize = 24;
const PAGE: usize = 128;
const FENCE: usize = 12;
const TRAILER: usize = 8 + 8 + 8 + 8 + 4;
const STEP: u64 = 1 << 20;
pub(crate) const TEMPORARY: &str = "c/fresh.tmp";

pub(crate) fn file_name(number: u64) -> String {
    format!("c/{number:016}.cold")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_suffix(".cold").filter(|digits| digits.len() == 16)?.parse().ok()
}

pub(crate) struct ColdFile {
    pub number: u64,
    pub bytes: u64,
    pub entries: u64,
    pub ranges: Vec<(u64, u64)>,
    file: Arc<dyn File>,
    entries_at: u64,
    fence: Vec<(u64, u32)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub lsn: u64,
    offset: u64,
    len: u32,
    crc: u32,
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lsn.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Entry> {
        let mut reader = Reader::new(bytes);
        Some(Entry { lsn: reader.u64()?, offset: reader.u64()?, len: reader.u32()?, crc: reader.u32()? })
    }
}

impl ColdFile {
    pub fn open(number: u64, file: Arc<dyn File>, ids: &Ids) -> Result<ColdFile, OpenError> {
        let name = file_name(number);
        let reading = || OpenError::io(format!("reading {name}"));
        let damaged = |what: &str| OpenError::corrupt(name.clone(), what);
        let bytes = file.len().map_err(reading())?;
        let mut header = [0; HEADER];
        let mut trailer = [0; TRAILER];
        if bytes < (HEADER + TRAILER) as u64 || file.read_at(&mut header, 0).map_err(reading())? != HEADER {
            return Err(damaged("the file is too short"));
        }
        check_header(&name, &header, number, ids)?;
        let trailer_at = bytes - TRAILER as u64;
        storage::read_exact(file.as_ref(), &mut trailer, trailer_at).map_err(reading())?;
        let mut reader = Reader::new(&trailer);
        let magic = reader.u64();
        let fields = (|| Some((reader.u64()?, reader.u64()?, reader.u64()?, reader.u32()?)))();
        let (entries_at, entries, ranges, crc) = fields.filter(|_| magic == Some(MAGIC)).ok_or_else(|| damaged("no trailer"))?;
        let pages = entries.div_ceil(PAGE as u64);
        let tables_at = entries.checked_mul(ENTRY as u64).and_then(|len| entries_at.checked_add(len)).unwrap_or(u64::MAX);
        let expected =
            pages.checked_mul(FENCE as u64).zip(ranges.checked_mul(16)).and_then(|(fence, ranges)| tables_at.checked_add(fence + ranges));
        if expected != Some(trailer_at) {
            return Err(damaged("the trailer does not fit the file"));
        }
        let mut tables = vec![0; (trailer_at - tables_at) as usize];
        storage::read_exact(file.as_ref(), &mut tables, tables_at).map_err(reading())?;
        if crc_of(0, &[&tables, &trailer[..TRAILER - 4]]) != crc {
            return Err(damaged("the footer is damaged"));
        }
        let mut reader = Reader::new(&tables);
        let fence = (0..pages).map_while(|_| Some((reader.u64()?, reader.u32()?))).collect();
        let ranges = (0..ranges).map_while(|_| Some((reader.u64()?, reader.u64()?))).collect();
        Ok(ColdFile { number, bytes, entries, ranges, file, entries_at, fence })
    }

    /// A page of entries, its checksum checked.
    fn page(&self, page: usize) -> io::Result<Vec<u8>> {
        let from = page as u64 * PAGE as u64;
        let count = (self.entries - from).min(PAGE as u64) as usize;
        let mut bytes = vec![0; count * ENTRY];
        storage::read_exact(self.file.as_ref(), &mut bytes, self.entries_at + from * ENTRY as u64)?;
        if crc_of(0, &[&bytes]) != self.fence[page].1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a page of the footer is damaged"));
        }
        Ok(bytes)
    }

    fn find(&self, lsn: u64) -> io::Result<Option<Entry>> {
        let Some(page) = self.fence.partition_point(|(first, _)| *first <= lsn).checked_sub(1) else { return Ok(None) };
        let bytes = self.page(page)?;
        let entries = bytes.len() / ENTRY;
        let at = |index: usize| Entry::decode(&bytes[index * ENTRY..]);
        let (mut low, mut high) = (0, entries);
        while low < high {
            let middle = (low + high) / 2;
            match at(middle) {
                Some(entry) if entry.lsn == lsn => return Ok(Some(entry)),
                Some(entry) if entry.lsn < lsn => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(None)
    }

    /// The whole record at `lsn`, envelope included, replaces `into`.
    pub fn read(&self, lsn: Lsn, into: &mut Vec<u8>) -> Result<RecordHead, ReadError> {
        let io_error = |source: io::Error| ReadError::Io { lsn, source };
        let entry = self.find(lsn.0).map_err(io_error)?.ok_or(ReadError::Gone(lsn))?;
        self.read_entry(&entry, into).map_err(io_error)?;
        RecordHead::parse(into)
            .filter(|head| head.encoded_len() == into.len())
            .ok_or_else(|| ReadError::Damaged { lsn, what: "it is no record".into() })
    }

    pub fn read_entry(&self, entry: &Entry, into: &mut Vec<u8>) -> io::Result<()> {
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, format!("record {} in {} is damaged", entry.lsn, file_name(self.number)));
        if entry.len as usize > RECORD_BYTES_MAX {
            return Err(damaged());
        }
        into.resize(entry.len as usize, 0);
        storage::read_exact(self.file.as_ref(), into, entry.offset)?;
        if crc_of(0, &[into]) != entry.crc {
            return Err(damaged());
        }
        Ok(())
    }

    /// All entries in order, a page at a time.
    pub fn each_entry(&self, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        for page in 0..self.fence.len() {
            for bytes in self.page(page)?.chunks_exact(ENTRY) {
                if let Some(entry) = Entry::decode(bytes) {
                    each(entry)?;
                }
            }
        }
        Ok(())
    }
}

fn check_header(name: &str, header: &[u8; HEADER], number: u64, ids: &Ids) -> Result<(), OpenError> {
    let mut reader = Reader::new(header);
    if reader.u64() != Some(MAGIC) || crc_of(0, &[&header[..HEADER - 4]]).to_le_bytes() != header[HEADER - 4..] {
        return Err(OpenError::corrupt(name, "the header is damaged"));
    }
    let version = reader.u32().unwrap_or(0);
    if version != COLD_VERSION {
        return Err(OpenError::Version { file: name.into(), found: version, known: COLD_VERSION });
    }
    match (Ids::decode(&mut reader), reader.u64()) {
        (Some(found), Some(named)) if found.same_store(ids) && named == number => Ok(()),
        _ => Err(OpenError::Foreign { file: name.into() }),
    }
}

/// Writes one cold file under a temporary name; [`ColdWriter::seal`] makes it real.
pub(crate) struct ColdWriter<'a> {
    core: &'a Core,
    number: u64,
    file: Arc<dyn File>,
    /// Gathered and not yet written.
    buffer: Vec<u8>,
    written: u64,
    allocated: u64,
    entries: Vec<Entry>,
}

/// Why an evacuation ended early.
pub(crate) enum Stop {
    /// The disk is full, reserve included: tried again later.
    Full,
    Failed(#[allow(dead_code)] Failure),
}

impl<'a> ColdWriter<'a> {
    pub fn new(core: &'a Core, number: u64) -> Result<ColdWriter<'a>, Stop> {
        let file = match core.storage.create(TEMPORARY) {
            Err(error) if storage::is_full(&error) => return Err(Stop::Full),
            other => other.map_err(|error| Stop::Failed(core.fail("making a cold file", &error)))?,
        };
        let mut buffer = Vec::with_capacity(STEP as usize);
        buffer.extend_from_slice(&MAGIC.to_le_bytes());
        buffer.extend_from_slice(&COLD_VERSION.to_le_bytes());
        core.ids.encode(&mut buffer);
        buffer.extend_from_slice(&number.to_le_bytes());
        let crc = crc_of(0, &[&buffer]);
        buffer.extend_from_slice(&crc.to_le_bytes());
        Ok(ColdWriter { core, number, file, buffer, written: 0, allocated: 0, entries: Vec::new() })
    }

    pub fn add(&mut self, lsn: u64, record: &[u8]) -> Result<(), Stop> {
        let offset = self.written + self.buffer.len() as u64;
        self.entries.push(Entry { lsn, offset, len: record.len() as u32, crc: crc_of(0, &[record]) });
        self.buffer.extend_from_slice(record);
        if self.buffer.len() as u64 >= STEP {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let end = self.written + self.buffer.len() as u64;
        let mut opened = false;
        while end > self.allocated {
            let wanted = end.next_multiple_of(STEP.min(self.core.config.segment_bytes));
            match self.file.allocate(wanted) {
                Ok(()) => self.allocated = wanted,
                Err(error) if storage::is_full(&error) && !opened => {
                    opened = true;
                    self.core.set_disk_full(true);
                    let had = self.core.spares.open_cold_reserve(self.core).map_err(|error| self.failed(&error))?;
                    if !had {
                        return Err(Stop::Full);
                    }
                }
                Err(error) if storage::is_full(&error) => return Err(Stop::Full),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        self.file.write_at(&self.buffer, self.written).map_err(|error| self.failed(&error))?;
        self.written = end;
        self.buffer.clear();
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Stop {
        Stop::Failed(self.core.fail("writing a cold file", error))
    }

    /// Footer, sync, final name, directory sync: only now may anything rely on it.
    pub fn seal(mut self, ranges: &[(u64, u64)]) -> Result<ColdFile, Stop> {
        self.entries.sort_unstable_by_key(|entry| entry.lsn);
        let entries_at = self.written + self.buffer.len() as u64;
        let mut tables = Vec::new();
        for page in self.entries.chunks(PAGE) {
            let from = self.buffer.len();
            page.iter().for_each(|entry| entry.encode(&mut self.buffer));
            tables.extend_from_slice(&page[0].lsn.to_le_bytes());
            tables.extend_from_slice(&crc_of(0, &[&self.buffer[from..]]).to_le_bytes());
        }
        for (first, end) in ranges {
            tables.extend_from_slice(&first.to_le_bytes());
            tables.extend_from_slice(&end.to_le_bytes());
        }
        let mut trailer = Vec::with_capacity(TRAILER);
        for field in [MAGIC, entries_at, self.entries.len() as u64, ranges.len() as u64] {
            trailer.extend_from_slice(&field.to_le_bytes());
        }
        let crc = crc_of(0, &[&tables, &trailer]);
        self.buffer.extend_from_slice(&tables);
        self.buffer.extend_from_slice(&trailer);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.flush()?;
        let name = file_name(self.number);
        let made = (self.file.truncate(self.written))
            .and_then(|()| mutants::sync_data(self.file.as_ref()))
            .and_then(|()| self.core.storage.rename(TEMPORARY, &name))
            .and_then(|()| mutants::sync_dir(self.core.storage.as_ref(), "c"));
        made.map_err(|error| self.failed(&error))?;
        count(&self.core.counters.evacuated_bytes, self.written);
        ColdFile::open(self.number, self.file.clone(), &self.core.ids)
            .map_err(|error| Stop::Failed(self.core.fail("reading back a cold file", &io::Error::other(error.to_string()))))
    }
}
