//! What a message says of itself: the header lines of its SEND that are for its consumers.
//!
//! They are kept as lines `name:value`, each with its line end, escaped as in 1.2 whatever version they came in: so that most consumers are
//! sent them as they are. Lines that are about the SEND itself, and names that a MESSAGE gives a meaning of its own, are not among them: a
//! publisher cannot forge what the server says. Of repeated names the first is kept (1.2, "Repeated Header Entries").

use std::borrow::Cow;
use std::collections::HashSet;

use broker_api::{HeaderView, Neutral, Value};
use smallvec::SmallVec;

use crate::codec::{self, escape, unescape, DecodeError, Version};
use crate::destination::{Destination, REPLY_QUEUE};

/// `Head::format` of messages sent here: `origin` is lines as above.
pub const FORMAT: u8 = 4;

/// What ActiveMQ's headers begin with that say when a message is to be delivered.
pub(crate) const SCHEDULED: &[u8] = b"AMQ_SCHEDULED_";

/// The one of them that comes again and again.
pub(crate) const CRON: &str = "AMQ_SCHEDULED_CRON";

/// Is this the line that the exchange reads? It ends in a number that no client's may have, and no consumer sees it.
pub(crate) fn is_cron(name: &[u8], value: &[u8]) -> bool {
    name == CRON.as_bytes() && value.rsplit(|byte| *byte == b' ').next().is_some_and(|last| last.starts_with(b"+"))
}

/// What a SEND says to the server.
#[derive(Default)]
pub(crate) struct Sent<'a> {
    pub destination: Option<Cow<'a, [u8]>>,
    pub receipt: Option<Cow<'a, [u8]>>,
    pub transaction: Option<Cow<'a, [u8]>>,
    pub reply_to: Option<Cow<'a, [u8]>>,
    pub persistent: bool,
    pub priority: Option<Cow<'a, [u8]>>,
    pub expiration: Option<Cow<'a, [u8]>>,
    /// ActiveMQ's.
    pub expires: Option<Cow<'a, [u8]>>,
    pub user_id: Option<Cow<'a, [u8]>>,
    /// ActiveMQ's: it is for later, and how it is a part of what is kept.
    pub scheduled: bool,
    /// ActiveMQ's: what it belongs to, and its number in there.
    pub group: Option<Cow<'a, [u8]>>,
    pub group_seq: Option<Cow<'a, [u8]>>,
    /// ActiveMQ's: what kind of a value the body writes down.
    pub transformation: Option<Cow<'a, [u8]>>,
    /// A name that is not allowed here.
    pub message_id: bool,
}

/// Repeated names among more lines than this are found with a table.
const SCANNED: usize = 32;

/// Names that were there before.
#[derive(Default)]
struct Seen<'a> {
    few: SmallVec<[&'a [u8]; 16]>,
    many: HashSet<&'a [u8]>,
}

impl<'a> Seen<'a> {
    /// False if it was there already.
    fn add(&mut self, name: &'a [u8]) -> bool {
        if self.few.len() < SCANNED {
            let fresh = !self.few.contains(&name);
            if fresh {
                self.few.push(name);
            }
            return fresh;
        }
        !self.few.contains(&name) && self.many.insert(name)
    }
}

/// Reads the headers of a SEND; what is for consumers is appended to `kept`. `reply-to` is not: it may be given another value.
pub(crate) fn read_send<'a>(headers: &codec::Headers<'a>, kept: &mut Vec<u8>) -> Result<Sent<'a>, DecodeError> {
    let version = headers.version();
    let mut sent = Sent::default();
    let mut seen = Seen::default();
    for line in headers.raw() {
        let (name, value) = line?;
        if !seen.add(name) {
            // It may still be no header at all.
            unescape(name, version)?;
            unescape(value, version)?;
            continue;
        }
        let text = || unescape(value, version).map(Some);
        match name {
            b"destination" => sent.destination = text()?,
            b"receipt" => sent.receipt = text()?,
            b"transaction" => sent.transaction = text()?,
            b"reply-to" => sent.reply_to = text()?,
            b"message-id" => sent.message_id = true,
            b"content-length" | b"subscription" | b"ack" | b"redelivered" => drop(text()?),
            b"persistent" => {
                sent.persistent = value == b"true";
                if sent.persistent {
                    put_raw(name, value, version, kept)?;
                }
            }
            b"priority" => {
                sent.priority = text()?;
                put_raw(name, value, version, kept)?;
            }
            b"expiration" => {
                sent.expiration = text()?;
                put_raw(name, value, version, kept)?;
            }
            b"expires" => {
                sent.expires = text()?;
                put_raw(name, value, version, kept)?;
            }
            b"JMSXGroupID" => {
                sent.group = text()?;
                put_raw(name, value, version, kept)?;
            }
            b"JMSXGroupSeq" => {
                sent.group_seq = text()?;
                put_raw(name, value, version, kept)?;
            }
            b"transformation" => {
                sent.transformation = text()?;
                put_raw(name, value, version, kept)?;
            }
            b"user-id" => {
                sent.user_id = text()?;
                put_raw(name, value, version, kept)?;
            }
            name => {
                sent.scheduled |= name.starts_with(SCHEDULED);
                put_raw(name, value, version, kept)?;
            }
        }
    }
    Ok(sent)
}

