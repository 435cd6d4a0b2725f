//! What a node says of itself to people: read by `ha status`, written by the node.

use std::sync::{Mutex, PoisonError};

use journal::Lsn;
use tokio::sync::{oneshot, Notify};

use crate::coordinator::{NodeName, Register, Version};
use crate::house::Compared;

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
    /// The primary's digests that were compared here as a standby, by stores that stood here since this process began.
    pub digests: u64,
    /// How many stores differed, and the last one's difference in words.
    pub differed: u64,
    pub differs: Option<String>,
}

/// Answers with who has the place now.
pub(crate) type Answer = oneshot::Sender<Result<NodeName, String>>;

/// The node as the process around it sees it: what it says, and the one thing that can be asked of it.
#[derive(Default)]
pub struct Status {
    now: Mutex<Snapshot>,
    asked: Notify,
    asks: Mutex<Option<Answer>>,
    /// As a standby: the store is to be replaced by a copy.
    copy: Notify,
    seen: Mutex<Compared>,
    /// As a standby: the primary is to be asked for its place.
    wish: Notify,
    /// As primary: the standby has asked.
    wanted: Notify,
}

impl Status {
    fn with(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn get(&self) -> Snapshot {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A primary gives its place to its standby, and answers with that one's name once the register says so. To be called when nobody is served
    /// any more: the core is closed and clients are gone. See `handover` for what follows.
    pub async fn hand_over(&self) -> Result<NodeName, String> {
        let (answer, answered) = oneshot::channel();
        *self.asks.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.asked.notify_one();
        answered.await.unwrap_or_else(|_| Err("the node has ended".into()))
    }

    /// A standby asks the primary to hand over; nothing happens if it does not follow one now. To be repeated.
    pub fn ask_for_place(&self) {
        self.wish.notify_waiters();
    }

    /// A standby takes a copy of the primary's store, as soon as it follows one.
    pub fn ask_for_copy(&self) {
        self.copy.notify_one();
    }

    pub(crate) async fn copy_is_wanted(&self) {
        self.copy.notified().await;
    }

    /// What the store that is open has compared. Answers with what differs, once.
    pub(crate) fn set_compared(&self, compared: &Compared) -> Option<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == *compared {
            return None;
        }
        // A store that was opened anew begins again.
        let digests = compared.digests.checked_sub(seen.digests).unwrap_or(compared.digests);
        let news = compared.differs.clone().filter(|_| seen.differs.is_none());
        *seen = compared.clone();
        self.with(|now| {
            now.digests += digests;
            if news.is_some() {
                now.differed += 1;
                now.differs.clone_from(&news);
            }
        });
        news
    }

    pub(crate) async fn place_is_wanted(&self) {
        self.wish.notified().await;
    }

    pub(crate) fn wanted(&self) {
        self.wanted.notify_waiters();
    }

    /// Of a primary: resolves when its standby has asked for its place. It is the process that begins, with its clients.
    pub async fn is_asked_for_place(&self) {
        self.wanted.notified().await;
    }

    /// Resolves when somebody has asked for that.
    pub(crate) async fn asked_to_hand_over(&self) -> Answer {
        loop {
            self.asked.notified().await;
            if let Some(answer) = self.asks.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return answer;
            }
        }
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.with(|now| {
            // What it waited for to get there is over.
            if std::mem::replace(&mut now.role, role) != role {
                now.says.clear();
            }
        });
    }

    pub(crate) fn opened(&self, empty: bool) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Compared::default();
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
