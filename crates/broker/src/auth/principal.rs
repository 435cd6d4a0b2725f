//! Somebody who has been let in, and what they may do.

use super::acl::{Grant, Rules, Subject};
use super::permission::{Operation, Permissions};
use super::topic_permission::TopicPermissions;
use broker_api::PrincipalInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// The name under which clients without credentials act.
pub const ANONYMOUS: &str = "anonymous";

#[derive(Debug)]
pub struct Principal {
    pub(super) name: Box<str>,
    pub(super) tags: Box<[String]>,
    pub(super) administrator: bool,
    pub(super) anonymous: bool,
    /// None: there are no rules in the configuration.
    pub(super) rules: Option<Rules>,
    /// None: there are no permissions in the configuration.
    pub(super) permissions: Option<Permissions>,
    /// None: he has none.
    pub(super) topic_permissions: Option<TopicPermissions>,
    /// None: the operator himself.
    pub(super) quota: Option<Arc<Quota>>,
}

/// The connections and channels of one user, over reloads.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) max: AtomicU64,
    connected: AtomicU64,
    pub(super) channels_max: AtomicU64,
    channels: AtomicU64,
}

impl Quota {
    pub(super) fn new() -> Arc<Quota> {
        let none = || AtomicU64::new(u64::MAX);
        Arc::new(Quota { max: none(), connected: AtomicU64::new(0), channels_max: none(), channels: AtomicU64::new(0) })
    }
}

impl Principal {
    /// The operator himself, by his files.
    pub(crate) fn trusted() -> Principal {
        let name = "operator".into();
        Principal {
            name,
            tags: [].into(),
            administrator: true,
            anonymous: false,
            rules: None,
            permissions: None,
            topic_permissions: None,
            quota: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn administrator(&self) -> bool {
        self.administrator
    }
    pub fn tags(&self) -> &[String] {
        &self.tags
    }
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }
    pub fn info(&self) -> PrincipalInfo {
        let impersonator = self.tags.iter().any(|tag| tag == "impersonator");
        PrincipalInfo { user: self.name.to_string(), administrator: self.administrator, impersonator }
    }

    /// One more connection acts for this user, or would be one too many: how many may be. [`Principal::part`] undoes it.
    pub(crate) fn join(&self) -> Result<(), u64> {
        let Some(quota) = &self.quota else { return Ok(()) };
        let max = quota.max.load(Ordering::Relaxed);
        let room = |now: u64| (now < max).then(|| now + 1);
        quota.connected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map(drop).map_err(|_| max)
    }

    pub(crate) fn part(&self) {
        if let Some(quota) = &self.quota {
            quota.connected.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// One more channel, or would be one too many: how many may be. [`Principal::close_channel`] undoes it.
    pub(crate) fn open_channel(&self) -> Result<(), u64> {
        let Some(quota) = &self.quota else { return Ok(()) };
        let max = quota.channels_max.load(Ordering::Relaxed);
        let room = |now: u64| (now < max).then(|| now + 1);
        quota.channels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map(drop).map_err(|_| max)
    }

    pub(crate) fn close_channel(&self) {
        if let Some(quota) = &self.quota {
            quota.channels.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The operator, who is no user.
    pub(crate) fn is_operator(&self) -> bool {
        self.quota.is_none()
    }

    /// There are no rules: `may_read` and `may_subscribe` are always true.
    pub fn unrestricted(&self) -> bool {
        self.rules.is_none()
    }

    /// Nothing in the configuration confines this one.
    pub fn may_all(&self) -> bool {
        self.unrestricted() && !self.has_permissions() && !self.has_topic_permissions()
    }

    /// What this one may do with exchanges and queues is written down; if not, all of it is allowed.
    pub fn has_permissions(&self) -> bool {
        self.permissions.is_some()
    }

    pub fn may_enter(&self, vhost: &str) -> bool {
        self.permissions.as_ref().is_none_or(|all| all.contains_key(vhost))
    }

    /// With an exchange or a queue of this name; the default exchange is called `amq.default`.
    pub fn may(&self, vhost: &str, operation: Operation, name: &str) -> bool {
        self.permissions.as_ref().is_none_or(|all| all.get(vhost).is_some_and(|access| access.may(operation, name)))
    }

    /// Is there anything that `may_use_key` could refuse?
    pub fn has_topic_permissions(&self) -> bool {
        self.topic_permissions.is_some()
    }

    /// Publish with this key to this topic exchange (`Write`), or bind there with it (`Read`).
    pub fn may_use_key(&self, vhost: &str, operation: Operation, exchange: &str, key: &str, client_id: &str) -> bool {
        let narrowed = self.topic_permissions.as_ref().and_then(|own| own.at(vhost, exchange));
        narrowed.is_none_or(|[write, read]| if operation == Operation::Write { write } else { read }.allow(client_id, key))
    }

    /// `$SYS` is the broker's own: nobody else writes there, whatever the rules say.
    pub fn may_publish(&self, topic: &[u8], client_id: &str) -> bool {
        if is_sys(topic) {
            return false;
        }
        self.rules.as_ref().is_none_or(|rules| rules.may_write(self.subject(client_id), topic))
    }

    /// Whether each topic of this filter (without `$share/NAME/`) may be read.
    pub fn may_subscribe(&self, filter: &str, client_id: &str) -> bool {
        self.subscription(filter, client_id) == Grant::Whole
    }

    /// As `may_subscribe`, and tells of the filters that are granted in part; a caller that accepts those asks `may_read` of each
    /// message it delivers.
    pub fn subscription(&self, filter: &str, client_id: &str) -> Grant {
        match &self.rules {
            None => Grant::Whole,
            Some(rules) => rules.subscription(self.subject(client_id), filter.as_bytes()),
        }
    }

    pub fn may_read(&self, topic: &[u8], client_id: &str) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.may_read(self.subject(client_id), topic))
    }

    fn subject<'a>(&'a self, client_id: &'a str) -> Subject<'a> {
        Subject { user: (!self.anonymous).then_some(&*self.name), client_id }
    }
}

fn is_sys(topic: &[u8]) -> bool {
    topic.strip_prefix(b"$SYS").is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
