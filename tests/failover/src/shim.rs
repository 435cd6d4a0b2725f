//! Calls to a node's disk that fail or take long while it runs: the preload shim of tests/durability, for a node each.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

/// Words of the control file, as faults/shim.c has them.
const WORDS: usize = 16;
const EVERY_CLASS: u64 = 63;
const SEGMENTS: u64 = 1;

pub struct Shim {
    control: File,
}

impl Shim {
    /// Switched off, with what the node needs in its environment.
    pub fn make(dir: &Path, node: &str) -> Result<(Shim, Vec<(String, String)>)> {
        std::fs::create_dir_all(dir)?;
        let library = compile(dir)?;
        let path = dir.join(format!("faults-{node}"));
        let control = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        control.write_all_at(&[0; WORDS * 8], 0)?;
        let env = [("LD_PRELOAD", library.display().to_string()), ("FAULT_CONTROL", path.display().to_string())];
        Ok((Shim { control }, env.map(|(name, value)| (name.to_owned(), value)).to_vec()))
    }

    fn arm(&self, mode: u64, classes: u64, parameter: u64) -> Result<()> {
        for (word, value) in [(0, 0), (1, 1), (2, parameter), (3, 0), (4, classes), (0, mode)] {
            self.control.write_all_at(&u64::to_ne_bytes(value), word * 8)?;
        }
        Ok(())
    }

    /// The next sync of a segment fails.
    pub fn fail_a_sync(&self) -> Result<()> {
        self.arm(1, SEGMENTS, 0)
    }

    /// Every sync takes so long.
    pub fn stall(&self, micros: u64) -> Result<()> {
        self.arm(5, EVERY_CLASS, micros)
    }

    pub fn hits(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 3 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    pub fn disarm(&self) -> Result<()> {
        Ok(self.control.write_all_at(&[0; 8], 0)?)
    }
}

fn compile(dir: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../durability/faults/shim.c");
    let out = dir.join("shim.so");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&out).arg(&source).arg("-ldl");
    let done = cc.output().context("no C compiler `cc`")?;
    ensure!(done.status.success(), "cc {}: {}", source.display(), String::from_utf8_lossy(&done.stderr));
    Ok(out)
}
