//! Two data nodes and their coordinator in one process, with the same code as on real machines, on a simulated clock, network and disk. Everything
//! that goes wrong is drawn from a seed; while it does, clients publish and consume, and what the pair promises is checked.
//!
//! * [`run`]: one run of a [`Scenario`] from a seed. What `carrick ha drill` does, and the tests do by the thousand.
//! * `world`: time, and which task goes on when. `network`, `machine`, `node`: what a node stands on, and the node.
//! * `client`, `history`: what clients do and were told, and the promises. `faults`: what goes wrong.

mod breaks;
mod client;
mod door;
mod drill;
mod fates;
mod faults;
mod history;
mod line;
mod machine;
mod mqtt_client;
mod network;
mod node;
mod promises;
mod session;
mod shares;
mod tally;
mod trace;
mod transactions;
mod world;

pub use breaks::{Break, BREAKS};
pub use drill::{run, Plan, Report};
pub use faults::Scenario;
pub use history::Broken;
pub use shares::Shares;
pub use tally::{Counts, Errors, Tally};
