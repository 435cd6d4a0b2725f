//! STOMP's words on one side, the core's on the other: where a message came from, and what a MESSAGE says of it beyond what its SEND said.

use std::borrow::Cow;
use std::collections::HashMap;

use broker_api::spelling::key_of_topic;
use broker_api::{
    view_of, Batch, Delivery, Head, Moved, Neutral, QueueName, Value, Views, DELIVERY_COUNTED, DELIVERY_DELAYED, HEAD_DURABLE,
};

use crate::codec::{escape, unescape, Version};
use crate::destination::{self, has_prefix, REPLY_QUEUE, TEMP_QUEUE, TOPIC_EXCHANGE};
use crate::dialect::{self, REMOTE_TEMP_QUEUE, REMOTE_TEMP_TOPIC, TEMP_TOPIC, TEMP_TOPIC_KEY};
use crate::headers::{is_cron, lines, put_lines_for, FORMAT, PROPERTIES};
use crate::map::Form;

pub(crate) const SEPARATOR: u8 = b'.';

/// The value of a MESSAGE's `destination`.
pub(crate) fn put_destination(batch: &Batch, head: &Head, delivery: &Delivery, version: Version, out: &mut Vec<u8>) {
    let (exchange, key) = (delivery.exchange(batch), delivery.key(batch));
    let exchange = if head.topic && exchange.is_empty() && delivery.moved().is_none() { TOPIC_EXCHANGE.as_bytes() } else { exchange };
    let key = match head.separator == SEPARATOR || delivery.moved().is_some_and(|moved| moved.key_replaced) {
        true => Cow::Borrowed(key),
        false => Cow::Owned(key_of_topic(key)),
    };
    destination::put(exchange, &key, version != Version::V10, out);
}

/// The same for a topic as an ActiveMQ shows it.
pub(crate) fn put_topic(batch: &Batch, head: &Head, delivery: &Delivery, version: Version, out: &mut Vec<u8>) {
    let key = delivery.key(batch);
    let key = if head.separator == SEPARATOR { Cow::Borrowed(key) } else { Cow::Owned(key_of_topic(key)) };
    dialect::shown("/topic/", &key, version, out);
}

/// The lines that an ActiveMQ writes: the time (it is the broker who says it), the expiry and the priority of every message, and reply addresses in its words.
pub(crate) fn put_activemq_headers(
    batch: &Batch,
    head: &Head,
    delivery: &Delivery,
    (version, views, temporary): (Version, &Views, Temporary<'_>),
    converted: Option<Form>,
    out: &mut Vec<u8>,
) {
    let mut all = Vec::new();
    put_headers(batch, head, delivery, Version::V12, views, &mut all);
    let mut said = Vec::new();
    let mut priority = false;
    for (name, value) in lines(&all) {
        priority |= name == b"priority";
        match name {
            b"expires" | b"expiration" | b"timestamp" => {}
            b"transformation" if converted.is_some() => put(name, converted.map_or("", Form::name).as_bytes(), &mut said),
            b"reply-to" => {
                let value = unescape(value, Version::V12).unwrap_or_default();
                put(name, &activemq_reply_to(&value, temporary), &mut said);
            }
            name => {
                said.extend_from_slice(name);
                said.push(b':');
                said.extend_from_slice(value);
                said.push(b'\n');
            }
        }
    }
    let expires = if delivery.moved().is_some() { 0 } else { head.expires_ms };
    put(b"expires", expires.to_string().as_bytes(), &mut said);
    if !priority {
        // JMS 1.1, 3.4.10.
        put(b"priority", b"4", &mut said);
    }
    put(b"timestamp", batch.arrived_ms.to_string().as_bytes(), &mut said);
    put_lines_for(&said, version, out);
}

/// What a connection knows its temporary queues and topics by.
#[derive(Clone, Copy)]
pub(crate) struct Temporary<'a> {
    pub queues: &'a HashMap<Box<str>, QueueName>,
    /// Part of the names of its topics.
    pub session_id: &'a str,
}

