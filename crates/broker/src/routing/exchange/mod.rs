//! Exchange types: from a routing key or headers to destinations. One file per type; a new one is a file and a line in [`by_name`].
//!
//! The default exchange is not here: it is a look-up of a queue by its name.

mod delayed;
mod direct;
mod fanout;
mod hashed;
mod headers;
mod table;
mod topic;

use std::cell::OnceCell;

pub use delayed::{cron_header, Delayed};
pub use direct::Direct;
pub use fanout::Fanout;
pub use hashed::Hashed;
pub use headers::{Arguments, Headers, HeadersExchange, NoHeaders, Value};
pub use table::Binding;
pub use topic::Topic;

use broker_api::spelling::key_of_topic;
use broker_api::{Given, Refusal};

use super::topic::{Name, Syntax, TopicError};

/// What an exchange does. `D` is a handle to a queue or another exchange.
///
/// A binding is identified by key, arguments and destination (as in RabbitMQ); several bindings may lead one key to one destination.
pub trait Router<D: Clone>: Send + Sync {
    /// `id` identifies `destination` among all destinations. A binding that is there already stays as it is, destination included.
    fn bind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64, destination: D) -> Result<Bound, BindError>;

    /// Whether there was such a binding. When it is gone, it can no longer be found by a `route` that starts later.
    fn unbind(&self, key: BindKey<'_>, arguments: &Arguments, id: u64) -> bool;

    /// Removes all bindings of a destination, as when it is deleted, and answers how many there were.
    fn unbind_all(&self, id: u64) -> usize;

    /// Appends the destinations. One may come more than once.
    fn route(&self, key: &Key<'_>, headers: &dyn Headers, out: &mut Vec<D>);

    /// In the order of destination ids.
    fn bindings(&self) -> Vec<Binding<D>>;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `route` looks at more than the key: routes of this exchange cannot be remembered by key.
    fn reads_headers(&self) -> bool {
        false
    }

    /// Whether `route` looks at the key.
    fn reads_key(&self) -> bool {
        true
    }
}

/// What `bind` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    New,
    Existing,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    #[error(transparent)]
    Pattern(#[from] TopicError),
    #[error("Invalid x-match field value {0:?}; expected all, any, all-with-x, or any-with-x")]
    MatchKind(String),
    #[error("Invalid x-match field type; expected a string")]
    MatchKindType,
    /// The binding key of a consistent-hash exchange is a weight.
    #[error("The binding key must be an integer: '{0}'")]
    Weight(String),
    #[error("The binding key must be greater than 0")]
    WeightTooSmall,
}

impl From<BindError> for Refusal {
    fn from(error: BindError) -> Refusal {
        match error {
            BindError::Weight(key) => Refusal::unfit("The binding key must be an integer: ", Given::Text(key), ""),
            other => Refusal::Invalid { what: "binding", why: other.to_string() },
        }
    }
}

/// A binding key or topic filter and how it is spelled. Only a topic exchange reads more than bytes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindKey<'a> {
    pub syntax: Syntax,
    pub text: &'a [u8],
}

impl<'a> BindKey<'a> {
    pub fn mqtt(text: &'a [u8]) -> Self {
        BindKey { syntax: Syntax::Mqtt, text }
    }

    pub fn amqp(text: &'a [u8]) -> Self {
        BindKey { syntax: Syntax::Amqp, text }
    }
}

/// The routing key of a message. Split into segments when the first exchange asks, once for all exchanges on the message's way.
#[derive(Debug)]
pub struct Key<'a> {
    syntax: Syntax,
    text: &'a [u8],
    words: Option<&'a [u8]>,
    name: OnceCell<Option<Name<'a>>>,
    /// Of an MQTT topic.
    spelled: OnceCell<Vec<u8>>,
}

impl<'a> Key<'a> {
    pub fn new(syntax: Syntax, text: &'a [u8]) -> Self {
        Key { syntax, text, words: None, name: OnceCell::new(), spelled: OnceCell::new() }
    }

