//! SUBSCRIBE and UNSUBSCRIBE: which queue a destination stands for, made and bound where need be, and the consumer on it.

use base64::Engine;
use broker_api::{Bind, Consume, ConsumerIx, Control, Destination as Core, ExchangeName, Mode, OwnerIx, QueueName, QueueSpec};
use md5::{Digest, Md5};

use super::send::{destination_text, number};
use super::settle::{Unacked, ID_SEPARATOR};
use super::{made_up_name, malformed, Asked, Handled, Session, Step, MAKER, OWNER};
use crate::arguments::{queue_spec, Kind};
use crate::codec::{escape, Command, Frame, FrameWriter, Version};
use crate::destination::{check_queue_name, Destination, TEMP_QUEUE};
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::headers::FORMAT;
use crate::map::Form;

pub(super) struct Subscription {
    /// `T_id`, or `Q_destination` where the client gave no id.
    pub(super) tag: Box<[u8]>,
    pub(super) queue: QueueName,
    /// Of a topic: deleting the queue goes with ending it for good.
    topic: bool,
    /// What comes out of its queue may have been sent to a topic, and says so.
    pub(super) virtual_topic: bool,
    /// What its messages say as their destination, where that is always the same.
    pub(super) shown: Option<Box<[u8]>>,
    /// The `subscription` line of its messages; empty without an id.
    pub(super) line: Box<[u8]>,
    /// What its messages' ids begin with, as a header's value.
    pub(super) id: Box<[u8]>,
    /// Settled as they leave.
    pub(super) auto: bool,
    pub(super) cumulative: bool,
    pub(super) limited: bool,
    /// Of a subscription to all queues of a pattern: it may come and go, and nobody is told.
    pub(super) part: bool,
    /// It only looks: there is nothing to settle, but an ACK makes room.
    pub(super) browses: bool,
    /// It wants maps in this form.
    pub(super) maps: Option<Form>,
    pub(super) owed: u32,
    pub(super) unacked: Unacked,
    /// The client wants no more; what it has may still be settled.
    pub(super) ended: bool,
}

/// What a SUBSCRIBE says of the way its messages are settled.
#[derive(Clone, Copy)]
pub(super) struct AckMode {
    pub(super) auto: bool,
    pub(super) cumulative: bool,
    pub(super) prefetch: u32,
}

/// A consumer to be.
pub(super) struct Wanted<'a> {
    pub(super) tag: Box<[u8]>,
    pub(super) id: Option<&'a [u8]>,
    pub(super) queue: QueueName,
    pub(super) topic: bool,
    pub(super) virtual_topic: bool,
    pub(super) mode: AckMode,
    pub(super) priority: i32,
    pub(super) exclusive: bool,
    /// While it is there others get nothing.
    pub(super) alone: bool,
    /// See [`Subscription::part`].
    pub(super) part: bool,
    /// It only looks.
    pub(super) browses: bool,
    /// In which form it wants maps.
    pub(super) maps: Option<Form>,
    /// What it takes of its queue.
    pub(super) selector: Option<Box<str>>,
    /// What its messages say as their destination, where that is always the same.
    pub(super) shown: Option<Box<[u8]>>,
}

impl Wanted<'_> {
    /// All there is in a queue, to be settled as it leaves.
    pub(super) fn all_of(queue: QueueName) -> Wanted<'static> {
        Wanted {
            tag: Box::default(),
            id: None,
            queue,
            topic: false,
            virtual_topic: false,
            mode: AckMode { auto: true, cumulative: false, prefetch: 0 },
            priority: 0,
            exclusive: false,
            alone: false,
            part: false,
            browses: false,
            maps: None,
            selector: None,
            shown: None,
        }
    }
}