/// A temporary queue or topic has the name that its owner gave it, for the owner; for others that of what is behind it.
fn activemq_reply_to(address: &[u8], Temporary { queues: replies, session_id }: Temporary<'_>) -> Vec<u8> {
    let key = address.strip_prefix(b"/topic/").filter(|key| key.starts_with(TEMP_TOPIC_KEY.as_bytes()));
    if let Some(key) = key {
        let own = key[TEMP_TOPIC_KEY.len()..].strip_prefix(session_id.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
        return match own {
            Some(id) => [TEMP_TOPIC.as_bytes(), id].concat(),
            None => [REMOTE_TEMP_TOPIC.as_bytes(), key].concat(),
        };
    }
    let Some(queue) = dialect::reply_queue(address) else { return address.to_vec() };
    match replies.iter().find(|(_, name)| name.as_str().as_bytes() == queue) {
        Some((id, _)) => [TEMP_QUEUE.as_bytes(), id.as_bytes()].concat(),
        None => [REMOTE_TEMP_QUEUE.as_bytes(), queue].concat(),
    }
}

/// The lines of a MESSAGE that come from its publisher, or from what became of it.
pub(crate) fn put_headers(batch: &Batch, head: &Head, delivery: &Delivery, version: Version, views: &Views, out: &mut Vec<u8>) {
    let origin = batch.bytes(head.origin);
    let untouched = delivery.moved().is_none() && delivery.flags & (DELIVERY_COUNTED | DELIVERY_DELAYED) == 0;
    if head.format == FORMAT && untouched {
        match version == Version::V12 || memchr::memchr(b'\\', origin).is_none() {
            true => out.extend_from_slice(origin),
            false => put_lines_for(origin, version, out),
        }
        return;
    }
    let mut all = Vec::new();
    if head.format == FORMAT {
        let counted = delivery.flags & DELIVERY_COUNTED != 0;
        for (name, value) in lines(origin) {
            // Or it would seem to expire again where it now is; and what we say of its history nobody else says.
            let of_its_past = delivery.moved().is_some() && (name == b"expiration" || is_death(name));
            let is_count = counted && name == b"x-delivery-count";
            if !of_its_past && !is_count && !is_cron(name, value) {
                all.extend_from_slice(name);
                all.push(b':');
                all.extend_from_slice(value);
                all.push(b'\n');
            }
        }
    } else {
        let neutral = view_of(views, head.format).map(|view| view.neutral(origin)).unwrap_or_default();
        put_foreign(&neutral, head, delivery, &mut all);
    }
    if let Some(moved) = delivery.moved() {
        put_deaths(moved, &mut all);
    }
    if delivery.flags & DELIVERY_COUNTED != 0 {
        put(b"x-delivery-count", delivery.attempts.to_string().as_bytes(), &mut all);
    }
    put_lines_for(&all, version, out);
}

fn put(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    escape(name, Version::V12, out);
    out.push(b':');
    escape(value, Version::V12, out);
    out.push(b'\n');
}

fn is_death(name: &[u8]) -> bool {
    name == b"x-death" || name.starts_with(b"x-first-death-") || name.starts_with(b"x-last-death-")
}

/// What headers of text can say of a message's deaths; the list of all has no spelling here.
fn put_deaths(moved: &Moved, out: &mut Vec<u8>) {
    let (queue, reason, exchange) = &moved.first;
    put(b"x-first-death-exchange", exchange.as_bytes(), out);
    put(b"x-first-death-queue", queue.as_bytes(), out);
    put(b"x-first-death-reason", reason.as_str().as_bytes(), out);
    if let Some(last) = moved.deaths.first() {
        put(b"x-last-death-exchange", last.exchange.as_bytes(), out);
        put(b"x-last-death-queue", last.queue.as_bytes(), out);
        put(b"x-last-death-reason", last.reason.as_str().as_bytes(), out);
    }
}

/// Headers of a message that another protocol published. Names that a MESSAGE uses itself are not taken from there, and of those that repeat
/// the first is.
fn put_foreign(neutral: &Neutral<'_>, head: &Head, delivery: &Delivery, out: &mut Vec<u8>) {
    let moved = delivery.moved().is_some();
    let number = |number: Option<u64>| number.map(|number| Cow::Owned(number.to_string().into_bytes()));
    let durable = head.has(HEAD_DURABLE).then_some(Cow::Borrowed(&b"true"[..]));
    let priority = number(Some(head.priority.into()).filter(|priority| *priority != 0));
    let reply_to = neutral.reply_to.as_deref().map(reply_to).or_else(|| neutral.reply_topic.as_deref().map(topic));
    let rows = [
        ("content-type", neutral.content_type.clone()),
        ("content-encoding", neutral.content_encoding.clone()),
        ("persistent", durable),
        ("priority", priority),
        ("correlation-id", neutral.correlation_id.clone()),
        ("reply-to", reply_to.map(Cow::Owned)),
        ("expiration", number(neutral.expiration_ms.filter(|_| !moved))),
        ("amqp-message-id", neutral.message_id.clone()),
        ("timestamp", number(neutral.timestamp)),
        ("type", neutral.kind.clone()),
        ("user-id", neutral.user_id.clone()),
        ("app-id", neutral.app_id.clone()),
    ];
    for (name, value) in rows {
        if let Some(value) = value.filter(|value| is_text(value)) {
            put(name.as_bytes(), &value, out);
        }
    }
    for (at, (name, value)) in neutral.headers.iter().enumerate() {
        let repeats = || neutral.headers[..at].iter().any(|(other, _)| other == name);
        let ours = matches!(&**name, b"" | b"destination" | b"subscription" | b"message-id" | b"ack" | b"redelivered" | b"content-length")
            || PROPERTIES.iter().any(|(_, ours)| ours.as_bytes() == &**name)
            || moved && is_death(name);
        if let (false, Some(text)) = (ours || !is_text(name), text(value)) {
            if is_text(&text) && !repeats() {
                put(name, &text, out);
            }
        }
    }
}

/// Headers are text (1.2, "Value Encoding"), and none has a NUL in it.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0)
}

