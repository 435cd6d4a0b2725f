//! Who is primary: a register that several nodes read and write, and a lease on being the one.
//!
//! Two nodes never elect alone. What decides stands behind [`Coordinator`]: a third voter, etcd, a file on one host, or a person. All of them keep
//! the rules of [`Register::may_follow`] themselves, where the register is stored, so that no node can write what would lose confirmed messages,
//! however wrong it is about the world.
//!
//! Safety of confirmed messages rests on the register and its epochs, never on clocks. The lease keeps apart what no log fences: the same
//! message handed to consumers on two nodes.

mod etcd;
mod file;
mod hex;
mod kept;
mod manual;
mod memory;
mod raft;
mod register;

#[cfg(test)]
mod contract;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use etcd::{Etcd, EtcdSettings, EtcdTls, EtcdUser};
pub use file::Folder;
pub use manual::Manual;
pub use memory::{Call, Fault, Memory, MemoryCluster};
pub use raft::{Fatal, Settings, Voter, VoterPeer};
pub use register::{BadName, Member, NodeName, Refused, Register, TooLarge};

/// What a call of a [`Coordinator`] returns. Boxed, so that the kinds of coordinator are one type to their users; no such call is hot.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which write of the register this was. Versions rise, and mean nothing else: with etcd they are its revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// The answer to a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cas {
    /// The register is now what was asked for, in this version.
    Won(Version),
    /// It was not in the expected version. This is what stood there instead; `None`: nothing has been written yet. Where something on the way did
    /// twice what was asked once, it can be what was asked for.
    Lost(Option<(Version, Register)>),
    /// It was in the expected version, and what was asked for may not follow it. Nothing has changed.
    Refused(Refused),
    /// It happened, or will happen, or never will. Whoever gets this promises nothing until a [`Read::Known`] tells: from that on the call does
    /// nothing any more if it has not done so by then.
    Unknown,
}

/// The answer to a linearizable read: at least as new as every write that was answered before the read began, and as every answer of an earlier read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    Known(Option<(Version, Register)>),
    Unknown,
}

/// The answer to the wish to be, or remain, the node that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Until then no other node is granted anything. Counted from before the question was sent.
    Granted {
        until: Instant,
    },
    /// Another node has it, or the register does not say that this node is primary in this epoch.
    Refused,
    Unknown,
}

/// The register and the lease of one shard, as one node sees them.
pub trait Coordinator: Send + Sync {
    fn read(&self) -> BoxFuture<'_, Read>;

    /// Writes `new` if the register is still in version `expect` (`None`: was never written), and if `new` may follow it ([`Register::may_follow`]).
    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas>;

    /// The primary's lease, for the epoch in which the register names it. To be called at each heartbeat that the disk has earned.
    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease>;

    /// Resolves when no grant of another node can be in force any more, and keeps the lease free for this node from then on, for as long as a grant
    /// lasts. A standby waits for this, then writes the register, then renews. It may lead to an election, so it is called when the primary is gone
    /// from sight, or at the start; dropping the future ends that.
    fn vacant(&self) -> BoxFuture<'_, ()>;

    /// Gives up a grant of ours at once, so that [`vacant`](Self::vacant) of others resolves without waiting (planned handover, clean stop).
    fn release(&self) -> BoxFuture<'_, ()>;

    /// How long a grant lasts at most.
    fn lease(&self) -> Duration;

    /// For `ha status`: who can be reached, who leads, who votes.
    fn describe(&self) -> String;

    /// Where a person decides, each node has a register of its own, and what the other one writes has to be told to it.
    fn by_hand(&self) -> Option<&Manual> {
        None
    }
}

/// What a node makes of a lease: a fifth less than those who granted it, for clocks that do not run alike.
fn grant(lease: Duration) -> Duration {
    lease.mul_f64(0.8)
}
