//! Users and rules as the configuration gives them.

use super::acl::Rule;
use super::permission::Permission;
use super::topic_permission::TopicPermission;
use std::fmt;
use thiserror::Error;

/// Names are keys of tables and are repeated in logs.
pub(super) const NAME_MAX: usize = 1024;
/// A password is hashed before anybody knows whether it is right, so its length is bounded.
pub(super) const PASSWORD_MAX: usize = 4096;

#[derive(Clone)]
pub struct Config {
    /// Without any there is one: `guest` with the password `guest`, an administrator that may come from this machine only.
    pub users: Vec<User>,
    /// Without any everything is allowed.
    pub rules: Vec<Rule>,
    /// On exchanges and queues, by virtual host. Without any everything is allowed; with one, a user may enter only the virtual hosts for
    /// which there is one of his, and clients without credentials those of `anonymous`.
    pub permissions: Vec<Permission>,
    /// On routing keys of topic exchanges. A user without one for an exchange may use all keys there.
    pub topic_permissions: Vec<TopicPermission>,
    /// Users who may come from this machine only.
    pub loopback_users: Vec<String>,
    /// Clients without credentials that come from this machine act as `anonymous`. Elsewhere it is the listener's choice.
    pub anonymous_on_loopback: bool,
    /// Random bytes that a server keeps beside its data. With them the SCRAM salts that are made up for names without a stored one stay
    /// the same over a restart, as stored ones do, so that asking again does not tell who exists. None: other ones after each start.
    pub salt_secret: Option<[u8; 32]>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            users: Vec::new(),
            rules: Vec::new(),
            permissions: Vec::new(),
            topic_permissions: Vec::new(),
            loopback_users: Vec::new(),
            anonymous_on_loopback: true,
            salt_secret: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub credential: Credential,
    /// `administrator` is the one that has a meaning here.
    pub tags: Vec<String>,
    /// Connections that act for this user at a time.
    pub connections_max: Option<u64>,
    /// Channels in these, all together. What has no channels counts as none (MQTT), or as one (STOMP).
    pub channels_max: Option<u64>,
}

#[derive(Clone)]
pub enum Credential {
    /// The password itself.
    Plain(String),
    /// A stored form of it: argon2id, mosquitto_passwd's `$7$` and `$6$`, SCRAM-SHA-256, RabbitMQ's.
    Hash(String),
    /// There is none: this user logs in by what the transport proves, or not at all.
    None,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Plain(_) => "Plain(..)",
            Credential::Hash(_) => "Hash(..)",
            Credential::None => "None",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    #[error("user {name:?}: {why}")]
    User { name: String, why: String },
    #[error("access rule for topic {topic:?}: {why}")]
    Rule { topic: String, why: String },
    #[error("permission of user {user:?} in virtual host {vhost:?}: {why}")]
    Permission { user: String, vhost: String, why: String },
    #[error("topic permission of user {user:?} on exchange {exchange:?}: {why}")]
    TopicPermission { user: String, exchange: String, why: String },
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// A name that can be told apart from the words we use ourselves, and that can stand in a log line.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > NAME_MAX {
        return Err(format!("the name is longer than {NAME_MAX} bytes"));
    }
    if name == super::ANONYMOUS || name == "*" {
        return Err("the name is taken: it stands for clients without credentials, or for everybody".to_owned());
    }
    if name.chars().any(char::is_control) {
        return Err("the name contains control characters".to_owned());
    }
    Ok(())
}
