//! Two machines that are one broker: which of them is primary, and how the other one follows.
//!
//! * [`coordinator`]: the register that says who is primary, and who may write it. A witness, etcd, a file, or a person behind it.
//! * [`run`]: what a data node does, as a standby and as primary, over the link between the two.
//! * [`net`]: frames over an authenticated connection, under the coordinator's calls and under the link between the two.
//!
//! Nothing here knows a message, a queue or a protocol: the log's batches are bytes that the journal understands.

mod by_hand;
pub mod coordinator;
mod disk;
mod handover;
mod house;
mod lease;
mod machine;
pub mod mutants;
pub mod net;
mod node;
mod peer;
mod reign;
mod replace;
mod status;

pub use house::{Begin, Compared, Follows, House, Unopened};
pub use machine::{Host, Late, Machine, Task};
pub use node::{run, End, Settings, StandbyAck};
pub use peer::{fuzz as peer_fuzz, old_primary};
pub use status::{Role, Snapshot, Status};
