//! Arguments of queues and exchanges: checked as RabbitMQ checks them, with its words, and turned into what the core calls a queue.

use broker_api::{view_of, ExchangeName, ExchangeSpec, QueueSpec, Value, Views};

use crate::codec::{Field, Table, TableWriter};
use crate::error::{inequivalent_text, Code, Fault, MethodId};
use crate::headers::value;
use crate::mapping::EXPIRY_MS_MAX;
use crate::FORMAT;

const DECLARE: MethodId = (50, 10);

/// Flags of a `queue.declare`.
#[derive(Clone, Copy, Default, Debug)]
pub struct QueueFlags {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
}

/// An argument that cannot be: the reason in RabbitMQ's spelling.
type Wrong = String;

fn unacceptable(field: &Field<'_>) -> Wrong {
    format!("{{unacceptable_type,{}}}", field.type_name())
}

fn natural(field: &Field<'_>) -> Result<u64, Wrong> {
    let value = field.integer().ok_or_else(|| format!("\"expected integer, got {}\"", field.type_name()))?;
    u64::try_from(value).map_err(|_| format!("{{value_negative,{value}}}"))
}

fn above_zero(field: &Field<'_>) -> Result<u64, Wrong> {
    match natural(field)? {
        0 => Err("{value_zero,0}".to_owned()),
        value => Ok(value),
    }
}

fn expiry(field: &Field<'_>) -> Result<u64, Wrong> {
    bounded(above_zero(field)?)
}

fn bounded(value: u64) -> Result<u64, Wrong> {
    match value > EXPIRY_MS_MAX {
        true => Err(format!("{{value_too_large,{value}}}")),
        false => Ok(value),
    }
}

fn text(field: &Field<'_>) -> Result<String, Wrong> {
    field.text().map(|text| String::from_utf8_lossy(text).into_owned()).ok_or_else(|| unacceptable(field))
}

fn one_of(field: &Field<'_>, known: &[&str], otherwise: &str) -> Result<String, Wrong> {
    let text = text(field)?;
    match known.contains(&text.as_str()) {
        true => Ok(text),
        false => Err(otherwise.to_owned()),
    }
}

fn boolean(field: &Field<'_>) -> Result<bool, Wrong> {
    match field {
        Field::Bool(value) => Ok(*value),
        other => Err(unacceptable(other)),
    }
}

/// What a queue is to the core. Its arguments are kept as they are, also those that mean nothing here.
pub fn queue_spec(name: &str, vhost: &str, flags: QueueFlags, arguments: Table<'_>) -> Result<QueueSpec, Fault> {
    check_arguments(name, vhost, arguments)?;
    let mut spec = QueueSpec {
        durable: flags.durable,
        exclusive: flags.exclusive,
        auto_delete: flags.auto_delete,
        arguments: arguments.as_bytes().to_vec(),
        format: FORMAT,
        ..QueueSpec::default()
    };
    for (argument, field) in arguments.iter() {
        let argument = String::from_utf8_lossy(argument);
        if argument == "x-dead-letter-exchange" && field.text().is_none() {
            let kind = field.type_name();
            let text = format!("invalid type '{kind}' for arg 'x-dead-letter-exchange' in queue '{name}' in vhost '{vhost}'");
            return Err(Fault::precondition(text, DECLARE));
        }
        if let Err(why) = apply(&mut spec, &argument, &field, &arguments) {
            let text = format!("invalid arg '{argument}' for queue '{name}' in vhost '{vhost}': {why}");
            return Err(Fault::precondition(text, DECLARE));
        }
    }
    check_type(name, vhost, flags, arguments)?;
    Ok(spec)
}

