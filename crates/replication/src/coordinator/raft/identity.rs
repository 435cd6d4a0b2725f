//! `voter.json`: whose directory this is. A voter is the directory more than the machine: one that has lost it has lost what it voted, and must
//! not vote again under the old id.
//!
//! Neither must one whose directory was copied back from somewhere: what it has voted since is missing, and nobody who remembers may be there. So the
//! file says when the file `lock` beside it was made, by the file system's own word, which no copy takes along. An image of the whole disk does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::coordinator::NodeName;

/// What a voter says of itself when it meets another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub id: u64,
    #[serde(with = "crate::coordinator::hex::option")]
    pub cluster: Option<u128>,
    /// Starts of the process, counted in its directory.
    pub life: u64,
    pub term: u64,
    /// One more than the index of its last entry.
    pub entries: u64,
}

impl Standing {
    /// Whether a directory that says this is older than one that has said `seen`. The same life cannot be seen twice at the start of a link:
    /// then the numbers are at least equal.
    pub fn is_older_than(&self, seen: &Standing) -> bool {
        self.id == seen.id && (self.life < seen.life || self.term < seen.term || self.entries < seen.entries)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    pub name: NodeName,
    pub id: u64,
    /// `None`: it has never been a voter.
    #[serde(with = "crate::coordinator::hex::option")]
    pub cluster: Option<u128>,
    pub life: u64,
    /// Nanoseconds since 1970, when `lock` was made; `None`: not known, or the file system keeps no such time.
    #[serde(default)]
    born: Option<u64>,
    /// The cluster that this voter has begun to form, with the ids that it is made of.
    pub forming: Option<Forming>,
    /// What others have said of themselves, at most. By their ids.
    pub seen: BTreeMap<NodeName, Standing>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forming {
    #[serde(with = "crate::coordinator::hex")]
    pub cluster: u128,
    pub voters: BTreeMap<u64, NodeName>,
}

/// The file, and the lock on the directory.
pub struct IdentityFile {
    path: PathBuf,
    pub identity: Identity,
    /// It was a voter's, and is not where that voter wrote it.
    pub copied: bool,
    /// `None`: closed.
    lock: Option<File>,
}

const FORMAT: u32 = 1;

impl IdentityFile {
    /// Opens the directory, or makes one, for another life.
    pub fn open(folder: &Path, name: &NodeName) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::options().write(true).create(true).truncate(false).open(folder.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other(format!("{} is in use by another process", folder.display())))?;
        let path = folder.join("voter.json");
        let identity = match fs::read(&path) {
            Ok(bytes) => {
                let read: Identity = serde_json::from_slice(&bytes).map_err(|error| bad(&path, error.to_string()))?;
                if read.format != FORMAT {
                    return Err(bad(&path, format!("it has format {}, and this build knows {FORMAT}", read.format)));
                }
                if read.name != *name {
                    return Err(bad(&path, format!("it belongs to the node {}, and this is {name}", read.name)));
                }
                read
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Identity {
                format: FORMAT,
                name: name.clone(),
                id: rand::random(),
                cluster: None,
                life: 0,
                born: None,
                forming: None,
                seen: BTreeMap::new(),
            },
            Err(error) => return Err(error),
        };
        let here = born(&lock);
        let copied = identity.cluster.is_some() && identity.born.is_some() && identity.born != here;
        let mut file = Self { path, identity, copied, lock: Some(lock) };
        // What a beginning anew was interrupted in.
        if file.identity.cluster.is_none() {
            file.remove_log()?;
        }
        file.change(|identity| {
            identity.life += 1;
            if !copied {
                identity.born = here;
            }
        })?;
        Ok(file)
    }

    /// What is changed counts when it is on the disk.
    pub fn change(&mut self, change: impl FnOnce(&mut Identity)) -> io::Result<()> {
        if self.lock.is_none() {
            return Err(io::Error::other("this voter has stopped"));
        }
        let mut changed = self.identity.clone();
        change(&mut changed);
        let folder = self.path.parent().expect("a file in a folder");
        let new = folder.join("voter.json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&changed)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()?;
        self.identity = changed;
        Ok(())
    }

    /// Gives the directory back.
    pub fn close(&mut self) {
        self.lock = None;
    }

    /// Another voter in the same place: what it has voted before is forgotten together with its id.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        let here = self.lock.as_ref().and_then(born);
        self.copied = false;
        self.change(|identity| {
            identity.id = rand::random();
            identity.born = here;
            identity.cluster = None;
            identity.forming = None;
        })?;
        self.remove_log()
    }

    fn remove_log(&self) -> io::Result<()> {
        match fs::remove_file(self.path.with_file_name("raft.log")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(self.path.parent().expect("a file in a folder"))?.sync_all(),
        }
    }
}

fn born(file: &File) -> Option<u64> {
    let made = file.metadata().ok()?.created().ok()?;
    u64::try_from(made.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

fn bad(path: &Path, why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
}
