//! AMQP's words on one side, the core's on the other: where a message goes, what it says of itself to a consumer, and what dead-lettering and
//! other protocols made of it.

use std::borrow::Cow;

use broker_api::spelling::key_of_topic;
use broker_api::{view_of, Batch, Death, Delivery, Head, Moved, Views, DELIVERY_COUNTED, DELIVERY_DELAYED};

use crate::codec::{ArrayWriter, Field, Properties, Table, TableWriter};
use crate::foreign;

/// `Head::format` of messages published here: `origin` is the property flags and values of the content header.
pub const FORMAT: u8 = 3;

pub(crate) const SEPARATOR: u8 = b'.';
const TOPIC_EXCHANGE: &[u8] = b"amq.topic";

/// Exchange and routing key as a consumer is told them.
#[inline]
pub(crate) fn address<'a>(batch: &'a Batch, head: &Head, delivery: &'a Delivery) -> (&'a [u8], Cow<'a, [u8]>) {
    let (exchange, key) = (delivery.exchange(batch), delivery.key(batch));
    let exchange = if head.topic && exchange.is_empty() && delivery.moved().is_none() { TOPIC_EXCHANGE } else { exchange };
    if head.separator == SEPARATOR || delivery.moved().is_some_and(|moved| moved.key_replaced) {
        return (exchange, Cow::Borrowed(key));
    }
    (exchange, Cow::Owned(key_of_topic(key)))
}

/// The same as its publisher said them.
pub(crate) fn published_address<'a>(batch: &'a Batch, head: &Head) -> (&'a [u8], Cow<'a, [u8]>) {
    let exchange = if head.topic { TOPIC_EXCHANGE } else { batch.bytes(head.exchange) };
    let key = batch.key(head);
    (exchange, if head.separator == SEPARATOR { Cow::Borrowed(key) } else { Cow::Owned(key_of_topic(key)) })
}

/// Flags and values of a message that was published here.
#[inline]
pub(crate) fn own_properties<'a>(batch: &'a Batch, head: &Head) -> &'a [u8] {
    batch.bytes(head.origin)
}

/// Flags and values of a content header that cannot be passed on as they came.
pub(crate) fn properties(batch: &Batch, head: &Head, delivery: &Delivery, views: &Views) -> Vec<u8> {
    let moved = delivery.moved();
    let origin = batch.bytes(head.origin);
    let own = if head.format == FORMAT { Properties::parse(origin).ok() } else { None };
    let view = if own.is_none() { view_of(views, head.format) } else { None };
    let neutral = view.map(|view| view.neutral(origin)).unwrap_or_default();
    let mut headers = TableWriter::default();
    let expiration;
    let mut properties = match own {
        Some(own) => {
            own.headers.into_iter().for_each(|table| copy_headers(table.iter(), moved, delivery.flags, &mut headers));
            own
        }
        None => {
            copy_headers(foreign::headers(&neutral).into_iter(), moved, delivery.flags, &mut headers);
            expiration = neutral.expiration_ms.map(|ms| ms.to_string());
            Properties { expiration: expiration.as_ref().map(String::as_bytes), ..foreign::properties(&neutral, head) }
        }
    };
    if let Some(moved) = moved {
        let first = FirstLife {
            topic: view.is_some_and(|view| view.separator() != SEPARATOR),
            further: further_keys(own.and_then(|own| own.headers)),
            headers: own.and_then(|own| own.headers),
            // Or it would expire again where it now is.
            expiration: properties.expiration.take(),
        };
        put_deaths(moved, &first, &mut headers);
    }
    if delivery.flags & DELIVERY_COUNTED != 0 {
        // Quorum queues say it from the first delivery on.
        headers.put(b"x-delivery-count", &Field::I64(delivery.attempts.into()));
    }
    properties.headers = (!headers.is_empty()).then(|| headers.as_table());
    let mut out = Vec::new();
    properties.put(&mut out);
    out
}

const DEATH_HEADERS: [&[u8]; 7] = [
    b"x-death",
    b"x-first-death-queue",
    b"x-first-death-reason",
    b"x-first-death-exchange",
    b"x-last-death-queue",
    b"x-last-death-reason",
    b"x-last-death-exchange",
];

