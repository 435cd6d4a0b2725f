//! One persistent tree behind an atomic pointer: readers load it, writers replace it one at a time.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;

pub(super) struct Published<T> {
    current: ArcSwapOption<T>,
    /// Guards the read-change-publish of `current`, nothing else.
    writer: Mutex<()>,
}

impl<T> Default for Published<T> {
    fn default() -> Self {
        Published { current: ArcSwapOption::const_empty(), writer: Mutex::new(()) }
    }
}

impl<T> Published<T> {
    /// The tree as of now; `None` while it is empty.
    pub(super) fn load(&self) -> Guard<Option<Arc<T>>> {
        self.current.load()
    }

    /// `change` gets the tree and answers what takes its place (`None`: nothing is left), or `Err` to leave it as it is.
    pub(super) fn change<R>(&self, change: impl FnOnce(Option<&T>) -> Result<(Option<T>, R), R>) -> R {
        let _writer = self.writer.lock();
        let before = self.current.load();
        match change(before.as_deref()) {
            Ok((after, answer)) => {
                // The guard is given up first, or swapping would have to pay this thread's debt on it.
                drop(before);
                self.current.store(after.map(Arc::new));
                answer
            }
            Err(answer) => answer,
        }
    }
}

/// A fixed, power-of-two number of trees, chosen by the top bits of a hash (the trees themselves start at the low ones).
pub(super) struct Shards<T>(Box<[Published<T>]>);

const SHARD_BITS: u32 = 6;

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Shards((0..1 << SHARD_BITS).map(|_| Published::default()).collect())
    }
}

impl<T> Shards<T> {
    pub(super) fn of(&self, hash: u64) -> &Published<T> {
        &self.0[(hash >> (u64::BITS - SHARD_BITS)) as usize]
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Published<T>> {
        self.0.iter()
    }
}
