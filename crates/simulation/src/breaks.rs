//! Deliberate faults of the code under test, over all the crates that have some: each must be noticed.

use crate::faults::Scenario;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    Pair(replication::mutants::Mutant),
    Journal(journal::mutants::Mutant),
    Core(broker::mutants::Mutant),
    /// The identifier of a delivery at QoS 2 is recorded after it has left.
    Qos2Early,
}

use broker::mutants::Mutant as Core;
use journal::mutants::Mutant as Log;
use replication::mutants::Mutant as Pair;

/// By the names that people give them, with the scenario in which one sees it soonest.
pub const BREAKS: [(&str, Break, Scenario); 21] = [
    ("no_sync", Break::Journal(Log::NoSync), Scenario::Kill),
    ("confirm_before_sync", Break::Journal(Log::ConfirmBeforeSync), Scenario::Kill),
    ("liveness_from_memory", Break::Journal(Log::LivenessFromMemory), Scenario::Kill),
    ("ckpt_before_commit", Break::Journal(Log::CkptBeforeCommit), Scenario::Kill),
    ("settle_before_publish", Break::Core(Core::SettleBeforePublish), Scenario::Kill),
    ("expire_on_step", Break::Core(Core::ExpireOnStep), Scenario::ClockJump),
    ("trust_recovered_tail", Break::Journal(Log::TrustRecoveredTail), Scenario::Kill),
    ("retry_fsync", Break::Journal(Log::RetryFsync), Scenario::Kill),
    ("skip_dirsync", Break::Journal(Log::SkipDirsync), Scenario::Kill),
    ("drop_epoch_check", Break::Pair(Pair::DropEpochCheck), Scenario::Chaos),
    ("unearned_keepalive", Break::Pair(Pair::UnearnedKeepalive), Scenario::DiskStall),
    ("grow_late", Break::Pair(Pair::GrowLate), Scenario::Chaos),
    ("cas_by_epoch", Break::Pair(Pair::CasByEpoch), Scenario::Chaos),
    ("qos2_early", Break::Qos2Early, Scenario::Kill),
    ("shrink_early", Break::Pair(Pair::ShrinkEarly), Scenario::Kill),
    ("ack_before_sync", Break::Pair(Pair::AckBeforeSync), Scenario::Kill),
    ("ignore_lease", Break::Pair(Pair::IgnoreLease), Scenario::Partition),
    ("eligible_by_store", Break::Pair(Pair::EligibleByStore), Scenario::Kill),
    ("outlive_lease", Break::Pair(Pair::OutliveLease), Scenario::Partition),
    ("skip_settlement", Break::Core(Core::SkipSettlement), Scenario::Partition),
    ("forget_front", Break::Core(Core::ForgetFront), Scenario::Kill),
];

/// From now on, on this thread: one of them, or none.
pub fn choose(chosen: Option<Break>) {
    let (mut pair, mut log, mut core) = (None, None, None);
    match chosen {
        Some(Break::Pair(mutant)) => pair = Some(mutant),
        Some(Break::Journal(mutant)) => log = Some(mutant),
        Some(Break::Core(mutant)) => core = Some(mutant),
        Some(Break::Qos2Early) | None => {}
    }
    replication::mutants::choose(pair);
    journal::mutants::choose(log);
    broker::mutants::choose(core);
    mqtt::mutants::choose_qos2_early(chosen == Some(Break::Qos2Early));
}
