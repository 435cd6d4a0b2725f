//! A core that does not serve yet.

use crate::core::{Config, Core, Job};
use crate::open::{CoreError, OnFailure, Plan, Steps};
use crate::store::{Compared, Warm};
use journal::{Journal, Lsn, Progress, Receiver};
use std::sync::mpsc;
use std::sync::Arc;

/// It follows the log of another node's, record by record, and can take over at any moment.
pub struct Standby {
    plan: Plan,
    warm: Arc<Warm>,
    replayer: journal::Replayer,
}

impl Standby {
    /// Recovers the store. What comes from the other node goes into the [`Receiver`].
    pub fn open(
        storage: Arc<dyn journal::storage::Storage>,
        journal_config: journal::Config,
        config: Config,
    ) -> Result<(Standby, Receiver), CoreError> {
        let plan = Plan::new(storage, journal_config, config)?;
        let mut recovery = plan.recovery();
        let follower = journal::Follower::open(plan.storage.clone(), plan.journal.clone(), &mut recovery)?;
        let warm = Arc::new(Warm::new(recovery, plan.config.index_bytes));
        let mut replayer = follower.replayer;
        replayer.set_snapshot(warm.clone());
        Ok((Standby { plan, warm, replayer }, follower.receiver))
    }

    /// Redoes what is committed: everything that came so far and lies below this position. Answers up to where it is done.
    pub fn redo_up_to(&mut self, commit: Lsn) -> Result<Lsn, CoreError> {
        Ok(self.replayer.redo_up_to(commit, &mut self.warm.redo())?)
    }

    /// Batches that wait to be redone.
    pub fn behind(&self) -> usize {
        self.replayer.behind()
    }

    /// One round of checkpoint, evacuation and removal of files; whether there was something to do.
    pub fn maintain(&mut self) -> bool {
        self.replayer.maintain()
    }

    /// How often the primary's digests were compared with what stands here, and what differed first.
    pub fn compared(&self) -> Compared {
        self.warm.compared()
    }

    /// Queues and the messages in them.
    pub fn counts(&self) -> (usize, u64) {
        self.warm.counts()
    }

    /// Takes over: redoes what is left and serves.
    pub fn promote(self, promotion: Promotion, on_failure: OnFailure) -> Result<Core, CoreError> {
        let (core, to_load) = self.assemble(promotion, on_failure)?;
        core.serve(to_load)
    }

    /// The same without threads, as [`Core::open_stepped`].
    pub fn promote_stepped(self, promotion: Promotion, on_failure: OnFailure) -> Result<(Core, Steps), CoreError> {
        let (core, to_load) = self.assemble(promotion, on_failure)?;
        Ok(core.serve_stepped(to_load))
    }

    fn assemble(self, promotion: Promotion, on_failure: OnFailure) -> Result<(Core, mpsc::Receiver<Job>), CoreError> {
        let Standby { plan, warm, replayer } = self;
        let Promotion { receiver, epoch, permitted, progress } = promotion;
        let follower = journal::Follower { receiver, replayer };
        let journal: Journal = follower.lead(epoch, permitted, &mut warm.redo())?;
        let paired = progress.is_some();
        if let Some(progress) = progress {
            journal.set_progress(progress);
        }
        // The journal's maintenance has let go of it.
        let Ok(warm) = Arc::try_unwrap(warm) else { return Err(CoreError::Busy) };
        let (core, to_load) = Core::assemble(plan, journal, warm.into_recovery(), on_failure);
        if paired {
            core.0.digests.switch_on();
        }
        Ok((core, to_load))
    }
}

/// What a standby takes over with.
pub struct Promotion {
    /// The other half of this node's store.
    pub receiver: Receiver,
    pub epoch: u64,
    /// What stands in the log above it is committed when others have it ([`Journal::permit`]).
    pub permitted: Lsn,
    /// Told of what is written and committed.
    pub progress: Option<Arc<dyn Progress>>,
}
