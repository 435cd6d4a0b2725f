//! The timers of what rests in queues before it may be had again (see `queue::resting`).

use crate::core::Shared;
use crate::queue::{Follow, Queue};
use crate::timers::Timer;
use std::sync::Arc;

impl Shared {
    pub(crate) fn set_rest_timer(&self, queue: &Queue, until_ms: u64) {
        self.timers.add(until_ms, Timer::Due { queue: queue.id.0 });
    }

    pub(crate) fn wake_rested(&self, queue: &Arc<Queue>) {
        if let Some(next) = queue.wake_rested(self.now_ms()) {
            // Not at once even if more is due: others have their turn.
            self.set_rest_timer(queue, next.max(self.now_ms() + 1));
        }
        self.follow_up(Follow { pump: vec![queue.clone()], ..Follow::default() });
    }
}