/// Without what dead-lettering and counting write themselves, without BCC, and without CC where a dead-letter key took the keys' place.
/// Whoever gets a message that was held back sees its delay negated.
fn copy_headers<'a>(all: impl Iterator<Item = (&'a [u8], Field<'a>)>, moved: Option<&Moved>, flags: u8, headers: &mut TableWriter) {
    let counted = flags & DELIVERY_COUNTED != 0;
    for (name, field) in all {
        let ours = name == b"BCC" || counted && name == b"x-delivery-count";
        let dropped = ours || moved.is_some_and(|moved| DEATH_HEADERS.contains(&name) || moved.key_replaced && name == b"CC");
        if name == DELAY && flags & DELIVERY_DELAYED != 0 {
            let waited = i64::from(delay_ms(&field));
            headers.put(name, &i32::try_from(-waited).map_or(Field::I64(-waited), Field::I32));
        } else if !dropped {
            headers.put(name, &field);
        }
    }
}

/// The header by which a publisher asks an exchange of type `x-delayed-message` to hold a message back, in ms.
pub(crate) const DELAY: &[u8] = b"x-delay";

/// How long a message is to be held back. What is no number or not above 0 is no delay, nor is what is longer than 2^32 - 1 ms, as in
/// RabbitMQ's plug-in, which reads numbers out of texts, too.
pub(crate) fn delay_ms(field: &Field<'_>) -> u32 {
    let delay = match field {
        Field::LongStr(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        Field::F32(value) => Some(*value as i64),
        Field::F64(value) => Some(*value as i64),
        other => other.integer(),
    };
    delay.and_then(|delay| u32::try_from(delay).ok()).unwrap_or(0)
}

/// The keys of a CC header.
fn further_keys(headers: Option<Table<'_>>) -> Vec<&[u8]> {
    match headers.and_then(|headers| headers.get("CC")) {
        Some(Field::Array(keys)) => keys.iter().filter_map(|key| key.text()).collect(),
        _ => Vec::new(),
    }
}

/// What a message had before it died for the first time.
struct FirstLife<'a> {
    /// Its key is a topic name.
    topic: bool,
    /// The keys of its CC header.
    further: Vec<&'a [u8]>,
    /// What its publisher wrote, deaths of a message that it had and sends again among them.
    headers: Option<Table<'a>>,
    /// As its publisher said it; what the core knows of it is when it was over.
    expiration: Option<&'a [u8]>,
}

fn put_deaths(moved: &Moved, before: &FirstLife<'_>, headers: &mut TableWriter) {
    let mut deaths = ArrayWriter::default();
    let mut earlier = before.earlier_deaths();
    let first_key = moved.deaths.iter().rev().min_by_key(|death| death.time_ms).map(|death| &death.key);
    for death in &moved.deaths {
        // The message had its further keys, and its own spelling, as long as it had its first key; later ones are spelled as the
        // queues' dead-letter keys are.
        let first = Some(&death.key) == first_key;
        let same = |table: &Table<'_>| {
            let says = |name, text: &str| table.get(name).and_then(|field| field.text()) == Some(text.as_bytes());
            says("queue", &death.queue) && says("reason", death.reason.as_str())
        };
        if let Some(at) = earlier.iter().position(same) {
            deaths.table(&counted_on(earlier.remove(at), death.count));
            continue;
        }
        let key = if first && before.topic { Cow::Owned(key_of_topic(&death.key)) } else { Cow::Borrowed(&*death.key) };
        deaths.table(&death_table(death, &key, if first { &before.further } else { &[] }, before.expiration));
    }
    earlier.into_iter().for_each(|table| {
        deaths.put(&Field::Table(table));
    });
    headers.array("x-death", &deaths);
    let (queue, reason, exchange) = &moved.first;
    let first = [("x-first-death-exchange", &**exchange), ("x-first-death-queue", queue), ("x-first-death-reason", reason.as_str())];
    match before.headers.filter(|headers| headers.get("x-first-death-queue").is_some()) {
        Some(said) => first.iter().for_each(|(name, _)| {
            if let Some(field) = said.get(name) {
                headers.put(name.as_bytes(), &field);
            }
        }),
        None => first.iter().for_each(|(name, text)| {
            headers.text(name, text);
        }),
    }
    if let Some(last) = moved.deaths.first() {
        headers.text("x-last-death-exchange", &last.exchange);
        headers.text("x-last-death-queue", &last.queue).text("x-last-death-reason", last.reason.as_str());
    }
}

impl<'a> FirstLife<'a> {
    /// Its publisher's `x-death`, as far as it is one.
    fn earlier_deaths(&self) -> Vec<Table<'a>> {
        let Some(Field::Array(deaths)) = self.headers.and_then(|headers| headers.get("x-death")) else { return Vec::new() };
        let table = |field| if let Field::Table(table) = field { Some(table) } else { None };
        deaths.iter().filter_map(table).collect()
    }
}

