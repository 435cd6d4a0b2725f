//! How much the core holds in memory, and who waits when that is too much.
//!
//! What is counted is what messages weigh: the blocks of bytes that turns came in and that queues, outboxes and leases still refer to. What else
//! grows has bounds of its own: references go to page files, the log's staging is bounded, and so are outboxes.

use crate::core::Shared;
use crate::outbox::Outbox;
use crate::timers::Timer;
use broker_api::{Batch, Counted};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// How often one looks whether publishers may go on.
const LOOK_MS: u64 = 50;

pub(crate) struct Memory {
    /// Lives as long as the process: batches outlive the core that counted them.
    held: &'static AtomicU64,
    high: u64,
    /// Publishers that wait go on below this, so that they do not stop and go with every message.
    low: u64,
    full: AtomicBool,
    waiting: Mutex<Vec<Arc<Outbox>>>,
}

impl Memory {
    pub fn new(high: u64) -> Memory {
        let low = high - high / 8;
        Memory { held: Box::leak(Box::default()), high, low, full: AtomicBool::new(false), waiting: Mutex::default() }
    }

    /// For others that hold memory which has to count.
    pub fn counter(&self) -> &'static AtomicU64 {
        self.held
    }

    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts a batch for as long as anything refers to it.
    pub fn count(&self, batch: &mut Batch) {
        batch.counted = Some(Counted::new(batch.footprint() as u64, self.held));
    }

    /// Must publishers wait?
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed) || self.held() > self.high
    }
}

impl Shared {
    /// The connection hears by `Work::Resume` when it may try again.
    pub fn when_memory_is_back(&self, outbox: &Arc<Outbox>) {
        self.memory.waiting.lock().push(outbox.clone());
        if !self.memory.full.swap(true, Ordering::AcqRel) {
            tracing::warn!(held = self.memory.held(), high = self.memory.high, "memory is at its high-watermark: publishers are held");
            self.timers.add(self.now_ms() + LOOK_MS, Timer::Memory);
        }
    }

    /// While publishers wait: lets go of what the log has, and sees whether that is enough.
    pub fn look_at_memory(&self) {
        let queues: Vec<_> = self.queues.iter().filter(|q| q.durable).map(|q| q.clone()).collect();
        for queue in queues {
            if self.memory.held() <= self.memory.low {
                break;
            }
            queue.shed(self.log.committed_lsn(), crate::queue::AHEAD);
        }
        if self.memory.held() > self.memory.low {
            self.spill.wake();
            self.timers.add(self.now_ms() + LOOK_MS, Timer::Memory);
            return;
        }
        tracing::info!(held = self.memory.held(), "memory is below its low-watermark: publishers go on");
        self.memory.full.store(false, Ordering::Release);
        for outbox in std::mem::take(&mut *self.memory.waiting.lock()) {
            outbox.work(crate::outbox::Work::Resume);
        }
    }
}