impl Session {
    pub(super) fn subscribe(&mut self, frame: &Frame<'_>, step: &mut Step<'_>) -> Handled {
        if self.dialect() == Dialect::ActiveMq {
            return self.subscribe_activemq(frame, step);
        }
        let get = |name: &str| frame.headers.get(name).map_err(malformed);
        let durable = is_durable(frame)?;
        let id = get("id")?;
        if durable && id.is_none() {
            return Err(Fault::new("Missing Header", "Header 'id' is required for durable subscriptions"));
        }
        let Some(header) = get("destination")? else { return Err(self.dialect().missing_destination("SUBSCRIBE")) };
        let text = destination_text(&header)?;
        let destination = self.dialect().destination(text, self.stomp.config.strict)?;
        let Some((exchange, key)) = destination.routing() else {
            return Err(Fault::new("Invalid destination", format!("'{text}' is not a valid destination for 'SUBSCRIBE'\n")));
        };
        if id.as_deref().is_some_and(|id| id.starts_with(TEMP_QUEUE.as_bytes())) {
            return Err(Fault::processing(format!("SUBSCRIBE 'id' may not start with {TEMP_QUEUE}")));
        }
        let tag = self.new_tag(id.as_deref(), &header)?;
        let prefetch = match get("prefetch-count")? {
            None => self.stomp.config.prefetch(),
            Some(text) => number(&text).ok_or_else(|| Fault::processing("prefetch-count is no number"))?,
        };
        let mode = AckMode { prefetch, ..ack_mode(frame)? };
        // RabbitMQ overlooks a priority that is no number.
        let priority = get("x-priority")?.and_then(|text| number(&text)).unwrap_or(0);
        // RabbitMQ overlooks it; whoever asks for it did not mean to get everything.
        let mut selector = if self.stomp.config.strict { None } else { selector_of(frame)? };
        let queue = match &destination {
            Destination::Queue(name) => self.declare(name, &frame.headers, true, step)?,
            Destination::AmqQueue(name) | Destination::ReplyQueue(name) => QueueName::new(name),
            _ => {
                let name = match (get("x-queue-name")?.filter(|name| !name.is_empty()), id.as_deref()) {
                    (Some(name), _) => {
                        let name = destination_text(&name)?;
                        check_queue_name(name)?;
                        name.to_owned()
                    }
                    (None, Some(id)) if durable => durable_name(key.as_bytes(), id),
                    _ => made_up_name("stomp-subscription"),
                };
                let queue = QueueName::new(&name);
                let mut spec = queue_spec(&name, &self.peer.place(), Kind::Subscription, &frame.headers, true)?;
                // What it does not want does not gather in its queue.
                spec.selector = selector.take().map(String::from);
                self.declare_as(&queue, spec, step);
                self.bind(&queue, exchange, key, step);
                queue
            }
        };
        let topic = matches!(destination, Destination::Topic(_));
        self.consume(Wanted { tag, id: id.as_deref(), topic, mode, priority, selector, ..Wanted::all_of(queue) }, step);
        Ok(())
    }

    /// What a new subscription is called here, if there is room for it and nobody has the name.
    pub(super) fn new_tag(&self, id: Option<&[u8]>, destination: &[u8]) -> Handled<Box<[u8]>> {
        let tag = tag_of(id, destination);
        if self.by_tag.contains_key(&tag) {
            let tag = String::from_utf8_lossy(&tag);
            let detail = format!("A subscription identified by '{tag}' already exists.");
            return Err(Fault::new("Duplicated subscription identifier", detail));
        }
        self.check_room()?;
        Ok(tag)
    }

