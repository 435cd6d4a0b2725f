//! Whose STOMP a listener speaks. The frames are the same; what a destination is, which headers mean something and what an error says are not.
//!
//! ActiveMQ's destinations, all of them made when they are first named:
//!
//! ```text
//! /queue/NAME   queue://NAME   or anything else   a shared queue; NAME is everything behind the prefix, slashes too; with `*` or `>` among
//!                                                 its words, all queues that match, when subscribing
//! /topic/NAME   topic://NAME                      the topic space, NAME being a routing key; `*` and `>` match words when subscribing
//! /temp-queue/ID   temp-queue://ID                a queue of this connection
//! /temp-topic/ID   temp-topic://ID                a topic that nobody else knows: `temp-topic.SESSION.ID`
//! /remote-temp-queue/NAME   /remote-temp-topic/NAME   somebody else's, as consumers of its owner's messages see it
//! ```
//! Several, parted by commas, are a composite destination. A queue `Consumer.NAME.VirtualTopic.TOPIC` gets what is sent to the topic
//! `VirtualTopic.TOPIC` from its first subscription on.

use crate::codec::{escape, Version};
use crate::destination::{Destination, REPLY_QUEUE};
use crate::error::Fault;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Dialect {
    /// RabbitMQ's plug-in.
    #[default]
    RabbitMq,
    /// ActiveMQ "Classic".
    ActiveMq,
}

/// Parts of a composite destination.
const COMPOSITE_MAX: usize = 64;

pub(crate) const TEMP_TOPIC: &str = "/temp-topic/";
pub(crate) const REMOTE_TEMP_TOPIC: &str = "/remote-temp-topic/";
/// What the names of temporary topics begin with in the topic space.
pub(crate) const TEMP_TOPIC_KEY: &str = "temp-topic.";
pub(crate) const REMOTE_TEMP_QUEUE: &str = "/remote-temp-queue/";

impl Dialect {
    /// By its name in a listener's settings.
    pub fn named(name: &str) -> Option<Dialect> {
        match name {
            "rabbitmq" | "native" => Some(Dialect::RabbitMq),
            "activemq" => Some(Dialect::ActiveMq),
            _ => None,
        }
    }

    /// All that a header names. The first stands for the kind of those behind it that do not say theirs.
    pub(crate) fn destinations(self, text: &str, strict: bool) -> Result<Vec<Destination>, Fault> {
        if self == Dialect::RabbitMq || !text.contains(',') {
            return Ok(vec![self.destination(text, strict)?]);
        }
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts.len() > COMPOSITE_MAX {
            return Err(Fault::plain(format!("A composite destination of {} parts; there may be {COMPOSITE_MAX}", parts.len())));
        }
        let topics = is_topic(parts[0]);
        let whole = |part: &str| match topics && !part.starts_with('/') && !part.contains("://") {
            true => format!("/topic/{part}"),
            false => part.to_owned(),
        };
        parts.iter().map(|part| self.destination(&whole(part), strict)).collect()
    }

    /// `strict`: what RabbitMQ refuses is refused.
    pub(crate) fn destination(self, text: &str, strict: bool) -> Result<Destination, Fault> {
        let destination = match self {
            Dialect::RabbitMq => match (text.strip_prefix("queue://"), text.strip_prefix("topic://")) {
                (Some(name), _) if !strict && !name.is_empty() => Destination::Queue(name.to_owned()),
                (_, Some(key)) if !strict && !key.is_empty() => Destination::Topic(key.to_owned()),
                _ => Destination::parse(text).map_err(|bad| bad.fault())?,
            },
            Dialect::ActiveMq => activemq_destination(text)?,
        };
        destination.check()?;
        Ok(destination)
    }

    /// The pattern of a subscription to a topic, in the language of routing keys.
    pub(crate) fn pattern(self, key: &str) -> String {
        let word = |word| if self == Dialect::ActiveMq && word == ">" { "#" } else { word };
        key.split('.').map(word).collect::<Vec<_>>().join(".")
    }

    pub(crate) fn missing_destination(self, command: &str) -> Fault {
        match self {
            Dialect::RabbitMq => Fault::new("Missing destination", format!("\"{command}\" must include a 'destination' header\n")),
            Dialect::ActiveMq => Fault::plain(format!("{command} received without a Destination specified!")),
        }
    }

    pub(crate) fn bad_command(self, name: &str) -> Fault {
        match self {
            Dialect::RabbitMq => Fault::new("Bad command", format!("Could not interpret command \"{name}\"\n")),
            Dialect::ActiveMq => Fault::plain(format!("Unknown STOMP action: {name}")),
        }
    }
}

fn is_topic(text: &str) -> bool {
    text.starts_with("/topic/") || text.starts_with("topic://")
}

/// The topic whose messages a queue of this name is to get.
pub(crate) fn virtual_topic(queue: &str) -> Option<&str> {
    let (name, topic) = queue.strip_prefix("Consumer.")?.split_once('.')?;
    let rest = topic.strip_prefix("VirtualTopic.")?;
    (!name.is_empty() && !rest.is_empty()).then_some(topic)
}

