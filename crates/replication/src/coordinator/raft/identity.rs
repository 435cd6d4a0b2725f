//! `voter.json`: whose directory this is. A voter is the directory more than the machine: one that has lost it has lost what it voted, and must
//! not vote again under the old id.

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
                forming: None,
                seen: BTreeMap::new(),
            },
            Err(error) => return Err(error),
        };
        let mut file = Self { path, identity, lock: Some(lock) };
        // What a beginning anew was interrupted in.
        if file.identity.cluster.is_none() {
            file.remove_log()?;
        }
        file.change(|identity| identity.life += 1)?;
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
        self.change(|identity| {
            identity.id = rand::random();
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

fn bad(path: &Path, why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
}
