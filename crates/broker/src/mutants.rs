//! Deliberate faults of the core (LOG §8). In a build with `--cfg mutants`, `CARRICK_MUTANT` names one of them, and the tests must notice.
//! In every other build nothing here is ever active.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A publish takes its place in the log only after queues have handed it out, so that its settlement may stand before it.
    SettleBeforePublish,
    /// What expires goes by the wall clock, which an operator or a time server may step.
    ExpireOnStep,
}

/// The core's own, by the names of LOG §8.
pub const ALL: [(&str, Mutant); 2] = [("settle_before_publish", Mutant::SettleBeforePublish), ("expire_on_step", Mutant::ExpireOnStep)];

#[cfg(not(mutants))]
pub(crate) fn active(_: Mutant) -> bool {
    false
}

#[cfg(mutants)]
pub(crate) fn active(mutant: Mutant) -> bool {
    let number = chosen().load(std::sync::atomic::Ordering::Relaxed);
    number.checked_sub(1).and_then(|at| ALL.get(at)).is_some_and(|(_, active)| *active == mutant)
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
