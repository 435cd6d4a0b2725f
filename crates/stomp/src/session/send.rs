//! SEND: read where it lies. Only the headers that are for consumers are copied, into the turn's arena.

use broker_api::{Control, Declare, Head, QueueName, Span, HEAD_CONFIRM, HEAD_DURABLE};

use super::{made_up_name, malformed, Asked, Handled, Session, Step, OWNER};
use crate::arguments::{queue_spec, Kind};
use crate::codec::{self, Frame};
use crate::destination::{Destination, TEMP_QUEUE};
use crate::error::Fault;
use crate::headers::{put_line, read_send, Sent, FORMAT};
use crate::mapping::{self, SEPARATOR};

/// Destinations that are remembered.
const TARGETS_MAX: usize = 1024;
/// Queues that are known to have been declared; forgetting one costs declaring it again.
const DECLARED_MAX: usize = 16_384;

/// Where messages with one destination header go.
pub(super) struct Target {
    exchange: Box<str>,
    key: Box<str>,
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
        if sent.message_id {
            return Err(Fault::new("Invalid header", "'message-id' is not allowed on 'SEND'.\n"));
        }
        let Some(destination) = &sent.destination else { return Err(missing("SEND")) };
        let priority = match &sent.priority {
            None => 0,
            Some(text) => number(text).ok_or_else(|| Fault::processing("priority is no number from 0 to 255"))?,
        };
        if let Some(user) = sent.user_id.as_ref().filter(|user| ***user != *self.peer.user.as_bytes()) {
            let (given, user) = (String::from_utf8_lossy(user), &self.peer.user);
            return Err(Fault::precondition(format!("user_id property set to '{given}' but authenticated user was '{user}'")));
        }
        let expires_ms = match &sent.expiration {
            None => 0,
            Some(text) => (step.now_ms + mapping::expiration(text).map_err(Fault::precondition)?).max(1),
        };
        if let Some(address) = &sent.reply_to {
            let address = self.reply_address(address, step)?;
            put_line("reply-to", &address, &mut step.turn.arena);
        }
        let origin = Span::arena(from, step.turn.arena.len() - from);
        if !self.targets.contains_key(&**destination) {
            self.find_target(destination, &frame.headers, step)?;
        }
        let Some(target) = self.targets.get(&**destination) else { return Ok(()) };
        let (exchange, key) = (step.turn.intern(target.exchange.as_bytes()), step.turn.intern(target.key.as_bytes()));
        let mut flags = if sent.persistent { HEAD_DURABLE } else { 0 };
        if sent.receipt.is_some() {
            flags |= HEAD_CONFIRM;
        }
        debug_assert!(block.len() >= frame.end);
        let head = Head {
            exchange,
            key,
            origin,
            body: Span::block(frame.body_at, frame.body.len()),
            expires_ms,
            owner: OWNER.0,
            flags,
            priority,
            // To MQTT this is QoS 1 or 0.
            level: u8::from(sent.persistent),
            format: FORMAT,
            separator: SEPARATOR,
            ..Head::default()
        };
        self.set_scope(transaction, step.turn);
        step.turn.publish(head);
        self.numbers.serial += 1;
        if let Some(receipt) = &sent.receipt {
            self.due.receipt(receipt, self.numbers.serial, (first_token, self.numbers.token), true);
        }
        Ok(())
    }

    /// The first message to a destination: it is read, and its queue is made.
    #[cold]
    fn find_target(&mut self, header: &[u8], headers: &codec::Headers<'_>, step: &mut Step<'_>) -> Handled {
        let text = destination_text(header)?;
        let destination = Destination::parse(text).map_err(|bad| bad.fault())?;
        let Some((exchange, key)) = destination.routing() else {
            return Err(Fault::new("Invalid destination", format!("'{text}' is not a valid destination for 'SEND'\n")));
        };
        if let Destination::Queue(name) = &destination {
            self.declare(name, headers, false, step)?;
        }
        if self.targets.len() >= TARGETS_MAX {
            self.targets.clear();
        }
        self.targets.insert(header.into(), Target { exchange: exchange.into(), key: key.into() });
        Ok(())
    }

    /// A shared queue is declared when this connection first names it, with the arguments of that frame.
    pub(super) fn declare(&mut self, name: &str, headers: &codec::Headers<'_>, subscribe: bool, step: &mut Step<'_>) -> Handled<QueueName> {
        let queue = QueueName::new(name);
        if !self.declared.contains(&queue) {
            let spec = queue_spec(name, &self.peer.vhost, Kind::Queue, headers, subscribe)?;
            self.declare_as(&queue, spec, step);
            if self.declared.len() >= DECLARED_MAX {
                self.declared.clear();
            }
            self.declared.insert(queue.clone());
        }
        Ok(queue)
    }

    pub(super) fn declare_as(&mut self, name: &QueueName, spec: broker_api::QueueSpec, step: &mut Step<'_>) {
        let arguments = spec.arguments.clone();
        let declare = Declare::Queue { owner: OWNER, name: name.clone(), spec, passive: false };
        self.command(Control::Declare(declare), Asked::Declare(arguments), step);
    }

    /// `/temp-queue/ID` stands for a queue of this connection, which is made and listened to when it is first named; consumers are told its
    /// name.
    fn reply_address(&mut self, address: &[u8], step: &mut Step<'_>) -> Handled<Vec<u8>> {
        let Some(id) = address.strip_prefix(TEMP_QUEUE.as_bytes()) else {
            // RabbitMQ reads it as a destination, too.
            Destination::parse(destination_text(address)?).map_err(|bad| bad.fault())?;
            return Ok(mapping::reply_to(address));
        };
        let id = destination_text(id)?;
        if let Some(queue) = self.replies.get(id) {
            return Ok(mapping::reply_to(queue.as_str().as_bytes()));
        }
        let queue = QueueName::new(&made_up_name("amq.gen"));
        self.subscribe_to_replies(id, &queue, step)?;
        self.replies.insert(id.into(), queue.clone());
        Ok(mapping::reply_to(queue.as_str().as_bytes()))
    }
}

pub(super) fn missing(command: &str) -> Fault {
    Fault::new("Missing destination", format!("\"{command}\" must include a 'destination' header\n"))
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