/// An address in the topic space as a SEND names it, where only a slash is encoded (a MESSAGE's own `destination` encodes more).
fn topic(key: &[u8]) -> Vec<u8> {
    let mut out = b"/topic/".to_vec();
    for byte in key {
        match byte {
            b'/' => out.extend_from_slice(b"%2F"),
            byte => out.push(*byte),
        }
    }
    out
}

/// A reply address as STOMP clients can send to it: the bare name of a queue gets the prefix of one that is there already.
pub(crate) fn reply_to(address: &[u8]) -> Vec<u8> {
    match has_prefix(address) {
        true => address.to_vec(),
        false => [REPLY_QUEUE.as_bytes(), address].concat(),
    }
}

/// Of what has a spelling as text. RabbitMQ shows texts and integers alone.
fn text<'a>(value: &'a Value<'_>) -> Option<Cow<'a, [u8]>> {
    Some(match value {
        Value::Bytes(text) => Cow::Borrowed(text),
        Value::Int(number) => number.to_string().into_bytes().into(),
        Value::Uint(number) | Value::Timestamp(number) => number.to_string().into_bytes().into(),
        Value::Bool(value) => value.to_string().into_bytes().into(),
        Value::Float(number) => number.to_string().into_bytes().into(),
        Value::Void | Value::Encoded(_) => return None,
    })
}