    pub(super) fn check_room(&self) -> Handled {
        let most = self.stomp.config.max_subscriptions;
        if self.subscriptions.len() + self.watches.len() >= most {
            return Err(Fault::new("Subscription limit exceeded", format!("Too many subscriptions of one connection (limit {most})\n")));
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, queue: &QueueName, exchange: &str, key: &str, step: &mut Step<'_>) {
        let bind = Bind {
            owner: OWNER,
            source: ExchangeName::new(exchange),
            destination: Core::Queue(queue.clone()),
            key: key.into(),
            arguments: Vec::new(),
            format: FORMAT,
        };
        self.command(Control::Bind(bind), Asked::Silent, step);
    }

    /// The queue behind `/temp-queue/ID`, and the subscription to it that nobody had to ask for.
    pub(super) fn subscribe_to_replies(&mut self, id: &str, queue: &QueueName, step: &mut Step<'_>) -> Handled {
        self.check_room()?;
        let spec = QueueSpec { exclusive: true, auto_delete: true, format: FORMAT, ..QueueSpec::default() };
        self.declare_as(queue, spec, step);
        let id = format!("{TEMP_QUEUE}{id}");
        let tag = tag_of(Some(id.as_bytes()), b"");
        self.consume(Wanted { tag, id: Some(id.as_bytes()), ..Wanted::all_of(queue.clone()) }, step);
        Ok(())
    }

    pub(super) fn consume(&mut self, wanted: Wanted<'_>, step: &mut Step<'_>) {
        let Wanted { tag, id, queue, topic, virtual_topic, mode, priority, exclusive, alone, part, browses, maps, selector, shown } =
            wanted;
        self.numbers.consumer += 1;
        let ix = self.numbers.consumer;
        let limited = mode.prefetch != 0 && !mode.auto;
        let control = Control::Consume(Consume {
            consumer: ConsumerIx(ix),
            owner: owner_of(part),
            group: None,
            queue: queue.clone(),
            credit: if limited { mode.prefetch } else { u32::MAX },
            mode: match mode.auto {
                _ if browses => Mode::Browse,
                true => Mode::Settled,
                false => Mode::Lease,
            },
            exclusive,
            alone,
            priority,
            selector,
        });
        self.command(control, if part { Asked::Part(ix) } else { Asked::Silent }, step);
        let subscription = Subscription {
            line: self.line(id),
            id: self.id_prefix(&tag),
            tag: tag.clone(),
            queue,
            topic,
            virtual_topic,
            shown,
            auto: mode.auto,
            cumulative: mode.cumulative,
            limited,
            part,
            browses,
            maps,
            owed: 0,
            unacked: Unacked::default(),
            ended: false,
        };
        self.by_tag.entry(tag).or_default().push(ix);
        self.subscriptions.insert(ix, subscription);
    }

    fn line(&self, id: Option<&[u8]>) -> Box<[u8]> {
        let mut line = Vec::new();
        if let Some(id) = id {
            line.extend_from_slice(b"subscription:");
            escape(id, self.version, &mut line);
            line.push(b'\n');
        }
        line.into()
    }

    fn id_prefix(&self, tag: &[u8]) -> Box<[u8]> {
        let mut id = Vec::new();
        escape(&[tag, ID_SEPARATOR, self.session_id.as_bytes(), ID_SEPARATOR].concat(), self.version, &mut id);
        id.into()
    }

    pub(super) fn unsubscribe(&mut self, frame: &Frame<'_>, step: &mut Step<'_>) -> Handled {
        if self.dialect() == Dialect::ActiveMq {
            return self.unsubscribe_activemq(frame, step);
        }
        let get = |name: &str| frame.headers.get(name).map_err(malformed);
        let durable = is_durable(frame)?;
        let (id, destination) = (get("id")?, get("destination")?);
        if durable && id.is_none() {
            return Err(Fault::new("Missing Header", "Header 'id' is required for durable subscriptions"));
        }
        let shown = match (&id, &destination) {
            (Some(id), _) if id.starts_with(TEMP_QUEUE.as_bytes()) => {
                return Err(Fault::new("Invalid id", format!("UNSUBSCRIBE 'id' may not start with {TEMP_QUEUE}\n")));
            }
            (Some(id), _) => format!("id='{}'", String::from_utf8_lossy(id)),
            (None, Some(destination)) => format!("destination='{}'", String::from_utf8_lossy(destination)),
            (None, None) => {
                return Err(Fault::new("Missing destination or id", "UNSUBSCRIBE must include a 'destination' or 'id' header"));
            }
        };
        let tag = tag_of(id.as_deref(), destination.as_deref().unwrap_or_default());
        let Some((topic, queue)) = self.end_subscription(&tag, step) else {
            let detail = format!("UNSUBSCRIBE must refer to an existing subscription.\nSubscription to \"{shown}\" not found.\n");
            return Err(Fault::new("No subscription found", detail));
        };
        if topic && durable {
            self.delete(queue, step);
        }
        Ok(())
    }

    /// Nothing more comes for it. Answers whether it was to a topic, and its queue (of several: the first).
    pub(super) fn end_subscription(&mut self, tag: &[u8], step: &mut Step<'_>) -> Option<(bool, QueueName)> {
        let all = self.by_tag.remove(tag)?;
        for ix in &all {
            self.command(Control::Cancel { consumer: ConsumerIx(*ix) }, Asked::Cancel(*ix), step);
            self.watches.remove(ix);
            if let Some(found) = self.subscriptions.get_mut(ix) {
                found.ended = true;
            }
        }
        let found = all.iter().find_map(|ix| self.subscriptions.get(ix));
        Some(found.map_or_else(|| (false, QueueName::new("")), |found| (found.topic, found.queue.clone())))
    }

    pub(super) fn delete(&mut self, name: QueueName, step: &mut Step<'_>) {
        let delete = Control::DeleteQueue { owner: OWNER, name, if_unused: false, if_empty: false };
        self.command(delete, Asked::Silent, step);
    }

    /// Forgets a subscription that was ended and whose deliveries are all settled.
    pub(super) fn forget_if_idle(&mut self, ix: u32) {
        let held = |session: &Session| session.transactions.values().any(|tx| tx.settled.iter().any(|(of, _)| *of == ix));
        if self.subscriptions.get(&ix).is_some_and(|found| found.ended && found.unacked.is_empty()) && !held(self) {
            self.subscriptions.remove(&ix);
        }
    }

    /// The queue was deleted. The client is told, and may go on with its other subscriptions, as with RabbitMQ; the specification would have
    /// the connection end.
    pub(super) fn subscription_ended(&mut self, ix: u32, step: &mut Step<'_>) {
        let Some(found) = self.subscriptions.remove(&ix) else { return };
        if found.ended {
            return;
        }
        self.declared.remove(&found.queue);
        if let Some(all) = self.by_tag.get_mut(&found.tag) {
            all.retain(|other| *other != ix);
            if all.is_empty() {
                self.by_tag.remove(&found.tag);
            }
        }
        if found.part {
            return;
        }
        self.replies.retain(|_, queue| *queue != found.queue);
        let (kind, name) = found.tag.split_at(2.min(found.tag.len()));
        let word = if kind == b"T_" { "id" } else { "destination" };
        let shown = String::from_utf8_lossy(name);
        let detail = format!("The server has canceled a subscription.\nNo more messages will be delivered for \"{word}='{shown}'\".\n");
        FrameWriter::new(Command::Error, self.version, step.out.buffer())
            .header("message", "Server cancelled subscription")
            .header("content-type", "text/plain")
            .header("version", "1.0,1.1,1.2")
            .header("subscription", name)
            .body(detail.as_bytes());
        step.out.buffer().push(b'\n');
    }
}

/// A part's queue may be gone, or another's, before its consumer comes: that stops nobody.
pub(super) fn owner_of(part: bool) -> OwnerIx {
    if part {
        MAKER
    } else {
        OWNER
    }
}

fn is_durable(frame: &Frame<'_>) -> Handled<bool> {
    let is_true = |name: &str| -> Handled<bool> { Ok(frame.headers.get(name).map_err(malformed)?.as_deref() == Some(b"true")) };
    Ok(is_true("durable")? || is_true("persistent")?)
}

pub(super) fn tag_of(id: Option<&[u8]>, destination: &[u8]) -> Box<[u8]> {
    match id {
        Some(id) => [b"T_", id].concat().into(),
        None => [b"Q_", destination].concat().into(),
    }
}

/// Without a prefetch, which each dialect has its own header for.
pub(super) fn ack_mode(frame: &Frame<'_>) -> Handled<AckMode> {
    let (auto, cumulative) = match frame.headers.get("ack").map_err(malformed)?.as_deref() {
        None | Some(b"auto") => (true, false),
        Some(b"client") => (false, true),
        Some(b"client-individual") => (false, false),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            return Err(Fault::processing(format!("ack is none of auto, client, client-individual: '{other}'")));
        }
    };
    Ok(AckMode { auto, cumulative, prefetch: 0 })
}

