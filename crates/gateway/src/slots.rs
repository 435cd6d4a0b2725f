//! How many connections there are, and may be.

use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Counters of the gateway since it started.
#[derive(Default, Debug)]
pub struct Stats {
    pub connections_total: AtomicU64,
    pub connections_highest: AtomicUsize,
    /// Closed at once because of `max_connections`.
    pub connections_refused: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub accept_pauses: AtomicU64,
}

/// The pool of connections, shared by listeners and connections.
#[derive(Debug)]
pub struct Slots {
    live: AtomicUsize,
    max: usize,
    closed: Notify,
    /// What WebSocket says at its end, once the process is going down.
    ending: Arc<AtomicU16>,
    pub stats: Stats,
}

impl Slots {
    /// `max` = 0: no limit.
    pub fn new(max: usize) -> Arc<Slots> {
        Arc::new(Slots { live: AtomicUsize::new(0), max, closed: Notify::new(), ending: Arc::default(), stats: Stats::default() })
    }

    /// A place for one more connection, unless the pool is full.
    pub fn take(self: &Arc<Slots>) -> Option<Slot> {
        let live = self.live.fetch_add(1, SeqCst) + 1;
        let mut slot = Slot { slots: self.clone(), number: 0 };
        if self.max != 0 && live > self.max {
            self.stats.connections_refused.fetch_add(1, Relaxed);
            return None;
        }
        slot.number = self.stats.connections_total.fetch_add(1, Relaxed) + 1;
        self.stats.connections_highest.fetch_max(live, Relaxed);
        Some(slot)
    }

    pub(crate) fn ending(&self) -> &Arc<AtomicU16> {
        &self.ending
    }

    pub fn live(&self) -> usize {
        self.live.load(SeqCst)
    }

    pub fn max(&self) -> usize {
        self.max
    }

    /// Until a connection is closed, or `limit` has passed.
    pub(crate) async fn one_closed(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.closed.notified()).await;
    }

    /// Until no connection is left, or `limit` has passed; how many are left.
    pub(crate) async fn all_closed(&self, limit: Duration) -> usize {
        let empty = async {
            loop {
                let notified = self.closed.notified();
                tokio::pin!(notified);
                // Registered before the count is read, so that the last close cannot slip between.
                notified.as_mut().enable();
                if self.live() == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(limit, empty).await;
        self.live()
    }
}

/// One connection's place; given back on drop.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
}

impl Slot {
    pub(crate) fn stats(&self) -> &Stats {
        &self.slots.stats
    }

    /// Counts the connections of this process, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.live.fetch_sub(1, SeqCst);
        self.slots.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pool_has_a_bound_and_places_come_back() {
        let slots = Slots::new(2);
        let first = slots.take().expect("room for one");
        let second = slots.take().expect("room for two");
        assert!(slots.take().is_none());
        assert_eq!(slots.live(), 2, "a refused one holds no place");
        assert_eq!(slots.stats.connections_refused.load(Relaxed), 1);
        drop(first);
        assert_eq!(slots.all_closed(Duration::from_secs(1)).await, 1);
        drop(second);
        assert_eq!(slots.all_closed(Duration::from_secs(1)).await, 0);
        assert_eq!(slots.stats.connections_highest.load(Relaxed), 2);
    }
}