fn put_raw(name: &[u8], value: &[u8], version: Version, kept: &mut Vec<u8>) -> Result<(), DecodeError> {
    put_raw_text(name, version, kept)?;
    kept.push(b':');
    put_raw_text(value, version, kept)?;
    kept.push(b'\n');
    Ok(())
}

#[inline]
fn put_raw_text(raw: &[u8], version: Version, kept: &mut Vec<u8>) -> Result<(), DecodeError> {
    match memchr::memchr3(b'\\', b':', b'\r', raw) {
        None => kept.extend_from_slice(raw),
        Some(_) => escape(&unescape(raw, version)?, Version::V12, kept),
    }
    Ok(())
}

/// Appends a line of our own.
pub(crate) fn put_line(name: &str, value: &[u8], kept: &mut Vec<u8>) {
    kept.extend_from_slice(name.as_bytes());
    kept.push(b':');
    escape(value, Version::V12, kept);
    kept.push(b'\n');
}

/// The kept lines, still escaped.
pub(crate) fn lines(origin: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    origin.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], &line[colon + 1..]))
    })
}

/// Lines that are for whoever understands 1.2, for somebody who speaks an older version.
pub(crate) fn put_lines_for(origin: &[u8], version: Version, out: &mut Vec<u8>) {
    for (name, value) in lines(origin) {
        let (Ok(name), Ok(value)) = (unescape(name, Version::V12), unescape(value, Version::V12)) else { continue };
        escape(&name, version, out);
        out.push(b':');
        escape(&value, version, out);
        out.push(b'\n');
    }
}

/// Properties of AMQP 0-9-1 that have a header here: theirs, ours.
pub(crate) const PROPERTIES: [(&str, &str); 12] = [
    ("content_type", "content-type"),
    ("content_encoding", "content-encoding"),
    ("delivery_mode", "persistent"),
    ("priority", "priority"),
    ("correlation_id", "correlation-id"),
    ("reply_to", "reply-to"),
    ("expiration", "expiration"),
    ("message_id", "amqp-message-id"),
    ("timestamp", "timestamp"),
    ("type", "type"),
    ("user_id", "user-id"),
    ("app_id", "app-id"),
];

/// Given to the core and to other protocols for messages and arguments of [`FORMAT`].
pub struct Headers;

impl HeaderView for Headers {
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        for (name, value) in lines(origin) {
            let property = PROPERTIES.iter().any(|(_, ours)| ours.as_bytes() == name);
            if let (false, Ok(value)) = (property, unescape(value, Version::V12)) {
                each(name, Value::Bytes(value));
            }
        }
    }

    fn property<'a>(&self, origin: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
        let (_, ours) = PROPERTIES.iter().find(|(theirs, _)| theirs.as_bytes() == name)?;
        let (_, value) = lines(origin).find(|(name, _)| *name == ours.as_bytes())?;
        let text = unescape(value, Version::V12).ok()?;
        let number = || std::str::from_utf8(&text).ok()?.trim().parse::<u64>().ok();
        match *ours {
            "persistent" => Some(Value::Int(2)),
            "priority" => number().and_then(|number| i64::try_from(number).ok()).map(Value::Int),
            "timestamp" => number().map(Value::Timestamp),
            "reply-to" => Some(Value::Bytes(queue_of(text))),
            _ => Some(Value::Bytes(text)),
        }
    }

    fn compares(&self, name: &[u8], value: &Value<'_>) -> bool {
        crate::arguments::is_compared(name, value)
    }

    fn neutral<'a>(&self, origin: &'a [u8]) -> Neutral<'a> {
        let mut neutral = Neutral::default();
        for (name, value) in lines(origin) {
            let Ok(text) = unescape(value, Version::V12) else { continue };
            let number = || std::str::from_utf8(&text).ok()?.trim().parse().ok();
            match name {
                b"content-type" => neutral.content_type = Some(text),
                b"content-encoding" => neutral.content_encoding = Some(text),
                b"correlation-id" => neutral.correlation_id = Some(text),
                b"reply-to" => {
                    neutral.reply_topic = reply_topic(&text).map(Cow::Owned);
                    neutral.reply_to = Some(queue_of(text));
                }
                b"amqp-message-id" => neutral.message_id = Some(text),
                b"type" => neutral.kind = Some(text),
                b"app-id" => neutral.app_id = Some(text),
                b"user-id" => neutral.user_id = Some(text),
                b"timestamp" => neutral.timestamp = number(),
                b"expiration" => neutral.expiration_ms = number(),
                b"priority" | b"persistent" => {}
                name if is_cron(name, value) => {}
                name => neutral.headers.push((Cow::Borrowed(name), Value::Bytes(text))),
            }
        }
        neutral
    }

    fn arguments<'a>(&self, encoded: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>)) {
        for (name, value) in lines(encoded) {
            match crate::arguments::value(value) {
                Some(value) => each(name, value),
                None => continue,
            }
        }
    }
}