fn apply(spec: &mut QueueSpec, argument: &str, field: &Field<'_>, all: &Table<'_>) -> Result<(), Wrong> {
    match argument {
        "x-expires" => spec.expires_ms = Some(expiry(field)?),
        "x-message-ttl" => spec.message_ttl_ms = Some(bounded(natural(field)?)?),
        "x-max-length" => spec.max_length = Some(natural(field)?),
        "x-max-length-bytes" => spec.max_length_bytes = Some(natural(field)?),
        "x-dead-letter-exchange" => spec.dead_letter_exchange = Some(text(field)?),
        "x-dead-letter-routing-key" => {
            spec.dead_letter_key = Some(text(field)?);
            if all.get("x-dead-letter-exchange").is_none() {
                return Err("routing_key_but_no_dlx_defined".to_owned());
            }
        }
        "x-overflow" => {
            let mode = one_of(field, &["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow")?;
            spec.reject_at_bound = mode != "drop-head";
            spec.dead_letter_refused = mode == "reject-publish-dlx";
        }
        "x-max-priority" => {
            let most = natural(field)?;
            spec.max_priority = u8::try_from(most).map_err(|_| format!("{{max_value_exceeded,{most}}}"))?;
        }
        "x-single-active-consumer" => spec.single_active_consumer = boolean(field)?,
        // -1 means none, and quorum queues of 3.13 have none without it.
        "x-delivery-limit" => match field.integer() {
            Some(-1) => {}
            // RabbitMQ takes what is no number, and means nothing by it.
            None => {}
            Some(_) => spec.delivery_limit = Some(u32::try_from(natural(field)?).unwrap_or(u32::MAX)),
        },
        "x-queue-mode" => {
            let mode = text(field)?;
            if !["default", "lazy"].contains(&mode.as_str()) {
                return Err(format!("\"unsupported queue mode '{mode}'\""));
            }
        }
        "x-queue-version" => match natural(field)? {
            1 | 2 => {}
            version => return Err(format!("\"unsupported queue version '{version}'\"")),
        },
        "x-queue-type" => {
            let kind = text(field)?;
            if !["classic", "quorum", "stream", "undefined"].contains(&kind.as_str()) {
                return Err(format!("\"unsupported queue type '{kind}'\""));
            }
            spec.counts_attempts = kind == "quorum";
            spec.keeps_all = spec.counts_attempts;
        }
        "x-dead-letter-strategy" => {
            let strategy = one_of(field, &["at-most-once", "at-least-once"], "invalid_dlx_strategy")?;
            spec.dead_letter_at_least_once = Some(strategy == "at-least-once");
        }
        "x-consumer-timeout" => spec.consumer_timeout_ms = Some(expiry(field)?),
        "x-max-in-memory-length" | "x-max-in-memory-bytes" => drop(natural(field)?),
        "x-quorum-initial-group-size" | "x-initial-cluster-size" => drop(above_zero(field)?),
        "x-queue-master-locator" => drop(text(field)?),
        // The last two are what it was called before 3.10, and are still taken.
        "x-queue-leader-locator" => {
            drop(one_of(field, &["client-local", "balanced", "random", "least-leaders"], "invalid_queue_locator_arg")?)
        }
        _ => {}
    }
    Ok(())
}

/// Arguments that RabbitMQ refuses on a queue of the other type, in its order (measured with 3.10; what it does not know it takes).
const NOT_CLASSIC: [&str; 8] = [
    "x-dead-letter-strategy",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
];
const NOT_QUORUM: [&str; 7] = [
    "x-max-priority",
    "x-queue-mode",
    "x-queue-version",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
    "x-queue-master-locator",
];

fn check_arguments(name: &str, vhost: &str, arguments: Table<'_>) -> Result<(), Fault> {
    let (refused, kind) = match arguments.get("x-queue-type").and_then(|field| field.text()) {
        None | Some(b"classic" | b"undefined") => (&NOT_CLASSIC[..], "rabbit_classic_queue"),
        Some(b"quorum") => (&NOT_QUORUM[..], "rabbit_quorum_queue"),
        Some(_) => return Ok(()),
    };
    match refused.iter().find(|argument| arguments.get(argument).is_some()) {
        Some(argument) => {
            let text = format!("invalid arg '{argument}' for queue '{name}' in vhost '{vhost}' of queue type {kind}");
            Err(Fault::precondition(text, DECLARE))
        }
        None => Ok(()),
    }
}

/// Quorum queues are found by their names on other nodes, so RabbitMQ makes none up for them.
pub fn check_server_named(arguments: Table<'_>) -> Result<(), Fault> {
    match arguments.get("x-queue-type").and_then(|field| field.text()) {
        Some(b"quorum") => Err(Fault::precondition("Cannot declare a server-named queue for type rabbit_quorum_queue", DECLARE)),
        _ => Ok(()),
    }
}

/// What quorum queues and streams cannot be in RabbitMQ.
fn check_type(name: &str, vhost: &str, flags: QueueFlags, arguments: Table<'_>) -> Result<(), Fault> {
    let kind = arguments.get("x-queue-type").and_then(|field| field.text()).unwrap_or(b"classic");
    if kind == b"stream" {
        return Err(Fault::new(Code::NotImplemented, "queues of type 'stream' are not supported yet", DECLARE));
    }
    if kind != b"quorum" {
        return Ok(());
    }
    let property = match flags {
        QueueFlags { durable: false, .. } => "non-durable",
        QueueFlags { exclusive: true, .. } => "exclusive-owner",
        QueueFlags { auto_delete: true, .. } => "auto-delete",
        _ => return Ok(()),
    };
    let text = format!("invalid property '{property}' for queue '{name}' in vhost '{vhost}'");
    Err(Fault::precondition(text, DECLARE))
}

pub struct ExchangeFlags {
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
}

pub fn exchange_spec(name: &str, vhost: &str, kind: &str, flags: ExchangeFlags, arguments: Table<'_>) -> Result<ExchangeSpec, Fault> {
    let alternate = match arguments.get("alternate-exchange") {
        None => None,
        Some(Field::LongStr(name)) => Some(ExchangeName::new(&String::from_utf8_lossy(name))),
        Some(other) => {
            let why = unacceptable(&other);
            let text = format!("invalid arg 'alternate-exchange' for exchange '{name}' in vhost '{vhost}': {why}");
            return Err(Fault::precondition(text, (40, 10)));
        }
    };
    let ExchangeFlags { durable, auto_delete, internal } = flags;
    let (kind, arguments) = (kind.to_owned(), arguments.as_bytes().to_vec());
    Ok(ExchangeSpec { kind, durable, auto_delete, internal, alternate, arguments, format: FORMAT })
}

/// The arguments that RabbitMQ compares when a queue is declared again, in its order for each type.
const COMPARED_CLASSIC: [&str; 15] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
    "x-consumer-timeout",
];
const COMPARED_QUORUM: [&str; 16] = [
    "x-expires",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
    "x-consumer-timeout",
];

