//! What the process has of descriptors and memory, set once at start.

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

/// The HTTP door's, which is one of those that live on what the gateway leaves.
pub fn of_http() -> admin::Limits {
    let few = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize / 16);
    let usual = admin::Limits::default();
    admin::Limits { connections: usual.connections.min(few.max(1)), ..usual }
}

/// glibc gives memory at the end of its heap back to the kernel with every free of a large block, and takes it again for the next: at full
/// speed that was 40 % of our CPU. It stops for blocks up to the size of the largest one that it has seen mapped and freed (mallopt(3),
/// "dynamic mmap threshold"), so it is shown one. At most twice that much stays unused at the end of a heap.
pub fn keep_freed_blocks() {
    const LARGEST: usize = 4 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGEST)));
}
