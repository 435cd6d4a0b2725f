//! Deliberate faults of the core. In a build with debug assertions `CARRICK_MUTANT` names one of them, and the simulation in tests/it must
//! notice. In every other build nothing here is ever active.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A publish takes its place in the log only after queues have handed it out, so that its settlement may stand before it.
    SettleBeforePublish,
    /// What expires goes by the wall clock, which an operator or a time server may step.
    ExpireOnStep,
    /// A checkpoint that writes a page anew leaves out what of it is not in memory.
    ForgetFront,
}

/// By the names that `CARRICK_MUTANT` knows.
pub const ALL: [(&str, Mutant); 3] = [
    ("settle_before_publish", Mutant::SettleBeforePublish),
    ("expire_on_step", Mutant::ExpireOnStep),
    ("forget_front", Mutant::ForgetFront),
];

/// Never in a release build: there this is a constant and costs nothing.
pub(crate) fn active(mutant: Mutant) -> bool {
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