/// A death of before that came again: RabbitMQ changes its count and nothing else.
fn counted_on(death: Table<'_>, more: u64) -> TableWriter {
    let mut table = TableWriter::default();
    let before = death.get("count").and_then(|count| count.integer()).unwrap_or(0);
    table.put(b"count", &Field::I64(before.saturating_add(i64::try_from(more).unwrap_or(i64::MAX))));
    death.iter().filter(|(name, _)| *name != b"count").for_each(|(name, field)| {
        table.put(name, &field);
    });
    table
}

fn death_table(death: &Death, key: &[u8], further: &[&[u8]], expiration: Option<&[u8]>) -> TableWriter {
    let mut keys = ArrayWriter::default();
    keys.put(&Field::LongStr(key));
    further.iter().for_each(|key| {
        keys.put(&Field::LongStr(key));
    });
    let mut table = TableWriter::default();
    table
        .put(b"count", &Field::I64(i64::try_from(death.count).unwrap_or(i64::MAX)))
        .text("reason", death.reason.as_str())
        .text("queue", &death.queue)
        .timestamp("time", death.time_ms / 1000)
        .text("exchange", &death.exchange)
        .array("routing-keys", &keys);
    if let Some(ms) = death.expiration_ms {
        let ms = ms.to_string();
        table.put(b"original-expiration", &Field::LongStr(expiration.unwrap_or(ms.as_bytes())));
    }
    table
}

