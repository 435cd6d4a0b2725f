//! PUBLISH to the client.
//!
//! Most of what leaves at QoS 0 is a frame that came in at QoS 0 on another connection of the same version: those go out as they lie in
//! their block, neighbours in one piece. The rest is encoded from the parts of the message.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use broker_api::{
    Batch, CreditTo, Delivery, Head, Out, Outcome, QueueId, Region, Seq, Settle, Side, Turn, DELIVERY_AS_PUBLISHED, DELIVERY_REDELIVERED,
    DELIVERY_RESUMED, DELIVERY_RETAINED, HEAD_RETAIN, HEAD_VERBATIM,
};
use tracing::debug;

use super::inflight::{Inflight, Slot, Stage};
use super::publish::{Act, Wait};
use super::{Session, Step};
use crate::codec::{Connect, ExpiryEdit, PacketId, PropertyEdits, PublishOut, Qos, ReasonCode, StoredProperties};
use crate::config::Config;
use crate::mapping::{self, Kept, OWNER, WINDOW};
use crate::mutants;
use crate::protocol::Counters;

/// A QoS 2 delivery whose identifier is being recorded.
#[derive(Debug)]
struct Held {
    id: PacketId,
    batch: Arc<Batch>,
    index: u32,
    side: Option<Arc<Side>>,
    flags: u8,
}

/// A delivery that an earlier connection had sent, and the identifier it had then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumed {
    pub(super) queue: QueueId,
    pub(super) seq: Seq,
    pub(super) id: PacketId,
}

/// Topic aliases that we set: the first topics to come get them (MQTT 5.0, 3.3.2.3.4 leaves the choice to the sender).
#[derive(Debug)]
struct Aliases {
    by_topic: HashMap<Box<[u8]>, NonZeroU16>,
    most: u16,
}

/// A topic no longer than its alias gains nothing.
const ALIAS_PAYS_FROM: usize = 4;

/// Everything about deliveries.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The client's Maximum Packet Size.
    pub(super) packet_max: u32,
    /// Frames of this format may pass as they are; 0 = none.
    verbatim_format: u8,
    window: u32,
    /// The session's own queue; others' are shared subscriptions.
    pub(super) own_queue: QueueId,
    pub(super) inflight: Inflight,
    held: VecDeque<Held>,
    /// Credit to give back with this call.
    credit: u32,
    /// The same in bytes of payloads, where the window is bounded in these too.
    credit_bytes: u64,
    counts_bytes: bool,
    /// PUBRELs over the window, or for what this connection has not sent: so much credit is kept back.
    pub(super) debt: u32,
    aliases: Option<Box<Aliases>>,
    /// Sorted by queue and seq.
    pub(super) resumed: Vec<Resumed>,
    /// A delivery came that is not a resumed one: the resumed ones are all here.
    pub(super) resumed_all: bool,
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing {
            packet_max: u32::MAX,
            verbatim_format: 0,
            window: 0,
            own_queue: QueueId(0),
            inflight: Inflight::default(),
            held: VecDeque::new(),
            credit: 0,
            credit_bytes: 0,
            counts_bytes: false,
            debt: 0,
            aliases: None,
            resumed: Vec::new(),
            resumed_all: false,
        }
    }
}

/// How a message is written.
#[derive(Clone, Copy)]
struct Manner<'a> {
    qos: Qos,
    dup: bool,
    id: Option<PacketId>,
    side: Option<&'a Side>,
    flags: u8,
}

impl Outgoing {
    /// Takes what CONNECT said.
    pub(super) fn open(&mut self, connect: &Connect, config: &Config) {
        let properties = &connect.properties;
        let theirs = properties.receive_maximum.unwrap_or(u16::MAX);
        self.window = u32::from(theirs.min(config.max_inflight.get()));
        self.counts_bytes = config.max_inflight_bytes.is_some();
        let aliases = properties.topic_alias_maximum.unwrap_or(0).min(config.topic_alias_maximum);
        if aliases > 0 {
            self.aliases = Some(Box::new(Aliases { by_topic: HashMap::new(), most: aliases }));
        } else if self.packet_max >= config.max_packet_size {
            // What was small enough to come in is small enough to go out.
            self.verbatim_format = mapping::format_of(connect.version);
        }
    }

    /// The window, less what an earlier connection still has in it.
    pub(super) fn first_credit(&mut self, released: u32, turn: &mut Turn) {
        self.debt = released.saturating_sub(self.window);
        let credit = self.window.saturating_sub(released);
        if credit > 0 {
            turn.credit(CreditTo::Group(WINDOW), credit);
        }
    }

