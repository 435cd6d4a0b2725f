//! The spill files: written at the end of the last, read anywhere, removed when nothing in them is needed any more.
//!
//! `spill/00000001` and so on, in the data directory; never synced, never replicated, removed at start and at a clean stop. A record is
//!
//! ```text
//! length (u32) | CRC-32C (u32) of its place and what follows | the fields of a publish record without references
//! ```
//!
//! and its place, which a queue's entry keeps where one that is logged keeps its position in the log:
//!
//! ```text
//! 1 | number of the file (31 bits) | offset (32 bits)
//! ```

use crate::store::records::write_publish;
use broker_api::{Batch, Head};
use journal::storage::{File, Storage};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const DIR: &str = "spill";
/// Length and checksum.
pub(super) const HEAD: usize = 8;
const SPILLED: u64 = 1 << 63;
/// Records that are no further apart are read together, up to so many bytes.
const GAP: u64 = 64 << 10;
const SPAN: u64 = 1 << 20;
/// What is read of a record whose length is not known yet.
const GUESS: u64 = 4 << 10;
/// No record is longer: the gateway takes no message of this size.
const RECORD_MAX: u64 = 512 << 20;
/// Files that stay open for reading.
const OPEN_MAX: usize = 16;

/// Is this a place in a spill file, and no position in the log?
pub(crate) fn is_spilled(place: u64) -> bool {
    place & SPILLED != 0
}

pub(super) fn place_of(file: u32, offset: u64) -> u64 {
    SPILLED | u64::from(file) << 32 | offset
}

fn file_of(place: u64) -> u32 {
    ((place & !SPILLED) >> 32) as u32
}

fn offset_of(place: u64) -> u64 {
    place & u64::from(u32::MAX)
}

fn path(number: u32) -> String {
    format!("{DIR}/{number:08}")
}

/// For people: the file and the offset.
pub(crate) fn name_of(place: u64) -> String {
    format!("{} at {}", path(file_of(place)), offset_of(place))
}

/// Appends one message to what is going to be written at `place`.
pub(super) fn encode(out: &mut Vec<u8>, place: u64, batch: &Batch, head: &Head) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write_publish(out, batch, head, &[], &[], None, None);
    let len = (out.len() - at - HEAD) as u32;
    let sum = checksum(place, &out[at + HEAD..]);
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..at + HEAD].copy_from_slice(&sum.to_le_bytes());
}

/// Covers the place, so that a record that stands where another should is not taken for it.
fn checksum(place: u64, fields: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&place.to_le_bytes()), fields)
}

/// The file that is written, at its end.
pub(super) struct Writer {
    pub number: u32,
    pub end: u64,
    file: Arc<dyn File>,
}

impl Writer {
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

#[derive(Default)]
struct Table {
    /// Entries that need each file.
    live: BTreeMap<u32, u64>,
    /// The one that is being written, which stays.
    open: Option<u32>,
    last: u32,
    /// Nothing in them is needed any more.
    dead: Vec<u32>,
    /// Open for reading.
    reading: Vec<(u32, Arc<dyn File>)>,
    dir_made: bool,
    closed: bool,
}

pub(super) struct Files {
    storage: Arc<dyn Storage>,
    /// A leaf: nothing is locked under it, no disk is touched.
    table: Mutex<Table>,
}

impl Files {
    /// Removes what the process before left.
    pub fn new(storage: Arc<dyn Storage>) -> Files {
        // No directory: nothing was ever spilled here.
        for name in storage.list(DIR).unwrap_or_default() {
            let path = format!("{DIR}/{name}");
            if let Err(error) = storage.remove(&path) {
                tracing::warn!(file = path, %error, "a spill file of an earlier run cannot be removed");
            }
        }
        Files { storage, table: Mutex::default() }
    }

    pub fn free_bytes(&self) -> io::Result<u64> {
        self.storage.free_bytes()
    }

    pub fn create(&self) -> io::Result<Writer> {
        let number = {
            let mut table = self.table.lock();
            if table.closed {
                return Err(io::Error::other("the broker stops"));
            }
            table.last += 1;
            table.last
        };
        if !self.table.lock().dir_made {
            self.storage.make_dir(DIR)?;
        }
        let file = self.storage.create(&path(number))?;
        let mut table = self.table.lock();
        table.dir_made = true;
        table.live.insert(number, 0);
        if table.closed {
            drop(table);
            self.close();
            return Err(io::Error::other("the broker stops"));
        }
        table.open = Some(number);
        Ok(Writer { number, end: 0, file })
    }

    /// Nothing more is written to this one.
    pub fn finish(&self, writer: Writer) {
        let mut table = self.table.lock();
        table.open = None;
        if table.live.get(&writer.number) == Some(&0) {
            table.dead.push(writer.number);
        }
    }

    /// Is anything of this file needed?
    pub fn is_needed(&self, number: u32) -> bool {
        self.table.lock().live.get(&number).is_some_and(|live| *live > 0)
    }

    pub fn hold(&self, number: u32, n: u64) {
        if let Some(live) = self.table.lock().live.get_mut(&number) {
            *live += n;
        }
    }

