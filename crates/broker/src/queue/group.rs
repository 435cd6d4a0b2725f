//! A credit group: one counter shared by consumers on any queues (receive maximum, global prefetch).

use super::Queue;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Group {
    /// Below zero while what was resumed has not been answered for.
    credit: AtomicI64,
    /// Queues that met an empty group, each once.
    waiting: Mutex<Vec<Arc<Queue>>>,
}

impl Group {
    pub fn new(credit: u32) -> Arc<Group> {
        Arc::new(Group { credit: AtomicI64::new(i64::from(credit)), waiting: Mutex::default() })
    }

    /// Takes up to `want`; an empty group remembers the queue and answers 0.
    pub fn take(&self, want: u32, queue: &Arc<Queue>) -> u32 {
        let taken = self.try_take(want);
        if taken > 0 {
            return taken;
        }
        let mut waiting = self.waiting.lock();
        // Credit that came after the first look is seen here, because `add` takes the lock too.
        let taken = self.try_take(want);
        if taken == 0 && !waiting.iter().any(|q| Arc::ptr_eq(q, queue)) {
            waiting.push(queue.clone());
        }
        taken
    }

    fn try_take(&self, want: u32) -> u32 {
        let mut have = self.credit.load(Ordering::Relaxed);
        loop {
            let take = have.min(i64::from(want));
            if take <= 0 {
                return 0;
            }
            match self.credit.compare_exchange_weak(have, have - take, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return take as u32,
                Err(now) => have = now,
            }
        }
    }

    /// Gives credit back that was taken and not used; answers the queues that met the group empty meanwhile.
    pub fn untake(&self, unused: u32) -> Vec<Arc<Queue>> {
        self.add(unused)
    }

    /// Takes credit that may not be there yet.
    pub fn spend(&self, n: u32) {
        self.credit.fetch_sub(i64::from(n), Ordering::Relaxed);
    }

    /// New credit; answers the queues to pump.
    pub fn add(&self, n: u32) -> Vec<Arc<Queue>> {
        let mut waiting = self.waiting.lock();
        self.credit.fetch_add(i64::from(n), Ordering::Relaxed);
        std::mem::take(&mut *waiting)
    }

    pub fn forget(&self) {
        self.waiting.lock().clear();
    }
}
