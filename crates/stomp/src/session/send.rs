//! SEND: read where it lies. Only the headers that are for consumers are copied, into the turn's arena.

use broker_api::{Control, Declare, Head, QueueName, QueueSpec, Span, HEAD_CONFIRM, HEAD_DURABLE, HEAD_GROUP_ENDS};

use super::schedule::{Later, Schedule};
use super::{made_up_name, malformed, Asked, Handled, Session, Step, MAKER, OWNER};
use crate::arguments::{queue_spec, Kind};
use crate::codec::{self, Frame};
use crate::destination::{check_queue_name, too_long, Destination, NAME_MAX, TEMP_QUEUE};
use crate::dialect::{Dialect, TEMP_TOPIC_KEY};
use crate::error::Fault;
use crate::headers::{put_line, read_send, Sent, CRON, FORMAT};
use crate::map;
use crate::mapping::{self, SEPARATOR};

/// Destinations that are remembered.
const TARGETS_MAX: usize = 1024;
/// Queues that are known to have been declared; forgetting one costs declaring it again.
const DECLARED_MAX: usize = 16_384;

/// Where messages with one destination header go.
pub(super) struct Target {
    first: Address,
    /// Those of a composite destination behind the first.
    more: Vec<Address>,
}

#[derive(Clone)]
pub(super) struct Address {
    pub(super) exchange: Box<str>,
    pub(super) key: Box<str>,
}

impl Session {
    #[inline]
    pub(super) fn send(&mut self, frame: &Frame<'_>, block: &[u8], first_token: u32, step: &mut Step<'_>) -> Handled {
        let from = step.turn.arena.len();
        let sent = read_send(&frame.headers, &mut step.turn.arena).map_err(malformed)?;
        let accepted = self.accept(frame, block, &sent, from, first_token, step);
        if accepted.is_err() {
            step.turn.arena.truncate(from);
        }
        accepted
    }

    fn accept(&mut self, frame: &Frame<'_>, block: &[u8], sent: &Sent<'_>, from: usize, first_token: u32, step: &mut Step<'_>) -> Handled {
        let transaction = sent.transaction.as_deref().map(|name| self.transaction(name)).transpose()?;
        if sent.message_id && self.dialect() == Dialect::RabbitMq {
            return Err(Fault::new("Invalid header", "'message-id' is not allowed on 'SEND'.\n"));
        }
        let Some(destination) = &sent.destination else { return Err(self.dialect().missing_destination("SEND")) };
        let schedule = self.schedule(sent, from, step)?;
        let mut head = self.head(sent, step)?;
        self.put_own_lines(sent, destination, frame.body, step)?;
        head.origin = Span::arena(from, step.turn.arena.len() - from);
        if !self.targets.contains_key(&**destination) {
            self.find_target(destination, &frame.headers, step)?;
        }
        let several = self.several(destination, schedule, frame.body.len() + head.origin.len as usize, step)?;
        let Some(target) = self.targets.get(&**destination) else { return Ok(()) };
        head.exchange = step.turn.intern(target.first.exchange.as_bytes());
        head.key = step.turn.intern(target.first.key.as_bytes());
        if let Some(group) = sent.group.as_ref().filter(|_| self.dialect() == Dialect::ActiveMq) {
            head.group = step.turn.intern(group);
            // The last of its group.
            if !group.is_empty() && sent.group_seq.as_deref().and_then(number::<i64>).is_some_and(|seq| seq < 0) {
                head.flags |= HEAD_GROUP_ENDS;
            }
        }
        debug_assert!(block.len() >= frame.end);
        head.body = Span::block(frame.body_at, frame.body.len());
        self.set_scope(transaction, step.turn);
        let first = self.numbers.serial + 1;
        self.publish(head, several, step);
        if let Some(receipt) = &sent.receipt {
            self.due.receipt_of((first, self.numbers.serial), receipt, (first_token, self.numbers.token), true);
        }
        Ok(())
    }

    /// What the headers say that the core reads.
    fn head(&self, sent: &Sent<'_>, step: &mut Step<'_>) -> Handled<Head> {
        let priority = match &sent.priority {
            None => 0,
            Some(text) => number(text).ok_or_else(|| Fault::processing("priority is no number from 0 to 255"))?,
        };
        if let Some(user) = sent.user_id.as_ref().filter(|user| ***user != *self.peer.user.as_bytes()) {
            let (given, user) = (String::from_utf8_lossy(user), &self.peer.user);
            return Err(Fault::precondition(format!("user_id property set to '{given}' but authenticated user was '{user}'")));
        }
        let expires_ms = match (&sent.expiration, &sent.expires) {
            (Some(text), _) => (step.now_ms + mapping::expiration(text).map_err(Fault::precondition)?).max(1),
            (None, Some(text)) if self.dialect() == Dialect::ActiveMq => expires(text, step)?,
            _ => 0,
        };
        let mut flags = if sent.persistent { HEAD_DURABLE } else { 0 };
        if sent.receipt.is_some() {
            flags |= HEAD_CONFIRM;
        }
        Ok(Head {
            expires_ms,
            owner: OWNER.0,
            flags,
            priority,
            // To MQTT this is QoS 1 or 0.
            level: u8::from(sent.persistent),
            format: FORMAT,
            separator: SEPARATOR,
            ..Head::default()
        })
    }

