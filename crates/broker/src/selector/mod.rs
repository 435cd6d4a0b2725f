//! Selectors: conditions on what a message says of itself, in the language of JMS 2.0, 3.8.1 (a part of SQL-92 with three truth values), as
//! ActiveMQ reads it.
//!
//! [`Selector::parse`] makes a program for a small stack machine of a text: the nesting of the text is bounded, and evaluation has no
//! recursion and no errors. What a message does not have is NULL; a comparison with NULL is unknown, and only what is true matches.
//!
//! ```text
//!   price BETWEEN 5 AND 10 OR color IN ('red', 'blue')     ──►  price 5 10 between · color in{red,blue} · or
//! ```
//!
//! Where JMS leaves room:
//! - values of different kinds are neither equal nor unequal (JMS: "the value of the operation is false");
//! - whole numbers that grow past 64 bits become floating point; a division of whole numbers by 0 is NULL;
//! - `NOT` binds weaker than a comparison, as in SQL (ActiveMQ binds it tighter);
//! - XPATH and XQUERY are refused.

mod eval;
mod lex;
mod like;
mod parse;
#[cfg(test)]
mod tests;

pub use eval::Val;

use broker_api::{view_of, Batch, Head, Value, Views, HEAD_DURABLE};
use like::Like;
use smallvec::SmallVec;
use std::borrow::Cow;
use thiserror::Error;

/// Bytes of a selector.
pub const TEXT_MAX: usize = 8192;
/// Names in one.
pub const NAMES_MAX: usize = 64;
/// Parentheses, NOTs and signs in one another.
pub const DEPTH_MAX: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("at character {at}: {why}")]
pub struct SelectorError {
    /// Counted from 1, in characters.
    pub at: usize,
    pub why: String,
}

/// What a name stands for that is not the name of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Own {
    MessageId,
    CorrelationId,
    Type,
    ReplyTo,
    Timestamp,
    Expiration,
    Priority,
    DeliveryMode,
    Group,
    User,
    Destination,
}

const OWN: [(&str, Own); 11] = [
    ("JMSMessageID", Own::MessageId),
    ("JMSCorrelationID", Own::CorrelationId),
    ("JMSType", Own::Type),
    ("JMSReplyTo", Own::ReplyTo),
    ("JMSTimestamp", Own::Timestamp),
    ("JMSExpiration", Own::Expiration),
    ("JMSPriority", Own::Priority),
    ("JMSDeliveryMode", Own::DeliveryMode),
    ("JMSXGroupID", Own::Group),
    ("JMSXUserID", Own::User),
    ("JMSDestination", Own::Destination),
];

#[derive(Debug)]
struct Name {
    text: Box<str>,
    own: Option<Own>,
}

/// One step; operands come off the stack, the result goes on it.
#[derive(Debug)]
enum Op {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    /// The value of a name.
    Name(u16),
    Not,
    And,
    Or,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Between,
    In(Box<[Box<str>]>),
    Like(Like),
    IsNull,
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A condition, ready to be asked of messages.
#[derive(Debug)]
pub struct Selector {
    text: Box<str>,
    names: Vec<Name>,
    program: Vec<Op>,
    /// `convert_string_expressions:`: text that is compared to a number is read as one.
    converts: bool,
}

impl PartialEq for Selector {
    fn eq(&self, other: &Selector) -> bool {
        self.text == other.text
    }
}

/// A message to ask about.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub views: &'a Views,
    pub batch: &'a Batch,
    pub head: &'a Head,
    pub arrived_ms: u64,
}

impl Selector {
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        parse::parse(text)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names it asks for, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &*name.text)
    }

    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let mut values: SmallVec<[Val<'_>; 6]> = self.names.iter().map(|_| Val::Null).collect();
        let origin = subject.batch.bytes(subject.head.origin);
        let view = view_of(subject.views, subject.head.format);
        for (value, own) in values.iter_mut().zip(&self.names).filter_map(|(value, name)| Some((value, name.own?))) {
            *value = subject.own(own);
        }
        if values.contains(&Val::Null) {
            if let Some(view) = view {
                // The first of a name counts.
                view.headers(origin, &mut |found, value| {
                    let wanted = self.names.iter().zip(values.iter_mut()).find(|(name, _)| name.text.as_bytes() == found);
                    if let Some((_, slot)) = wanted.filter(|(_, slot)| **slot == Val::Null) {
                        *slot = Val::of(value);
                    }
                });
            }
        }
        self.evaluate(&values) == Val::Bool(true)
    }
}

/// The body of the fuzz target: whatever is read can be asked, says the same each time, and reads the same from its own text.
pub fn fuzz_selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(error.at >= 1 && error.at <= text.chars().count() + 1, "{text:?}: {error}");
            return;
        }
    };
    let again = Selector::parse(selector.text()).expect("it was read before");
    let kinds = [Val::Null, Val::Int(-7), Val::Float(0.5), Val::Bool(true), Val::Text("42".into()), Val::Int(i64::MIN)];
    for shift in 0..kinds.len() {
        let values: Vec<Val<'_>> = (0..selector.names.len()).map(|n| kinds[(n + shift) % kinds.len()].clone()).collect();
        let shown = |value: Val<'_>| format!("{value:?}");
        assert_eq!(shown(selector.evaluate(&values)), shown(again.evaluate(&values)), "{text:?}");
    }
}

impl<'a> Subject<'a> {
    fn own(&self, own: Own) -> Val<'a> {
        let (batch, head) = (self.batch, self.head);
        let origin = batch.bytes(head.origin);
        let property = |name: &str| view_of(self.views, head.format).and_then(|view| view.property(origin, name.as_bytes()));
        let text = |name: &str| property(name).map_or(Val::Null, Val::of);
        let bytes = |bytes: &'a [u8]| if bytes.is_empty() { Val::Null } else { Val::of(Value::Bytes(Cow::Borrowed(bytes))) };
        match own {
            Own::MessageId => text("message_id"),
            Own::CorrelationId => text("correlation_id"),
            Own::Type => text("type"),
            Own::ReplyTo => text("reply_to"),
            Own::Timestamp => match property("timestamp") {
                Some(Value::Timestamp(secs)) => Val::Int(i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX)),
                _ => Val::Int(self.arrived_ms as i64),
            },
            Own::Expiration => Val::Int(head.expires_ms as i64),
            Own::Priority => Val::Int(head.priority.into()),
            Own::DeliveryMode if head.has(HEAD_DURABLE) => Val::Text(Cow::Borrowed("PERSISTENT")),
            Own::DeliveryMode => Val::Text(Cow::Borrowed("NON_PERSISTENT")),
            Own::Group => bytes(batch.bytes(head.group)),
            Own::User => match bytes(batch.bytes(head.user)) {
                Val::Null => text("user_id"),
                user => user,
            },
            Own::Destination => bytes(batch.key(head)),
        }
    }
}
