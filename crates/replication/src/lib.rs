//! Two machines that are one broker: which of them is primary, and how the other one follows.
//!
//! * [`coordinator`]: the register that says who is primary, and who may write it. A witness, etcd, a file, or a person behind it.
//! * [`net`]: frames over an authenticated connection, under the coordinator's calls and under the link between the two.
//!
//! Nothing here knows a message, a queue or a protocol: the log's batches are bytes that the journal understands.

pub mod coordinator;
pub mod net;