    /// One place in the client's window is free again, and so many bytes of payload are no longer under way.
    #[inline]
    pub(super) fn give_credit(&mut self, bytes: u32) {
        if self.counts_bytes {
            self.credit_bytes += u64::from(bytes);
        }
        if self.debt > 0 {
            self.debt -= 1;
        } else {
            self.credit += 1;
        }
    }

    /// The same for a delivery that is over; one that has not come again has taken no place yet, and gives it back if it comes all the same.
    #[inline]
    pub(super) fn give_place(&mut self, slot: &Slot) {
        if slot.has_come() {
            self.give_credit(slot.bytes);
        }
    }

    pub(super) fn flush_credit(&mut self, turn: &mut Turn) {
        if self.credit > 0 || self.credit_bytes > 0 {
            turn.credit_with_bytes(CreditTo::Group(WINDOW), std::mem::take(&mut self.credit), std::mem::take(&mut self.credit_bytes));
        }
    }

    fn was(&self, queue: QueueId, seq: Seq) -> Option<PacketId> {
        let at = self.resumed.binary_search_by_key(&(queue, seq), |resumed| (resumed.queue, resumed.seq)).ok()?;
        Some(self.resumed[at].id)
    }
}

pub(super) fn accept(queue: QueueId, seq: Seq) -> Settle {
    Settle { queue, first: seq, count: 1, owner: OWNER, state: 0, outcome: Outcome::Accepted }
}

impl Session {
    /// Messages that no queue keeps: at most once, nothing to settle.
    pub(super) fn deliver_direct(
        &mut self,
        batch: &Batch,
        first: usize,
        count: usize,
        side: Option<&Side>,
        flags: u8,
        step: &mut Step<'_>,
    ) {
        let heads = batch.heads.get(first..first + count).unwrap_or(&[]);
        let plain = flags & DELIVERY_RETAINED == 0 && side.is_none_or(|side| side.subscriptions.is_empty());
        let format = if plain { self.outgoing.verbatim_format } else { 0 };
        let mut rest = heads;
        while let Some(head) = rest.first() {
            let taken = if is_verbatim(head, format) { pass_verbatim(batch, rest, format, step.out) } else { 0 };
            if taken == 0 {
                self.write(batch, head, Manner { qos: Qos::AtMostOnce, dup: false, id: None, side, flags }, step);
            }
            rest = &rest[taken.max(1)..];
        }
    }

    /// Leases: each is settled, now or when the client has acknowledged it.
    pub(super) fn deliver_run(&mut self, queue: QueueId, batch: &Arc<Batch>, run: &[Delivery], step: &mut Step<'_>) {
        for delivery in run {
            let Some(head) = batch.heads.get(delivery.index as usize) else { continue };
            if delivery.flags & DELIVERY_RESUMED == 0 {
                self.outgoing.resumed_all = true;
            } else if let Some(id) = self.outgoing.was(queue, delivery.seq) {
                self.deliver_again(id, queue, batch, head, delivery, step);
                continue;
            }
            match mapping::qos_of_level(delivery.level) {
                Qos::AtMostOnce => {
                    let plain = delivery.flags & DELIVERY_RETAINED == 0 && delivery.side.is_none();
                    let format = if plain { self.outgoing.verbatim_format } else { 0 };
                    if !is_verbatim(head, format) || pass_verbatim(batch, std::slice::from_ref(head), format, step.out) == 0 {
                        self.write(batch, head, self.manner(Qos::AtMostOnce, None, delivery), step);
                    }
                    self.finish(queue, delivery.seq, head.body.len, step);
                }
                Qos::AtLeastOnce => self.deliver_qos1(queue, batch, head, delivery, step),
                Qos::ExactlyOnce if self.is_durable() => self.hold(queue, batch, delivery, step),
                Qos::ExactlyOnce => self.deliver_qos2_unrecorded(queue, batch, head, delivery, step),
            }
        }
    }

