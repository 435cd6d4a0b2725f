//! The disk as the journal needs it. Two implementations pass the same [`contract`]: [`DirStorage`] and [`crate::sim::SimStorage`].

pub mod contract;
mod dir;

use std::io;
use std::sync::Arc;

pub use dir::DirStorage;

/// A directory tree. Names are relative, with `/`. Creating, renaming and removing is durable only after `sync_dir`.
pub trait Storage: Send + Sync {
    /// A new empty file, open for reading and writing. An old one of this name is emptied.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Plain names of the files (not the directories) in `dir`, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes the directory if it is missing; durable after `sync_dir("")`.
    fn make_dir(&self, dir: &str) -> io::Result<()>;
    /// Atomic; replaces `to`. Both in the same directory, or both directories are synced by the caller.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    fn free_bytes(&self) -> io::Result<u64>;
    /// Keeps other processes out until dropped. `Err(WouldBlock)` when one is in; its pid is in the file.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Lock>>;
    /// For salts and identities.
    fn random(&self) -> u64;
}

pub trait File: Send + Sync {
    /// Reads until `into` is full or the file ends; says how much.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// All or an error. A short write is an error, never repeated.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    /// Reserves space for `len` bytes and makes the file at least that long; reads as zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Held for the life of a journal.
pub trait Lock: Send + Sync {}

/// The one error that is an answer and no fault, where it comes from allocating.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if code == libc::ENOSPC || code == libc::EDQUOT)
}

/// The directories of a store: its log, cold files, page files and checkpoints.
pub(crate) const DIRS: [&str; 4] = ["j", "c", "p", "x"];

/// Nothing where there is no such directory.
pub(crate) fn list(storage: &dyn Storage, dir: &str) -> io::Result<Vec<String>> {
    match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

/// Reads exactly `len` bytes, or says that the file is too short.
pub(crate) fn read_exact(file: &dyn File, into: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(into, offset)? {
        read if read == into.len() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it should be")),
    }
}
