//! A copy of a store for another node, made while this one goes on: the files of the newest checkpoint and of everything that it refers to, as a
//! crash at this moment would leave them. Where they came from does not matter to who opens them.
//!
//! Files only grow or are removed, and a removed one can be read as long as it is open. So a copy is a list of open files with the length that
//! counts of each, and costs nobody else anything. It is installed beside the store that it replaces, and one name makes it count.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::catalog::Home;
use crate::journal::Core;
use crate::meta::Meta;
use crate::segment::{self, Ids};
use crate::storage::{list, File, Storage, DIRS};
use crate::wire::{crc_of, put_varint, Reader};
use crate::{checkpoint, cold, mutants, pages, Config, LogReader, Lsn, OpenError, Position};

/// Where a copy arrives, one file beside the other.
const DIR: &str = "incoming";
/// It lists the names of a copy that is all there. From then on the copy is the store.
const COMPLETE: &str = "incoming/complete";
const MAGIC: u64 = u64::from_le_bytes(*b"CkCopy01");
/// More names than any store has, to bound what is read.
const NAMES_MAX: u64 = 1 << 24;

/// One file of a copy.
pub struct CopyFile {
    pub name: String,
    /// What counts of it.
    pub used: u64,
    /// As long as it is to be: the rest reads as zeros.
    pub len: u64,
    file: Arc<dyn File>,
}

impl CopyFile {
    /// Reads at most to the end of what counts.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = into.len().min(self.used.saturating_sub(offset) as usize);
        self.file.read_at(&mut into[..len], offset)
    }
}

/// A store as it stood at one moment.
pub struct Copy {
    pub cluster: u128,
    pub files: Vec<CopyFile>,
    /// Where its log ends, and what follows there.
    pub end: Position,
    pub rest: LogReader,
}

impl Copy {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.used).sum()
    }

    /// By the maintenance thread, which alone removes files. `root`: the newest checkpoint, and the page files that it names.
    pub(crate) fn of(core: &Arc<Core>, root: u64, page_files: &BTreeSet<u64>) -> io::Result<Copy> {
        let open = |name: String| -> io::Result<CopyFile> {
            let file = core.storage.open(&name)?;
            let len = file.len()?;
            Ok(CopyFile { name, used: len, len, file })
        };
        let mut files = vec![open(checkpoint::file_name(root))?];
        for number in page_files {
            files.push(open(pages::file_name(*number))?);
        }
        // The log as far as it is synced; what comes behind it is read by who sends the copy.
        let tip = *core.tip.lock();
        let catalog = core.catalog.read();
        for number in catalog.cold.keys() {
            files.push(open(cold::file_name(*number))?);
        }
        for (first, entry) in catalog.ranges.range(..=tip.lsn) {
            let Home::Hot(segment) = &entry.home else { continue };
            if *first == tip.lsn && *first != tip.segment {
                continue;
            }
            let len = segment.file.len()?;
            let used = if *first == tip.segment { tip.offset } else { len };
            let len = len.max(segment.head.file_bytes);
            files.push(CopyFile { name: segment::file_name(*first), used, len, file: segment.file.clone() });
        }
        drop(catalog);
        let end = Position { epoch: core.log_epoch.load(Ordering::Relaxed), lsn: Lsn(tip.lsn), chain: tip.chain };
        Ok(Copy { cluster: core.ids.cluster, files, end, rest: LogReader::at(core.clone(), tip.segment, tip.offset, tip.lsn) })
    }
}

/// A copy on its way in. Nothing of it counts before [`Incoming::finish`].
pub struct Incoming {
    storage: Arc<dyn Storage>,
    names: Vec<String>,
    open: Option<Arc<dyn File>>,
    written: u64,
}

impl Incoming {
    /// Whatever an earlier attempt left is thrown away.
    pub fn begin(storage: Arc<dyn Storage>) -> io::Result<Incoming> {
        storage.make_dir(DIR)?;
        discard(storage.as_ref())?;
        storage.sync_dir("")?;
        Ok(Incoming { storage, names: Vec::new(), open: None, written: 0 })
    }

