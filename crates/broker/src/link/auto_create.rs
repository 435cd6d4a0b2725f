//! Queues that a policy makes when they are first named (`auto-create`).

use super::Link;
use crate::auth::Operation;
use broker_api::{Batch, Head, QueueName, QueueSpec, Refusal};

/// As long as AMQP's names.
const NAME_MAX: usize = 255;
/// Names of what the broker makes itself.
const RESERVED: &str = "amq.";

impl Link {
    /// Where a message goes that nobody takes: to its queue, if a policy makes that one.
    #[cold]
    pub(super) fn make_target(&mut self, batch: &Batch, head: &Head) -> bool {
        if head.topic || !batch.bytes(head.exchange).is_empty() {
            return false;
        }
        std::str::from_utf8(batch.key(head)).is_ok_and(|name| self.make_by_policy(&QueueName::new(name)))
    }

    /// The same for one that is asked for by name.
    pub(super) fn make_missing(&mut self, name: &QueueName) {
        if !self.vhost.queues.contains_key(name) {
            self.make_by_policy(name);
        }
    }

    /// `false`: no policy says so of this name and for clients of this kind, or this one may not.
    fn make_by_policy(&mut self, name: &QueueName) -> bool {
        let text = name.as_str();
        if !self.vhost.policies.read().makes_queue(text, self.info.protocol)
            || text.is_empty()
            || text.len() > NAME_MAX
            || text.starts_with(RESERVED)
        {
            return false;
        }
        let may = self.outbox.principal.load().as_ref().is_some_and(|who| who.may(self.vhost.name.as_str(), Operation::Configure, text));
        let spec = QueueSpec { durable: true, ..QueueSpec::default() };
        may && match self.declare_queue(name.clone(), spec, false) {
            // Somebody else was quicker.
            Ok(_) | Err(Refusal::Inequivalent(_)) => true,
            Err(why) => {
                tracing::debug!(queue = text, %why, "a queue was not made");
                false
            }
        }
    }
}