    /// With what [`words_of`](crate::routing::topic::words_of) found in the text.
    pub fn read(syntax: Syntax, text: &'a [u8], words: Option<&'a [u8]>) -> Self {
        Key { words, ..Self::new(syntax, text) }
    }

    pub fn mqtt(text: &'a [u8]) -> Self {
        Self::new(Syntax::Mqtt, text)
    }

    pub fn amqp(text: &'a [u8]) -> Self {
        Self::new(Syntax::Amqp, text)
    }

    /// The key as text, which is what direct exchanges compare with binding keys: a topic is spelled as these are.
    pub fn text(&self) -> &[u8] {
        match self.syntax {
            Syntax::Mqtt => self.spelled.get_or_init(|| key_of_topic(self.text)),
            _ => self.text,
        }
    }

    /// `None` if the text is no name (too many levels, say): topic exchanges route it nowhere.
    pub fn name(&self) -> Option<&Name<'a>> {
        self.name.get_or_init(|| Name::read(self.syntax, self.text, self.words).ok()).as_ref()
    }
}

/// Makes an exchange from the arguments it was declared with.
pub type Constructor<D> = fn(&Arguments) -> Box<dyn Router<D>>;

/// The types there are, for error texts and the management API.
pub const TYPES: &[&str] =
    &["direct", "fanout", "headers", "topic", "x-consistent-hash", DELAYED, "x-modulus-hash", "x-random", RECENT_HISTORY];

/// The type that holds messages back.
pub const DELAYED: &str = "x-delayed-message";
/// The type that remembers what was last.
pub const RECENT_HISTORY: &str = "x-recent-history";

/// Is an exchange of this type and these arguments one that remembers?
pub fn is_recent_history(kind: &str, arguments: &Arguments) -> bool {
    kind == RECENT_HISTORY || kind == DELAYED && delayed::inner(arguments) == Some(RECENT_HISTORY)
}

/// The registry.
pub fn by_name<D: Clone + Send + Sync + 'static>(name: &str) -> Option<Constructor<D>> {
    Some(match name {
        "direct" => |_| Box::new(Direct::default()),
        "fanout" => |_| Box::new(Fanout::default()),
        "headers" => |_| Box::new(HeadersExchange::default()),
        "topic" => |_| Box::new(Topic::default()),
        "x-consistent-hash" => |arguments| Box::new(Hashed::consistent(arguments)),
        DELAYED => |arguments| Box::new(Delayed::of(arguments)),
        "x-modulus-hash" => |_| Box::new(Hashed::modulus()),
        "x-random" => |_| Box::new(Hashed::random()),
        // The core does the remembering.
        RECENT_HISTORY => |_| Box::new(Fanout::default()),
        _ => return None,
    })
}

/// What is wrong with the arguments that an exchange is declared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadArguments {
    /// One names a type that there is not.
    Type(String),
    /// In RabbitMQ's words.
    Value(String),
    /// This is no number of messages that can be remembered.
    Length(Given),
}

pub fn check(name: &str, arguments: &Arguments) -> Result<(), BadArguments> {
    match name {
        "x-consistent-hash" => hashed::check(arguments).map_err(BadArguments::Value),
        DELAYED => delayed::check_delayed(arguments),
        RECENT_HISTORY => check_length(arguments).map_err(BadArguments::Length),
        _ => Ok(()),
    }
}

fn check_length(arguments: &Arguments) -> Result<(), Given> {
    Err(match arguments.get(b"x-recent-history-length") {
        None | Some(Value::Int(1..)) => return Ok(()),
        Some(Value::Int(length)) => Given::Word(length.to_string()),
        Some(Value::Bytes(text)) => Given::Text(String::from_utf8_lossy(text).into_owned()),
        Some(Value::Bool(value)) => Given::Word(value.to_string()),
        Some(Value::Float(value)) => Given::Word(value.to_string()),
        Some(_) => Given::Word("undefined".to_owned()),
    })
}
