//! Headers of SUBSCRIBE and SEND that say what a queue is: flags, and the arguments of AMQP that RabbitMQ's plug-in passes on.
//!
//! To the core a queue's arguments are lines `name:Ivalue` or `name:Svalue` (a number, a text), sorted by name.

use broker_api::{view_of, HeaderView, Inequivalent, QueueSpec, Value, Views};

use crate::codec::{self, escape, unescape, Version};
use crate::error::Fault;
use crate::headers::{lines, FORMAT};

/// The longest time to live of a queue or a message that RabbitMQ takes: ten years of 365 days.
pub(crate) const EXPIRY_MS_MAX: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// A number or a text?
const ARGUMENTS: [(&str, u8); 14] = [
    ("x-dead-letter-exchange", b'S'),
    ("x-dead-letter-routing-key", b'S'),
    ("x-delivery-limit", b'I'),
    ("x-expires", b'I'),
    ("x-max-age", b'S'),
    ("x-max-length", b'I'),
    ("x-max-length-bytes", b'I'),
    ("x-max-priority", b'I'),
    ("x-message-ttl", b'I'),
    ("x-overflow", b'S'),
    ("x-queue-type", b'S'),
    ("x-single-active-consumer", b'B'),
    ("x-stream-filter-size-bytes", b'I'),
    ("x-stream-max-segment-size-bytes", b'I'),
];

/// What a queue is that is declared without words about it.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Shared, and stays.
    Queue,
    /// Of a subscription to an exchange.
    Subscription,
}

/// Where a queue is to be.
pub(crate) struct Place<'a> {
    pub(crate) vhost: &'a str,
    /// The type that queues have there without being told, where they can be of it: RabbitMQ's `default_queue_type`.
    pub(crate) default_type: Option<&'a str>,
}

/// The queue that these headers describe. `persistent` is another word for `durable` in a SUBSCRIBE; in a SEND it is about the message.
pub(crate) fn queue_spec(
    name: &str,
    place: &Place<'_>,
    kind: Kind,
    headers: &codec::Headers<'_>,
    subscribe: bool,
) -> Result<QueueSpec, Fault> {
    let vhost = place.vhost;
    let mut flags = [None; 3];
    let mut arguments: Vec<(&str, Value<'static>)> = Vec::new();
    for header in headers.iter() {
        let (header, value) = header.map_err(|error| Fault::new("Malformed frame", format!("{error}\n")))?;
        let flag = match &*header {
            b"durable" => 0,
            b"persistent" if subscribe => 0,
            b"auto-delete" => 1,
            b"exclusive" => 2,
            name if name.starts_with(b"x-") => {
                let known = ARGUMENTS.iter().find(|(known, _)| known.as_bytes() == name);
                if let Some((known, kind)) = known.filter(|(known, _)| arguments.iter().all(|(name, _)| name != known)) {
                    arguments.push((known, argument(known, *kind, &value)?));
                }
                continue;
            }
            _ => continue,
        };
        if flags[flag].is_none() {
            flags[flag] = boolean(&value);
        }
    }
    let (durable, auto_delete, exclusive) = match (kind, flags) {
        // Whoever wants a queue that does not stay gets one of his own (measured with 3.10.8).
        (Kind::Queue, [Some(false), ..]) => (false, true, true),
        (Kind::Queue, [_, auto_delete, exclusive]) => (true, auto_delete.unwrap_or(false), exclusive.unwrap_or(false)),
        (Kind::Subscription, [durable, auto_delete, exclusive]) => {
            (durable.unwrap_or(false), auto_delete.unwrap_or(true), exclusive.unwrap_or(false))
        }
    };
    let durable = durable && !exclusive;
    if let Some(default) = place.default_type.filter(|_| durable && !auto_delete) {
        let told = |value: &Value<'_>| !matches!(value, Value::Bytes(kind) if &**kind == b"undefined");
        if !arguments.iter().any(|(name, value)| *name == "x-queue-type" && told(value)) {
            arguments.retain(|(name, _)| *name != "x-queue-type");
            arguments.push(("x-queue-type", Value::Bytes(default.as_bytes().to_vec().into())));
        }
    }
    arguments.sort_by_key(|(name, _)| *name);
    let mut spec = QueueSpec { durable, auto_delete, exclusive, format: FORMAT, ..QueueSpec::default() };
    for (argument, value) in &arguments {
        apply(&mut spec, argument, value, &arguments)
            .map_err(|why| Fault::precondition(format!("invalid arg '{argument}' for queue '{name}' in vhost '{vhost}': {why}")))?;
    }
    if spec.counts_attempts && (!durable || auto_delete || exclusive) {
        let property = if exclusive {
            "exclusive-owner"
        } else if !durable {
            "non-durable"
        } else {
            "auto-delete"
        };
        return Err(Fault::precondition(format!("invalid property '{property}' for queue '{name}' in vhost '{vhost}'")));
    }
    spec.arguments = encode(&arguments);
    Ok(spec)
}

fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"true" | b"True" => Some(true),
        b"false" | b"False" => Some(false),
        _ => None,
    }
}

