//! Deliberate faults. In a build with debug assertions `CARRICK_MUTANT` names one of them, and the rigs must notice: the simulation in
//! tests/it, and tests/durability with the real binary. In every other build these are the plain calls.

use std::io;

use crate::storage::{File, Storage};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    NoSync,
    ConfirmBeforeSync,
    LivenessFromMemory,
    CkptBeforeCommit,
    TrustRecoveredTail,
    RetryFsync,
    SkipDirsync,
}

/// By the names that `CARRICK_MUTANT` knows.
pub const ALL: [(&str, Mutant); 7] = [
    ("no_sync", Mutant::NoSync),
    ("confirm_before_sync", Mutant::ConfirmBeforeSync),
    ("liveness_from_memory", Mutant::LivenessFromMemory),
    ("ckpt_before_commit", Mutant::CkptBeforeCommit),
    ("trust_recovered_tail", Mutant::TrustRecoveredTail),
    ("retry_fsync", Mutant::RetryFsync),
    ("skip_dirsync", Mutant::SkipDirsync),
];

/// Never in a release build: there this is a constant and costs nothing.
pub fn active(mutant: Mutant) -> bool {
    cfg!(debug_assertions) && chosen() == Some(mutant)
}

/// One for the whole process: a test that tries a mutant starts itself again with the environment's choice.
fn chosen() -> Option<Mutant> {
    static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("CARRICK_MUTANT").ok()?;
        ALL.iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    })
}

pub fn sync_data(file: &dyn File) -> io::Result<()> {
    if active(Mutant::NoSync) {
        return Ok(());
    }
    if active(Mutant::RetryFsync) {
        return file.sync_data().or_else(|_| file.sync_data());
    }
    file.sync_data()
}

pub fn sync_dir(storage: &dyn Storage, dir: &str) -> io::Result<()> {
    if active(Mutant::SkipDirsync) {
        return Ok(());
    }
    storage.sync_dir(dir)
}