    /// The next file. A name that no store has is refused.
    pub fn file(&mut self, name: &str, len: u64) -> io::Result<()> {
        if !is_ours(name) || self.names.iter().any(|known| known == name) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no file of a store")));
        }
        self.end_file()?;
        let file = self.storage.create(&waiting(name))?;
        file.allocate(len)?;
        self.names.push(name.to_string());
        (self.open, self.written) = (Some(file), 0);
        Ok(())
    }

    /// More of the file that was named last.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &self.open else { return Err(io::Error::new(io::ErrorKind::InvalidInput, "bytes of no file")) };
        file.write_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn end_file(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some(file) => mutants::sync_data(file.as_ref()),
            None => Ok(()),
        }
    }

    /// All of it is here: from now on it is the store, also if this process ends at any moment. Nobody may have the store open.
    pub fn finish(mut self, cluster: u128, config: &Config) -> Result<(), OpenError> {
        let writing = || OpenError::io("completing a copy of a store");
        self.end_file().map_err(writing())?;
        let mut list = Vec::new();
        list.extend_from_slice(&MAGIC.to_le_bytes());
        list.extend_from_slice(&cluster.to_le_bytes());
        put_varint(&mut list, self.names.len() as u64);
        for name in &self.names {
            put_varint(&mut list, name.len() as u64);
            list.extend_from_slice(name.as_bytes());
        }
        let crc = crc_of(0, &[&list]);
        list.extend_from_slice(&crc.to_le_bytes());
        let storage = self.storage.as_ref();
        let write = || -> io::Result<()> {
            let file = storage.create("incoming/complete.tmp")?;
            file.write_at(&list, 0)?;
            mutants::sync_data(file.as_ref())?;
            // The files first, then the name that makes them count.
            mutants::sync_dir(storage, DIR)?;
            storage.rename("incoming/complete.tmp", COMPLETE)?;
            mutants::sync_dir(storage, DIR)?;
            mutants::sync_dir(storage, "")
        };
        write().map_err(writing())?;
        install(storage, config).map(drop)
    }
}

/// Throws away what is there of a copy.
pub(crate) fn discard(storage: &dyn Storage) -> io::Result<()> {
    let there = list(storage, DIR)?;
    if there.is_empty() {
        return Ok(());
    }
    there.iter().try_for_each(|name| storage.remove(&format!("{DIR}/{name}")))?;
    mutants::sync_dir(storage, DIR)
}

fn waiting(name: &str) -> String {
    format!("{DIR}/{}", name.replace('/', "-"))
}

fn is_ours(name: &str) -> bool {
    match name.split_once('/') {
        Some(("j", rest)) => segment::parse_name(rest).is_some(),
        Some(("c", rest)) => cold::parse_name(rest).is_some(),
        Some(("p", rest)) => pages::parse_name(rest).is_some(),
        Some(("x", rest)) => checkpoint::parse_name(rest).is_some(),
        _ => false,
    }
}

/// Puts a complete copy in the place of what is here, if there is one: at every start, before anything is read. Can be interrupted anywhere.
pub(crate) fn install(storage: &dyn Storage, config: &Config) -> Result<bool, OpenError> {
    let installing = || OpenError::io("installing a copy of a store");
    let there = list(storage, DIR).map_err(installing())?;
    if !there.iter().any(|name| format!("{DIR}/{name}") == COMPLETE) {
        // Half a copy.
        return discard(storage).map(|()| false).map_err(installing());
    }
    let (cluster, names) = read_list(storage)?;
    let place = || -> io::Result<()> {
        // A process that was killed may have left the name where everybody sees it and no power cut spares it.
        mutants::sync_dir(storage, DIR)?;
        mutants::sync_dir(storage, "")?;
        for dir in DIRS {
            storage.make_dir(dir)?;
            for name in storage.list(dir)? {
                let path = format!("{dir}/{name}");
                if !names.contains(&path) {
                    storage.remove(&path)?;
                }
            }
        }
        for name in &names {
            let from = waiting(name);
            if there.iter().any(|name| format!("{DIR}/{name}") == from) {
                storage.rename(&from, name)?;
            }
        }
        DIRS.iter().chain(&[DIR]).try_for_each(|dir| mutants::sync_dir(storage, dir))
    };
    place().map_err(installing())?;
    match Meta::read(storage)? {
        Some(mut meta) => {
            meta.ids.cluster = cluster;
            meta.clean = false;
            meta.update(storage).map_err(installing())?;
        }
        None => {
            let ids = Ids { cluster, node: storage.random(), shard: config.shard };
            Meta { number: 0, ids, epoch: 0, boot_id: 0, clean: false }.create(storage).map_err(installing())?;
        }
    }
    let done = storage.remove(COMPLETE).and_then(|()| mutants::sync_dir(storage, DIR));
    done.map(|()| true).map_err(installing())
}

