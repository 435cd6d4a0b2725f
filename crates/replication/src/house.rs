//! What a node needs of the store and of the broker above it. The broker's standby and its core implement this; so do simulations.

use std::sync::Arc;

use journal::storage::Storage;
use journal::{Journal, Lsn, Progress, Receiver};

/// A state machine that follows the log.
pub trait Follows: Send + 'static {
    /// Redoes what is committed and synced here; answers up to where it is done.
    fn redo_up_to(&mut self, commit: Lsn) -> Result<Lsn, String>;
    /// One round of checkpoints and clearing away; whether there was something to do.
    fn maintain(&mut self) -> bool;
}

/// Opens the store and begins reigns. Its calls block; a node makes them where it may.
pub trait House: Send + Sync + 'static {
    type Follows: Follows;

    /// Recovers what is on the disk.
    fn open(&self) -> Result<(Self::Follows, Receiver), String>;

    /// Begins to serve, and answers with the log. What stands in it above `permitted` is committed when the journal is told so.
    fn lead(&self, follows: Self::Follows, receiver: Receiver, begin: Begin) -> Result<Arc<Journal>, String>;

    fn storage(&self) -> Arc<dyn Storage>;
    fn journal_config(&self) -> journal::Config;
}

/// How a reign begins.
pub struct Begin {
    pub epoch: u64,
    pub permitted: Lsn,
    pub progress: Arc<dyn Progress>,
}
