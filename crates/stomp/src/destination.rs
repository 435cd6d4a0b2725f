//! What stands in a `destination` header, as RabbitMQ's plug-in reads it:
//!
//! ```text
//! /queue/NAME   or   NAME         a shared queue, made when it is first named
//! /amq/queue/NAME                 a queue that somebody else made
//! /reply-queue/NAME               the same; NAME is everything behind the prefix
//! /topic/KEY                      amq.topic
//! /exchange/NAME or /exchange/NAME/KEY
//! /temp-queue/ID                  in reply-to only
//! ```
//! In a name `%2F` stands for a slash. Nothing else is decoded, though deliveries show more than that encoded (measured with 3.10.8).

use crate::error::Fault;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    Queue(String),
    AmqQueue(String),
    ReplyQueue(String),
    Topic(String),
    Exchange {
        name: String,
        key: Option<String>,
    },
    TempQueue(String),
    /// ActiveMQ's alone.
    TempTopic(String),
    /// All queues whose names match, as a pattern of routing keys. ActiveMQ's alone.
    Queues(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadDestination {
    /// Of this kind, with what stands behind the prefix.
    Invalid(&'static str, String),
    Unknown(String),
    Blank,
}

pub const TOPIC_EXCHANGE: &str = "amq.topic";
pub const TEMP_QUEUE: &str = "/temp-queue/";
pub const REPLY_QUEUE: &str = "/reply-queue/";
const PREFIXES: [&str; 6] = ["/temp-queue", "/exchange", "/topic", "/queue", "/amq/queue", "/reply-queue/"];

impl Destination {
    pub fn parse(text: &str) -> Result<Destination, BadDestination> {
        let Some(path) = text.strip_prefix('/') else {
            return match text {
                "" => Err(BadDestination::Blank),
                name if name.contains('/') => Err(BadDestination::Unknown(text.to_owned())),
                name => Ok(Destination::Queue(unescape(name))),
            };
        };
        if let Some(name) = text.strip_prefix(REPLY_QUEUE) {
            return match name {
                "" => Err(BadDestination::Invalid("reply_queue", "/".to_owned())),
                name => Ok(Destination::ReplyQueue(unescape(name))),
            };
        }
        let (kind, rest) = path.split_once('/').map_or((path, None), |(kind, rest)| (kind, Some(rest)));
        let (kind, rest) = match (kind, rest) {
            ("amq", Some("queue")) => ("amqqueue", None),
            ("amq", Some(rest)) if rest.starts_with("queue/") => ("amqqueue", rest.strip_prefix("queue/")),
            other => other,
        };
        let invalid = |kind| BadDestination::Invalid(kind, rest.map_or_else(String::new, |rest| format!("/{rest}")));
        let one = |kind, make: fn(String) -> Destination| match rest {
            Some(name) if !name.is_empty() && !name.contains('/') => Ok(make(unescape(name))),
            _ => Err(invalid(kind)),
        };
        match kind {
            "queue" => one("queue", Destination::Queue),
            "topic" => one("topic", Destination::Topic),
            "temp-queue" => one("temp_queue", Destination::TempQueue),
            "amqqueue" => one("amqqueue", Destination::AmqQueue),
            "exchange" => match rest.map(|rest| rest.split_once('/').map_or((rest, None), |(name, key)| (name, Some(key)))) {
                Some((name, key)) if !name.is_empty() && !key.is_some_and(|key| key.contains('/')) => {
                    Ok(Destination::Exchange { name: unescape(name), key: key.map(unescape) })
                }
                _ => Err(invalid("exchange")),
            },
            _ => Err(BadDestination::Unknown(text.to_owned())),
        }
    }

    /// Names that AMQP has no room for are none here: its clients could not be told where a message came from (4.2.5.3).
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let names = match self {
            Destination::Exchange { name, key } => [name.as_str(), key.as_deref().unwrap_or("")],
            Destination::Queue(name) | Destination::AmqQueue(name) | Destination::ReplyQueue(name) => [name.as_str(), ""],
            Destination::Topic(name) | Destination::TempQueue(name) | Destination::TempTopic(name) | Destination::Queues(name) => {
                [name.as_str(), ""]
            }
        };
        names.into_iter().find(|name| name.len() > NAME_MAX).map_or(Ok(()), |long| Err(too_long(long)))
    }

    /// Exchange and routing key; what a message is published to, or a queue is bound to.
    pub fn routing(&self) -> Option<(&str, &str)> {
        match self {
            Destination::Queue(name) | Destination::AmqQueue(name) | Destination::ReplyQueue(name) => Some(("", name)),
            Destination::Topic(key) => Some((TOPIC_EXCHANGE, key)),
            Destination::Exchange { name, key } => Some((name, key.as_deref().unwrap_or(""))),
            Destination::TempQueue(_) | Destination::TempTopic(_) | Destination::Queues(_) => None,
        }
    }
}

impl BadDestination {
    pub fn fault(self) -> Fault {
        match self {
            BadDestination::Invalid(kind, rest) => {
                Fault::new("Invalid destination", format!("'{rest}' is not a valid {kind} destination\n"))
            }
            BadDestination::Unknown(text) => Fault::new(
                "Unknown destination",
                format!("'{text}' is not a valid destination.\nValid destination types are: {}.\n", PREFIXES.join(", ")),
            ),
            BadDestination::Blank => Fault::new("Invalid destination", "Destination cannot be blank"),
        }
    }
}

/// AMQP's short strings.
pub(crate) const NAME_MAX: usize = 255;

pub(crate) fn too_long(name: &str) -> Fault {
    let shown: String = name.chars().take(40).collect();
    Fault::new("Invalid destination", format!("'{shown}...' is {} bytes long, more than {NAME_MAX}\n", name.len()))
}

/// A queue that a client asks for by name, with RabbitMQ's answer to what it keeps for itself.
pub(crate) fn check_queue_name(name: &str) -> Result<(), Fault> {
    match name {
        name if name.len() > NAME_MAX => Err(too_long(name)),
        name if name.starts_with("amq.") => {
            Err(Fault::new("access_refused", format!("ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'")))
        }
        _ => Ok(()),
    }
}

/// Is this an address for replies that names its kind? Others are names of queues.
pub fn has_prefix(address: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| address.starts_with(prefix.as_bytes()))
}