/// The queue of a durable subscription, as RabbitMQ calls it, so that one that was made there is found: a digest of Erlang's encoding of
/// `{Key, Id}`, two strings.
pub(super) fn durable_name(key: &[u8], id: &[u8]) -> String {
    let mut term = vec![131, 104, 2];
    for text in [key, id] {
        match (text.len(), u16::try_from(text.len())) {
            (0, _) => term.push(106),
            (_, Ok(len)) => {
                term.push(107);
                term.extend_from_slice(&len.to_be_bytes());
                term.extend_from_slice(text);
            }
            // Longer than Erlang calls a string, and than RabbitMQ could name: whatever is the same each time.
            (_, Err(_)) => term.extend_from_slice(text),
        }
    }
    let name = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Md5::digest(&term));
    format!("stomp-subscription-{name}")
}

/// A condition on messages, which the core reads. An empty one is none.
pub(super) fn selector_of(frame: &Frame<'_>) -> Handled<Option<Box<str>>> {
    let Some(text) = frame.headers.get("selector").map_err(malformed)? else { return Ok(None) };
    let text = std::str::from_utf8(&text).map_err(|_| Fault::processing("the selector is not UTF-8"))?;
    Ok(Some(text).filter(|text| !text.trim().is_empty()).map(Box::from))
}

/// Versions differ in what they call the header that names a delivery.
pub(super) fn says_ack(version: Version, auto: bool) -> bool {
    version == Version::V12 && !auto
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen in RabbitMQ 3.10.8.
    #[test]
    fn durable_subscriptions_have_the_names_that_rabbitmq_gives_them() {
        assert_eq!(durable_name(b"durk", b"d1"), "stomp-subscription-zKOawmp1upInqY9JCqnD1A");
    }
}
