//! Policies: settings for queues and exchanges by their names, made and taken back while these live.
//!
//! There are two kinds. To a queue or an exchange at most one policy of users and one of operators applies: of those that match its name
//! and its kind the one of the highest priority, and of several such the first by name. What then holds is worked out in [`rules`]; a
//! queue keeps the result beside its state, so that publishing never looks at a policy.

mod apply;
mod commands;
mod definition;
mod rules;

pub(crate) use apply::rule_exchange;
pub(crate) use definition::Settings;
pub use definition::{known_policy_setting, policy_setting_acts};
pub(crate) use rules::{Backoff, Rules};

use crate::pattern::NamePattern;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whose policy it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyKind {
    User,
    /// Sets bounds: of two numbers the lower holds, whoever set the other.
    Operator,
}

/// What a policy is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyTo {
    All,
    Queues,
    ClassicQueues,
    QuorumQueues,
    Streams,
    Exchanges,
}

/// What a name belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Thing {
    ClassicQueue,
    QuorumQueue,
    Exchange,
}

const APPLY_TO: [(ApplyTo, &str); 6] = [
    (ApplyTo::All, "all"),
    (ApplyTo::Queues, "queues"),
    (ApplyTo::ClassicQueues, "classic_queues"),
    (ApplyTo::QuorumQueues, "quorum_queues"),
    (ApplyTo::Streams, "streams"),
    (ApplyTo::Exchanges, "exchanges"),
];

impl ApplyTo {
    /// By RabbitMQ's word for it.
    pub fn parse(word: &str) -> Option<ApplyTo> {
        APPLY_TO.iter().find(|(_, name)| *name == word).map(|(apply_to, _)| *apply_to)
    }

    pub fn as_str(self) -> &'static str {
        APPLY_TO.iter().find(|(apply_to, _)| *apply_to == self).map_or("all", |(_, name)| name)
    }

    fn covers(self, thing: Thing) -> bool {
        match self {
            ApplyTo::All => true,
            ApplyTo::Queues => thing != Thing::Exchange,
            ApplyTo::ClassicQueues => thing == Thing::ClassicQueue,
            ApplyTo::QuorumQueues => thing == Thing::QuorumQueue,
            ApplyTo::Streams => false,
            ApplyTo::Exchanges => thing == Thing::Exchange,
        }
    }
}

/// A value of a policy's definition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyValue {
    Int(i64),
    Bool(bool),
    Text(String),
    List(Vec<PolicyValue>),
}

/// A policy as it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    pub name: String,
    /// A regular expression; it matches anywhere in a name unless it is anchored.
    pub pattern: String,
    pub apply_to: ApplyTo,
    pub priority: i32,
    pub definition: BTreeMap<String, PolicyValue>,
}

/// A policy that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub policy: Policy,
    pattern: NamePattern,
    pub settings: Settings,
}

impl Known {
    pub fn check(kind: PolicyKind, policy: Policy) -> Result<Known, String> {
        if policy.name.is_empty() || policy.name.len() > NAME_MAX {
            return Err(format!("the name has to have 1 to {NAME_MAX} bytes"));
        }
        let pattern = NamePattern::parse(&policy.pattern).map_err(|why| format!("pattern: {why}"))?;
        let settings = Settings::read(kind, &policy.definition)?;
        Ok(Known { policy, pattern, settings })
    }
}

/// Whether a policy could be set.
pub fn check_policy(kind: PolicyKind, policy: &Policy) -> Result<(), String> {
    Known::check(kind, policy.clone()).map(drop)
}

const NAME_MAX: usize = 255;
/// Policies of one kind in a virtual host: each queue that is declared is matched with all of them.
const POLICIES_MAX: usize = 1000;

/// The policies of a virtual host, the ones that come first first.
#[derive(Clone, Default, Debug)]
pub(crate) struct Policies([Vec<Arc<Known>>; 2]);

impl Policies {
    pub fn of(&self, kind: PolicyKind) -> &[Arc<Known>] {
        &self.0[kind as usize]
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    pub fn set(&mut self, kind: PolicyKind, known: Known) {
        self.clear(kind, &known.policy.name);
        let all = &mut self.0[kind as usize];
        let place = |policy: &Policy| (-i64::from(policy.priority), policy.name.clone());
        let at = all.partition_point(|other| place(&other.policy) < place(&known.policy));
        all.insert(at, Arc::new(known));
    }

    /// Is a queue of this name made when a client of this protocol names it?
    pub fn makes_queue(&self, name: &str, protocol: &str) -> bool {
        let found = self.find(PolicyKind::User, Thing::ClassicQueue, name);
        found.and_then(|known| known.settings.auto_create.as_ref()).is_some_and(|made| made.is_for(protocol))
    }

    /// `false`: there is none of this name.
    pub fn clear(&mut self, kind: PolicyKind, name: &str) -> bool {
        let all = &mut self.0[kind as usize];
        let before = all.len();
        all.retain(|known| known.policy.name != name);
        all.len() < before
    }

    /// The one that applies.
    pub fn find(&self, kind: PolicyKind, thing: Thing, name: &str) -> Option<&Arc<Known>> {
        self.of(kind).iter().find(|known| known.policy.apply_to.covers(thing) && known.pattern.matches(name))
    }
}