    /// One more entry needs what stands here; `false`: its file may be gone.
    pub fn hold_again(&self, place: u64) -> bool {
        let mut table = self.table.lock();
        let open = table.open == Some(file_of(place));
        match table.live.get_mut(&file_of(place)) {
            Some(live) if *live > 0 || open => {
                *live += 1;
                true
            }
            _ => false,
        }
    }

    /// An entry does not need it any more. `true`: nobody needs anything of its file now.
    pub fn release(&self, place: u64) -> bool {
        let mut table = self.table.lock();
        let number = file_of(place);
        let Some(live) = table.live.get_mut(&number) else { return false };
        *live = live.saturating_sub(1);
        if *live > 0 {
            return false;
        }
        // The one that is being written goes when the spiller has nothing to do.
        if table.open != Some(number) {
            table.dead.push(number);
        }
        true
    }

    /// Removes the files that nobody needs. `true`: there were some.
    pub fn remove_dead(&self) -> bool {
        let dead: Vec<u32> = {
            let mut table = self.table.lock();
            let dead = std::mem::take(&mut table.dead);
            for number in &dead {
                table.live.remove(number);
            }
            table.reading.retain(|(number, _)| !dead.contains(number));
            dead
        };
        dead.iter().for_each(|number| self.remove(*number));
        !dead.is_empty()
    }

    fn remove(&self, number: u32) {
        if let Err(error) = self.storage.remove(&path(number)) {
            tracing::warn!(file = path(number), %error, "a spill file cannot be removed; the next start does it");
        }
    }

    /// Removes everything.
    pub fn close(&self) {
        let all: Vec<u32> = {
            let mut table = self.table.lock();
            table.closed = true;
            table.dead.clear();
            table.reading.clear();
            std::mem::take(&mut table.live).into_keys().collect()
        };
        all.into_iter().for_each(|number| self.remove(number));
    }

    /// Files, and entries that need them.
    pub fn count(&self) -> (u64, u64) {
        let table = self.table.lock();
        (table.live.len() as u64, table.live.values().sum())
    }

    fn opened(&self, number: u32) -> io::Result<Arc<dyn File>> {
        let found = self.table.lock().reading.iter().find(|(n, _)| *n == number).map(|(_, file)| file.clone());
        if let Some(file) = found {
            return Ok(file);
        }
        let file = self.storage.open(&path(number))?;
        let mut table = self.table.lock();
        if table.reading.len() >= OPEN_MAX {
            table.reading.remove(0);
        }
        table.reading.push((number, file.clone()));
        Ok(file)
    }

    /// Reads the records at these places, which ascend, and appends what they stand in to `into`. Answers where each one's fields are in there,
    /// or the first place that cannot be read, and why.
    pub fn read(&self, places: &[u64], into: &mut Vec<u8>) -> Result<Vec<(usize, usize)>, (u64, String)> {
        let mut found = Vec::with_capacity(places.len());
        let mut rest = places;
        while let Some(first) = rest.first() {
            let near = |pair: &[u64]| file_of(pair[0]) == file_of(pair[1]) && pair[1] - pair[0] <= GAP && pair[1] - first <= SPAN;
            let n = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
            self.read_group(&rest[..n], into, &mut found)?;
            rest = &rest[n..];
        }
        Ok(found)
    }

    fn read_group(&self, places: &[u64], into: &mut Vec<u8>, found: &mut Vec<(usize, usize)>) -> Result<(), (u64, String)> {
        let (first, last) = (places[0], places[places.len() - 1]);
        let failed = |error: io::Error| (first, error.to_string());
        let file = self.opened(file_of(first)).map_err(failed)?;
        let (from, base) = (offset_of(first), into.len());
        let mut have = read_more(&*file, from, last - first + GUESS, into).map_err(failed)?;
        for place in places {
            let at = offset_of(*place) - from;
            let cut = || (*place, "the file is too short".to_string());
            let head = into.get(base + at as usize..).and_then(|bytes| bytes.first_chunk::<HEAD>()).ok_or_else(cut)?;
            let (len, sum) = (le(head, 0), le(head, 4));
            let end = at + HEAD as u64 + u64::from(len);
            // Only the last one may reach beyond what has been read: those before it end where the next begins.
            if end > have && place == &last && u64::from(len) <= RECORD_MAX {
                have += read_more(&*file, from + have, end - have, into).map_err(failed)?;
            }
            if end > have {
                return Err(cut());
            }
            let start = base + at as usize + HEAD;
            if checksum(*place, &into[start..start + len as usize]) != sum {
                return Err((*place, "its checksum does not match".to_string()));
            }
            found.push((start, len as usize));
        }
        Ok(())
    }
}

fn le(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk::<4>().map_or(0, |four| u32::from_le_bytes(*four))
}

/// Appends up to `len` bytes; says how many there were.
fn read_more(file: &dyn File, offset: u64, len: u64, into: &mut Vec<u8>) -> io::Result<u64> {
    let at = into.len();
    into.resize(at + len as usize, 0);
    let read = file.read_at(&mut into[at..], offset)?;
    into.truncate(at + read);
    Ok(read as u64)
}
