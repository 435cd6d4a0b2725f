//! Consumers, and messages on their way to the client.

use std::sync::Arc;

use broker_api::{
    Batch, Consume, ConsumerIx, Control, CreditTo, Declare, Delivery, GroupIx, Head, Mode, Out, OwnerIx, QueueId, QueueName, QueueSpec,
    Take, DELIVERY_COUNTED, DELIVERY_DELAYED, DELIVERY_REDELIVERED,
};

use super::channel::At;
use super::queues::made_up_name;
use super::requests::{Asked, Request, Taken};
use super::settle::Unsettled;
use super::{next, Handled, Session, Step};
use crate::codec::{
    put_body_frames, put_content_head, put_deliver, put_frame_head, Field, Method, Table, FRAME_BODY, FRAME_END, FRAME_OVERHEAD,
};
use crate::error::Code;
use crate::mapping::{self, FORMAT};

/// The queue that stands for whoever consumes from it (RabbitMQ's direct reply-to).
pub(super) const REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to";

pub(super) struct Consumer {
    channel: u16,
    /// With its length before it, as deliveries carry it.
    tag: Box<[u8]>,
    pub(super) queue: QueueName,
    no_ack: bool,
    exclusive: bool,
    priority: i32,
    /// It has a prefetch of its own, so that acknowledgements give it credit.
    pub(super) limited: bool,
    prefetch: u16,
    pub(super) owed: u32,
    /// Who has taken its place; 0 = nobody.
    successor: u32,
    /// It has taken the place of one that is not gone yet, and gets its credit then.
    pub(super) moving: bool,
    /// How long it may take to acknowledge, by its own argument and by its queue.
    pub(super) own_timeout_ms: Option<u64>,
    pub(super) queue_timeout_ms: Option<u64>,
    selector: Option<Box<str>>,
}

impl Session {
    pub(super) fn consume(&mut self, at: At, method: Method<'_>, step: &mut Step<'_>) -> Handled {
        let Method::BasicConsume { queue, consumer_tag, no_ack, exclusive, nowait, arguments, .. } = method else { return Ok(()) };
        let tag: Box<[u8]> = match consumer_tag {
            b"" => made_up_name("amq.ctag-").into_bytes().into(),
            tag => tag.into(),
        };
        let most = self.amqp.config.consumer_max_per_channel;
        let Some(channel) = self.live(at.channel, at.owner) else { return Ok(()) };
        if channel.consumers.contains_key(&tag) {
            let tag = String::from_utf8_lossy(&tag);
            return Err(at.failed(Code::NotAllowed, format!("attempt to reuse consumer tag '{tag}'")));
        }
        if let Some(most) = most.filter(|most| channel.consumers.len() >= *most as usize) {
            return Err(at.failed(Code::NotAllowed, format!("reached maximum ({most}) of consumers per channel")));
        }
        if queue == REPLY_TO {
            return self.consume_replies(at, tag, no_ack, nowait, step);
        }
        let queue = QueueName::new(&self.queue_or_last(at, queue)?);
        let number = |name: &str| match arguments.get(name).map(|field| (field.integer(), field)) {
            None => Ok(None),
            Some((Some(number), _)) => Ok(Some(number)),
            Some((None, field)) => {
                let (vhost, kind) = (&self.peer.vhost, field.type_name());
                let text = format!("invalid arg '{name}' for queue '{queue}' in vhost '{vhost}': \"expected integer, got {kind}\"");
                Err(at.failed(Code::PreconditionFailed, text))
            }
        };
        let priority = number("x-priority")?.map_or(0, |priority| priority.clamp(i32::MIN.into(), i32::MAX.into()) as i32);
        // RabbitMQ takes what is not above 0 for none.
        let own_timeout_ms = number("x-consumer-timeout")?.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
        let selector = match arguments.get("x-selector") {
            None => None,
            Some(field) => match field.text().and_then(|text| std::str::from_utf8(text).ok()) {
                Some(text) => Some(text.into()),
                None => {
                    let (vhost, kind) = (&self.peer.vhost, field.type_name());
                    let text = format!("invalid arg 'x-selector' for queue '{queue}' in vhost '{vhost}': \"expected text, got {kind}\"");
                    return Err(at.failed(Code::PreconditionFailed, text));
                }
            },
        };
        self.check_type(at, &queue, arguments, step);
        let prefetch = self.live(at.channel, at.owner).map_or(0, |channel| channel.prefetch);
        let consumer = Consumer {
            channel: at.channel,
            tag: with_length(&tag),
            queue,
            no_ack,
            exclusive,
            priority,
            limited: prefetch != 0 && !no_ack,
            prefetch,
            owed: 0,
            successor: 0,
            moving: false,
            own_timeout_ms,
            queue_timeout_ms: None,
            selector,
        };
        self.start_consumer(at, tag, consumer, nowait, step);
        Ok(())
    }

