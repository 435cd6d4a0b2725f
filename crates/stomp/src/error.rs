//! From the core's refusals to the ERROR frames that RabbitMQ's plug-in sends: the whole table.

use std::borrow::Cow;

use broker_api::{stands_by, Limit, Refusal};

/// Why a connection ends: the `message` header of an ERROR frame, and its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub message: Cow<'static, str>,
    pub detail: String,
}

impl Fault {
    pub fn new(message: &'static str, detail: impl Into<String>) -> Fault {
        Fault { message: Cow::Borrowed(message), detail: detail.into() }
    }

    /// Where the whole text is the message.
    pub fn plain(text: String) -> Fault {
        Fault { detail: format!("{text}\n"), message: Cow::Owned(text) }
    }

    /// In one line: what a client wrote stands in it, and may be written so as to look like another line of the log.
    pub(crate) fn for_log(&self) -> String {
        let text = format!("{}: {}", self.message, self.detail.trim_end());
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    pub fn precondition(why: impl std::fmt::Display) -> Fault {
        Fault::new("precondition_failed", format!("PRECONDITION_FAILED - {why}"))
    }

    /// Where RabbitMQ's own code gives up on a header's value. It says no more than this; we say what was wrong.
    pub fn processing(why: impl std::fmt::Display) -> Fault {
        Fault::new("Processing error", format!("Processing error: {why}\n"))
    }
}

/// The table. `vhost` is the connection's.
pub fn of_refusal(refusal: &Refusal, vhost: &str) -> Fault {
    match refusal {
        Refusal::NotFound { what: "vhost", name } => Fault::new("Bad CONNECT", format!("Virtual host '{name}' access denied")),
        Refusal::NotFound { what, name } => Fault::new("not_found", format!("NOT_FOUND - no {what} '{name}' in vhost '{vhost}'")),
        Refusal::AccessRefused(text) => Fault::new("access_refused", format!("ACCESS_REFUSED - {text}")),
        Refusal::LoginRefused | Refusal::BadMechanism => Fault::new("Bad CONNECT", "Access refused\n"),
        Refusal::PreconditionFailed(text) => Fault::precondition(text),
        Refusal::Inequivalent(what) => Fault::precondition(format!(
            "inequivalent arg '{}' for {} '{}' in vhost '{vhost}': received '{}' but current is '{}'",
            what.property, what.what, what.name, what.given, what.current
        )),
        Refusal::Locked(name) => Fault::new(
            "resource_locked",
            format!(
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally \
                 declared on another connection or the exclusive property value does not match that of the original declaration."
            ),
        ),
        Refusal::LimitReached(Limit::Transaction) => {
            Fault::new("Transaction too large", "Too much in the open transactions of this connection\n")
        }
        Refusal::LimitReached(Limit::Connections | Limit::Sessions) => {
            Fault::new("Bad CONNECT", "Connection refused: node connection limit reached\n")
        }
        // In RabbitMQ it is a connection or a command of AMQP inside, whose words it repeats.
        Refusal::OverLimit { limit: Limit::Connections | Limit::Channels, why } => Fault::new("Bad CONNECT", format!("{why}\n")),
        Refusal::OverLimit { why, .. } => Fault::precondition(why),
        Refusal::LimitReached(Limit::MessageSize) => Fault::precondition("the message is larger than allowed"),
        Refusal::LimitReached(limit) => Fault::new("resource_error", format!("RESOURCE_ERROR - limit reached: {limit:?}")),
        Refusal::Uncounted { .. } => Fault::new("not_implemented", format!("NOT_IMPLEMENTED - {refusal}")),
        Refusal::NotImplemented(what) => Fault::new("not_implemented", format!("NOT_IMPLEMENTED - {what}")),
        Refusal::Invalid { what, why } => Fault::precondition(format!("invalid {what}: {why}")),
        Refusal::Unfit(_) => Fault::precondition(refusal.to_string()),
        // RabbitMQ never answers such a SEND; its sender waits for the receipt for ever.
        Refusal::QueueFull => Fault::new("resource_error", "RESOURCE_ERROR - the queue is full"),
        Refusal::OwnerEnded => Fault::new("channel_error", "CHANNEL_ERROR - the connection has failed"),
        Refusal::StoreFailed => Fault::new("internal_error", "INTERNAL_ERROR - the message store has failed"),
        Refusal::StandsBy(elsewhere) => {
            let why = stands_by(elsewhere.as_deref(), &["stomp", "stomps"]);
            Fault::new("connection_forced", format!("CONNECTION_FORCED - broker forced connection closure with reason '{why}'"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::Uncounted;

    #[test]
    fn nobody_writes_lines_into_the_log() {
        let fault = Fault::new("Unknown destination", "'/x\n2026 ERROR forged\x1b[2K' is not a valid destination.\n");
        assert_eq!(fault.for_log(), "Unknown destination: '/x 2026 ERROR forged [2K' is not a valid destination.");
    }

    #[test]
    fn every_refusal_has_its_message_and_text() {
        let inequivalent = broker_api::Inequivalent {
            what: "queue",
            name: "q".into(),
            property: "durable",
            given: "false".into(),
            current: "true".into(),
            arguments: Vec::new(),
            format: 0,
        };
        let name = || "q".to_owned();
        let rows = [
            (Refusal::NotFound { what: "queue", name: name() }, "not_found", "NOT_FOUND - no queue 'q' in vhost 'v'"),
            (Refusal::NotFound { what: "exchange", name: name() }, "not_found", "NOT_FOUND - no exchange 'q' in vhost 'v'"),
            (Refusal::NotFound { what: "vhost", name: name() }, "Bad CONNECT", "Virtual host 'q' access denied"),
            (Refusal::AccessRefused("x".into()), "access_refused", "ACCESS_REFUSED - x"),
            (Refusal::LoginRefused, "Bad CONNECT", "Access refused\n"),
            (Refusal::BadMechanism, "Bad CONNECT", "Access refused\n"),
            (Refusal::PreconditionFailed("x".into()), "precondition_failed", "PRECONDITION_FAILED - x"),
            (
                Refusal::Inequivalent(Box::new(inequivalent)),
                "precondition_failed",
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost 'v': received 'false' but current is 'true'",
            ),
            (
                Refusal::Locked(name()),
                "resource_locked",
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost 'v'. It could be originally declared on \
                 another connection or the exclusive property value does not match that of the original declaration.",
            ),
            (Refusal::LimitReached(Limit::Transaction), "Transaction too large", "Too much in the open transactions of this connection\n"),
            (Refusal::LimitReached(Limit::Connections), "Bad CONNECT", "Connection refused: node connection limit reached\n"),
            (Refusal::LimitReached(Limit::MessageSize), "precondition_failed", "PRECONDITION_FAILED - the message is larger than allowed"),
            (Refusal::LimitReached(Limit::Memory), "resource_error", "RESOURCE_ERROR - limit reached: Memory"),
            (
                Refusal::Uncounted { queue: name(), what: Uncounted::SharedCredit },
                "not_implemented",
                "NOT_IMPLEMENTED - 'q' counts attempts: its consumers do not share credit",
            ),
            (Refusal::NotImplemented("x"), "not_implemented", "NOT_IMPLEMENTED - x"),
            (Refusal::Invalid { what: "topic", why: "y".into() }, "precondition_failed", "PRECONDITION_FAILED - invalid topic: y"),
            (Refusal::QueueFull, "resource_error", "RESOURCE_ERROR - the queue is full"),
            (Refusal::OwnerEnded, "channel_error", "CHANNEL_ERROR - the connection has failed"),
            (Refusal::StoreFailed, "internal_error", "INTERNAL_ERROR - the message store has failed"),
            (
                Refusal::StandsBy(None),
                "connection_forced",
                "CONNECTION_FORCED - broker forced connection closure with reason 'this node stands by, and who is primary is not known here'",
            ),
        ];
        for (refusal, message, detail) in rows {
            assert_eq!(of_refusal(&refusal, "v"), Fault::new(message, detail));
        }
    }
}