/// Does it make a difference? Not what RabbitMQ does not know, nor the type that a queue has without being told.
pub(crate) fn is_compared(name: &[u8], value: &Value<'_>) -> bool {
    let default_type = || matches!(value, Value::Bytes(kind) if matches!(&**kind, b"classic" | b"undefined"));
    let known = COMPARED_CLASSIC.iter().chain(&COMPARED_QUORUM).any(|known| known.as_bytes() == name);
    known && !(name == b"x-queue-type" && default_type())
}

/// A declaration as it is compared with a quorum queue that is there, where the operator lets applications go on asking for another type:
/// as one of that type, without what only classic queues have. `None`: nothing is relaxed about it.
pub fn relaxed(given: Table<'_>, current: Table<'_>) -> Option<TableWriter> {
    if !is_quorum(current) || is_quorum(given) {
        return None;
    }
    let mut compared = TableWriter::default();
    for (name, field) in given.iter() {
        let only_classic = NOT_QUORUM.iter().any(|argument| argument.as_bytes() == name);
        if name != b"x-queue-type" && !only_classic {
            compared.put(name, &field);
        }
    }
    compared.text("x-queue-type", "quorum");
    Some(compared)
}

/// How two declarations of a queue differ, in words; `None` if they do not.
pub fn difference(name: &str, vhost: &str, given: Table<'_>, current: Table<'_>) -> Option<String> {
    let (first, then) = match is_quorum(current) {
        true => (&COMPARED_QUORUM[..], &COMPARED_CLASSIC[..]),
        false => (&COMPARED_CLASSIC[..], &COMPARED_QUORUM[..]),
    };
    let argument = first.iter().chain(then).find(|argument| !same(argument, given.get(argument), current.get(argument)))?;
    let (given, current) = (given.get(argument), current.get(argument));
    let (given, current) = match (given, current) {
        (Some(given), Some(current)) => (format!("'{}'", shown(&given)), format!("'{}'", shown(&current))),
        (given, current) => (with_type(given), with_type(current)),
    };
    Some(inequivalent_text(argument, "queue", name, vhost, &given, &current))
}

