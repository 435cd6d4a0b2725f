//! A voter's files: one that holds the log, the vote and the snapshot, and is written anew when it has grown.
//!
//! `raft.log` is a row of frames, each one write and one sync:
//! `magic u32 | length u32 | number u64 | crc32c of length, number, payload | payload`, little-endian; the payload is a JSON array of [`Record`].
//!
//! Only the last frame can be torn, because the one before it was synced before it was begun. So what is bad is cut off if nothing whole follows,
//! and refused as corrupt otherwise: a voter that forgets what it voted is worse than none. What has been read at the start is written to a new file
//! and synced before it counts: it may have come from a page cache whose write failed. An error of a write or a sync ends the voter; it is never tried again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use openraft::{BasicNode, LogId, RaftLogId, SnapshotMeta, Vote};
use serde::{Deserialize, Serialize};

use super::types::{Entry, State};

const MAGIC: u32 = u32::from_le_bytes(*b"CRFT");
const HEAD: usize = 20;
/// A register is under 100 KiB, and a frame holds a few of them.
const FRAME_MAX: usize = 64 << 20;
/// Beyond this the file is written anew.
const COMPACT_AT: u64 = 1 << 20;

pub type Meta = SnapshotMeta<u64, BasicNode>;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Record {
    /// The voter whose file this is.
    Voter(u64),
    Vote(Vote<u64>),
    Entry(Entry),
    /// Entries from this index on are none.
    Truncate(u64),
    Purge(LogId<u64>),
    Snapshot(Box<(Meta, State)>),
}

/// Tells of what ends the voter.
pub type Fatal = std::sync::Arc<dyn Fn(&str) + Send + Sync>;

pub struct Store {
    folder: PathBuf,
    file: File,
    end: u64,
    number: u64,
    failed: bool,
    fatal: Fatal,
    pub memory: Memory,
}

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    voter: u64,
    pub vote: Option<Vote<u64>>,
    pub log: BTreeMap<u64, Entry>,
    pub purged: Option<LogId<u64>>,
    pub snapshot: Option<(Meta, State)>,
}

impl Memory {
    fn take(&mut self, record: Record) {
        match record {
            Record::Voter(voter) => self.voter = voter,
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => {
                self.log.insert(entry.log_id.index, entry);
            }
            Record::Truncate(from) => {
                self.log.split_off(&from);
            }
            Record::Purge(upto) => {
                self.log = self.log.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Record::Snapshot(snapshot) => self.snapshot = Some(*snapshot),
        }
    }

    fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Voter(self.voter)];
        records.extend(self.vote.map(Record::Vote));
        records.extend(self.snapshot.clone().map(|snapshot| Record::Snapshot(Box::new(snapshot))));
        records.extend(self.purged.map(Record::Purge));
        records.extend(self.log.values().cloned().map(Record::Entry));
        records
    }

    pub fn last(&self) -> Option<LogId<u64>> {
        self.log.values().next_back().map(|entry| *entry.get_log_id()).max(self.purged)
    }
}