fn unescape(name: &str) -> String {
    name.replace("%2F", "/")
}

/// A name inside a destination, as deliveries show it, and with the colons and backslashes that a header's value escapes.
fn put_name(name: &[u8], escaped: bool, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in name {
        match byte {
            b'/' | b'%' | 0..=31 | 128.. => out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
            b':' if escaped => out.extend_from_slice(b"\\c"),
            b'\\' if escaped => out.extend_from_slice(b"\\\\"),
            byte => out.push(byte),
        }
    }
}

/// A key of the topic space. `%2E`, a dot inside a word ([`broker_api::spelling`]), stays as it is, so that what is shown can be sent to.
fn put_key(key: &[u8], escaped: bool, out: &mut Vec<u8>) {
    let mut rest = key;
    while let Some(at) = memchr::memchr(b'%', rest) {
        put_name(&rest[..at], escaped, out);
        let len = escape_len(&rest[at..]);
        match len {
            0 => put_name(&rest[at..=at], escaped, out),
            len => out.extend_from_slice(&rest[at..at + len]),
        }
        rest = &rest[at + len.max(1)..];
    }
    put_name(rest, escaped, out);
}

/// How long the escape is that this begins with: `%2E`, with any number of `25` behind the `%`; 0 if it is none.
fn escape_len(text: &[u8]) -> usize {
    let mut behind = &text[1..];
    while let Some(rest) = behind.strip_prefix(b"25") {
        behind = rest;
    }
    if behind.starts_with(b"2E") {
        text.len() - behind.len() + 2
    } else {
        0
    }
}

