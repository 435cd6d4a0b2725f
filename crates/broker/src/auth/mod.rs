//! Who may come in, and what they may do.
//!
//! ```text
//! Config ──► Table (users, rules; swapped on reload) ──► Principal (name, tags, rules)
//!                ▲                                            ▲
//! LoginStep ──► Auth::login ──► cheap: answered at once ──────┤
//!                     └───────► slow hash: worker, bounded ───┘
//! ```
//!
//! What must hold:
//! - a refusal never says whether the name or the password was wrong, and takes as long for a name that does not exist as it would for
//!   some user who does;
//! - no connection's thread computes a slow hash, and all of them together use one core for it at most;
//! - what is remembered of credentials are digests under a key that lives as long as the process, and a reload forgets them;
//! - `$SYS` is written by nobody but the broker.

mod acl;
mod cache;
mod config;
mod filter;
mod hash;
mod keyed;
mod login;
mod permission;
mod principal;
mod scram;
mod table;
mod topic_permission;
mod worker;

pub use acl::{Access, Grant, Rule, Who};
pub use config::{Config, ConfigError, Credential, User};
pub use hash::{hash_password, scram_verifier};
pub use login::{Done, LoginOutcome, LoginState, MECHANISMS};
pub use permission::{Operation, Permission};
pub use principal::{Principal, ANONYMOUS};
pub use scram::Algorithm as ScramAlgorithm;
pub use topic_permission::TopicPermission;

use arc_swap::ArcSwap;
use cache::Failures;
use keyed::Key;
use std::sync::Arc;
use std::time::Instant;
use table::Table;
use worker::Worker;

/// One for all connections.
pub struct Auth {
    shared: Arc<Shared>,
    worker: Worker,
    /// Held while a reload makes a new table, so that each gets a generation of its own.
    reloading: parking_lot::Mutex<()>,
}

/// What the worker thread sees of it.
struct Shared {
    table: ArcSwap<Table>,
    /// For digests of passwords in memory.
    key: Key,
    failures: Failures,
}

impl Auth {
    pub fn new(config: &Config) -> Result<Auth, ConfigError> {
        Auth::with_queue(config, worker::QUEUE_MAX)
    }

    fn with_queue(config: &Config, queue_max: usize) -> Result<Auth, ConfigError> {
        let key = Key::random().map_err(|error| ConfigError::Random(error.to_string()))?;
        let table = ArcSwap::from_pointee(Table::new(config, 0, &key, None)?);
        let shared = Arc::new(Shared { table, key, failures: Failures::new(Instant::now()) });
        Ok(Auth { shared, worker: Worker::new(queue_max), reloading: parking_lot::Mutex::new(()) })
    }

    /// Whether a configuration could be loaded.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        Table::new(config, 0, &Key::from_digest([0; 32]), None).map(drop)
    }

    /// Takes effect for logins that end after it. Who is logged in keeps the old principal until `current` is asked.
    pub fn reload(&self, config: &Config) -> Result<(), ConfigError> {
        let _one_at_a_time = self.reloading.lock();
        let before = self.shared.table.load_full();
        let table = Table::new(config, before.generation + 1, &self.shared.key, Some(&before))?;
        self.shared.table.store(Arc::new(table));
        Ok(())
    }

    /// Grows by one with each reload.
    pub fn generation(&self) -> u64 {
        self.shared.table.load().generation
    }

    /// Somebody by name, `anonymous` included: for a will that is published when its connection is long gone.
    pub fn principal(&self, name: &str) -> Option<Arc<Principal>> {
        self.shared.table.load().principal(name).cloned()
    }

    /// The same principal under the rules as they are now; None if it does not exist any more.
    pub fn current(&self, principal: &Principal) -> Option<Arc<Principal>> {
        self.principal(principal.name())
    }
}

#[cfg(test)]
mod tests;