/// The `expiration` of a message in milliseconds, with the reasons for which RabbitMQ refuses one.
pub(crate) fn expiration(text: &[u8]) -> Result<u64, String> {
    let shown = String::from_utf8_lossy(text).into_owned();
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let why = if digits == 0 {
        "no_integer".to_owned()
    } else if sign + digits < text.len() {
        format!("{{leftover_string,\"{}\"}}", String::from_utf8_lossy(&text[sign + digits..]))
    } else {
        match shown.parse::<i128>().unwrap_or(i128::MAX) {
            number if number < 0 => format!("{{value_negative,{number}}}"),
            number if number > crate::arguments::EXPIRY_MS_MAX.into() => format!("{{value_too_large,{}}}", shown.trim_start_matches('+')),
            number => return Ok(number as u64),
        }
    };
    Err(format!("invalid expiration '{shown}': {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::{Death, DeathReason, Seq, Side, Span};
    use std::sync::Arc;

    #[test]
    fn expirations_are_read_as_rabbitmq_reads_them() {
        let refused = |text: &str| expiration(text.as_bytes()).unwrap_err();
        assert_eq!((expiration(b"60000"), expiration(b"0"), expiration(b"+5")), (Ok(60_000), Ok(0), Ok(5)));
        assert_eq!(refused("x"), "invalid expiration 'x': no_integer");
        assert_eq!(refused("10x"), "invalid expiration '10x': {leftover_string,\"x\"}");
        assert_eq!(refused("-1"), "invalid expiration '-1': {value_negative,-1}");
        assert_eq!(refused("315360000001"), "invalid expiration '315360000001': {value_too_large,315360000001}");
    }

    #[test]
    fn a_dead_lettered_message_tells_its_story_and_nobody_elses() {
        let origin = b"expiration:1\nx-first-death-queue:forged\nmine:kept\n";
        let head = Head { origin: Span::block(0, origin.len()), format: FORMAT, separator: b'.', ..Head::default() };
        let batch = Batch { block: origin.to_vec().into(), heads: vec![head], ..Batch::default() };
        let death = Death {
            queue: "q".into(),
            reason: DeathReason::Expired,
            count: 1,
            time_ms: 1,
            exchange: "".into(),
            key: b"q".as_slice().into(),
            expiration_ms: Some(1),
        };
        let first = ("q".into(), DeathReason::Expired, "".into());
        let moved = Moved { exchange: "dlx".into(), key: b"k".as_slice().into(), key_replaced: false, deaths: vec![death], first };
        let side = Side { subscriptions: Vec::new(), moved: Some(Box::new(moved)) };
        let delivery = Delivery { seq: Seq(1), index: 0, side: Some(Arc::new(side)), attempts: 0, level: 1, flags: 0 };
        let mut out = Vec::new();
        put_destination(&batch, &head, &delivery, Version::V12, &mut out);
        out.push(b'\n');
        put_headers(&batch, &head, &delivery, Version::V12, &Views::new(), &mut out);
        let expected = "/exchange/dlx/k\nmine:kept\nx-first-death-exchange:\nx-first-death-queue:q\nx-first-death-reason:expired\n\
                        x-last-death-exchange:\nx-last-death-queue:q\nx-last-death-reason:expired\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn what_others_publish_is_said_in_our_words() {
        let bytes = |text: &'static str| Some(Cow::Borrowed(text.as_bytes()));
        let neutral = Neutral {
            content_type: bytes("text/plain"),
            correlation_id: Some(Cow::Borrowed(b"\xff")),
            reply_topic: bytes("a.b/c%2Ed"),
            message_id: bytes("m"),
            timestamp: Some(7),
            expiration_ms: Some(1500),
            headers: vec![
                (b"k".into(), Value::Bytes(b"v:w".into())),
                (b"k".into(), Value::Int(2)),
                (b"n".into(), Value::Int(-3)),
                (b"subscription".into(), Value::Bytes(b"forged".into())),
                (b"table".into(), Value::Encoded(b"F".into())),
            ],
            ..Neutral::default()
        };
        let head = Head { flags: HEAD_DURABLE, priority: 4, ..Head::default() };
        let delivery = Delivery { seq: Seq(1), index: 0, side: None, attempts: 0, level: 1, flags: 0 };
        let mut out = Vec::new();
        put_foreign(&neutral, &head, &delivery, &mut out);
        let expected =
            "content-type:text/plain\npersistent:true\npriority:4\nreply-to:/topic/a.b%2Fc%2Ed\nexpiration:1500\namqp-message-id:m\n\
                        timestamp:7\nk:v\\cw\nn:-3\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!((reply_to(b"q"), reply_to(b"/queue/q")), (b"/reply-queue/q".to_vec(), b"/queue/q".to_vec()));
    }
}