/// The arguments of a queue that may have been declared by another protocol.
pub fn as_table(views: &Views, format: u8, encoded: &[u8]) -> TableWriter {
    let mut table = TableWriter::default();
    let mut put = |name: &[u8], value: Value<'_>| {
        match &value {
            Value::Bool(value) => table.put(name, &Field::Bool(*value)),
            Value::Int(number) => table.put(name, &Field::I64(*number)),
            Value::Bytes(text) => table.put(name, &Field::LongStr(text)),
            _ => return,
        };
    };
    match (Table::parse(encoded), view_of(views, format)) {
        (Ok(own), _) if format == FORMAT => own.iter().for_each(|(name, field)| {
            table.put(name, &field);
        }),
        (_, Some(view)) => view.arguments(encoded, &mut |name, value| put(name, value)),
        _ => {}
    }
    table
}

fn same(argument: &str, given: Option<Field<'_>>, current: Option<Field<'_>>) -> bool {
    let compared = |field: &Field<'_>| is_compared(argument.as_bytes(), &value(*field));
    match (given.filter(compared), current.filter(compared)) {
        (None, None) => true,
        (Some(given), Some(current)) => match (given.integer(), current.integer()) {
            (Some(one), Some(two)) => one == two,
            _ => given == current,
        },
        _ => false,
    }
}

fn is_quorum(arguments: Table<'_>) -> bool {
    arguments.get("x-queue-type").and_then(|field| field.text()) == Some(b"quorum")
}

fn shown(field: &Field<'_>) -> String {
    match field {
        Field::Bool(value) => value.to_string(),
        Field::LongStr(text) | Field::Bytes(text) => String::from_utf8_lossy(text).into_owned(),
        Field::F32(value) => value.to_string(),
        Field::F64(value) => value.to_string(),
        Field::Timestamp(secs) => secs.to_string(),
        other => other.integer().map_or_else(|| other.type_name().to_owned(), |value| value.to_string()),
    }
}

