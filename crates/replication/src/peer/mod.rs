//! The link between a standby and its primary. The standby dials, says where its log ends, and is told what to do: go on from there, cut off what
//! the primary never had, begin at the beginning, or take a copy of the store first. Then the log flows one way and acks the other.

mod ghost;
mod pace;
mod receive;
mod send;
mod wire;

pub use ghost::old_primary;
pub use receive::{Followed, Following, Standby};
pub use send::{Peer, Peers, Terms};
pub use wire::{fuzz, Hello, NO};
