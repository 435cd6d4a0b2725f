//! The preload shim of faults/shim.c: compiled with the system's C compiler, steered through a shared file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use crate::broker::Recipe;

const WORDS: usize = 16;

/// Which files a fault is meant for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Segment = 1,
    Cold = 2,
    Pages = 4,
    Checkpoint = 8,
    Directory = 32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    SyncEio = 1,
    TornKill,
    ShortWrite,
    WriteEio,
    SyncPause,
    Fill,
    WritePause,
}

pub struct Shim {
    control: File,
}

/// Compiles one of the C files of faults/.
pub fn compile(name: &str, shared: bool, into: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults").join(name);
    let out = into.join(name).with_extension(if shared { "so" } else { "bin" });
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Werror"]).args(shared.then_some(["-shared", "-fPIC"]).into_iter().flatten());
    let done = cc.arg("-o").arg(&out).arg(&source).arg("-ldl").output().context("no C compiler `cc`")?;
    ensure!(done.status.success(), "cc {}: {}", source.display(), String::from_utf8_lossy(&done.stderr));
    Ok(out)
}

impl Shim {
    /// Adds the shim to a recipe, switched off.
    pub fn attach(recipe: &mut Recipe) -> Result<Shim> {
        let library = compile("shim.c", true, &recipe.scratch)?;
        let path = recipe.scratch.join("fault-control");
        let control = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        control.write_all_at(&[0; WORDS * 8], 0)?;
        recipe.env.push(("LD_PRELOAD".into(), library.display().to_string()));
        recipe.env.push(("FAULT_CONTROL".into(), path.display().to_string()));
        Ok(Shim { control })
    }

    fn put(&self, word: usize, value: u64) -> Result<()> {
        Ok(self.control.write_all_at(&value.to_ne_bytes(), word as u64 * 8)?)
    }

    fn get(&self, word: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// From now on: the fault acts at the `countdown`-th matching call.
    pub fn arm(&self, fault: Fault, classes: &[Class], countdown: u64, parameter: u64) -> Result<()> {
        self.disarm()?;
        self.put(1, countdown)?;
        self.put(2, parameter)?;
        self.put(3, 0)?;
        self.put(4, classes.iter().map(|class| *class as u64).sum())?;
        self.put(10, 0)?;
        self.put(0, fault as u64)
    }

    pub fn disarm(&self) -> Result<()> {
        self.put(0, 0)
    }

    pub fn hits(&self) -> Result<u64> {
        self.get(3)
    }

    /// Syncs asked for after one failed: a broker that keeps the rules asks for none.
    pub fn later_syncs(&self) -> Result<u64> {
        self.get(10)
    }

    /// ENOSPC answers of the real file system for segments, cold files, pages, checkpoints.
    pub fn full(&self) -> Result<[u64; 4]> {
        Ok([self.get(5)?, self.get(6)?, self.get(7)?, self.get(8)?])
    }
}