    /// Headers for consumers that the client did not write so.
    #[inline]
    fn put_own_lines(&mut self, sent: &Sent<'_>, destination: &[u8], body: &[u8], step: &mut Step<'_>) -> Handled {
        if let Some(address) = &sent.reply_to {
            let address = self.reply_address(address, step)?;
            put_line("reply-to", &address, &mut step.turn.arena);
        }
        if self.dialect() != Dialect::ActiveMq {
            return Ok(());
        }
        if destination.contains(&b',') {
            put_line("original-destination", destination, &mut step.turn.arena);
        }
        if let Some(Err(why)) = sent.transformation.as_deref().map(|named| map::check(named, body)) {
            put_line("transformation-error", why.as_bytes(), &mut step.turn.arena);
        }
        Ok(())
    }

    /// All addresses, and how long each message is held back; `None` where it is one at once, as it almost always is.
    #[inline]
    fn several(
        &mut self,
        destination: &[u8],
        schedule: Option<Schedule>,
        bytes: usize,
        step: &mut Step<'_>,
    ) -> Handled<Option<Vec<Later>>> {
        let Some(target) = self.targets.get(destination) else { return Ok(None) };
        if target.more.is_empty() && schedule.is_none() {
            return Ok(None);
        }
        let addresses = [std::slice::from_ref(&target.first), &*target.more].concat();
        match schedule {
            Some(schedule) => self.scheduled(addresses, schedule, bytes, step).map(Some),
            None => Ok(Some(addresses.into_iter().map(|address| Later { address, delay_ms: 0, cron: None }).collect())),
        }
    }

    #[inline]
    fn publish(&mut self, head: Head, several: Option<Vec<Later>>, step: &mut Step<'_>) {
        let Some(several) = several else {
            step.turn.publish(head);
            self.numbers.serial += 1;
            return;
        };
        for Later { address, delay_ms, cron } in several {
            let origin = match cron {
                None => head.origin,
                // Each has its own.
                Some(times) => {
                    let (at, kept) = (step.turn.arena.len(), head.origin.offset()..head.origin.end());
                    step.turn.arena.extend_from_within(kept);
                    put_line(CRON, times.as_bytes(), &mut step.turn.arena);
                    Span::arena(at, step.turn.arena.len() - at)
                }
            };
            let (exchange, key) = (step.turn.intern(address.exchange.as_bytes()), step.turn.intern(address.key.as_bytes()));
            step.turn.publish(Head { exchange, key, delay_ms, origin, ..head });
            self.numbers.serial += 1;
        }
    }

    /// The first message to a destination: it is read, and its queue is made.
    #[cold]
    fn find_target(&mut self, header: &[u8], headers: &codec::Headers<'_>, step: &mut Step<'_>) -> Handled {
        let text = destination_text(header)?;
        let mut addresses = Vec::new();
        for destination in self.dialect().destinations(text, self.stomp.config.strict)? {
            let destination = match destination {
                Destination::TempQueue(id) if self.dialect() == Dialect::ActiveMq => {
                    Destination::ReplyQueue(self.temp_queue(&id, step)?.to_string())
                }
                Destination::TempTopic(id) => Destination::Topic(self.temp_topic(&id)?),
                other => other,
            };
            let Some((exchange, key)) = destination.routing() else {
                return Err(Fault::new("Invalid destination", format!("'{text}' is not a valid destination for 'SEND'\n")));
            };
            if let Destination::Queue(name) = &destination {
                self.declare(name, headers, false, step)?;
            }
            addresses.push(Address { exchange: exchange.into(), key: key.into() });
        }
        let mut addresses = addresses.into_iter();
        let Some(first) = addresses.next() else { return Ok(()) };
        if self.targets.len() >= TARGETS_MAX {
            self.targets.clear();
        }
        self.targets.insert(header.into(), Target { first, more: addresses.collect() });
        Ok(())
    }

