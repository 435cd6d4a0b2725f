//! Messages on their way to the client.

use std::sync::Arc;

use broker_api::{Batch, Delivery, Out, QueueId, DELIVERY_REDELIVERED};

use super::settle::Unsettled;
use super::subscribe::says_ack;
use super::{Session, Step};
use crate::codec::put_number;
use crate::mapping::{put_destination, put_headers};

impl Session {
    /// A run of deliveries to one subscription. What needs no acknowledgement the core has settled as it left.
    pub(super) fn deliver(&mut self, to: u32, queue: QueueId, batch: &Arc<Batch>, run: &[Delivery], step: &mut Step<'_>) {
        let Some(subscription) = self.subscriptions.get_mut(&to) else { return };
        for delivery in run {
            let Some(head) = batch.heads.get(delivery.index as usize) else { continue };
            self.numbers.tag += 1;
            let tag = self.numbers.tag;
            if !subscription.auto {
                subscription.unacked.push(Unsettled { tag, queue, seq: delivery.seq });
            }
            let out = step.out.buffer();
            out.extend_from_slice(b"MESSAGE\n");
            out.extend_from_slice(&subscription.line);
            out.extend_from_slice(b"destination:");
            put_destination(batch, head, delivery, self.version, out);
            out.extend_from_slice(b"\nmessage-id:");
            put_id(&subscription.id, tag, out);
            let redelivered = delivery.flags & DELIVERY_REDELIVERED != 0;
            out.extend_from_slice(if redelivered { b"redelivered:true\n" } else { b"redelivered:false\n" });
            if says_ack(self.version, subscription.auto) {
                out.extend_from_slice(b"ack:");
                put_id(&subscription.id, tag, out);
            }
            put_headers(batch, head, delivery, self.version, &self.stomp.views, out);
            if head.body.is_empty() {
                out.extend_from_slice(b"\n\0\n");
                continue;
            }
            out.extend_from_slice(b"content-length:");
            put_number(u64::from(head.body.len), out);
            out.extend_from_slice(b"\n\n");
            match (head.body.len as usize) < Out::SHARE_FROM {
                true => out.extend_from_slice(batch.body(head)),
                false => step.out.share(batch.shared(head.body)),
            }
            step.out.buffer().extend_from_slice(b"\0\n");
        }
    }
}

fn put_id(prefix: &[u8], tag: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    put_number(tag, out);
    out.push(b'\n');
}
