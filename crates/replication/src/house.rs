//! What a node needs of the store and of the broker above it. The broker's standby and its core implement this; so do simulations.

use std::sync::Arc;

use journal::storage::Storage;
use journal::{Journal, Lsn, Progress, Receiver};

/// A state machine that follows the log.
pub trait Follows: Send + 'static {
    /// Redoes what is committed and synced here; answers up to where it is done.
    fn redo_up_to(&mut self, commit: Lsn) -> Result<Lsn, String>;
    /// How it compares with what the primary said of itself.
    fn compared(&self) -> Compared {
        Compared::default()
    }
    /// One round of checkpoints and clearing away; whether there was something to do.
    fn maintain(&mut self) -> bool;
}

/// What a standby has made of the primary's digests.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    pub digests: u64,
    /// The first one that differed, in words.
    pub differs: Option<String>,
}

/// Why a store could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unopened {
    pub why: String,
    /// What had been synced is damaged: nothing but another node's copy helps.
    pub damaged: bool,
}

/// Opens the store and begins reigns. Its calls block; a node makes them where it may.
pub trait House: Send + Sync + 'static {
    type Follows: Follows;

    /// Recovers what is on the disk.
    fn open(&self) -> Result<(Self::Follows, Receiver), Unopened>;

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
