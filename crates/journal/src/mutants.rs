//! Deliberate faults. In a build with debug assertions `CARRICK_MUTANT` names one of them for the process, and the rigs must notice: the
//! simulation in tests/it, and tests/durability with the real binary. A simulation on one thread chooses one for that thread ([`choose`]), in
//! every build. Otherwise these are the plain calls.

use std::cell::Cell;
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

thread_local! {
    static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// From now on, on this thread. A broker in earnest runs on none that ever chose.
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

pub fn active(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant) || (cfg!(debug_assertions) && of_process() == Some(mutant))
}

/// One for the whole process: a test that tries a mutant starts itself again with the environment's choice.
fn of_process() -> Option<Mutant> {
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
