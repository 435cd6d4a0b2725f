//! Exchanges, queues and bindings: commands for the core, and their answers.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use broker_api::{
    Bind, Control, Declare, Destination, EndOwner, ExchangeName, ExchangeSpec, OwnerIx, PartingFate, QueueName, QueueSpec, Refusal, Reply,
};

use super::channel::At;
use super::deliver::REPLY_TO;
use super::requests::{narrow, Asked, Request};
use super::{next, on, Handled, Session, Step};
use crate::arguments::{as_table, check_server_named, difference, exchange_spec, queue_spec, relaxed, ExchangeFlags, QueueFlags};
use crate::codec::{Method, Table, TableWriter};
use crate::error::{of_refusal, Code};
use crate::FORMAT;

/// A queue.declare that waits for its answer.
pub(super) struct Declared {
    name: QueueName,
    nowait: bool,
    /// As encoded; `None` for a passive one.
    arguments: Option<Vec<u8>>,
}

/// 128 bits that nobody else has, as RabbitMQ makes its names: the standard library's hash keys are random and differ with each call.
pub(super) fn made_up_name(prefix: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let part = || u128::from(RandomState::new().build_hasher().finish());
    let mut bits = part() << 64 | part();
    let mut name = prefix.to_owned();
    for _ in 0..22 {
        name.push(char::from(LETTERS[(bits & 63) as usize]));
        bits >>= 6;
    }
    name
}

/// Names are text; what is not cannot be the name of anything here.
fn text(at: At, name: &[u8]) -> Handled<&str> {
    std::str::from_utf8(name).map_err(|_| at.failed(Code::PreconditionFailed, "a name that is not UTF-8"))
}

