//! Deliberate faults (LOG §8). In a build with `--cfg mutants`, `CARRICK_MUTANT` names one of them, and the rigs must notice. In every
//! other build these are the plain calls.

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

/// The journal's own, by the names of LOG §8.
pub const ALL: [(&str, Mutant); 7] = [
    ("no_sync", Mutant::NoSync),
    ("confirm_before_sync", Mutant::ConfirmBeforeSync),
    ("liveness_from_memory", Mutant::LivenessFromMemory),
    ("ckpt_before_commit", Mutant::CkptBeforeCommit),
    ("trust_recovered_tail", Mutant::TrustRecoveredTail),
    ("retry_fsync", Mutant::RetryFsync),
    ("skip_dirsync", Mutant::SkipDirsync),
];

#[cfg(not(mutants))]
pub fn active(_: Mutant) -> bool {
    false
}

#[cfg(mutants)]
pub fn active(mutant: Mutant) -> bool {
    use std::sync::atomic::Ordering;
    let chosen = match chosen().load(Ordering::Relaxed) {
        0 => return false,
        number => ALL.get(number - 1),
    };
    chosen.is_some_and(|(_, active)| *active == mutant)
}

#[cfg(mutants)]
fn chosen() -> &'static std::sync::atomic::AtomicUsize {
    static CHOSEN: std::sync::OnceLock<std::sync::atomic::AtomicUsize> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("CARRICK_MUTANT").unwrap_or_default();
        std::sync::atomic::AtomicUsize::new(ALL.iter().position(|(known, _)| *known == name).map_or(0, |at| at + 1))
    })
}

/// Lets a test choose, instead of the environment.
#[cfg(mutants)]
pub fn choose(mutant: Option<Mutant>) {
    let number = mutant.and_then(|mutant| ALL.iter().position(|(_, known)| *known == mutant)).map_or(0, |at| at + 1);
    chosen().store(number, std::sync::atomic::Ordering::Relaxed);
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
