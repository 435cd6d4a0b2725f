//! Publishes of messages that come again and again: how long they are held back is known when they come (see `crate::cron`).

use super::scope::copy_head;
use super::Link;
use crate::exchange::Exchange;
use broker_api::{Batch, Head};
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Link {
    /// The exchange that this message is published to, if messages may come from it again and again.
    fn recurring(&mut self, batch: &Batch, head: &Head) -> Option<Arc<Exchange>> {
        if !self.core.crons.load(Ordering::Relaxed) || head.topic {
            return None;
        }
        self.named_exchange(batch.bytes(head.exchange)).filter(|exchange| exchange.cron_header.is_some())
    }

    /// A publish of this kind, with the time it is held back: in a batch of its own, because its turn's others may be on their way.
    pub(super) fn timed(&mut self, batch: &Batch, index: u32) -> Option<Arc<Batch>> {
        let head = &batch.heads[index as usize];
        let exchange = self.recurring(batch, head)?;
        let delay_ms = self.core.first_hold(&exchange, batch, index)?;
        let mut copy = Batch { arrived_ms: batch.arrived_ms, ..Batch::default() };
        let head = copy_head(batch, head, &mut copy);
        copy.heads.push(Head { delay_ms, ..head });
        self.core.memory.count(&mut copy);
        Some(Arc::new(copy))
    }

    /// The same for all of a transaction, whose messages came when it is committed.
    pub(super) fn time_all(&mut self, batch: &mut Batch) {
        for index in 0..batch.heads.len() {
            let Some(exchange) = self.recurring(batch, &batch.heads[index]) else { continue };
            if let Some(delay_ms) = self.core.first_hold(&exchange, batch, index as u32) {
                batch.heads[index].delay_ms = delay_ms;
            }
        }
    }
}