fn argument(name: &str, kind: u8, value: &[u8]) -> Result<Value<'static>, Fault> {
    let text = std::str::from_utf8(value.trim_ascii()).map_err(|_| Fault::processing(format!("{name} is no text")))?;
    match kind {
        b'I' => text.parse().map(Value::Int).map_err(|_| Fault::processing(format!("{name} is no number: '{text}'"))),
        b'B' => boolean(text.as_bytes()).map(Value::Bool).ok_or_else(|| Fault::processing(format!("{name} is neither true nor false"))),
        _ => Ok(Value::Bytes(text.as_bytes().to_vec().into())),
    }
}

/// What it means to the core; an error is in RabbitMQ's spelling.
fn apply(spec: &mut QueueSpec, name: &str, value: &Value<'_>, all: &[(&str, Value<'_>)]) -> Result<(), String> {
    let text = || match value {
        Value::Bytes(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    let natural = || match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| format!("{{value_negative,{number}}}")),
        _ => Ok(0),
    };
    let time = || match natural()? {
        ms if ms > EXPIRY_MS_MAX as u64 => Err(format!("{{value_too_large,{ms}}}")),
        ms => Ok(ms),
    };
    match name {
        "x-expires" => match time()? {
            0 => return Err("{value_zero,0}".to_owned()),
            ms => spec.expires_ms = Some(ms),
        },
        "x-message-ttl" => spec.message_ttl_ms = Some(time()?),
        "x-max-length" => spec.max_length = Some(natural()?),
        "x-max-length-bytes" => spec.max_length_bytes = Some(natural()?),
        "x-dead-letter-exchange" => spec.dead_letter_exchange = Some(text()),
        "x-dead-letter-routing-key" => {
            if !all.iter().any(|(name, _)| *name == "x-dead-letter-exchange") {
                return Err("routing_key_but_no_dlx_defined".to_owned());
            }
            spec.dead_letter_key = Some(text());
        }
        "x-overflow" => match &*text() {
            "drop-head" => {}
            "reject-publish" => spec.reject_at_bound = true,
            "reject-publish-dlx" => (spec.reject_at_bound, spec.dead_letter_refused) = (true, true),
            _ => return Err("invalid_overflow".to_owned()),
        },
        "x-max-priority" => {
            let most = natural()?;
            spec.max_priority = u8::try_from(most).map_err(|_| format!("{{max_value_exceeded,{most}}}"))?;
        }
        "x-single-active-consumer" => spec.single_active_consumer = matches!(value, Value::Bool(true)),
        "x-delivery-limit" => spec.delivery_limit = Some(u32::try_from(natural()?).unwrap_or(u32::MAX)),
        "x-queue-type" => match &*text() {
            "classic" | "undefined" => {}
            "quorum" => (spec.counts_attempts, spec.keeps_all) = (true, true),
            "stream" => return Err("queues of type 'stream' are not supported yet".to_owned()),
            other => return Err(format!("\"unsupported queue type '{other}'\"")),
        },
        _ => {}
    }
    Ok(())
}

