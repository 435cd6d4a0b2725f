//! The real thing: one directory of the operating system.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::{File, Lock, Storage};
use crate::sys;

pub struct DirStorage {
    root: PathBuf,
}

impl DirStorage {
    /// Makes the directory, and its parents, if they are missing.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(DirStorage { root })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

struct DirFile(fs::File);

struct DirLock(#[allow(dead_code)] fs::File); // held open: closing it is what unlocks

impl Lock for DirLock {}

impl Storage for DirStorage {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(path))?;
        Ok(Arc::new(DirFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path(path))?;
        Ok(Arc::new(DirFile(file)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string().ok());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.path(dir)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sys::fsync(&fs::File::open(self.path(dir))?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        sys::free_bytes(&self.root)
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Lock>> {
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(path))?;
        if !sys::try_lock(&file)? {
            let mut pid = String::new();
            file.take(16).read_to_string(&mut pid)?;
            return Err(io::Error::new(io::ErrorKind::WouldBlock, pid.trim().to_string()));
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(DirLock(file)))
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        match fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
            Ok(()) => u64::from_ne_bytes(bytes),
            // Only uniqueness matters (salts against stale frames, identities), so time and pid will do.
            Err(_) => sys::boot_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id()),
        }
    }
}

impl File for DirFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match sys::pread(&self.0, &mut into[done..], offset + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match sys::pwrite(&self.0, bytes, offset)? {
            written if written == bytes.len() => Ok(()),
            written => Err(io::Error::new(io::ErrorKind::WriteZero, format!("short write: {written} of {} bytes", bytes.len()))),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        sys::fdatasync(&self.0)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match sys::fallocate(&self.0, len) {
            // A file system without fallocate gets a sparse file; a full disk then shows in the write, which is fatal.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) && self.len()? < len => self.0.set_len(len),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
