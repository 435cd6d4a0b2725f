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
    /// Turned away because of `max_connections`.
    pub connections_refused: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub accept_pauses: AtomicU64,
}

/// So many of those who find the pool full may be told at a time; others are closed without a word.
const TOLD_MAX: usize = 64;

/// In a slot's number: its connection is told that the pool is full.
const OVER: u64 = 1 << 63;

/// The pool of connections, shared by listeners and connections.
#[derive(Debug)]
pub struct Slots {
    live: AtomicUsize,
    max: usize,
    /// Those who are being told that the pool is full. They are none of it.
    told: AtomicUsize,
    numbers: AtomicU64,
    closed: Notify,
    /// What WebSocket says at its end, once the process is going down.
    ending: Arc<AtomicU16>,
    pub stats: Stats,
}

impl Slots {
    /// `max` = 0: no limit.
    pub fn new(max: usize) -> Arc<Slots> {
        let (live, told, numbers) = Default::default();
        Arc::new(Slots { live, max, told, numbers, closed: Notify::new(), ending: Arc::default(), stats: Stats::default() })
    }

    /// A place for one more connection. Where the pool is full it is one for being told so, and `None` when enough are being told.
    pub fn take(self: &Arc<Slots>) -> Option<Slot> {
        let live = self.live.fetch_add(1, SeqCst) + 1;
        let mut slot = Slot { slots: self.clone(), number: 0 };
        if self.max != 0 && live > self.max {
            drop(slot);
            return self.turn_away();
        }
        slot.number = self.numbers.fetch_add(1, Relaxed) + 1;
        self.stats.connections_total.fetch_add(1, Relaxed);
        self.stats.connections_highest.fetch_max(live, Relaxed);
        Some(slot)
    }

    fn turn_away(self: &Arc<Slots>) -> Option<Slot> {
        self.stats.connections_refused.fetch_add(1, Relaxed);
        let told = self.told.fetch_add(1, SeqCst) + 1;
        let number = self.numbers.fetch_add(1, Relaxed) + 1;
        let slot = Slot { slots: self.clone(), number: number | OVER };
        (told <= TOLD_MAX).then_some(slot)
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
    /// With [`OVER`]: every byte of a connection counts.
    number: u64,
}

impl Slot {
    pub(crate) fn stats(&self) -> &Stats {
        &self.slots.stats
    }

    /// The pool was full: this one is only told so.
    pub(crate) fn is_over(&self) -> bool {
        self.number & OVER != 0
    }

    /// Counts the connections of this process, from 1.
    pub fn number(&self) -> u64 {
        self.number & !OVER
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let count = if self.is_over() { &self.slots.told } else { &self.slots.live };
        count.fetch_sub(1, SeqCst);
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
        let told: Vec<Slot> = (0..TOLD_MAX).map(|_| slots.take().expect("one that is told")).collect();
        assert!(told.iter().all(Slot::is_over) && !second.is_over());
        assert!(slots.take().is_none() && slots.take().is_none(), "enough are being told");
        assert_eq!(slots.live(), 2, "those hold no place");
        assert_eq!(slots.stats.connections_refused.load(Relaxed), TOLD_MAX as u64 + 2);
        drop(first);
        let third = slots.take().filter(|slot| !slot.is_over()).expect("room again, whoever is being told");
        drop((third, told));
        assert!(slots.told.load(SeqCst) == 0 && slots.live() == 1);
        assert_eq!(slots.all_closed(Duration::from_secs(1)).await, 1);
        drop(second);
        assert_eq!(slots.all_closed(Duration::from_secs(1)).await, 0);
        assert_eq!(slots.stats.connections_highest.load(Relaxed), 2);
    }
}
