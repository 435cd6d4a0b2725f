//! What the voters agree on: one register, and the last thing that each node asked.

use std::collections::BTreeMap;

use openraft::{BasicNode, LogId, StoredMembership};
use serde::{Deserialize, Serialize};

use crate::coordinator::{NodeName, Refused, Register, Version};

openraft::declare_raft_types!(
    /// A voter's id is made anew with its directory; its node's `addr` is its name.
    pub Types:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = State,
);

pub type Raft = openraft::Raft<Types>;
pub type Entry = openraft::Entry<Types>;

/// Which life of a node, and which of its commands. A node's commands are done in this order or not at all, and none twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Serial {
    pub life: u64,
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub from: NodeName,
    pub serial: Serial,
    pub wish: Wish,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    Cas {
        expect: Option<Version>,
        new: Register,
    },
    /// Nothing that the node asked for earlier happens from now on.
    Fence,
}

/// Also what is answered to raft's own entries, which ask nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Won(Version),
    Lost(Option<(Version, Register)>),
    Refused(Refused),
    Fenced(Option<(Version, Register)>),
    /// A later command of the same node is done already.
    #[default]
    Late,
}

/// The state machine, and its own snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub applied: Option<LogId<u64>>,
    pub membership: StoredMembership<u64, BasicNode>,
    pub stored: Option<(Version, Register)>,
    /// The last command of each node, so that one that is sent again is answered again.
    sessions: BTreeMap<NodeName, (Serial, Answer)>,
}

/// Names that are remembered; a cluster has three, and some more when it has been renamed.
const SESSIONS_MAX: usize = 16;

impl State {
    pub fn apply(&mut self, command: &Command) -> Answer {
        match self.sessions.get(&command.from) {
            Some((serial, _)) if *serial > command.serial => return Answer::Late,
            Some((serial, answer)) if *serial == command.serial => return answer.clone(),
            None if self.sessions.len() >= SESSIONS_MAX => self.forget_one(),
            _ => {}
        }
        let answer = match &command.wish {
            Wish::Fence => Answer::Fenced(self.stored.clone()),
            Wish::Cas { expect, new } => self.cas(*expect, new),
        };
        self.sessions.insert(command.from.clone(), (command.serial, answer.clone()));
        answer
    }

    /// The latest command of a node that is done.
    pub fn latest_of(&self, node: &NodeName) -> Option<Serial> {
        self.sessions.get(node).map(|(serial, _)| *serial)
    }

    fn cas(&mut self, expect: Option<Version>, new: &Register) -> Answer {
        let current = self.stored.as_ref().map(|(version, _)| *version);
        if current != expect {
            return Answer::Lost(self.stored.clone());
        }
        if let Err(refused) = Register::may_follow(self.stored.as_ref().map(|(_, register)| register), new) {
            return Answer::Refused(refused);
        }
        let version = Version(current.map_or(1, |version| version.0 + 1));
        self.stored = Some((version, new.clone()));
        Answer::Won(version)
    }

    /// Somebody who is no member any more; every voter chooses the same.
    fn forget_one(&mut self) {
        let member = |name: &NodeName| self.stored.as_ref().is_some_and(|(_, register)| register.members.contains_key(name));
        let gone = self.sessions.keys().find(|name| !member(name)).or(self.sessions.keys().next()).cloned();
        gone.map(|name| self.sessions.remove(&name));
    }
}
