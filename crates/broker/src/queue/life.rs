//! What a queue's life hangs on beside its messages: the connection that holds it, whether it had a consumer, when it was last used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Life {
    /// The connection that alone may use it, and with which it goes; 0 = any.
    pub holder: AtomicU64,
    /// Auto-delete waits for the first consumer.
    pub had_consumer: AtomicBool,
    /// Broker time of the last declare, take, or end of a consumer.
    pub used_ms: AtomicU64,
    /// When the timer looks next whether it is over; others that stand for it are out of date.
    pub look_ms: AtomicU64,
    /// It was said that its dead-letter exchange is missing.
    pub lacks_exchange: AtomicBool,
}

impl Life {
    pub fn used(&self, now_ms: u64) {
        self.used_ms.fetch_max(now_ms, Ordering::AcqRel);
    }
}
