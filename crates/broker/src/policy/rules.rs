//! What holds for a queue: its own arguments, and the policies that apply to it.
//!
//! As in RabbitMQ: of two numbers the lower holds, also of an argument and a policy; of two texts the argument's, then the user's policy's
//! (but an operator's `overflow` before the user's).

use super::definition::Overflow;
use super::{Policies, PolicyKind, Settings, Thing};
use crate::queue::{bound_of, AtBound, Bound};
use crate::routing::exchange::Arguments;
use broker_api::QueueSpec;
use parking_lot::Mutex;
use std::sync::{Arc, LazyLock};

/// Shared by all queues for which the same holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rules {
    pub message_ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub bound: Bound,
    /// What was refused at the bound is dead-lettered.
    pub dead_letter_refused: bool,
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_key: Option<Arc<str>>,
    /// A dead letter that nothing takes stays and is tried again.
    pub dead_letter_at_least_once: bool,
    pub delivery_limit: Option<u32>,
    /// How long what was given back waits until it may be had again.
    pub backoff: Option<Backoff>,
    /// How long a consumer may hold a delivery.
    pub consumer_timeout_ms: Option<u64>,
    /// The policies by which this is so.
    pub policy: Option<Arc<str>>,
    pub operator_policy: Option<Arc<str>>,
}

/// How long an attempt waits for the next; longer each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Backoff {
    /// After the first.
    pub delay_ms: u32,
    /// How many times as long as the one before each further wait is.
    pub multiplier: u32,
    pub max_ms: u32,
}

impl Rules {
    /// Without policies.
    pub fn of(spec: &QueueSpec, bound: Bound) -> Rules {
        let mut rules = Rules {
            message_ttl_ms: spec.message_ttl_ms,
            expires_ms: spec.expires_ms,
            bound,
            dead_letter_refused: spec.dead_letter_refused,
            dead_letter_exchange: spec.dead_letter_exchange.as_deref().map(Arc::from),
            dead_letter_key: spec.dead_letter_key.as_deref().map(Arc::from),
            delivery_limit: spec.delivery_limit,
            consumer_timeout_ms: spec.consumer_timeout_ms,
            backoff: None,
            dead_letter_at_least_once: false,
            policy: None,
            operator_policy: None,
        };
        rules.strategy(spec.dead_letter_at_least_once);
        rules
    }

    /// What waits to be taken counts for the bound, so the bound has to refuse what comes, as RabbitMQ has it; else it is at most once.
    fn strategy(&mut self, at_least_once: Option<bool>) {
        self.dead_letter_at_least_once = at_least_once == Some(true) && self.bound.then == AtBound::Reject && !self.dead_letter_refused;
    }

    /// `arguments`: those that it was declared with, as routing reads them.
    pub fn with(spec: &QueueSpec, name: &str, arguments: &Arguments, policies: &Policies) -> Rules {
        let mut rules = Rules::of(spec, bound_of(spec));
        if policies.is_empty() {
            return rules;
        }
        let thing = thing_of(spec);
        let user = policies.find(PolicyKind::User, thing, name);
        let operator = policies.find(PolicyKind::Operator, thing, name);
        let nothing = Settings::default();
        let of_user = user.map_or(&nothing, |known| &known.settings);
        let of_operator = operator.map_or(&nothing, |known| &known.settings);
        for settings in [of_user, of_operator] {
            rules.lower(settings, thing);
        }
        if !spec.reject_at_bound && arguments.get(b"x-overflow").is_none() {
            rules.overflow(of_operator.overflow.or(of_user.overflow));
        }
        rules.dead_letter_exchange = rules.dead_letter_exchange.or_else(|| of_user.dead_letter_exchange.clone());
        rules.dead_letter_key = rules.dead_letter_key.or_else(|| of_user.dead_letter_key.clone());
        // Classic queues have no strategy.
        let by_policy = of_user.dead_letter_at_least_once.filter(|_| thing == Thing::QuorumQueue);
        rules.strategy(spec.dead_letter_at_least_once.or(by_policy));
        rules.backoff = of_user.backoff();
        rules.policy = user.map(|known| known.policy.name.as_str().into());
        rules.operator_policy = operator.map(|known| known.policy.name.as_str().into());
        rules
    }

    fn lower(&mut self, settings: &Settings, thing: Thing) {
        let lower = |mine: &mut Option<u64>, theirs: Option<u64>| *mine = (*mine).into_iter().chain(theirs).min();
        lower(&mut self.message_ttl_ms, settings.message_ttl_ms);
        lower(&mut self.expires_ms, settings.expires_ms);
        lower(&mut self.consumer_timeout_ms, settings.consumer_timeout_ms);
        self.bound.messages = self.bound.messages.min(settings.max_length.unwrap_or(u64::MAX));
        self.bound.bytes = self.bound.bytes.min(settings.max_length_bytes.unwrap_or(u64::MAX));
        let lower = |mine: &mut Option<u32>, theirs: Option<u32>| *mine = (*mine).into_iter().chain(theirs).min();
        lower(&mut self.delivery_limit, settings.redelivery_limit);
        if thing == Thing::QuorumQueue {
            // Classic queues do not count.
            lower(&mut self.delivery_limit, settings.delivery_limit);
        }
    }

    fn overflow(&mut self, overflow: Option<Overflow>) {
        let Some(overflow) = overflow else { return };
        self.bound.then = if overflow == Overflow::DropHead { AtBound::DropOldest } else { AtBound::Reject };
        self.dead_letter_refused = overflow == Overflow::RejectPublishDlx;
    }

    pub fn is_by_policy(&self) -> bool {
        self.policy.is_some() || self.operator_policy.is_some()
    }

    /// Queues mostly come in runs of the same kind: the last rules made are shared with the next that are equal.
    pub fn shared(self) -> Arc<Rules> {
        static LAST: LazyLock<Mutex<Arc<Rules>>> = LazyLock::new(|| Mutex::new(Arc::new(Rules::default())));
        let mut last = LAST.lock();
        if **last != self {
            *last = Arc::new(self);
        }
        last.clone()
    }
}

impl Default for Rules {
    fn default() -> Rules {
        let spec = QueueSpec::default();
        Rules::of(&spec, bound_of(&spec))
    }
}

/// Quorum queues are those that count attempts.
fn thing_of(spec: &QueueSpec) -> Thing {
    if spec.counts_attempts {
        Thing::QuorumQueue
    } else {
        Thing::ClassicQueue
    }
}
