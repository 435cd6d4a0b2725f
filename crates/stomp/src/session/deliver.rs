//! Messages on their way to the client.

use std::sync::Arc;

use broker_api::{Batch, Delivery, Head, Out, QueueId, DELIVERY_REDELIVERED};

use super::settle::Unsettled;
use super::subscribe::says_ack;
use super::{Session, Step};
use crate::codec::put_number;
use crate::destination::TOPIC_EXCHANGE;
use crate::dialect::Dialect;
use crate::headers::{lines, FORMAT};
use crate::map::{self, Form};
use crate::mapping::{put_activemq_headers, put_destination, put_headers, put_topic, Temporary};

impl Session {
    /// A run of deliveries to one subscription. What needs no acknowledgement the core has settled as it left.
    pub(super) fn deliver(&mut self, to: u32, queue: QueueId, batch: &Arc<Batch>, run: &[Delivery], step: &mut Step<'_>) {
        let Some(subscription) = self.subscriptions.get_mut(&to) else { return };
        let temporary = Temporary { queues: &self.replies, session_id: &self.session_id };
        let activemq = self.stomp.config.dialect == Dialect::ActiveMq;
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
            match (&subscription.shown, activemq) {
                (Some(shown), _) => out.extend_from_slice(shown),
                (None, true) => put_topic(batch, head, delivery, self.version, out),
                (None, false) => put_destination(batch, head, delivery, self.version, out),
            }
            out.extend_from_slice(b"\nmessage-id:");
            put_id(&subscription.id, tag, out);
            match (delivery.flags & DELIVERY_REDELIVERED != 0, activemq) {
                (true, _) => out.extend_from_slice(b"redelivered:true\n"),
                (false, false) => out.extend_from_slice(b"redelivered:false\n"),
                (false, true) => {}
            }
            if says_ack(self.version, subscription.auto) {
                out.extend_from_slice(b"ack:");
                put_id(&subscription.id, tag, out);
            }
            if subscription.virtual_topic && delivery.exchange(batch) == TOPIC_EXCHANGE.as_bytes() {
                out.extend_from_slice(b"original-destination:");
                put_topic(batch, head, delivery, self.version, out);
                out.push(b'\n');
            }
            let converted = subscription.maps.and_then(|wanted| Some((wanted, in_form(batch, head, wanted)?)));
            match activemq {
                false => put_headers(batch, head, delivery, self.version, &self.stomp.views, out),
                true => {
                    let form = converted.as_ref().map(|(form, _)| *form);
                    put_activemq_headers(batch, head, delivery, (self.version, &self.stomp.views, temporary), form, out);
                }
            }
            if let Some((_, body)) = converted {
                out.extend_from_slice(b"content-length:");
                put_number(body.len() as u64, out);
                out.extend_from_slice(b"\n\n");
                out.extend_from_slice(&body);
                out.extend_from_slice(b"\0\n");
                continue;
            }
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

/// A map that is written down in another form than this one.
#[cold]
fn in_form(batch: &Batch, head: &Head, wanted: Form) -> Option<Vec<u8>> {
    if head.format != FORMAT {
        return None;
    }
    let named = lines(batch.bytes(head.origin)).find(|(name, _)| *name == b"transformation")?.1;
    map::convert(named, batch.body(head), wanted)
}

fn put_id(prefix: &[u8], tag: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    put_number(tag, out);
    out.push(b'\n');
}
