//! Why the core did not do what it was asked. Each protocol's `error.rs` holds the whole table from these to its own codes and texts.

use crate::{stands_by, Elsewhere};
use std::sync::Arc;
use thiserror::Error;

/// What ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    QueueLength,
    Connections,
    Channels,
    Sessions,
    Subscriptions,
    Queues,
    Exchanges,
    MessageSize,
    TopicLevels,
    Memory,
    Disk,
    Retained,
    SessionState,
    Vhosts,
    /// What the open transactions of one connection may hold, or what one record set may.
    Transaction,
}

/// Something was declared again, and differently: what each protocol needs for its own text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inequivalent {
    /// `"queue"` or `"exchange"`.
    pub what: &'static str,
    pub name: String,
    /// The first property that differs; `"arguments"` when only the encoded arguments do.
    pub property: &'static str,
    pub given: String,
    pub current: String,
    /// The encoded arguments that it was declared with, and their format.
    pub arguments: Vec<u8>,
    pub format: u8,
}

/// What somebody gave where something else was to be; each protocol shows it in its own spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Given {
    Text(String),
    /// A number, a truth value, or a word for what cannot be shown.
    Word(String),
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Given::Text(text) => write!(f, "'{text}'"),
            Given::Word(word) => f.write_str(word),
        }
    }
}

/// What queues that count attempts do not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Uncounted {
    #[error("its consumers do not share credit")]
    SharedCredit,
    #[error("it is not deleted only if it is unused")]
    DeleteIfUnused,
    #[error("it is not deleted only if it is empty")]
    DeleteIfEmpty,
    #[error("where one consumer at a time is active, nothing is taken past it")]
    TakePastActive,
}

/// A value that cannot be, and the words around it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    pub before: &'static str,
    pub given: Given,
    pub after: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    #[error("no {what} '{name}'")]
    NotFound { what: &'static str, name: String },
    #[error("access refused: {0}")]
    AccessRefused(String),
    /// The name or the secret is wrong, or there is no such user.
    #[error("login refused")]
    LoginRefused,
    #[error("unsupported login mechanism")]
    BadMechanism,
    #[error("precondition failed: {0}")]
    PreconditionFailed(String),
    #[error("inequivalent {} of {} '{}'", .0.property, .0.what, .0.name)]
    Inequivalent(Box<Inequivalent>),
    #[error("'{0}' is locked by another connection")]
    Locked(String),
    #[error("limit reached: {0:?}")]
    LimitReached(Limit),
    /// One that the operator set, for a user, a virtual host or the broker.
    #[error("{why}")]
    OverLimit { limit: Limit, why: String },
    /// A queue that counts attempts, as RabbitMQ's quorum queues do, does not do this.
    #[error("'{queue}' counts attempts: {what}")]
    Uncounted { queue: String, what: Uncounted },
    #[error("not implemented: {0}")]
    NotImplemented(&'static str),
    #[error("invalid {what}: {why}")]
    Invalid { what: &'static str, why: String },
    #[error("{}{}{}", .0.before, .0.given, .0.after)]
    Unfit(Box<Unfit>),
    /// A queue that refuses rather than drops was full.
    #[error("the queue is full")]
    QueueFull,
    /// This owner was stopped by an earlier refusal.
    #[error("the owner has ended")]
    OwnerEnded,
    /// The store failed; nothing is confirmed any more.
    #[error("the store has failed")]
    StoreFailed,
    /// This node serves nobody now; who does, if that is known. The answer to every command of a client.
    #[error("{}", stands_by(.0.as_deref(), &[]))]
    StandsBy(Option<Arc<Elsewhere>>),
}

impl Refusal {
    pub fn unfit(before: &'static str, given: Given, after: &'static str) -> Refusal {
        Refusal::Unfit(Box::new(Unfit { before, given, after }))
    }

    /// Does a publish that is refused for this reason stop a fail-stop owner? What the publisher did wrong does; what it met (a full queue,
    /// a bound of ours, a failed store) is the message's fate alone. Of a *command* every refusal stops.
    pub fn stops_publisher(&self) -> bool {
        !matches!(
            self,
            Refusal::QueueFull | Refusal::LimitReached(_) | Refusal::OverLimit { .. } | Refusal::StoreFailed | Refusal::OwnerEnded
        )
    }
}