    fn manner<'a>(&self, qos: Qos, id: Option<PacketId>, delivery: &'a Delivery) -> Manner<'a> {
        // A message that came before under an identifier we have lost: the client is told that it may know it.
        let dup = qos == Qos::AtLeastOnce && delivery.flags & (DELIVERY_RESUMED | DELIVERY_REDELIVERED) != 0;
        Manner { qos, dup, id, side: delivery.side.as_deref(), flags: delivery.flags }
    }

    fn deliver_qos1(&mut self, queue: QueueId, batch: &Batch, head: &Head, delivery: &Delivery, step: &mut Step<'_>) {
        let slot = Slot { queue, seq: delivery.seq, stage: Stage::Sent1, kept: false, bytes: head.body.len };
        let Some(id) = self.take_id(slot, step) else { return };
        if !self.write(batch, head, self.manner(Qos::AtLeastOnce, Some(id), delivery), step) {
            self.outgoing.inflight.free(id);
            self.finish(queue, delivery.seq, head.body.len, step);
        }
    }

    /// The session dies with the connection, so there is nothing to record and nobody to repeat it to.
    fn deliver_qos2_unrecorded(&mut self, queue: QueueId, batch: &Batch, head: &Head, delivery: &Delivery, step: &mut Step<'_>) {
        let slot = Slot { queue, seq: delivery.seq, stage: Stage::Sent2, kept: false, bytes: head.body.len };
        let Some(id) = self.take_id(slot, step) else { return };
        if !self.write(batch, head, self.manner(Qos::ExactlyOnce, Some(id), delivery), step) {
            self.outgoing.inflight.free(id);
            self.finish(queue, delivery.seq, head.body.len, step);
        }
    }

    /// QoS 2 to a session that outlives the connection: the identifier is recorded before the message leaves, or a crash in between
    /// would have it leave again under another one.
    fn hold(&mut self, queue: QueueId, batch: &Arc<Batch>, delivery: &Delivery, step: &mut Step<'_>) {
        let bytes = batch.heads.get(delivery.index as usize).map_or(0, |head| head.body.len);
        let slot = Slot { queue, seq: delivery.seq, stage: Stage::Recording, kept: true, bytes };
        let Some(id) = self.take_id(slot, step) else { return };
        step.turn.state(mapping::put_outgoing(id, Kept::Qos2Sent, queue, delivery.seq));
        self.outgoing.held.push_back(Held {
            id,
            batch: batch.clone(),
            index: delivery.index,
            side: delivery.side.clone(),
            flags: delivery.flags,
        });
        let held = Act::SendHeld;
        if mutants::qos2_early() {
            let now = Wait::now(id, held);
            self.send_held(now, step);
            return;
        }
        self.incoming.after_fence(held, id, ReasonCode::Success);
    }

    /// The oldest held delivery may leave.
    pub(super) fn send_held(&mut self, wait: Wait, step: &mut Step<'_>) {
        let Some(held) = self.outgoing.held.pop_front() else { return };
        debug_assert_eq!(held.id, wait.id);
        if wait.reason.is_error() {
            return;
        }
        let Some(slot) = self.outgoing.inflight.get(held.id) else { return };
        slot.stage = Stage::Sent2;
        let (queue, seq) = (slot.queue, slot.seq);
        let Some(head) = held.batch.heads.get(held.index as usize) else { return };
        let manner = Manner { qos: Qos::ExactlyOnce, dup: false, id: Some(held.id), side: held.side.as_deref(), flags: held.flags };
        if !self.write(&held.batch, head, manner, step) {
            self.outgoing.inflight.free(held.id);
            let mut settle = accept(queue, seq);
            settle.state = step.turn.keep_state(mapping::drop_outgoing(held.id, Kept::Qos2Sent));
            step.turn.settle(settle);
            self.outgoing.give_credit(head.body.len);
        }
    }

    /// A delivery that an earlier connection had sent: again, under the same identifier (MQTT-4.4.0-1), or not at all if the client has
    /// said that it has it.
    fn deliver_again(&mut self, id: PacketId, queue: QueueId, batch: &Batch, head: &Head, delivery: &Delivery, step: &mut Step<'_>) {
        let qos2 = match self.outgoing.inflight.get(id).map(|slot| (slot.stage, slot)) {
            Some((Stage::Resuming { qos2 }, slot)) => {
                slot.stage = if qos2 { Stage::Sent2 } else { Stage::Sent1 };
                slot.bytes = head.body.len;
                qos2
            }
            // PUBREC had come, and the message is never sent again; or the client has acknowledged it before it was.
            _ => {
                step.turn.settle(accept(queue, delivery.seq));
                return self.outgoing.give_credit(head.body.len);
            }
        };
        let qos = if qos2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        let manner = Manner { dup: true, ..self.manner(qos, Some(id), delivery) };
        if !self.write(batch, head, manner, step) {
            self.outgoing.inflight.free(id);
            let kept = if qos2 { Kept::Qos2Sent } else { Kept::Qos1Sent };
            let mut settle = accept(queue, delivery.seq);
            settle.state = step.turn.keep_state(mapping::drop_outgoing(id, kept));
            step.turn.settle(settle);
            self.outgoing.give_credit(head.body.len);
        }
    }

    fn take_id(&mut self, slot: Slot, step: &mut Step<'_>) -> Option<PacketId> {
        let id = self.outgoing.inflight.take(slot);
        if id.is_none() {
            // Cannot be while the core keeps to the window; if it is, the delivery goes back.
            debug!(client = %self.client_id, "all packet identifiers are in use");
            step.turn.settle(Settle { outcome: Outcome::Released, ..accept(slot.queue, slot.seq) });
        }
        id
    }

    /// Done with a delivery that the client never answers for.
    #[inline]
    fn finish(&mut self, queue: QueueId, seq: Seq, bytes: u32, step: &mut Step<'_>) {
        step.turn.settle(accept(queue, seq));
        self.outgoing.give_credit(bytes);
    }

    /// Encodes one message. False if it cannot be sent to this client: it then counts as delivered.
    fn write(&mut self, batch: &Batch, head: &Head, manner: Manner<'_>, step: &mut Step<'_>) -> bool {
        let counters = self.mqtt.counters();
        let Some(topic) = mapping::topic(batch, head) else { return dropped(&counters.unsayable, "its topic is not a topic name") };
        let v5 = self.is_v5();
        // What has no expiry any more has lost it to a dead-letter exchange.
        let mut edits = PropertyEdits { expiry: ExpiryEdit::Drop, ..PropertyEdits::default() };
        let mut converted = Vec::new();
        let mut properties = StoredProperties::default();
        let mut new_alias = false;
        let mut sent_topic: &[u8] = &topic;
        if head.expires_ms != 0 {
            let left_ms = head.expires_ms.saturating_sub(step.now_ms);
            // MQTT 5.0, 3.3.2.3.3: not if its delivery has not begun.
            if left_ms == 0 && !manner.dup {
                return dropped(&counters.expired, "its time ran out");
            }
            edits.expiry = ExpiryEdit::Set(u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX));
        }
        if v5 {
            properties = mapping::properties(batch, head, self.mqtt.views(), &mut converted);
            edits.subscription_ids = manner.side.map_or(&[], |side| &side.subscriptions);
            if let Some(aliases) = &self.outgoing.aliases {
                (edits.topic_alias, new_alias) = aliases.find(&topic);
                if edits.topic_alias.is_some() && !new_alias {
                    sent_topic = b"";
                }
            }
        }
        let retain = manner.flags & DELIVERY_RETAINED != 0 || manner.flags & DELIVERY_AS_PUBLISHED != 0 && head.has(HEAD_RETAIN);
        let publish = PublishOut {
            qos: manner.qos,
            dup: manner.dup,
            retain,
            packet_id: manner.id,
            topic: sent_topic,
            properties,
            edits,
            payload: batch.body(head),
        };
        let packet_max = self.outgoing.packet_max;
        let share = publish.payload.len() >= Out::SHARE_FROM;
        let written = match share {
            true => publish.encode_without_payload(self.version(), packet_max, step.out.buffer()),
            false => publish.encode(self.version(), packet_max, step.out.buffer()),
        };
        if written.is_err() {
            return dropped(&counters.too_large, "it is over the client's Maximum Packet Size");
        }
        if share {
            step.out.share(batch.shared(head.body));
        }
        if let (true, Some(alias), Some(aliases)) = (new_alias, publish.edits.topic_alias, &mut self.outgoing.aliases) {
            aliases.by_topic.insert(Box::from(&*topic), alias);
        }
        true
    }
}

