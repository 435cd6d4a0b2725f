//! What happens to a pair.

pub mod clients;
pub mod disk;
pub mod drain;
pub mod etcd;
pub mod freeze;
pub mod kill;
pub mod partition;
pub mod restarts;
pub mod survive;
pub mod switchover;
pub mod upgrade;
