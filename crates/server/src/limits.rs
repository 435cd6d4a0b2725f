//! The number of descriptors that this process may have.

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use tracing::{debug, warn};

/// Raises the soft limit to the hard one: every connection is a descriptor, and the usual 1024 is meant for `select`.
pub fn raise_descriptors() {
    let old = getrlimit(Resource::Nofile);
    let new = Rlimit { current: old.maximum, maximum: old.maximum };
    match setrlimit(Resource::Nofile, new) {
        Ok(()) => debug!(from = old.current, to = old.maximum, "descriptor limit"),
        Err(error) => warn!(%error, limit = old.current, "the descriptor limit could not be raised"),
    }
}
