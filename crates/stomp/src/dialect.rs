//! Whose STOMP a listener speaks. The frames are the same; what a destination is, which headers mean something and what an error says are not.
//!
//! ActiveMQ's destinations, all of them made when they are first named:
//!
//! ```text
//! /queue/NAME   queue://NAME   or anything else   a shared queue; NAME is everything behind the prefix, slashes too
//! /topic/NAME   topic://NAME                      the topic space, NAME being a routing key; `*` and `>` match words when subscribing
//! /temp-queue/ID   temp-queue://ID                a queue of this connection
//! /remote-temp-queue/NAME                         somebody else's, as consumers of its owner's messages see it
//! ```

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

pub(crate) const REMOTE_TEMP_QUEUE: &str = "/remote-temp-queue/";

/// What an ActiveMQ would do with a header and we cannot yet: better an error than a message that is not treated as asked.
const NOT_YET_ON_SEND: [&str; 4] = ["AMQ_SCHEDULED_DELAY", "AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT", "AMQ_SCHEDULED_CRON"];
const NOT_YET_ON_SUBSCRIBE: [&str; 4] = ["selector", "browser", "activemq.noLocal", "no-local"];

impl Dialect {
    /// By its name in a listener's settings.
    pub fn named(name: &str) -> Option<Dialect> {
        match name {
            "rabbitmq" => Some(Dialect::RabbitMq),
            "activemq" => Some(Dialect::ActiveMq),
            _ => None,
        }
    }

    pub(crate) fn destination(self, text: &str) -> Result<Destination, Fault> {
        let destination = match self {
            Dialect::RabbitMq => Destination::parse(text).map_err(|bad| bad.fault())?,
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

    /// A header of this frame asks for something that is not there yet.
    pub(crate) fn not_yet(self, headers: &crate::codec::Headers<'_>, subscribe: bool) -> Result<(), Fault> {
        if self == Dialect::RabbitMq {
            return Ok(());
        }
        let names: &[&str] = if subscribe { &NOT_YET_ON_SUBSCRIBE } else { &NOT_YET_ON_SEND };
        for line in headers.raw() {
            let Ok((name, value)) = line else { continue };
            if names.iter().any(|known| known.as_bytes() == name) && value != b"false" {
                return Err(Fault::plain(format!("The header {} is not supported yet", String::from_utf8_lossy(name))));
            }
        }
        Ok(())
    }
}

fn activemq_destination(text: &str) -> Result<Destination, Fault> {
    let behind = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    let not_yet = |what: &str| Fault::plain(format!("{what} are not supported yet: '{text}'"));
    if text.contains(',') {
        return Err(not_yet("Composite destinations"));
    }
    let destination = if let Some(name) = behind(["/topic/", "topic://"]) {
        Destination::Topic(name.to_owned())
    } else if let Some(id) = behind(["/temp-queue/", "temp-queue://"]) {
        Destination::TempQueue(id.to_owned())
    } else if let Some(name) = behind([REMOTE_TEMP_QUEUE, "remote-temp-queue://"]) {
        Destination::ReplyQueue(name.to_owned())
    } else if behind(["/temp-topic/", "temp-topic://"]).or_else(|| text.strip_prefix("/remote-temp-topic/")).is_some() {
        return Err(not_yet("Temporary topics"));
    } else {
        Destination::Queue(behind(["/queue/", "queue://"]).unwrap_or(text).to_owned())
    };
    match &destination {
        Destination::Queue(name) | Destination::Topic(name) | Destination::TempQueue(name) | Destination::ReplyQueue(name) => {
            if name.is_empty() {
                return Err(Fault::plain(format!("Invalid destination name: '{text}'")));
            }
            // Of topics it is a pattern, or a word like any other.
            let wild = name.split('.').any(|word| word == "*" || word == ">");
            if wild && matches!(destination, Destination::Queue(_)) {
                return Err(not_yet("Wildcards in the names of queues"));
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
        let parse = |text: &str| Dialect::ActiveMq.destination(text);
        let queue = |name: &str| Ok(Destination::Queue(name.to_owned()));
        let rows = [
            ("/queue/foo/bar", queue("foo/bar")),
            ("queue://zz", queue("zz")),
            ("foo", queue("foo")),
            ("/wat/x", queue("/wat/x")),
            ("/queue/a%2Fb", queue("a%2Fb")),
            ("/topic/a.>", Ok(Destination::Topic("a.>".into()))),
            ("topic://a", Ok(Destination::Topic("a".into()))),
            ("/temp-queue/r", Ok(Destination::TempQueue("r".into()))),
            ("/remote-temp-queue/q", Ok(Destination::ReplyQueue("q".into()))),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in ["/queue/", "/queue/a.*", "/queue/a,/topic/b", "/temp-topic/t", "queue://>"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_are_put_in_the_other_language() {
        assert_eq!(Dialect::ActiveMq.pattern("a.*.>"), "a.*.#");
        assert_eq!(Dialect::ActiveMq.pattern(">"), "#");
        assert_eq!(Dialect::RabbitMq.pattern("a.>"), "a.>");
    }
}