impl Store {
    /// Makes the file if there is none. `voter`: whose it has to be.
    pub fn open(folder: &Path, voter: u64, fatal: Fatal) -> io::Result<Self> {
        let path = folder.join("raft.log");
        let mut memory = Memory { voter, ..Memory::default() };
        match fs::read(&path) {
            Ok(bytes) => {
                memory.voter = 0;
                replay(&bytes, &mut memory).map_err(|why| corrupt(&path, &why))?;
                if memory.voter != voter {
                    return Err(corrupt(&path, "it belongs to another voter than the file beside it"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (file, end) = write_anew(folder, &memory)?;
        Ok(Self { folder: folder.to_owned(), file, end, number: 1, failed: false, fatal, memory })
    }

    pub fn save_vote(&mut self, vote: Vote<u64>) -> io::Result<()> {
        self.write(vec![Record::Vote(vote)])
    }

    pub fn append(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        self.write(entries.into_iter().map(Record::Entry).collect())
    }

    pub fn truncate(&mut self, from: u64) -> io::Result<()> {
        self.write(vec![Record::Truncate(from)])
    }

    pub fn purge(&mut self, upto: LogId<u64>) -> io::Result<()> {
        self.write(vec![Record::Purge(upto)])
    }

    pub fn save_snapshot(&mut self, meta: Meta, state: State) -> io::Result<()> {
        self.write(vec![Record::Snapshot(Box::new((meta, state)))])
    }

    fn write(&mut self, records: Vec<Record>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write of this voter failed"));
        }
        let written = self.write_frame(&records);
        if let Err(error) = &written {
            self.failed = true;
            (self.fatal)(&format!("{}: {error}", self.folder.join("raft.log").display()));
        }
        written
    }

    fn write_frame(&mut self, records: &[Record]) -> io::Result<()> {
        let bytes = frame(self.number, records)?;
        self.file.write_all_at(&bytes, self.end)?;
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        self.number += 1;
        records.iter().cloned().for_each(|record| self.memory.take(record));
        if self.end > COMPACT_AT {
            (self.file, self.end) = write_anew(&self.folder, &self.memory)?;
            self.number = 1;
        }
        Ok(())
    }
}

fn corrupt(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is corrupt: {why}", path.display()))
}

/// Everything as one frame in a new file, which takes the old one's place when it is synced.
fn write_anew(folder: &Path, memory: &Memory) -> io::Result<(File, u64)> {
    let bytes = frame(0, &memory.records())?;
    let (new, path) = (folder.join("raft.log.new"), folder.join("raft.log"));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok((file, bytes.len() as u64))
}

fn frame(number: u64, records: &[Record]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, records)?;
    let len = bytes.len() - HEAD;
    if len > FRAME_MAX {
        return Err(io::Error::other("a frame of a voter's log is too large"));
    }
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[4..16]), &bytes[HEAD..]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The frame at the front, if it is whole: its number, its payload, what follows.
fn split(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if word(0) != MAGIC || word(4) as usize > FRAME_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(word(4) as usize)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[4..16]), payload);
    let number = u64::from(word(8)) | u64::from(word(12)) << 32;
    (crc == word(16)).then_some((number, payload, rest))
}

fn replay(mut bytes: &[u8], memory: &mut Memory) -> Result<(), String> {
    let mut expected = 0;
    while !bytes.is_empty() {
        let Some((number, payload, rest)) = split(bytes) else {
            let follows = (1..bytes.len()).any(|at| bytes[at..].starts_with(&MAGIC.to_le_bytes()) && split(&bytes[at..]).is_some());
            return match (follows, expected) {
                (true, _) => Err(format!("frame {expected} is damaged, and whole ones follow")),
                // The first frame was synced before the file got its name.
                (false, 0) => Err("its first frame is damaged".into()),
                (false, _) => Ok(()),
            };
        };
        if number != expected {
            return Err(format!("frame {number} stands where {expected} should"));
        }
        let records: Vec<Record> = serde_json::from_slice(payload).map_err(|error| format!("frame {number}: {error}"))?;
        records.into_iter().for_each(|record| memory.take(record));
        (bytes, expected) = (rest, expected + 1);
    }
    match expected {
        0 => Err("it is empty".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, EntryPayload};
    use std::sync::Arc;

    fn silent() -> Fatal {
        Arc::new(|_| {})
    }

    fn log_id(index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(1, 7), index)
    }

    fn blank(index: u64) -> Entry {
        Entry { log_id: log_id(index), payload: EntryPayload::Blank }
    }

    /// Four frames behind the first, and what the log holds after each of them.
    fn written(folder: &Path) -> (Vec<u8>, Vec<(usize, usize)>) {
        let mut store = Store::open(folder, 7, silent()).unwrap();
        let mut steps = vec![(store.end as usize, 0)];
        store.save_vote(Vote::new(1, 7)).unwrap();
        steps.push((store.end as usize, 0));
        store.append((0..5).map(blank).collect()).unwrap();
        steps.push((store.end as usize, 5));
        store.truncate(3).unwrap();
        steps.push((store.end as usize, 3));
        store.purge(log_id(0)).unwrap();
        steps.push((store.end as usize, 2));
        (fs::read(folder.join("raft.log")).unwrap(), steps)
    }

    #[test]
    fn what_was_written_is_read_again_from_any_torn_tail() {
        let folder = tempfile::tempdir().unwrap();
        let (bytes, steps) = written(folder.path());
        for cut in 1..=bytes.len() {
            fs::write(folder.path().join("raft.log"), &bytes[..cut]).unwrap();
            let store = Store::open(folder.path(), 7, silent());
            let Some((_, entries)) = steps.iter().rev().find(|(end, _)| *end <= cut) else {
                assert!(store.is_err(), "{cut}");
                continue;
            };
            let memory = store.unwrap().memory;
            assert_eq!(memory.log.len(), *entries, "{cut}");
            assert_eq!(memory.vote.is_some(), cut >= steps[1].0);
        }
        let memory = Store::open(folder.path(), 7, silent()).unwrap().memory;
        assert_eq!((memory.last(), memory.purged), (Some(log_id(2)), Some(log_id(0))));
    }

    #[test]
    fn damage_in_front_of_what_is_whole_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (bytes, steps) = written(folder.path());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            fs::write(folder.path().join("raft.log"), &damaged).unwrap();
            let store = Store::open(folder.path(), 7, silent());
            // The last frame might have been torn; everything before it was synced before that was begun.
            match at < steps[3].0 {
                true => assert!(store.is_err_and(|error| error.to_string().contains("corrupt")), "{at}"),
                false => assert_eq!(store.unwrap().memory.log.len(), 3, "{at}"),
            }
        }
        fs::write(folder.path().join("raft.log"), &bytes).unwrap();
        assert!(Store::open(folder.path(), 8, silent()).is_err_and(|error| error.to_string().contains("another voter")));
        fs::write(folder.path().join("raft.log"), b"").unwrap();
        assert!(Store::open(folder.path(), 7, silent()).is_err());
    }

    #[test]
    fn a_file_that_has_grown_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), 7, silent()).unwrap();
        let (mut compacted, mut before) = (false, 0);
        for round in 0..40 {
            store.append((round * 500..round * 500 + 500).map(blank).collect()).unwrap();
            store.purge(log_id(round * 500 + 490)).unwrap();
            compacted |= store.end < before;
            before = store.end;
            assert!(store.end <= COMPACT_AT + 100_000);
        }
        assert!(compacted);
        drop(store);
        let store = Store::open(folder.path(), 7, silent()).unwrap();
        assert_eq!((store.memory.log.len(), store.memory.last()), (9, Some(log_id(19_999))));
    }

    #[test]
    fn after_an_error_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = told.clone();
        let mut store = Store::open(folder.path(), 7, Arc::new(move |why: &str| tell.lock().unwrap().push(why.to_owned()))).unwrap();
        let good = std::mem::replace(&mut store.file, File::options().write(true).open("/dev/full").unwrap());
        assert!(store.save_vote(Vote::new(1, 7)).is_err());
        store.file = good;
        assert!(store.save_vote(Vote::new(2, 7)).is_err());
        assert_eq!(store.memory.vote, None);
        assert_eq!(told.lock().unwrap().len(), 1);
    }
}