fn with_type(field: Option<Field<'_>>) -> String {
    field.map_or_else(|| "none".to_owned(), |field| format!("the value '{}' of type '{}'", shown(&field), field.type_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, field: Field<'_>) -> TableWriter {
        let mut table = TableWriter::default();
        table.put(name.as_bytes(), &field);
        table
    }

    fn refused(name: &str, field: Field<'_>) -> String {
        let flags = QueueFlags { durable: true, ..QueueFlags::default() };
        queue_spec("q", "/", flags, table(name, field).as_table()).unwrap_err().reply_text()
    }

    #[test]
    fn wrong_arguments_are_refused_in_rabbitmqs_words() {
        let text = |argument: &str, why: &str| format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue 'q' in vhost '/': {why}");
        let rows = [
            ("x-message-ttl", Field::I32(-1), "{value_negative,-1}"),
            ("x-expires", Field::I32(0), "{value_zero,0}"),
            ("x-max-priority", Field::I32(256), "{max_value_exceeded,256}"),
            ("x-overflow", Field::LongStr(b"bad"), "invalid_overflow"),
            ("x-queue-type", Field::LongStr(b"wat"), "\"unsupported queue type 'wat'\""),
            ("x-max-length", Field::LongStr(b"5"), "\"expected integer, got longstr\""),
            ("x-dead-letter-routing-key", Field::LongStr(b"k"), "routing_key_but_no_dlx_defined"),
            ("x-single-active-consumer", Field::I32(1), "{unacceptable_type,signedint}"),
            ("x-queue-leader-locator", Field::LongStr(b"bogus"), "invalid_queue_locator_arg"),
            ("x-queue-leader-locator", Field::Bool(true), "{unacceptable_type,bool}"),
        ];
        for (argument, field, why) in rows {
            assert_eq!(refused(argument, field), text(argument, why));
        }
    }

    #[test]
    fn arguments_become_what_the_core_knows() {
        let mut arguments = TableWriter::default();
        arguments
            .put(b"x-message-ttl", &Field::U32(5000))
            .put(b"x-max-length", &Field::I64(10))
            .text("x-overflow", "reject-publish-dlx")
            .text("x-dead-letter-exchange", "")
            .text("x-dead-letter-routing-key", "k")
            .put(b"x-max-priority", &Field::U8(10));
        arguments.text("x-unknown", "means nothing").text("x-queue-type", "classic");
        let spec = queue_spec("q", "/", QueueFlags { durable: true, ..Default::default() }, arguments.as_table()).unwrap();
        assert_eq!((spec.message_ttl_ms, spec.max_length, spec.max_priority), (Some(5000), Some(10), 10));
        assert!(spec.reject_at_bound && spec.dead_letter_refused && spec.durable);
        assert_eq!((spec.dead_letter_exchange.as_deref(), spec.dead_letter_key.as_deref()), (Some(""), Some("k")));
        assert_eq!(spec.arguments, arguments.as_table().as_bytes(), "all are kept");
    }

    #[test]
    fn quorum_queues_are_neither_exclusive_nor_transient() {
        let quorum = table("x-queue-type", Field::LongStr(b"quorum"));
        let spec = |flags| queue_spec("q", "/", flags, quorum.as_table()).map_err(|fault| fault.reply_text());
        let text = |property: &str| Err(format!("PRECONDITION_FAILED - invalid property '{property}' for queue 'q' in vhost '/'"));
        assert!(spec(QueueFlags { durable: true, ..Default::default() }).is_ok());
        assert_eq!(spec(QueueFlags::default()), text("non-durable"));
        assert_eq!(spec(QueueFlags { durable: true, exclusive: true, ..Default::default() }), text("exclusive-owner"));
    }

    #[test]
    fn a_second_declaration_is_compared_argument_by_argument() {
        let none = TableWriter::default();
        let five = table("x-message-ttl", Field::I32(5));
        let long_five = table("x-message-ttl", Field::I64(5));
        let six = table("x-message-ttl", Field::I32(6));
        let classic = table("x-queue-type", Field::LongStr(b"classic"));
        let difference = |given: &TableWriter, current: &TableWriter| difference("g.q", "/", given.as_table(), current.as_table());
        let text = |rest: &str| Some(format!("inequivalent arg 'x-message-ttl' for queue 'g.q' in vhost '/': received {rest}"));
        assert_eq!(difference(&five, &none), text("the value '5' of type 'signedint' but current is none"));
        assert_eq!(difference(&none, &five), text("none but current is the value '5' of type 'signedint'"));
        assert_eq!(difference(&six, &five), text("'6' but current is '5'"));
        assert_eq!(difference(&five, &long_five), None);
        assert_eq!(difference(&classic, &none), None);
    }
}