fn activemq_destination(text: &str) -> Result<Destination, Fault> {
    let behind = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    let destination = if let Some(name) = behind(["/topic/", "topic://"]) {
        Destination::Topic(name.to_owned())
    } else if let Some(id) = behind(["/temp-queue/", "temp-queue://"]) {
        Destination::TempQueue(id.to_owned())
    } else if let Some(name) = behind([REMOTE_TEMP_QUEUE, "remote-temp-queue://"]) {
        Destination::ReplyQueue(name.to_owned())
    } else if let Some(id) = behind(["/temp-topic/", "temp-topic://"]) {
        Destination::TempTopic(id.to_owned())
    } else if let Some(key) = behind([REMOTE_TEMP_TOPIC, "remote-temp-topic://"]) {
        Destination::Topic(key.to_owned())
    } else {
        Destination::Queue(behind(["/queue/", "queue://"]).unwrap_or(text).to_owned())
    };
    match &destination {
        Destination::Queue(name)
        | Destination::Topic(name)
        | Destination::TempQueue(name)
        | Destination::TempTopic(name)
        | Destination::ReplyQueue(name) => {
            if name.is_empty() {
                return Err(Fault::plain(format!("Invalid destination name: '{text}'")));
            }
            // Of topics it is a pattern all the same, or a word like any other.
            let is_wild = name.split('.').any(|word| word == "*" || word == ">");
            if is_wild && matches!(destination, Destination::Queue(_)) {
                return Ok(Destination::Queues(Dialect::ActiveMq.pattern(name)));
            }
        }
        _ => {}
    }
    Ok(destination)
}

/// A destination as an ActiveMQ shows it: the name is as it is.
pub(crate) fn shown(prefix: &str, name: &[u8], version: Version, out: &mut Vec<u8>) {
    escape(prefix.as_bytes(), version, out);
    escape(name, version, out);
}

/// A reply address that RabbitMQ's dialect would show as it stands.
pub(crate) fn reply_queue(address: &[u8]) -> Option<&[u8]> {
    address.strip_prefix(REPLY_QUEUE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activemqs_destinations_are_names_as_they_are() {
        let parse = |text: &str| Dialect::ActiveMq.destination(text, false);
        let queue = |name: &str| Ok(Destination::Queue(name.to_owned()));
        let rows = [
            ("/queue/foo/bar", queue("foo/bar")),
            ("queue://zz", queue("zz")),
            ("foo", queue("foo")),
            ("/wat/x", queue("/wat/x")),
            ("/queue/a%2Fb", queue("a%2Fb")),
            ("/queue/a.*.>", Ok(Destination::Queues("a.*.#".into()))),
            ("queue://>", Ok(Destination::Queues("#".into()))),
            ("/queue/a>b", queue("a>b")),
            ("/topic/a.>", Ok(Destination::Topic("a.>".into()))),
            ("topic://a", Ok(Destination::Topic("a".into()))),
            ("/temp-queue/r", Ok(Destination::TempQueue("r".into()))),
            ("/temp-topic/t", Ok(Destination::TempTopic("t".into()))),
            ("/remote-temp-topic/temp-topic.s.t", Ok(Destination::Topic("temp-topic.s.t".into()))),
            ("/remote-temp-queue/q", Ok(Destination::ReplyQueue("q".into()))),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in ["/queue/", "/temp-topic/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn several_destinations_are_parted_by_commas() {
        let all = |dialect: Dialect, text: &str| dialect.destinations(text, false);
        let (queue, topic) = (|name: &str| Destination::Queue(name.into()), |name: &str| Destination::Topic(name.into()));
        assert_eq!(all(Dialect::ActiveMq, "/queue/a,/topic/b, queue://c"), Ok(vec![queue("a"), topic("b"), queue("c")]));
        assert_eq!(all(Dialect::ActiveMq, "/topic/a,b"), Ok(vec![topic("a"), topic("b")]));
        assert_eq!(all(Dialect::ActiveMq, "/queue/a,b"), Ok(vec![queue("a"), queue("b")]));
        assert_eq!(all(Dialect::RabbitMq, "/queue/a,b"), Ok(vec![queue("a,b")]));
        assert!(all(Dialect::ActiveMq, "/queue/a,").is_err());
        assert!(all(Dialect::ActiveMq, &"/queue/a,".repeat(100)).is_err());
    }

    #[test]
    fn rabbitmq_takes_activemqs_prefixes_unless_it_is_strict() {
        let parse = |text: &str, strict| Dialect::RabbitMq.destination(text, strict);
        assert_eq!(parse("queue://a", false), Ok(Destination::Queue("a".into())));
        assert_eq!(parse("topic://a.*", false), Ok(Destination::Topic("a.*".into())));
        for (text, strict) in [("queue://a", true), ("topic://a", true), ("queue://", false), ("topic://", false)] {
            assert_eq!(parse(text, strict).unwrap_err().message, "Unknown destination", "{text}");
        }
    }

    #[test]
    fn queues_of_virtual_topics_are_known_by_their_name() {
        assert_eq!(virtual_topic("Consumer.A.VirtualTopic.Orders.eu"), Some("VirtualTopic.Orders.eu"));
        for other in [
            "Consumer.A.Orders",
            "Consumer.VirtualTopic.Orders",
            "VirtualTopic.Orders",
            "Consumer..VirtualTopic.x",
            "Consumer.A.VirtualTopic.",
        ] {
            assert_eq!(virtual_topic(other), None, "{other}");
        }
    }

    #[test]
    fn patterns_are_put_in_the_other_language() {
        assert_eq!(Dialect::ActiveMq.pattern("a.*.>"), "a.*.#");
        assert_eq!(Dialect::ActiveMq.pattern(">"), "#");
        assert_eq!(Dialect::RabbitMq.pattern("a.>"), "a.>");
    }
}
