//! A register in a file of its own, for coordinators that are no service.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{de::DeserializeOwned, Deserialize, Serialize};

use super::{Cas, Register, Version};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    version: Version,
    register: Register,
}

const NAME: &str = "register.json";

pub fn load(folder: &Path) -> io::Result<Option<(Version, Register)>> {
    let kept: Option<Kept> = read(&folder.join(NAME))?;
    Ok(kept.map(|kept| (kept.version, kept.register)))
}

/// It counts when it is on the disk.
pub fn save(folder: &Path, version: Version, register: &Register) -> io::Result<()> {
    let (new, path) = (folder.join("register.json.new"), folder.join(NAME));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(&Kept { version, register: register.clone() })?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// The conditional write, by whoever is alone with the file.
pub fn cas(folder: &Path, expect: Option<Version>, new: &Register) -> io::Result<Cas> {
    let stored = load(folder)?;
    let current = stored.as_ref().map(|(version, _)| *version);
    if current != expect {
        return Ok(Cas::Lost(stored));
    }
    if let Err(refused) = Register::may_follow(stored.as_ref().map(|(_, register)| register), new) {
        return Ok(Cas::Refused(refused));
    }
    let version = Version(current.map_or(1, |version| version.0 + 1));
    save(folder, version, new)?;
    Ok(Cas::Won(version))
}

/// `None`: there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            let bad = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
            serde_json::from_slice(&bytes).map(Some).map_err(bad)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