    /// What an argument may be depends on the queue's type, and that the core knows.
    fn check_type(&mut self, at: At, queue: &QueueName, arguments: Table<'_>, step: &mut Step<'_>) {
        let on_failover = arguments.get("x-cancel-on-ha-failover").map(|field| match field {
            Field::Bool(_) => None,
            other => Some(format!(": {{unacceptable_type,{}}}", other.type_name())),
        });
        // Only streams have one, and there are none yet.
        let offset = arguments.get("x-stream-offset").map(|_| Some(" of queue type rabbit_classic_queue".to_owned()));
        for (argument, classic) in [("x-cancel-on-ha-failover", on_failover), ("x-stream-offset", offset)] {
            let Some(classic) = classic else { continue };
            let (name, owner) = (queue.clone(), at.owner_ix());
            let look = Control::Declare(Declare::Queue { owner, name, spec: QueueSpec::default(), passive: true });
            let token = self.command(look, step);
            let asked = Asked::Suits { queue: queue.clone(), argument, classic };
            self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, asked));
        }
    }

    fn start_consumer(&mut self, at: At, tag: Box<[u8]>, consumer: Consumer, nowait: bool, step: &mut Step<'_>) {
        let ix = next(&mut self.numbers.consumer);
        let credit = if consumer.limited { u32::from(consumer.prefetch) } else { u32::MAX };
        let control = self.consume_control(at, ix, &consumer, credit);
        if let Some(channel) = self.channel(at.channel) {
            channel.consumers.insert(tag, ix);
        }
        self.consumers.insert(ix, consumer);
        let token = self.command(control, step);
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, Asked::Consume { consumer: ix, nowait }));
    }

    fn consume_control(&mut self, at: At, ix: u32, consumer: &Consumer, credit: u32) -> Control {
        let group = self.channel(at.channel).and_then(|channel| channel.window.as_ref()).map(|window| GroupIx(window.group));
        Control::Consume(Consume {
            consumer: ConsumerIx(ix),
            owner: OwnerIx(at.owner),
            // Who does not acknowledge is not held back by a window.
            group: group.filter(|_| !consumer.no_ack),
            queue: consumer.queue.clone(),
            credit,
            mode: if consumer.no_ack { Mode::Settled } else { Mode::Lease },
            exclusive: consumer.exclusive,
            alone: false,
            priority: consumer.priority,
            selector: consumer.selector.clone(),
        })
    }

    /// A consumer that was there before its channel's window becomes another one in it; the client does not notice. The old one stays
    /// until the core has answered: what it was sent before that is the client's, too.
    pub(super) fn move_consumer(&mut self, at: At, old: u32, group: u32, step: &mut Step<'_>) -> bool {
        let ix = next(&mut self.numbers.consumer);
        let Some(before) = self.consumers.get_mut(&old).filter(|before| !before.no_ack) else { return false };
        let consumer = Consumer {
            tag: before.tag.clone(),
            queue: before.queue.clone(),
            selector: before.selector.clone(),
            owed: 0,
            moving: true,
            ..*before
        };
        (before.successor, before.owed) = (ix, 0);
        let credit = if consumer.limited { 0 } else { u32::MAX };
        let start = self.consume_control(at, ix, &consumer, credit);
        let stop = Control::Cancel { consumer: ConsumerIx(old) };
        // The new one first, or an auto-delete queue would go; but nobody joins an exclusive one.
        let (start, stop) = ((start, Asked::Silent), (stop, Asked::Moved { old, group }));
        let both = if consumer.exclusive { [stop, start] } else { [start, stop] };
        for (control, asked) in both {
            let token = self.command(control, step);
            self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, asked));
        }
        if let Some(channel) = self.channel(at.channel) {
            channel.consumers.insert(consumer.tag[1..].into(), ix);
            channel.departing.push(old);
            channel.unacked.rename(old, ix);
        }
        self.consumers.insert(ix, consumer);
        true
    }

    /// Nothing comes for the old consumer any more: credit for its successor, and for the window when it was the last one.
    pub(super) fn moved(&mut self, number: u16, owner: u32, old: u32, group: u32, step: &mut Step<'_>) {
        let successor = self.consumers.remove(&old).map_or(0, |before| before.successor);
        let out = self.unsettled_of(number, successor);
        let Some(channel) = self.live(number, owner) else { return };
        channel.departing.retain(|ix| *ix != old);
        if let Some(window) = channel.window.as_mut().filter(|window| window.group == group) {
            window.moving = window.moving.saturating_sub(1);
        }
        if let Some(consumer) = self.consumers.get_mut(&successor).filter(|consumer| consumer.successor == 0) {
            consumer.moving = false;
            if consumer.limited {
                step.turn.credit(CreditTo::Consumer(ConsumerIx(successor)), u32::from(consumer.prefetch).saturating_sub(out));
            }
        }
        self.open_window(number, group, step);
    }

    /// Direct reply-to: a queue of this channel that goes with its consumer, and whose name is the reply address.
    fn consume_replies(&mut self, at: At, tag: Box<[u8]>, no_ack: bool, nowait: bool, step: &mut Step<'_>) -> Handled {
        if !no_ack {
            return Err(at.failed(Code::PreconditionFailed, "reply consumer cannot acknowledge"));
        }
        let name = made_up_name("amq.rabbitmq.reply-to.");
        let Some(channel) = self.live(at.channel, at.owner) else { return Ok(()) };
        if channel.reply_to.is_some() {
            return Err(at.failed(Code::PreconditionFailed, "reply consumer already set"));
        }
        channel.reply_to = Some((name.as_str().into(), tag.clone()));
        let queue = QueueName::new(&name);
        let spec = QueueSpec { exclusive: true, auto_delete: true, format: FORMAT, ..QueueSpec::default() };
        let declare = Control::Declare(Declare::Queue { owner: OwnerIx(at.owner), name: queue.clone(), spec, passive: false });
        let token = self.command(declare, step);
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, Asked::Silent));
        let consumer = Consumer {
            channel: at.channel,
            tag: with_length(&tag),
            queue,
            no_ack: true,
            exclusive: true,
            priority: 0,
            limited: false,
            prefetch: 0,
            owed: 0,
            successor: 0,
            moving: false,
            own_timeout_ms: None,
            queue_timeout_ms: None,
            selector: None,
        };
        self.start_consumer(at, tag, consumer, nowait, step);
        Ok(())
    }

    pub(super) fn say_consume_ok(&mut self, channel: u16, consumer: u32, step: &mut Step<'_>) {
        if let Some(consumer) = self.consumers.get(&consumer) {
            step.say(channel, &Method::BasicConsumeOk { consumer_tag: &consumer.tag[1..] });
        }
    }

    /// A consumer that is not there is no error, as in RabbitMQ.
    pub(super) fn cancel(&mut self, at: At, tag: &[u8], nowait: bool, step: &mut Step<'_>) -> Handled {
        let found = self.live(at.channel, at.owner).and_then(|channel| channel.part_from(tag));
        let tag: Box<[u8]> = tag.into();
        match found {
            Some(consumer) => {
                let token = self.command(Control::Cancel { consumer: ConsumerIx(consumer) }, step);
                let asked = Asked::Cancel { tag, consumer, nowait };
                self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, asked));
            }
            None if nowait => {}
            // Its answer waits behind the others: a cancel of this tag may be under way.
            None => {
                let token = self.command(Control::Cancel { consumer: ConsumerIx(0) }, step);
                let asked = Asked::Cancel { tag, consumer: 0, nowait };
                self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, asked));
            }
        }
        Ok(())
    }

    pub(super) fn drop_consumer(&mut self, number: u16, ix: u32) {
        let Some(consumer) = self.consumers.remove(&ix) else { return };
        let Some(channel) = self.channel(number) else { return };
        let tag = &consumer.tag[1..];
        // Its tag may be another's by now.
        if channel.consumers.get(tag) == Some(&ix) {
            channel.part_from(tag);
        }
        channel.departing.retain(|departing| *departing != ix);
    }

    /// Its queue is gone (RabbitMQ's consumer cancel notification).
    pub(super) fn consumer_ended(&mut self, ix: u32, step: &mut Step<'_>) {
        // Of one that has a successor nothing is said: that one ends with the queue as well.
        let Some(consumer) = self.consumers.get(&ix).filter(|consumer| consumer.successor == 0) else { return };
        let number = consumer.channel;
        if self.peer.capabilities.cancel_notify {
            step.say(number, &Method::BasicCancel { consumer_tag: &consumer.tag[1..], nowait: true });
        }
        self.drop_consumer(number, ix);
    }

    pub(super) fn get(&mut self, at: At, queue: &[u8], no_ack: bool, step: &mut Step<'_>) -> Handled {
        let queue = QueueName::new(&self.queue_or_last(at, queue)?);
        let token = self.command(Control::Take(Take { owner: at.owner_ix(), queue, max: 1, settled: no_ack }), step);
        let asked = Asked::Get { no_ack, taken: None };
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, asked));
        Ok(())
    }

    pub(super) fn say_taken(&mut self, number: u16, owner: u32, no_ack: bool, taken: Taken, left: u32, step: &mut Step<'_>) {
        let Taken { queue, batch, delivery } = taken;
        let Some(head) = batch.heads.get(delivery.index as usize) else { return };
        let Some(channel) = self.live(number, owner) else {
            // It was taken for a channel that is gone; a lease has gone back with it.
            return;
        };
        channel.last_tag += 1;
        let delivery_tag = channel.last_tag;
        if !no_ack {
            channel.unacked.push(Unsettled { tag: delivery_tag, queue, seq: delivery.seq, consumer: 0 });
        }
        let redelivered = delivery.flags & DELIVERY_REDELIVERED != 0;
        let (exchange, key) = mapping::address(&batch, head, &delivery);
        let get_ok = Method::BasicGetOk { delivery_tag, redelivered, exchange, routing_key: &key, message_count: left };
        step.say(number, &get_ok);
        self.put_content(number, &batch, head, &delivery, step);
    }

    /// A run of deliveries to one consumer. What needs no acknowledgement the core has settled as it left.
    pub(super) fn deliver(&mut self, to: u32, queue: QueueId, batch: &Arc<Batch>, run: &[Delivery], step: &mut Step<'_>) {
        let Some(consumer) = self.consumers.get(&to) else { return };
        let number = consumer.channel;
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut) else { return };
        let (first_tag, no_ack) = (channel.last_tag + 1, consumer.no_ack);
        // What was under way to a consumer as it was replaced counts for who has its place now.
        let counts_for = if consumer.successor == 0 { to } else { channel.consumers.get(&consumer.tag[1..]).copied().unwrap_or(to) };
        for delivery in run {
            channel.last_tag += 1;
            if !no_ack {
                channel.unacked.push(Unsettled { tag: channel.last_tag, queue, seq: delivery.seq, consumer: counts_for });
            }
        }
        if let Some(patience) = consumer.patience().filter(|_| !no_ack) {
            let due = channel.hands_out(first_tag, patience, step.now);
            self.overdue_at = self.overdue_at.into_iter().chain([due]).min();
        }
        for (tag, delivery) in (first_tag..).zip(run) {
            let Some(head) = batch.heads.get(delivery.index as usize) else { continue };
            let redelivered = delivery.flags & DELIVERY_REDELIVERED != 0;
            let (exchange, key) = mapping::address(batch, head, delivery);
            put_deliver(step.out.buffer(), number, &consumer.tag, tag, redelivered, exchange, &key);
            self.put_content(number, batch, head, delivery, step);
        }
    }

    #[inline]
    fn put_content(&self, channel: u16, batch: &Batch, head: &Head, delivery: &Delivery, step: &mut Step<'_>) {
        let body_size = head.body.len as usize;
        match (head.format, delivery.moved()) {
            (FORMAT, None) if delivery.flags & (DELIVERY_COUNTED | DELIVERY_DELAYED) == 0 => {
                put_content_head(step.out.buffer(), channel, body_size as u64, mapping::own_properties(batch, head));
            }
            _ => {
                let properties = mapping::properties(batch, head, delivery, &self.amqp.views);
                put_content_head(step.out.buffer(), channel, body_size as u64, &properties);
            }
        }
        if body_size < Out::SHARE_FROM {
            put_body_frames(step.out.buffer(), channel, batch.body(head), self.frame_max);
        } else {
            share_body(step.out, channel, batch, head, self.frame_max - FRAME_OVERHEAD);
        }
    }
}

/// A large body goes out from where it lies, in as many frames as it needs.
fn share_body(out: &mut Out, channel: u16, batch: &Batch, head: &Head, most: usize) {
    let body = batch.shared(head.body);
    let mut at = 0;
    while at < body.len() {
        let end = (at + most).min(body.len());
        put_frame_head(out.buffer(), FRAME_BODY, channel, (end - at) as u32);
        out.share(body.slice(at..end));
        out.buffer().push(FRAME_END);
        at = end;
    }
}

fn with_length(tag: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(tag.len() + 1);
    bytes.push(tag.len() as u8);
    bytes.extend_from_slice(tag);
    bytes.into()
}