fn encode(arguments: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in arguments {
        let (kind, text) = match value {
            Value::Int(number) => (b'I', number.to_string().into_bytes()),
            Value::Bool(value) => (b'B', value.to_string().into_bytes()),
            Value::Bytes(text) => (b'S', text.to_vec()),
            _ => continue,
        };
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&[b':', kind]);
        escape(&text, Version::V12, &mut out);
        out.push(b'\n');
    }
    out
}

/// The value of an encoded argument.
pub(crate) fn value(encoded: &[u8]) -> Option<Value<'_>> {
    let (kind, text) = encoded.split_first()?;
    match kind {
        b'I' => std::str::from_utf8(text).ok()?.parse().ok().map(Value::Int),
        b'B' => Some(Value::Bool(text == b"true")),
        b'S' => unescape(text, Version::V12).ok().map(Value::Bytes),
        _ => None,
    }
}

/// The type that a queue has without being told makes no difference.
pub(crate) fn is_compared(name: &[u8], value: &Value<'_>) -> bool {
    !(name == b"x-queue-type" && matches!(value, Value::Bytes(kind) if matches!(&**kind, b"classic" | b"undefined")))
}

/// How a queue's arguments differ from those it was made with, in RabbitMQ's words.
pub(crate) fn difference(what: &Inequivalent, given: &[u8], vhost: &str, views: &Views) -> Fault {
    let mut before: Vec<(Vec<u8>, Value<'static>)> = Vec::new();
    let view = if what.format == FORMAT { Some(&crate::headers::Headers as &dyn HeaderView) } else { view_of(views, what.format) };
    if let Some(view) = view {
        view.arguments(&what.arguments, &mut |name, value| {
            if view.compares(name, &value) {
                before.push((name.to_vec(), value.into_owned()));
            }
        });
    }
    let now = lines(given).filter_map(|(name, text)| Some((name.to_vec(), value(text)?)));
    let now: Vec<(Vec<u8>, Value<'_>)> = now.filter(|(name, value)| is_compared(name, value)).collect();
    let find = |list: &[(Vec<u8>, Value<'_>)], name: &[u8]| list.iter().find(|(found, _)| found == name).map(|(_, value)| shown(value));
    let mut names: Vec<&[u8]> = now.iter().chain(&before).map(|(name, _)| &**name).collect();
    names.sort_unstable();
    let differing = names.into_iter().find(|name| find(&now, name) != find(&before, name)).unwrap_or(b"arguments");
    let (given, current) = match (find(&now, differing), find(&before, differing)) {
        (Some((given, _)), Some((current, _))) => (format!("'{given}'"), format!("'{current}'")),
        (given, current) => (with_type(given), with_type(current)),
    };
    let (name, differing) = (&what.name, String::from_utf8_lossy(differing));
    Fault::precondition(format!(
        "inequivalent arg '{differing}' for queue '{name}' in vhost '{vhost}': received {given} but current is {current}"
    ))
}

fn shown(value: &Value<'_>) -> (String, &'static str) {
    match value {
        Value::Int(number) => (number.to_string(), "long"),
        Value::Bool(value) => (value.to_string(), "bool"),
        Value::Bytes(text) => (String::from_utf8_lossy(text).into_owned(), "longstr"),
        other => (format!("{other:?}"), "other"),
    }
}

fn with_type(value: Option<(String, &'static str)>) -> String {
    value.map_or_else(|| "none".to_owned(), |(value, kind)| format!("the value '{value}' of type '{kind}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Frames;

    fn spec(kind: Kind, headers: &str) -> Result<QueueSpec, Fault> {
        let frame = format!("SUBSCRIBE\n{headers}\n\0");
        let frame = Frames::new(frame.as_bytes(), 0, Version::V12).next().unwrap().unwrap();
        queue_spec("q", &Place { vhost: "/", default_type: None }, kind, &frame.headers, true)
    }

    /// Measured with RabbitMQ 3.10.8.
    #[test]
    fn flags_are_what_rabbitmq_makes_of_them() {
        let flags = |kind, headers: &str| spec(kind, headers).map(|spec| (spec.durable, spec.auto_delete, spec.exclusive)).unwrap();
        for (headers, expected) in [
            ("", (true, false, false)),
            ("durable:false\n", (false, true, true)),
            ("auto-delete:true\nexclusive:true\n", (false, true, true)),
            ("auto-delete:true\n", (true, true, false)),
            ("exclusive:true\n", (false, false, true)),
            ("exclusive:false\nauto-delete:false\n", (true, false, false)),
        ] {
            assert_eq!(flags(Kind::Queue, headers), expected, "queue {headers}");
        }
        for (headers, expected) in [
            ("", (false, true, false)),
            ("durable:true\n", (true, true, false)),
            ("persistent:true\nauto-delete:false\n", (true, false, false)),
            ("durable:true\nauto-delete:false\nexclusive:true\n", (false, false, true)),
            ("exclusive:true\n", (false, true, true)),
            ("exclusive:false\nauto-delete:false\n", (false, false, false)),
        ] {
            assert_eq!(flags(Kind::Subscription, headers), expected, "subscription {headers}");
        }
    }

    #[test]
    fn arguments_become_what_the_core_knows() {
        let spec =
            spec(Kind::Queue, "x-message-ttl: 5000\nx-max-length:3\nx-overflow:reject-publish\nx-queue-type:classic\nx-other:1\n").unwrap();
        assert_eq!((spec.message_ttl_ms, spec.max_length, spec.reject_at_bound), (Some(5000), Some(3), true));
        assert_eq!(spec.arguments, b"x-max-length:I3\nx-message-ttl:I5000\nx-overflow:Sreject-publish\nx-queue-type:Sclassic\n");
        let mut seen = Vec::new();
        crate::headers::Headers.arguments(&spec.arguments, &mut |name, value| seen.push((name.to_vec(), value)));
        assert_eq!(seen[1], (b"x-message-ttl".to_vec(), Value::Int(5000)));
        assert_eq!(seen.len(), 4);
        let compared = |(name, value): &(Vec<u8>, Value<'_>)| crate::headers::Headers.compares(name, value);
        assert_eq!(seen.iter().filter(|one| compared(one)).count(), 3, "the type that it has anyhow");
    }

    #[test]
    fn wrong_ones_are_refused_in_rabbitmqs_words() {
        for (headers, why) in [
            ("x-message-ttl:-1\n", "invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}"),
            ("x-expires:0\n", "invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}"),
            ("x-max-priority:256\n", "invalid arg 'x-max-priority' for queue 'q' in vhost '/': {max_value_exceeded,256}"),
            ("x-overflow:abc\n", "invalid arg 'x-overflow' for queue 'q' in vhost '/': invalid_overflow"),
            ("x-queue-type:quorum\nexclusive:true\n", "invalid property 'exclusive-owner' for queue 'q' in vhost '/'"),
        ] {
            assert_eq!(spec(Kind::Queue, headers), Err(Fault::precondition(why)));
        }
        assert_eq!(spec(Kind::Queue, "x-message-ttl:abc\n").unwrap_err().message, "Processing error");
    }

    #[test]
    fn a_second_declaration_is_compared_argument_by_argument() {
        let difference = |given: &[u8], current: &[u8]| {
            let what = Inequivalent {
                what: "queue",
                name: "q".into(),
                property: "arguments",
                given: String::new(),
                current: String::new(),
                arguments: current.to_vec(),
                format: FORMAT,
            };
            difference(&what, given, "/", &Views::new()).detail
        };
        let text =
            |rest: &str| format!("PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received {rest}");
        assert_eq!(difference(b"x-message-ttl:I6000\n", b"x-message-ttl:I5000\n"), text("'6000' but current is '5000'"));
        assert_eq!(difference(b"x-message-ttl:I6\n", b""), text("the value '6' of type 'long' but current is none"));
        assert_eq!(difference(b"x-message-ttl:I6\n", b"x-message-ttl:I5\nx-queue-type:Sclassic\n"), text("'6' but current is '5'"));
        assert_eq!(difference(b"", b"x-message-ttl:I6\n"), text("none but current is the value '6' of type 'long'"));
    }
}
