//! What leaves a queue without being consumed and has somewhere to go.

use crate::core::Shared;
use crate::queue::{Follow, Leaving};
use crate::store::reason;
use std::sync::Arc;

impl Shared {
    /// Publishes a message that was rejected, expired or evicted to its queue's dead-letter exchange.
    pub fn dead_letter(self: &Shared, leaving: Leaving, _next: &mut Follow) {
        let Leaving { queue, entry, why } = leaving;
        let Some(me) = self.me.upgrade() else { return };
        let held = match entry.held.clone() {
            Some(held) => Arc::clone(&held),
            None => match self.log.read_one(entry.known_lsn()) {
                Ok(held) => held,
                Err(error) => {
                    tracing::error!(queue = %queue.name, %error, "a message to dead-letter cannot be read");
                    return;
                }
            },
        };
        tracing::debug!(queue = %queue.name, why = reason(why), "dead-lettered");
        let index = if entry.held.is_some() { entry.head } else { 0 };
        let mut own = crate::link::copy_out(&held.batch, index);
        if let (Some(head), Some(key)) = (own.heads.first_mut(), &queue.spec.dead_letter_key) {
            let off = own.arena.len();
            own.arena.extend_from_slice(key.as_bytes());
            head.key = broker_api::Span::arena(off, key.len());
            head.separator = b'.';
            head.expires_ms = 0;
        }
        me.publish_own(queue.vhost, &own);
    }
}
