//! RabbitMQ's definitions.json at start: users and permissions go into the configuration of each run, and what is durable (virtual hosts,
//! policies, exchanges, queues, bindings) is made where it is not there yet.

mod apply;
mod json;
mod read;
#[cfg(test)]
mod tests;

pub use apply::apply;

use broker::{Policy, PolicyKind, VhostLimits};
use broker_api::{Bind, ExchangeName, ExchangeSpec, QueueName, QueueSpec};
use std::collections::BTreeSet;

/// What a file says, checked, with what is made of it.
#[derive(Default)]
pub struct Definitions {
    pub users: Vec<broker::auth::User>,
    pub permissions: Vec<broker::auth::Permission>,
    pub topic_permissions: Vec<broker::auth::TopicPermission>,
    pub vhosts: Vec<String>,
    /// By virtual host.
    pub default_queue_types: Vec<(String, String)>,
    pub traced_vhosts: Vec<String>,
    pub vhost_limits: Vec<(String, VhostLimits)>,
    policies: Vec<Placed<(PolicyKind, Policy)>>,
    exchanges: Vec<Placed<(ExchangeName, ExchangeSpec)>>,
    queues: Vec<Placed<(QueueName, QueueSpec)>>,
    bindings: Vec<Placed<Bind>>,
    /// What an operator should hear: keys and parts that have no effect.
    pub notes: Vec<String>,
}

impl Definitions {
    /// Users and permissions of the configuration file come first: whom it names is as it says.
    pub fn add_users(&mut self, auth: &mut broker::auth::Config) {
        let configured: BTreeSet<String> = auth.users.iter().map(|user| user.name.clone()).collect();
        for user in std::mem::take(&mut self.users) {
            if configured.contains(&user.name) {
                self.notes.push(format!("users: '{}' stands in the configuration file and is as it says there", user.name));
                continue;
            }
            // Everybody knows this name, and mostly its password too: RabbitMQ's own setting.
            if user.name == "guest" {
                auth.loopback_users.push(user.name.clone());
            }
            auth.users.push(user);
        }
        let taken: BTreeSet<(String, String)> = auth.permissions.iter().map(|p| (p.user().to_owned(), p.vhost().to_owned())).collect();
        let own = std::mem::take(&mut self.permissions).into_iter();
        auth.permissions.extend(own.filter(|p| !taken.contains(&(p.user().to_owned(), p.vhost().to_owned()))));
        let place = |p: &broker::auth::TopicPermission| [p.user(), p.vhost(), p.exchange()].map(str::to_owned);
        let taken: BTreeSet<[String; 3]> = auth.topic_permissions.iter().map(place).collect();
        auth.topic_permissions.extend(std::mem::take(&mut self.topic_permissions).into_iter().filter(|p| !taken.contains(&place(p))));
    }
}

impl Definitions {
    /// A queue, and a policy that gives way to every other.
    pub fn add_default(&mut self, vhost: &str, queue: &str, policy: Policy) {
        let spec = QueueSpec { durable: true, ..QueueSpec::default() };
        self.queues.push(Placed { path: "[dead_letter]".to_owned(), vhost: vhost.to_owned(), what: (QueueName::new(queue), spec) });
        self.add_policy(vhost, policy);
    }

    pub fn add_policy(&mut self, vhost: &str, policy: Policy) {
        self.policies.push(Placed { path: "[dead_letter]".to_owned(), vhost: vhost.to_owned(), what: (PolicyKind::User, policy) });
    }
}

/// Lines that are said one by one.
const LINES_MAX: usize = 200;

pub fn tell(notes: &[String]) {
    for note in notes.iter().take(LINES_MAX) {
        tracing::warn!("definitions: {note}");
    }
    if notes.len() > LINES_MAX {
        tracing::warn!("definitions: and {} more", notes.len() - LINES_MAX);
    }
}

/// Where in the file it stands, and in which virtual host it belongs.
struct Placed<T> {
    path: String,
    vhost: String,
    what: T,
}
