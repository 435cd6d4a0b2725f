//! The embedded coordinator: three voters, of which two are the data nodes themselves and one, the witness, keeps no data.
//!
//! ```text
//!        A ─────── B          each dials each: calls go over the dialler's link
//!         \       /
//!          \     /            raft (openraft) keeps the register, in `raft.log` of each voter's directory
//!             W               promises (`promise`) are the lease: memory only, a restarted voter waits one lease
//! ```
//!
//! The register and the lease are two things here. *Raft* decides what stands in the register; who leads it matters to nobody, and any voter may,
//! the witness last. The *lease* is a promise of a majority of voters to help no other node for so long, asked for by the primary itself at each
//! heartbeat that its disk has earned. Raft's own leader lease would be renewed by a thread that goes on while the disk hangs, and every term that somebody
//! spends would cost the primary its role.
//!
//! * [`Voter`]: one of the three, and the [`Coordinator`](super::Coordinator) of the node it runs in.
//! * `types`, `log`, `store`: the register as a state machine, and its files.
//! * `identity`: whose directory this is. One that is empty, a copy, or older than others remember is no voter until it is replaced.
//! * `peer`, `message`, `network`, `serve`: calls between voters.
//! * `elect`: when somebody stands for leader. `form`: how a cluster begins, and how a voter is replaced.

mod client;
mod elect;
mod form;
mod identity;
mod log;
mod message;
mod network;
mod peer;
mod promise;
mod serve;
mod store;
mod types;
mod voter;

#[cfg(test)]
mod tests;

pub use store::Fatal;
pub use voter::{Settings, Voter, VoterPeer};
