//! Header values as exchanges and selectors compare them, and how the core and other protocols ask a protocol for those of a message.

use std::borrow::Cow;
use std::sync::Arc;

use crate::Neutral;

/// A field value. Equality is identity, type included, as it tells bindings apart; [`Value::matches`] is what routing asks.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Void,
    Bool(bool),
    Int(i64),
    /// What does not fit an `Int`.
    Uint(u64),
    Float(f64),
    /// Long strings and byte arrays.
    Bytes(Cow<'a, [u8]>),
    /// Seconds.
    Timestamp(u64),
    /// Tables, arrays, decimals: equal if encoded equally. The first byte should be the type.
    Encoded(Cow<'a, [u8]>),
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Void, Value::Void) => true,
            (Value::Bool(one), Value::Bool(two)) => one == two,
            (Value::Int(one), Value::Int(two)) => one == two,
            (Value::Uint(one), Value::Uint(two)) | (Value::Timestamp(one), Value::Timestamp(two)) => one == two,
            (Value::Float(one), Value::Float(two)) => one.to_bits() == two.to_bits(),
            (Value::Bytes(one), Value::Bytes(two)) | (Value::Encoded(one), Value::Encoded(two)) => one == two,
            _ => false,
        }
    }
}

impl Eq for Value<'_> {}

impl Value<'_> {
    pub fn matches(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Float(one), Value::Float(two)) => one == two,
            (Value::Float(float), other) | (other, Value::Float(float)) => {
                other.integer().is_some_and(|integer| equals_float(integer, *float))
            }
            _ => match (self.integer(), other.integer()) {
                (Some(one), Some(two)) => one == two,
                _ => self == other,
            },
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Value::Int(integer) => Some((*integer).into()),
            Value::Uint(integer) | Value::Timestamp(integer) => Some((*integer).into()),
            _ => None,
        }
    }

    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Void => Value::Void,
            Value::Bool(value) => Value::Bool(value),
            Value::Int(value) => Value::Int(value),
            Value::Uint(value) => Value::Uint(value),
            Value::Float(value) => Value::Float(value),
            Value::Bytes(value) => Value::Bytes(value.into_owned().into()),
            Value::Timestamp(value) => Value::Timestamp(value),
            Value::Encoded(value) => Value::Encoded(value.into_owned().into()),
        }
    }
}

/// Exact: a float beyond 2^53 equals only the one integer it stands for.
fn equals_float(integer: i128, float: f64) -> bool {
    float.fract() == 0.0 && float.abs() < 1e30 && float as i128 == integer
}

/// Reads what a protocol encoded: given to the core and to the other protocols once per format, asked only where an exchange looks at
/// headers or arguments, and for consumers of another protocol. What cannot be read is left out; a view never fails and never panics.
pub trait HeaderView: Send + Sync {
    /// The headers among a message's encoded properties (`Head.origin`), in their order.
    fn headers<'a>(&self, origin: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>));

    /// A property of the message that is no header, by its name in AMQP 0-9-1 (`correlation_id`, `message_id`, `timestamp`).
    fn property<'a>(&self, _origin: &'a [u8], _name: &[u8]) -> Option<Value<'a>> {
        None
    }

    /// Encoded arguments of a binding, an exchange or a queue.
    fn arguments<'a>(&self, encoded: &'a [u8], each: &mut dyn FnMut(&'a [u8], Value<'a>));

    /// Of a queue's arguments: must it be the same when the queue is declared again? What says no more than its absence need not.
    fn compares(&self, _name: &[u8], _value: &Value<'_>) -> bool {
        true
    }

    /// All that other protocols may have a word for.
    fn neutral<'a>(&self, origin: &'a [u8]) -> Neutral<'a> {
        Neutral::read(self, origin)
    }

    /// What divides the words of a routing key where messages of this format are published; see [`crate::spelling`].
    fn separator(&self) -> u8 {
        b'.'
    }
}

/// The views of all protocols, by [`crate::Head::format`].
pub type Views = Vec<(u8, Arc<dyn HeaderView>)>;

/// Of a format that nobody reads there is none.
pub fn view_of(views: &Views, format: u8) -> Option<&dyn HeaderView> {
    views.iter().find(|(known, _)| *known == format).map(|(_, view)| &**view)
}