/// The prefix is how STOMP spells the name of a queue that answers.
fn queue_of(address: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match address {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_prefix(REPLY_QUEUE.as_bytes()).unwrap_or(text)),
        Cow::Owned(text) => Cow::Owned(text.strip_prefix(REPLY_QUEUE.as_bytes()).unwrap_or(&text).to_vec()),
    }
}

/// The routing key of an address in the topic space.
fn reply_topic(address: &[u8]) -> Option<Vec<u8>> {
    match Destination::parse(std::str::from_utf8(address).ok()?) {
        Ok(Destination::Topic(key)) => Some(key.into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Frames;

    fn kept(frame: &[u8], version: Version) -> (String, bool) {
        let frame = Frames::new(frame, 0, version).next().unwrap().unwrap();
        let mut kept = Vec::new();
        let sent = read_send(&frame.headers, &mut kept).unwrap();
        (String::from_utf8(kept).unwrap(), sent.persistent)
    }

    #[test]
    fn what_is_for_consumers_is_kept_in_one_spelling() {
        let send =
            b"SEND\ndestination:/queue/a\nreceipt:1\na:x\\cy\na:second\ncolon:x:y\npersistent:true\nack:forged\nsubscription:0\n\n\0";
        assert_eq!(kept(send, Version::V12), ("a:x\\cy\ncolon:x\\cy\npersistent:true\n".to_owned(), true));
        assert_eq!(kept(b"SEND\na: x\\cy \npersistent:false\n\n\0", Version::V10), ("a:x\\\\cy\n".to_owned(), false));
        let many: String = (0..100).map(|n| format!("h{}:{n}\n", n % 50)).collect();
        let all = kept(format!("SEND\n{many}\n\0").as_bytes(), Version::V11).0;
        assert_eq!((all.lines().count(), all.lines().last()), (50, Some("h49:49")));
    }

    #[test]
    fn older_versions_get_their_own_spelling() {
        let shown = |version| {
            let mut out = Vec::new();
            put_lines_for(b"a:x\\cy\\r\\n\\\\\n", version, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(Version::V12), "a:x\\cy\\r\\n\\\\\n");
        assert_eq!(shown(Version::V11), "a:x\\cy\\n\\\\\n");
        assert_eq!(shown(Version::V10), "a:x:y\\\n");
    }

    #[test]
    fn others_read_properties_and_headers() {
        let origin =
            b"content-type:text/plain\nx:a\\cb\npersistent:true\npriority:7\ntimestamp:12\nreply-to:/reply-queue/q\namqp-message-id:m\n";
        let property = |name: &str| Headers.property(origin, name.as_bytes());
        assert_eq!(property("content_type"), Some(Value::Bytes(b"text/plain".into())));
        assert_eq!(property("delivery_mode"), Some(Value::Int(2)));
        assert_eq!(property("priority"), Some(Value::Int(7)));
        assert_eq!(property("timestamp"), Some(Value::Timestamp(12)));
        assert_eq!(property("reply_to"), Some(Value::Bytes(b"q".into())));
        assert_eq!(property("message_id"), Some(Value::Bytes(b"m".into())));
        assert_eq!(property("app_id"), None);
        let mut seen = Vec::new();
        Headers.headers(origin, &mut |name, value| seen.push((name.to_vec(), value)));
        assert_eq!(seen, [(b"x".to_vec(), Value::Bytes(b"a:b".into()))]);
        let neutral = Headers.neutral(origin);
        assert_eq!(neutral, Neutral::read(&Headers, origin));
        assert_eq!(Headers.neutral(b"reply-to:/topic/a.b%2Fc\n").reply_topic.as_deref(), Some(&b"a.b/c"[..]));
        assert_eq!(Headers.neutral(b"expiration:150\n").expiration_ms, Some(150));
    }
}