fn dropped(counter: &AtomicU64, why: &str) -> bool {
    debug!(why, "delivery dropped");
    Counters::count(counter);
    false
}

impl Aliases {
    /// The alias for a topic, and whether it has yet to be set.
    fn find(&self, topic: &[u8]) -> (Option<NonZeroU16>, bool) {
        if topic.len() < ALIAS_PAYS_FROM {
            return (None, false);
        }
        match self.by_topic.get(topic) {
            Some(alias) => (Some(*alias), false),
            None if self.by_topic.len() < usize::from(self.most) => (NonZeroU16::new(self.by_topic.len() as u16 + 1), true),
            None => (None, false),
        }
    }
}

#[inline]
fn is_verbatim(head: &Head, format: u8) -> bool {
    head.format == format && head.has(HEAD_VERBATIM) && head.key.region() == Region::Block && head.body.region() == Region::Block
}

/// Copies or shares the frames at the start of `heads` that may pass as they are and lie side by side. How many that were.
#[inline]
fn pass_verbatim(batch: &Batch, heads: &[Head], format: u8, out: &mut Out) -> usize {
    let Some(first) = heads.first() else { return 0 };
    let mut range = mapping::verbatim_frame(first);
    let mut taken = 1;
    for head in &heads[1..] {
        if !is_verbatim(head, format) {
            break;
        }
        let frame = mapping::verbatim_frame(head);
        if frame.start != range.end {
            break;
        }
        range.end = frame.end;
        taken += 1;
    }
    let Some(frames) = batch.block.get(range.clone()) else { return 0 };
    if frames.len() >= Out::SHARE_FROM {
        out.share(batch.block.slice(range));
    } else {
        out.buffer().extend_from_slice(frames);
    }
    taken
}
