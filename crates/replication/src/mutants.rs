//! Deliberate faults of the pair. `carrick ha drill --break NAME` and the simulation's own tests choose one, and the simulation must notice it.
//! Chosen for a thread, so only for a simulation: that runs on one thread, and a node on a real machine on none that ever chose.

use std::cell::Cell;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A primary renews its lease although its disk syncs nothing.
    UnearnedKeepalive,
    /// Confirms wait for a new member of the in-sync set only from when the register has it.
    GrowLate,
    /// A register in memory takes a write that is based on another version, if the epoch is the same.
    CasByEpoch,
    /// A standby that is gone is done without before the register says so.
    ShrinkEarly,
    /// A standby acks what it has not synced.
    AckBeforeSync,
    /// A node takes over without waiting for the lease.
    IgnoreLease,
    /// A primary that cannot renew its lease goes on.
    OutliveLease,
    /// A standby takes what a primary of an earlier epoch sends.
    DropEpochCheck,
    /// A standby of which confirms waited for the memory only takes over although it was restarted.
    EligibleByStore,
}

/// By the names that people give them.
pub const ALL: [(&str, Mutant); 9] = [
    ("unearned_keepalive", Mutant::UnearnedKeepalive),
    ("grow_late", Mutant::GrowLate),
    ("cas_by_epoch", Mutant::CasByEpoch),
    ("shrink_early", Mutant::ShrinkEarly),
    ("ack_before_sync", Mutant::AckBeforeSync),
    ("ignore_lease", Mutant::IgnoreLease),
    ("outlive_lease", Mutant::OutliveLease),
    ("drop_epoch_check", Mutant::DropEpochCheck),
    ("eligible_by_store", Mutant::EligibleByStore),
];

thread_local! {
    static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// From now on, on this thread.
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

pub(crate) fn active(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant)
}
