//! From the core's refusals to AMQP's codes and RabbitMQ's texts: the whole table, and how a channel or a connection ends because of its peer.

use broker_api::{stands_by, Given, Inequivalent, Limit, Refusal, Uncounted};

use crate::codec::CodecError;

/// Reply codes (AMQP 0-9-1, 1.2 "Constants"). Their scope is the specification's: soft ones close the channel, hard ones the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Code {
    ContentTooLarge = 311,
    NoRoute = 312,
    NoConsumers = 313,
    ConnectionForced = 320,
    InvalidPath = 402,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl Code {
    pub fn number(self) -> u16 {
        self as u16
    }

    /// As RabbitMQ writes it before each text.
    pub fn name(self) -> &'static str {
        match self {
            Code::ContentTooLarge => "CONTENT_TOO_LARGE",
            Code::NoRoute => "NO_ROUTE",
            Code::NoConsumers => "NO_CONSUMERS",
            Code::ConnectionForced => "CONNECTION_FORCED",
            Code::InvalidPath => "INVALID_PATH",
            Code::AccessRefused => "ACCESS_REFUSED",
            Code::NotFound => "NOT_FOUND",
            Code::ResourceLocked => "RESOURCE_LOCKED",
            Code::PreconditionFailed => "PRECONDITION_FAILED",
            Code::FrameError => "FRAME_ERROR",
            Code::SyntaxError => "SYNTAX_ERROR",
            Code::CommandInvalid => "COMMAND_INVALID",
            Code::ChannelError => "CHANNEL_ERROR",
            Code::UnexpectedFrame => "UNEXPECTED_FRAME",
            Code::ResourceError => "RESOURCE_ERROR",
            Code::NotAllowed => "NOT_ALLOWED",
            Code::NotImplemented => "NOT_IMPLEMENTED",
            Code::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Closes the connection, wherever it happened.
    pub fn is_hard(self) -> bool {
        use Code::*;
        !matches!(self, ContentTooLarge | NoRoute | NoConsumers | AccessRefused | NotFound | ResourceLocked | PreconditionFailed)
    }
}

/// Class and method id; zeros where it was none.
pub type MethodId = (u16, u16);

/// A channel or the connection must end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub code: Code,
    pub text: String,
    pub method: MethodId,
}

impl Fault {
    pub fn new(code: Code, text: impl Into<String>, method: MethodId) -> Fault {
        Fault { code, text: text.into(), method }
    }

    pub fn precondition(text: impl Into<String>, method: MethodId) -> Fault {
        Fault::new(Code::PreconditionFailed, text, method)
    }

    pub fn reply_text(&self) -> String {
        format!("{} - {}", self.code.name(), self.text)
    }
}

/// What cannot be read is a syntax error, but for methods that do not exist.
pub fn of_codec(error: CodecError, method: MethodId) -> Fault {
    match error {
        CodecError::UnknownMethod { class, method } => {
            Fault::new(Code::CommandInvalid, format!("unknown method {class}.{method}"), (class, method))
        }
        other => Fault::new(Code::SyntaxError, other.to_string(), method),
    }
}

/// The fields of a method that do not fit it, as RabbitMQ shows them.
pub fn undecodable(fields: &[u8], method: MethodId) -> Fault {
    let shown: Vec<String> = fields.iter().take(48).map(u8::to_string).collect();
    Fault::new(Code::FrameError, format!("cannot decode <<{}>>", shown.join(",")), method)
}

