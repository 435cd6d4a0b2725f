//! Deliberate faults of the core. In a build with debug assertions `CARRICK_MUTANT` names one of them for the process, and the simulation in
//! tests/it or the fault rig (tests/durability) must notice. A simulation on one thread chooses one for that thread ([`choose`]), in every
//! build.

use std::cell::Cell;

use journal::{Filled, Slot};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A publish takes its place in the log only after queues have handed it out, so that its settlement may stand before it.
    SettleBeforePublish,
    /// What expires goes by the wall clock, which an operator or a time server may step.
    ExpireOnStep,
    /// A checkpoint that writes a page anew leaves out what of it is not in memory.
    ForgetFront,
    /// A standby leaves a settlement out that its log has.
    SkipSettlement,
    /// What a transaction settles is logged behind it, in slots of its own. For the fault rig.
    TornCommit,
    /// A dead letter that goes to several queues is logged there first, and leaves its own queue by a later slot. For the fault rig.
    CopyDeadLetter,
}

/// By the names that `CARRICK_MUTANT` knows.
pub const ALL: [(&str, Mutant); 6] = [
    ("settle_before_publish", Mutant::SettleBeforePublish),
    ("expire_on_step", Mutant::ExpireOnStep),
    ("forget_front", Mutant::ForgetFront),
    ("skip_settlement", Mutant::SkipSettlement),
    ("torn_commit", Mutant::TornCommit),
    ("copy_dead_letter", Mutant::CopyDeadLetter),
];

thread_local! {
    static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// From now on, on this thread. A broker in earnest runs on none that ever chose.
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

pub(crate) fn active(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant) || (cfg!(debug_assertions) && of_process() == Some(mutant))
}

/// Fills a slot so late that a crash may well come before it.
pub(crate) fn fill_late(slot: Slot, filled: Filled) {
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(10));
        slot.fill(filled);
    });
}

/// One for the whole process: a test that tries a mutant starts itself again with the environment's choice.
fn of_process() -> Option<Mutant> {
    static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("CARRICK_MUTANT").ok()?;
        ALL.iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    })
}