/// The longest time to live of a queue or a message that RabbitMQ takes: ten years of 365 days (measured on 3.10.8).
pub(crate) const EXPIRY_MS_MAX: u64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// The `expiration` of a message in milliseconds, with the reasons for which RabbitMQ refuses one.
pub(crate) fn expiration(text: &[u8]) -> Result<u64, String> {
    let shown = || String::from_utf8_lossy(text);
    let digits = text.iter().skip(usize::from(matches!(text.first(), Some(b'-' | b'+')))).take_while(|byte| byte.is_ascii_digit()).count();
    let len = digits + usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let why = if digits == 0 {
        "no_integer".to_owned()
    } else if len < text.len() {
        format!("{{leftover_string,\"{}\"}}", String::from_utf8_lossy(&text[len..]))
    } else {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i128>().ok()).unwrap_or(i128::MAX);
        match u64::try_from(number) {
            Ok(number) if number <= EXPIRY_MS_MAX => return Ok(number),
            Err(_) if number < 0 => format!("{{value_negative,{number}}}"),
            _ => format!("{{value_too_large,{}}}", shown().trim_start_matches('+')),
        }
    };
    Err(format!("invalid expiration '{}': {why}", shown()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::DeathReason;
    use std::sync::Arc;

    #[test]
    fn expirations_are_read_as_rabbitmq_reads_them() {
        let refused = |text: &str| expiration(text.as_bytes()).unwrap_err();
        assert_eq!(expiration(b"60000"), Ok(60_000));
        assert_eq!(expiration(b"0"), Ok(0));
        assert_eq!(refused("abc"), "invalid expiration 'abc': no_integer");
        assert_eq!(refused(""), "invalid expiration '': no_integer");
        assert_eq!(refused("10x"), "invalid expiration '10x': {leftover_string,\"x\"}");
        assert_eq!(refused("-1"), "invalid expiration '-1': {value_negative,-1}");
        assert_eq!(expiration(b"315360000000"), Ok(315_360_000_000));
        for long in ["315360000001", "99999999999999999999999"] {
            assert_eq!(refused(long), format!("invalid expiration '{long}': {{value_too_large,{long}}}"));
        }
    }

    #[test]
    fn delays_are_read_as_the_plug_in_reads_them() {
        let rows = [
            (Field::I32(5000), 5000),
            (Field::U8(7), 7),
            (Field::I64(u32::MAX.into()), u32::MAX),
            (Field::I64(1 << 32), 0),
            (Field::I32(-1), 0),
            (Field::I32(0), 0),
            (Field::LongStr(b"250"), 250),
            (Field::LongStr(b"soon"), 0),
            (Field::F64(99.9), 99),
            (Field::F64(f64::NAN), 0),
            (Field::Bool(true), 0),
            (Field::Void, 0),
        ];
        for (field, delay) in rows {
            assert_eq!(delay_ms(&field), delay, "{field:?}");
        }
    }

    #[test]
    fn a_dead_lettered_message_tells_its_story() {
        let mut headers = TableWriter::default();
        let mut cc = ArrayWriter::default();
        cc.put(&Field::LongStr(b"cc1"));
        headers.text("mine", "kept").array("CC", &cc).array("BCC", &cc).text("x-death", "forged");
        let properties = Properties { headers: Some(headers.as_table()), expiration: Some(b"1"), ..Properties::default() };
        let mut origin = Vec::new();
        properties.put(&mut origin);
        let block = [b"g.src".as_slice(), &origin].concat();
        let span = |from: usize, len: usize| broker_api::Span::block(from, len);
        let head = Head { key: span(0, 5), origin: span(5, origin.len()), format: FORMAT, separator: b'.', ..Head::default() };
        let batch = Batch { block: block.into(), heads: vec![head], ..Batch::default() };
        let death = Death {
            queue: "g.src".into(),
            reason: DeathReason::Expired,
            count: 1,
            time_ms: 7_500,
            exchange: "".into(),
            key: b"g.src".as_slice().into(),
            expiration_ms: Some(1),
        };
        let first = ("g.src".into(), DeathReason::Expired, "".into());
        let moved = Moved { exchange: "g.dlx".into(), key: b"g.src".as_slice().into(), key_replaced: false, deaths: vec![death], first };
        let side = broker_api::Side { subscriptions: Vec::new(), moved: Some(Box::new(moved)) };
        let delivery = Delivery { seq: broker_api::Seq(1), index: 0, side: Some(Arc::new(side)), attempts: 0, level: 1, flags: 0 };
        let written = super::properties(&batch, &head, &delivery, &Views::new());
        let read = Properties::parse(&written).unwrap();
        assert_eq!(read.expiration, None);
        let headers = read.headers.unwrap();
        assert_eq!(headers.get("mine"), Some(Field::LongStr(b"kept")));
        assert!(headers.get("CC").is_some() && headers.get("BCC").is_none());
        assert_eq!(headers.get("x-first-death-reason"), Some(Field::LongStr(b"expired")));
        let Some(Field::Array(deaths)) = headers.get("x-death") else { panic!("no x-death") };
        let Some(Field::Table(death)) = deaths.iter().next() else { panic!("no death") };
        assert_eq!(death.get("count"), Some(Field::I64(1)));
        assert_eq!(death.get("time"), Some(Field::Timestamp(7)));
        assert_eq!(death.get("original-expiration"), Some(Field::LongStr(b"1")));
        let Some(Field::Array(keys)) = death.get("routing-keys") else { panic!("no keys") };
        assert_eq!(keys.iter().filter_map(|key| key.text()).collect::<Vec<_>>(), [&b"g.src"[..], b"cc1"]);
    }

    #[test]
    fn deaths_of_a_message_that_is_sent_again_are_counted_on() {
        let mut before = TableWriter::default();
        before.put(b"count", &Field::I64(2)).text("reason", "rejected").text("queue", "q").text("more", "kept");
        let mut other = TableWriter::default();
        other.put(b"count", &Field::I64(5)).text("reason", "expired").text("queue", "q");
        let mut deaths = ArrayWriter::default();
        deaths.table(&other).table(&before).put(&Field::Bool(true));
        let mut said = TableWriter::default();
        said.array("x-death", &deaths).text("x-first-death-queue", "older").text("x-first-death-reason", "expired");
        let death = |queue: &str| Death {
            queue: queue.into(),
            reason: DeathReason::Rejected,
            count: 1,
            time_ms: 0,
            exchange: "".into(),
            key: b"q".as_slice().into(),
            expiration_ms: None,
        };
        let first = ("q".into(), DeathReason::Rejected, "".into());
        let moved =
            Moved { exchange: "".into(), key: b"q".as_slice().into(), key_replaced: false, deaths: vec![death("p"), death("q")], first };
        let before = FirstLife { topic: false, further: Vec::new(), headers: Some(said.as_table()), expiration: None };
        let mut headers = TableWriter::default();
        put_deaths(&moved, &before, &mut headers);
        let headers = headers.as_table();
        assert_eq!(headers.get("x-first-death-queue"), Some(Field::LongStr(b"older")));
        let Some(Field::Array(deaths)) = headers.get("x-death") else { panic!("no x-death") };
        let told: Vec<_> = deaths
            .iter()
            .map(|field| {
                let Field::Table(death) = field else { panic!("{field:?}") };
                let text = |name| String::from_utf8_lossy(death.get(name).and_then(|field| field.text()).unwrap_or_default()).into_owned();
                (text("queue"), text("reason"), death.get("count").and_then(|count| count.integer()), text("more"))
            })
            .collect();
        let row = |queue: &str, reason: &str, count, more: &str| (queue.to_owned(), reason.to_owned(), Some(count), more.to_owned());
        assert_eq!(told, [row("p", "rejected", 1, ""), row("q", "rejected", 3, "kept"), row("q", "expired", 5, "")]);
    }
}