/// The table. `vhost` is the connection's.
pub fn of_refusal(refusal: &Refusal, vhost: &str, method: MethodId) -> Fault {
    let (code, text) = match refusal {
        Refusal::NotFound { what: "vhost", name } => (Code::NotAllowed, format!("vhost {name} not found")),
        Refusal::NotFound { what, name } => (Code::NotFound, format!("no {what} '{name}' in vhost '{vhost}'")),
        Refusal::AccessRefused(text) => (Code::AccessRefused, text.clone()),
        Refusal::LoginRefused => (Code::AccessRefused, "login refused".to_owned()),
        Refusal::BadMechanism => (Code::CommandInvalid, "unknown authentication mechanism".to_owned()),
        Refusal::PreconditionFailed(text) => (Code::PreconditionFailed, text.clone()),
        Refusal::Inequivalent(what) => (Code::PreconditionFailed, inequivalent(what, vhost)),
        Refusal::Locked(name) => (Code::ResourceLocked, locked(name, vhost)),
        Refusal::LimitReached(limit) => limit_reached(*limit),
        Refusal::OverLimit { limit, why } => (limit_reached(*limit).0, why.clone()),
        Refusal::Uncounted { queue, what } => uncounted(queue, *what, vhost),
        Refusal::NotImplemented(what) => (Code::NotImplemented, (*what).to_owned()),
        // In RabbitMQ 3.x the one argument whose error closes the connection.
        Refusal::Invalid { what: "exchange type", why } => (Code::CommandInvalid, why.clone()),
        // RabbitMQ says only what is wrong with it.
        Refusal::Invalid { what: "binding", why } => (Code::PreconditionFailed, why.clone()),
        Refusal::Invalid { what, why } => (Code::PreconditionFailed, format!("invalid {what}: {why}")),
        Refusal::Unfit(what) => (Code::PreconditionFailed, format!("{}{}{}", what.before, as_erlang(&what.given), what.after)),
        Refusal::QueueFull => (Code::ResourceError, "the queue is full".to_owned()),
        Refusal::OwnerEnded => (Code::ChannelError, "the channel has ended".to_owned()),
        Refusal::StoreFailed => (Code::InternalError, "the message store has failed".to_owned()),
        Refusal::StandsBy(elsewhere) => {
            let why = stands_by(elsewhere.as_deref(), &["amqp", "amqps"]);
            (Code::ConnectionForced, format!("broker forced connection closure with reason '{why}'"))
        }
    };
    Fault::new(code, text, method)
}

/// How RabbitMQ shows in its answers what it was given.
fn as_erlang(given: &Given) -> String {
    match given {
        Given::Text(text) if text.is_empty() => "<<>>".to_owned(),
        Given::Text(text) => format!("<<{text:?}>>"),
        Given::Word(word) => word.clone(),
    }
}

fn limit_reached(limit: Limit) -> (Code, String) {
    match limit {
        Limit::Connections | Limit::Sessions => (Code::NotAllowed, "connection limit is reached".to_owned()),
        Limit::Channels => (Code::NotAllowed, "channel limit is reached".to_owned()),
        Limit::Queues => (Code::PreconditionFailed, "queue limit is reached".to_owned()),
        Limit::Exchanges => (Code::PreconditionFailed, "exchange limit is reached".to_owned()),
        Limit::MessageSize => (Code::PreconditionFailed, "the message is larger than allowed".to_owned()),
        other => (Code::ResourceError, format!("limit reached: {other:?}")),
    }
}

/// RabbitMQ's texts about quorum queues.
fn uncounted(queue: &str, what: Uncounted, vhost: &str) -> (Code, String) {
    let not_deleted = |flag: &str| {
        let text =
            format!("cannot delete queue '{queue}' in vhost '{vhost}'. queue.delete operations with {flag} flag set are not supported");
        (Code::NotImplemented, text + " by quorum queues")
    };
    match what {
        Uncounted::SharedCredit => (Code::NotImplemented, format!("queue '{queue}' in vhost '{vhost}' does not support global qos")),
        Uncounted::DeleteIfUnused => not_deleted("if-unused"),
        Uncounted::DeleteIfEmpty => not_deleted("if-empty"),
        Uncounted::TakePastActive => {
            let text = format!("cannot obtain access to locked queue '{queue}' in vhost '{vhost}'. basic.get operations are not supported");
            (Code::ResourceLocked, text + " by quorum queues with single active consumer")
        }
    }
}

fn locked(name: &str, vhost: &str) -> String {
    format!(
        "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally declared on another connection \
         or the exclusive property value does not match that of the original declaration."
    )
}

/// `received 'true' but current is 'false'`.
fn inequivalent(what: &Inequivalent, vhost: &str) -> String {
    let one_is_missing = what.given.is_empty() != what.current.is_empty();
    let shown = |value: &str| match value {
        "" => "none".to_owned(),
        // An argument: where the other has none, its type is said too.
        value if what.property == "alternate-exchange" && one_is_missing => format!("the value '{value}' of type 'longstr'"),
        value => format!("'{value}'"),
    };
    inequivalent_text(what.property, what.what, &what.name, vhost, &shown(&what.given), &shown(&what.current))
}

