//! What a node says of itself to people: read by `ha status`, written by the node.

use std::sync::{Mutex, PoisonError};

use journal::Lsn;

use crate::coordinator::{NodeName, Register, Version};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    #[default]
    Joining,
    Following,
    Promoting,
    Primary,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Joining => "joining",
            Role::Following => "standby",
            Role::Promoting => "promoting",
            Role::Primary => "primary",
        }
    }
}

/// A copy of what is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub role: Role,
    pub register: Option<(Version, Register)>,
    /// Of this node's log: synced and redone as a standby, written and committed as primary.
    pub log: (Lsn, Lsn),
    /// Synced and redone, of each that follows.
    pub standbys: Vec<(NodeName, Lsn, Lsn)>,
    /// What it waits for, or last complained of.
    pub says: String,
    /// The store is open, and nothing ever was in it.
    pub empty: bool,
}

#[derive(Default)]
pub struct Status(Mutex<Snapshot>);

impl Status {
    fn with(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn get(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.with(|now| now.role = role);
    }

    pub(crate) fn opened(&self, empty: bool) {
        self.with(|now| now.empty = empty);
    }

    pub(crate) fn store_is_empty(&self) -> bool {
        self.get().empty
    }

    pub(crate) fn say(&self, what: &str) {
        self.with(|now| what.clone_into(&mut now.says));
    }

    pub(crate) fn set_register(&self, register: Option<&(Version, Register)>) {
        self.with(|now| now.register = register.cloned());
    }

    pub(crate) fn set_progress(&self, synced: Lsn, redone: Lsn) {
        self.with(|now| now.log = (synced, redone));
    }

    pub(crate) fn set_standbys(&self, committed: Lsn, written: Lsn, standbys: Vec<(NodeName, Lsn, Lsn)>) {
        self.with(|now| {
            now.log = (written, committed);
            now.standbys = standbys;
        });
    }
}