fn read_list(storage: &dyn Storage) -> Result<(u128, BTreeSet<String>), OpenError> {
    let damaged =
        || OpenError::corrupt(COMPLETE, "it cannot be read; remove the directory `incoming` and let the peer send the copy again");
    let file = storage.open(COMPLETE).map_err(OpenError::io("opening incoming/complete"))?;
    let mut bytes = vec![0; file.len().map_err(OpenError::io("measuring incoming/complete"))? as usize];
    crate::storage::read_exact(file.as_ref(), &mut bytes, 0).map_err(OpenError::io("reading incoming/complete"))?;
    let at = bytes.len().checked_sub(4).ok_or_else(damaged)?;
    if crc_of(0, &[&bytes[..at]]).to_le_bytes() != bytes[at..] {
        return Err(damaged());
    }
    let mut reader = Reader::new(&bytes[..at]);
    let mut fields = || {
        let magic = reader.u64()?;
        let cluster = u128::from(reader.u64()?) | u128::from(reader.u64()?) << 64;
        let count = reader.varint().filter(|count| magic == MAGIC && *count <= NAMES_MAX)?;
        let mut names = BTreeSet::new();
        for _ in 0..count {
            let len = reader.varint()? as usize;
            names.insert(String::from_utf8(reader.take(len)?.to_vec()).ok().filter(|name| is_ours(name))?);
        }
        Some((cluster, names))
    };
    fields().ok_or_else(damaged)
}

/// Empties a store that nobody has open, for one that is to begin at the beginning of another's log. Who it is stays.
pub fn start_over(storage: Arc<dyn Storage>, cluster: u128, config: &Config) -> Result<(), OpenError> {
    Incoming::begin(storage).map_err(OpenError::io("emptying a store"))?.finish(cluster, config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Crash, SimStorage};

    const OLD: [&str; 2] = ["j/0000000000000000.log", "x/1.root"];

    /// All of the old store, or all of the copy: `true`.
    fn which(storage: &SimStorage, new: &[&str], what: &str) -> bool {
        let is = |names: &[&str], text: &[u8]| names.iter().all(|name| storage.contents(name).is_some_and(|bytes| bytes == text));
        let (old, copied) = (is(&OLD, b"old"), is(new, b"new"));
        assert!(old != copied, "{what}: the old store {old}, the copy {copied}");
        copied
    }

    /// What a killed process did last may be seen and not be durable: whoever goes on with it makes it so first.
    #[test]
    fn whatever_moment_a_kill_and_then_a_power_cut_come_at_one_of_the_stores_is_whole() {
        let new = [segment::file_name(4096), checkpoint::file_name(7), pages::file_name(3)];
        let names: Vec<&str> = new.iter().map(String::as_str).collect();
        let (mut interrupted, mut copies) = (0, 0);
        for (first, second) in (0..40).flat_map(|first| (0..40).map(move |second| (first, second))) {
            let what = format!("killed after {first}, cut off after {second}");
            let storage = SimStorage::new(first * 100 + second);
            let ids = Ids { cluster: 7, node: 99, shard: 0 };
            Meta { number: 0, ids, epoch: 5, boot_id: 0, clean: false }.create(&storage).unwrap();
            OLD.iter().for_each(|name| storage.plant(name, b"old".to_vec()));
            storage.crash_after(first);
            let _ = take(&storage, &names);
            storage.crash(Crash::Kill);
            storage.crash_after(second);
            interrupted += u64::from(install(&storage, &Config::default()).is_err());
            storage.crash(Crash::PowerCut);
            install(&storage, &Config::default()).unwrap();
            copies += u64::from(which(&storage, &names, &what));
        }
        assert!(interrupted > 100 && copies > 100, "{interrupted} {copies}");
    }

    fn take(storage: &SimStorage, names: &[&str]) -> Result<(), OpenError> {
        let failed = || OpenError::io("taking a copy");
        let mut incoming = Incoming::begin(Arc::new(storage.clone())).map_err(failed())?;
        for name in names {
            incoming.file(name, 3).and_then(|()| incoming.bytes(b"new")).map_err(failed())?;
        }
        incoming.finish(7, &Config::default())
    }
}