pub fn inequivalent_text(property: &str, what: &str, name: &str, vhost: &str, given: &str, current: &str) -> String {
    format!("inequivalent arg '{property}' for {what} '{name}' in vhost '{vhost}': received {given} but current is {current}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_code_and_text() {
        let text = |refusal: Refusal| of_refusal(&refusal, "/", (50, 10)).reply_text();
        let name = || "q".to_owned();
        let inequivalent = Inequivalent {
            what: "queue",
            name: "g.q".into(),
            property: "durable",
            given: "false".into(),
            current: "true".into(),
            arguments: Vec::new(),
            format: 0,
        };
        let rows = [
            (Refusal::NotFound { what: "queue", name: name() }, "NOT_FOUND - no queue 'q' in vhost '/'"),
            (Refusal::NotFound { what: "exchange", name: name() }, "NOT_FOUND - no exchange 'q' in vhost '/'"),
            (Refusal::NotFound { what: "vhost", name: name() }, "NOT_ALLOWED - vhost q not found"),
            (Refusal::AccessRefused("x".into()), "ACCESS_REFUSED - x"),
            (Refusal::LoginRefused, "ACCESS_REFUSED - login refused"),
            (Refusal::BadMechanism, "COMMAND_INVALID - unknown authentication mechanism"),
            (Refusal::PreconditionFailed("x".into()), "PRECONDITION_FAILED - x"),
            (
                Refusal::Inequivalent(Box::new(inequivalent)),
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'g.q' in vhost '/': received 'false' but current is 'true'",
            ),
            (
                Refusal::Locked(name()),
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another \
                 connection or the exclusive property value does not match that of the original declaration.",
            ),
            (
                Refusal::Uncounted { queue: name(), what: Uncounted::SharedCredit },
                "NOT_IMPLEMENTED - queue 'q' in vhost '/' does not support global qos",
            ),
            (
                Refusal::Uncounted { queue: name(), what: Uncounted::DeleteIfUnused },
                "NOT_IMPLEMENTED - cannot delete queue 'q' in vhost '/'. queue.delete operations with if-unused flag set are not supported by \
                 quorum queues",
            ),
            (
                Refusal::Uncounted { queue: name(), what: Uncounted::DeleteIfEmpty },
                "NOT_IMPLEMENTED - cannot delete queue 'q' in vhost '/'. queue.delete operations with if-empty flag set are not supported by \
                 quorum queues",
            ),
            (
                Refusal::Uncounted { queue: name(), what: Uncounted::TakePastActive },
                "RESOURCE_LOCKED - cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are not supported by quorum \
                 queues with single active consumer",
            ),
            (Refusal::LimitReached(Limit::Queues), "PRECONDITION_FAILED - queue limit is reached"),
            (Refusal::LimitReached(Limit::Memory), "RESOURCE_ERROR - limit reached: Memory"),
            (Refusal::NotImplemented("x"), "NOT_IMPLEMENTED - x"),
            (Refusal::Invalid { what: "exchange type", why: "unknown exchange type 'wat'".into() }, "COMMAND_INVALID - unknown exchange type 'wat'"),
            (Refusal::Invalid { what: "topic", why: "y".into() }, "PRECONDITION_FAILED - invalid topic: y"),
            (Refusal::unfit("not ", Given::Text("a".into()), "!"), "PRECONDITION_FAILED - not <<\"a\">>!"),
            (Refusal::unfit("not ", Given::Text(String::new()), ""), "PRECONDITION_FAILED - not <<>>"),
            (Refusal::unfit("not ", Given::Word("-1".into()), ""), "PRECONDITION_FAILED - not -1"),
            (Refusal::QueueFull, "RESOURCE_ERROR - the queue is full"),
            (Refusal::OwnerEnded, "CHANNEL_ERROR - the channel has ended"),
            (Refusal::StoreFailed, "INTERNAL_ERROR - the message store has failed"),
            (
                Refusal::StandsBy(None),
                "CONNECTION_FORCED - broker forced connection closure with reason 'this node stands by, and who is primary is not known here'",
            ),
        ];
        for (refusal, expected) in rows {
            assert_eq!(text(refusal), expected);
        }
    }

    #[test]
    fn soft_codes_are_those_of_the_specification() {
        use Code::*;
        for code in [ContentTooLarge, NoConsumers, AccessRefused, NotFound, ResourceLocked, PreconditionFailed] {
            assert!(!code.is_hard() && code.number() < 500, "{code:?}");
        }
        for code in [ConnectionForced, InvalidPath, FrameError, SyntaxError, CommandInvalid, ChannelError, UnexpectedFrame, NotAllowed] {
            assert!(code.is_hard(), "{code:?}");
        }
    }
}