/// Where a message came from, as a header's value. `escaped`: for 1.1 and later.
pub fn put(exchange: &[u8], key: &[u8], escaped: bool, out: &mut Vec<u8>) {
    match (exchange, key) {
        (b"", key) => {
            out.extend_from_slice(b"/queue/");
            put_name(key, escaped, out);
        }
        (b"amq.topic", key) => {
            out.extend_from_slice(b"/topic/");
            put_key(key, escaped, out);
        }
        (exchange, key) => {
            out.extend_from_slice(b"/exchange/");
            put_name(exchange, escaped, out);
            if !key.is_empty() {
                out.push(b'/');
                put_name(key, escaped, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read() {
        let queue = |name: &str| Ok(Destination::Queue(name.to_owned()));
        let exchange = |name: &str, key: Option<&str>| Ok(Destination::Exchange { name: name.to_owned(), key: key.map(str::to_owned) });
        let rows = [
            ("/queue/a", queue("a")),
            ("a", queue("a")),
            ("/queue/a%2Fb%25", queue("a/b%25")),
            ("/topic/a.*.#", Ok(Destination::Topic("a.*.#".into()))),
            ("/amq/queue/a", Ok(Destination::AmqQueue("a".into()))),
            ("/reply-queue/a/b", Ok(Destination::ReplyQueue("a/b".into()))),
            ("/temp-queue/a", Ok(Destination::TempQueue("a".into()))),
            ("/exchange/x", exchange("x", None)),
            ("/exchange/x/", exchange("x", Some(""))),
            ("/exchange/x/k%2Fl", exchange("x", Some("k/l"))),
        ];
        for (text, expected) in rows {
            assert_eq!(Destination::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn others_are_refused_in_rabbitmqs_words() {
        let rows = [
            ("", "Destination cannot be blank"),
            ("/queue", "'' is not a valid queue destination\n"),
            ("/queue/", "'/' is not a valid queue destination\n"),
            ("/queue/a/b", "'/a/b' is not a valid queue destination\n"),
            ("/topic/a/b", "'/a/b' is not a valid topic destination\n"),
            ("/exchange//k", "'//k' is not a valid exchange destination\n"),
            ("/exchange/a/b/c", "'/a/b/c' is not a valid exchange destination\n"),
            ("/amq/queue/", "'/' is not a valid amqqueue destination\n"),
            (
                "queue://zz",
                "'queue://zz' is not a valid destination.\nValid destination types are: /temp-queue, /exchange, /topic, /queue, \
                 /amq/queue, /reply-queue/.\n",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(Destination::parse(text).unwrap_err().fault().detail, expected, "{text}");
        }
        assert!(matches!(Destination::parse("/wat/x"), Err(BadDestination::Unknown(_))));
        assert!(matches!(Destination::parse("/amq/other"), Err(BadDestination::Unknown(_))));
    }

    #[test]
    fn deliveries_show_where_they_came_from() {
        let shown = |exchange: &str, key: &str| {
            let mut out = Vec::new();
            put(exchange.as_bytes(), key.as_bytes(), true, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown("", "a/b%25c"), "/queue/a%2Fb%2525c");
        assert_eq!(shown("", "ä"), "/queue/%C3%A4");
        assert_eq!(shown("amq.topic", "a.b:c"), "/topic/a.b\\cc");
        assert_eq!(shown("amq.topic", "a.b%2Ec.50%.%252E.%25x"), "/topic/a.b%2Ec.50%25.%252E.%2525x");
        assert_eq!(shown("amq.fanout", ""), "/exchange/amq.fanout");
        assert_eq!(shown("amq.fanout", "k/x"), "/exchange/amq.fanout/k%2Fx");
    }
}