fn no_line_breaks(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

impl Session {
    /// An empty name stands for the queue that was last declared on the channel.
    pub(super) fn queue_or_last(&mut self, at: At, name: &[u8]) -> Handled<String> {
        if !name.is_empty() {
            return text(at, name).map(str::to_owned);
        }
        match self.live(at.channel, at.owner).map(|channel| channel.last_queue.to_string()) {
            Some(last) if !last.is_empty() => Ok(last),
            _ => Err(at.failed(Code::NotFound, "no previously declared queue")),
        }
    }

    pub(super) fn topology(&mut self, at: At, method: Method<'_>, step: &mut Step<'_>) -> Handled {
        match method {
            Method::ExchangeDeclare { .. } => self.exchange_declare(at, method, step),
            Method::ExchangeDelete { exchange, if_unused, nowait } => {
                let name = ExchangeName::new(text(at, exchange)?);
                let control = Control::DeleteExchange { owner: at.owner_ix(), name, if_unused };
                self.ask(at, control, say(nowait, Method::ExchangeDeleteOk {}), step);
                Ok(())
            }
            Method::ExchangeBind { destination, source, routing_key, nowait, arguments } => {
                let to = Destination::Exchange(ExchangeName::new(text(at, destination)?));
                let bind = binding(at, source, to, routing_key, arguments)?;
                self.ask(at, Control::Bind(bind), say(nowait, Method::ExchangeBindOk {}), step);
                Ok(())
            }
            Method::ExchangeUnbind { destination, source, routing_key, nowait, arguments } => {
                let to = Destination::Exchange(ExchangeName::new(text(at, destination)?));
                let bind = binding(at, source, to, routing_key, arguments)?;
                self.ask(at, Control::Unbind(bind), say(nowait, Method::ExchangeUnbindOk {}), step);
                Ok(())
            }
            Method::QueueDeclare { .. } => self.queue_declare(at, method, step),
            Method::QueueBind { queue, exchange, routing_key, nowait, arguments } => {
                let (to, key) = self.bound_queue(at, queue, routing_key)?;
                let bind = binding(at, exchange, to, key.as_bytes(), arguments)?;
                self.ask(at, Control::Bind(bind), say(nowait, Method::QueueBindOk {}), step);
                Ok(())
            }
            Method::QueueUnbind { queue, exchange, routing_key, arguments } => {
                let (to, key) = self.bound_queue(at, queue, routing_key)?;
                let bind = binding(at, exchange, to, key.as_bytes(), arguments)?;
                self.ask(at, Control::Unbind(bind), Asked::Say(Method::QueueUnbindOk {}), step);
                Ok(())
            }
            Method::QueuePurge { queue, nowait } => {
                let queue = QueueName::new(&self.queue_or_last(at, queue)?);
                let asked = if nowait { Asked::Silent } else { Asked::Purged };
                self.ask(at, Control::Purge { owner: at.owner_ix(), queue }, asked, step);
                Ok(())
            }
            Method::QueueDelete { queue, if_unused, if_empty, nowait } => {
                let name = QueueName::new(&self.queue_or_last(at, queue)?);
                let asked = if nowait { Asked::Silent } else { Asked::Deleted };
                self.ask(at, Control::DeleteQueue { owner: at.owner_ix(), name, if_unused, if_empty }, asked, step);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn ask(&mut self, at: At, control: Control, asked: Asked, step: &mut Step<'_>) {
        let token = self.command(control, step);
        self.requests.push_back(Request::of_channel(token, at.channel, at.owner, at.method, asked));
    }

    /// With both names empty the queue's own name is the key.
    fn bound_queue(&mut self, at: At, queue: &[u8], key: &[u8]) -> Handled<(Destination, String)> {
        let name = self.queue_or_last(at, queue)?;
        let key = if queue.is_empty() && key.is_empty() { name.clone() } else { text(at, key)?.to_owned() };
        Ok((Destination::Queue(QueueName::new(&name)), key))
    }

    fn exchange_declare(&mut self, at: At, method: Method<'_>, step: &mut Step<'_>) -> Handled {
        let Method::ExchangeDeclare { exchange, kind, passive, durable, auto_delete, internal, nowait, arguments } = method else {
            return Ok(());
        };
        let name = no_line_breaks(text(at, exchange)?);
        let spec = match passive {
            true => ExchangeSpec { format: FORMAT, ..ExchangeSpec::default() },
            false => {
                let flags = ExchangeFlags { durable, auto_delete, internal };
                exchange_spec(&name, &self.peer.vhost, text(at, kind)?, flags, arguments).map_err(on(at.channel))?
            }
        };
        let declare = Declare::Exchange { owner: at.owner_ix(), name: ExchangeName::new(&name), spec, passive };
        self.ask(at, Control::Declare(declare), say(nowait, Method::ExchangeDeclareOk {}), step);
        Ok(())
    }

    fn queue_declare(&mut self, at: At, method: Method<'_>, step: &mut Step<'_>) -> Handled {
        let Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments } = method else { return Ok(()) };
        // It stands for direct reply-to as such, and is there for those who ask if it can be had (measured on RabbitMQ 3.10.8).
        if queue == REPLY_TO {
            if !nowait {
                self.answer(at.channel, Method::QueueDeclareOk { queue: REPLY_TO, message_count: 0, consumer_count: 1 }, step);
            }
            return Ok(());
        }
        // Nobody makes an address for replies by declaring it.
        if passive || queue.starts_with(REPLY_TO) {
            let name = QueueName::new(&self.queue_or_last(at, queue)?);
            let declared = Declared { name, nowait, arguments: None };
            if declared.name.as_bytes().starts_with(REPLY_TO) {
                self.ask_for_address(at, declared, step);
            } else {
                self.ask_declare(at, declared, QueueSpec::default(), step);
            }
            return Ok(());
        }
        let name = match no_line_breaks(text(at, queue)?) {
            name if name.is_empty() => made_up_name("amq.gen-"),
            name if name.starts_with("amq.") => {
                return Err(at.failed(Code::AccessRefused, format!("queue name '{name}' contains reserved prefix 'amq.*'")));
            }
            name => name,
        };
        let flags = QueueFlags { durable, exclusive, auto_delete };
        let typed = self.peer.default_queue_type.as_deref().and_then(|kind| with_type(kind, flags, arguments));
        let arguments = typed.as_ref().map_or(arguments, TableWriter::as_table);
        if queue.is_empty() {
            check_server_named(arguments).map_err(on(at.channel))?;
        }
        let spec = queue_spec(&name, &self.peer.vhost, flags, arguments).map_err(on(at.channel))?;
        if let Some(channel) = self.live(at.channel, at.owner) {
            // Already now: what is pipelined behind it may name it by nothing.
            channel.last_queue = name.as_str().into();
        }
        let declared = Declared { name: QueueName::new(&name), nowait, arguments: Some(arguments.as_bytes().to_vec()) };
        self.ask_declare(at, declared, spec, step);
        Ok(())
    }

    /// Does somebody wait for replies there? It is always somebody else's queue: to be refused it says yes, and must not stop the channel,
    /// as a refusal stops its owner. So an owner of its own asks.
    fn ask_for_address(&mut self, at: At, declared: Declared, step: &mut Step<'_>) {
        let owner = OwnerIx(next(&mut self.numbers.owner));
        let look = Declare::Queue { owner, name: declared.name.clone(), spec: QueueSpec::default(), passive: true };
        self.ask(at, Control::Owner { owner, fail_stop: false, channel: 0 }, Asked::Silent, step);
        self.ask(at, Control::Declare(look), Asked::Declare(Box::new(declared)), step);
        let end = EndOwner { owner, expiry: None, parting: PartingFate::Discard };
        self.ask(at, Control::EndOwner(end), Asked::Silent, step);
    }

    fn ask_declare(&mut self, at: At, declared: Declared, spec: QueueSpec, step: &mut Step<'_>) {
        let passive = declared.arguments.is_none();
        let declare = Declare::Queue { owner: OwnerIx(at.owner), name: declared.name.clone(), spec, passive };
        self.ask(at, Control::Declare(declare), Asked::Declare(Box::new(declared)), step);
    }

    pub(super) fn declared(
        &mut self,
        declared: Declared,
        channel: u16,
        owner: u32,
        result: Result<Reply, Refusal>,
        step: &mut Step<'_>,
    ) -> Handled {
        let Declared { name, nowait, arguments } = declared;
        let at = At { channel, owner, method: (50, 10) };
        let (ready, consumers) = match result {
            Ok(Reply::Queue { ready, consumers, .. }) => (narrow(ready), consumers),
            Ok(_) => (0, 0),
            // This is how they differ.
            Err(Refusal::Inequivalent(what)) if what.property == "arguments" => {
                let given = arguments.unwrap_or_default();
                let current = as_table(&self.amqp.views, what.format, &what.arguments);
                let (given, current) = (Table::parse(&given).unwrap_or_default(), current.as_table());
                let compared = relaxed(given, current).filter(|_| self.amqp.config.relaxed_redeclare);
                let given = compared.as_ref().map_or(given, TableWriter::as_table);
                let text = difference(&name, &self.peer.vhost, given, current);
                let text = text.unwrap_or_else(|| format!("inequivalent arguments for queue '{name}' in vhost '{}'", self.peer.vhost));
                return Err(at.failed(Code::PreconditionFailed, text));
            }
            // The address of a reply: somebody else's, and there.
            Err(Refusal::Locked(name)) if arguments.is_none() && name.as_bytes().starts_with(REPLY_TO) => (0, 1),
            Err(refusal) => return Err(on(channel)(of_refusal(&refusal, &self.peer.vhost, at.method))),
        };
        if let Some(channel) = self.live(channel, owner) {
            channel.last_queue = name.as_str().into();
        } else {
            return Ok(());
        }
        if !nowait {
            let queue = name.as_str().as_bytes();
            step.say(channel, &Method::QueueDeclareOk { queue, message_count: ready, consumer_count: consumers });
        }
        Ok(())
    }
}

/// The arguments with the type that the virtual host has for queues without one, where a queue like this can be of that type: RabbitMQ's
/// `rabbit_quorum_queue:is_compatible`. To say `undefined` is to say none, as in RabbitMQ 4.
fn with_type(kind: &str, flags: QueueFlags, arguments: Table<'_>) -> Option<TableWriter> {
    let told = arguments.get("x-queue-type").is_some_and(|field| field.text() != Some(b"undefined"));
    if told || !flags.durable || flags.exclusive || flags.auto_delete {
        return None;
    }
    let mut typed = TableWriter::default();
    arguments.iter().filter(|(name, _)| *name != b"x-queue-type").for_each(|(name, field)| {
        typed.put(name, &field);
    });
    typed.text("x-queue-type", kind);
    Some(typed)
}

fn say(nowait: bool, method: Method<'static>) -> Asked {
    if nowait {
        Asked::Silent
    } else {
        Asked::Say(method)
    }
}

fn binding(at: At, source: &[u8], destination: Destination, key: &[u8], arguments: Table<'_>) -> Handled<Bind> {
    let source = ExchangeName::new(text(at, source)?);
    let key = text(at, key)?.into();
    Ok(Bind { owner: at.owner_ix(), source, destination, key, arguments: arguments.as_bytes().to_vec(), format: FORMAT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_look_like_rabbitmqs_and_differ() {
        let (one, two) = (made_up_name("amq.gen-"), made_up_name("amq.gen-"));
        assert_ne!(one, two);
        assert_eq!(one.len(), "amq.gen-".len() + 22);
        assert!(one[8..].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
    }
}