    /// A shared queue is declared when this connection first names it, with the arguments of that frame.
    pub(super) fn declare(&mut self, name: &str, headers: &codec::Headers<'_>, subscribe: bool, step: &mut Step<'_>) -> Handled<QueueName> {
        let queue = QueueName::new(name);
        if !self.declared.contains(&queue) {
            check_queue_name(name)?;
            match self.dialect() {
                _ if !self.stomp.config.auto_create => {
                    let declare = Declare::Queue { owner: OWNER, name: queue.clone(), spec: QueueSpec::default(), passive: true };
                    self.command(Control::Declare(declare), Asked::Silent, step);
                }
                Dialect::RabbitMq => {
                    let spec = queue_spec(name, &self.peer.place(), Kind::Queue, headers, subscribe)?;
                    self.declare_as(&queue, spec, step);
                }
                Dialect::ActiveMq => {
                    let spec = QueueSpec { durable: true, format: FORMAT, ..QueueSpec::default() };
                    let declare = Declare::Queue { owner: MAKER, name: queue.clone(), spec, passive: false };
                    self.command(Control::Declare(declare), Asked::Make, step);
                }
            }
            if self.declared.len() >= DECLARED_MAX {
                self.declared.clear();
            }
            self.declared.insert(queue.clone());
        }
        Ok(queue)
    }

    pub(super) fn declare_as(&mut self, name: &QueueName, spec: QueueSpec, step: &mut Step<'_>) {
        let arguments = spec.arguments.clone();
        let declare = Declare::Queue { owner: OWNER, name: name.clone(), spec, passive: false };
        self.command(Control::Declare(declare), Asked::Declare(arguments), step);
    }

    /// `/temp-queue/ID` stands for a queue of this connection, which is made and listened to when it is first named; consumers are told its
    /// name.
    fn reply_address(&mut self, address: &[u8], step: &mut Step<'_>) -> Handled<Vec<u8>> {
        let text = destination_text(address)?;
        if self.dialect() == Dialect::ActiveMq {
            // Nothing there is refused; what is no address stays a text.
            return match self.dialect().destination(text, false) {
                Ok(Destination::TempQueue(id)) => Ok(mapping::reply_to(self.temp_queue(&id, step)?.as_str().as_bytes())),
                Ok(Destination::ReplyQueue(name)) => Ok(mapping::reply_to(name.as_bytes())),
                // So others can answer to it, too.
                Ok(Destination::TempTopic(id)) => Ok(format!("/topic/{}", self.temp_topic(&id)?).into_bytes()),
                Ok(Destination::Topic(key)) if key.starts_with(TEMP_TOPIC_KEY) => Ok(format!("/topic/{key}").into_bytes()),
                _ => Ok(address.to_vec()),
            };
        }
        let Some(id) = text.strip_prefix(TEMP_QUEUE) else {
            // RabbitMQ reads it as a destination, too.
            self.dialect().destination(text, self.stomp.config.strict)?;
            return Ok(mapping::reply_to(address));
        };
        if let Some(queue) = self.replies.get(id) {
            return Ok(mapping::reply_to(queue.as_str().as_bytes()));
        }
        let queue = QueueName::new(&made_up_name("amq.gen"));
        self.subscribe_to_replies(id, &queue, step)?;
        self.replies.insert(id.into(), queue.clone());
        Ok(mapping::reply_to(queue.as_str().as_bytes()))
    }

    /// ActiveMQ's `/temp-topic/ID`: a name in the topic space that is this connection's alone. There is nothing to make, and nothing to clean up.
    pub(super) fn temp_topic(&self, id: &str) -> Handled<String> {
        let key = format!("{TEMP_TOPIC_KEY}{}.{id}", self.session_id);
        if key.len() > NAME_MAX {
            return Err(too_long(id));
        }
        Ok(key)
    }

    /// ActiveMQ's `/temp-queue/ID`: a queue that goes with this connection, and that others may send to by its name.
    pub(super) fn temp_queue(&mut self, id: &str, step: &mut Step<'_>) -> Handled<QueueName> {
        if let Some(queue) = self.replies.get(id) {
            return Ok(queue.clone());
        }
        if self.replies.len() >= self.stomp.config.max_subscriptions {
            return Err(Fault::plain("Too many temporary queues of one connection".to_owned()));
        }
        let queue = QueueName::new(&made_up_name("amq.gen"));
        self.declare_as(&queue, QueueSpec { exclusive: true, format: FORMAT, ..QueueSpec::default() }, step);
        self.replies.insert(id.into(), queue.clone());
        Ok(queue)
    }
}

/// ActiveMQ's `expires`: the hour itself, in ms since the Unix epoch; 0 is never.
fn expires(text: &[u8], step: &mut Step<'_>) -> Handled<u64> {
    let at: u64 = number(text).ok_or_else(|| Fault::plain(format!("expires is no number: '{}'", String::from_utf8_lossy(text))))?;
    if at != 0 {
        put_line("expiration", at.saturating_sub(step.now_ms).to_string().as_bytes(), &mut step.turn.arena);
    }
    Ok(at)
}

/// Names are text; what is not cannot be the name of anything here.
pub(super) fn destination_text(header: &[u8]) -> Handled<&str> {
    std::str::from_utf8(header).map_err(|_| {
        let shown = String::from_utf8_lossy(header);
        Fault::new("Invalid destination", format!("'{shown}' is not UTF-8\n"))
    })
}

pub(super) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}
