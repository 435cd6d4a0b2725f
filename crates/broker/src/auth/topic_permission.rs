//! What a user may publish to a topic exchange, and bind there, by routing key: RabbitMQ's topic permissions.
//!
//! Two regular expressions per virtual host and exchange, in which `{username}`, `{vhost}` and `{client_id}` stand for what the connection
//! has. An exchange for which a user has none is not narrowed. RabbitMQ reads those values as a part of the expression, so that a client
//! that chooses its id chooses what it may do; here they stand for themselves.

use super::config::ConfigError;
use crate::pattern::NamePattern;
use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Client ids whose expression is kept, per user, exchange and operation.
const CLIENTS_MAX: usize = 1024;
const CLIENT_ID: &str = "{client_id}";

/// One `[[topic_permission]]`.
#[derive(Clone, Debug)]
pub struct TopicPermission {
    user: String,
    vhost: String,
    exchange: String,
    write: String,
    read: String,
}

impl TopicPermission {
    pub fn parse(user: &str, vhost: &str, exchange: &str, write: &str, read: &str) -> Result<TopicPermission, ConfigError> {
        for (what, text) in [("write", write), ("read", read)] {
            Keys::new(text, user, vhost).map_err(|why| ConfigError::TopicPermission {
                user: user.to_owned(),
                exchange: exchange.to_owned(),
                why: format!("{what}: {why}"),
            })?;
        }
        let [user, vhost, exchange, write, read] = [user, vhost, exchange, write, read].map(str::to_owned);
        Ok(TopicPermission { user, vhost, exchange, write, read })
    }

    pub fn user(&self) -> &str {
        &self.user
    }
    pub fn vhost(&self) -> &str {
        &self.vhost
    }
    pub fn exchange(&self) -> &str {
        &self.exchange
    }
}

/// The topic permissions of one user.
#[derive(Debug, Default)]
pub(super) struct TopicPermissions(HashMap<(Box<str>, Box<str>), [Keys; 2], RandomState>);

impl TopicPermissions {
    /// `None`: there are none of this user.
    pub(super) fn of(user: &str, all: &[TopicPermission]) -> Result<Option<TopicPermissions>, ConfigError> {
        let mut own = TopicPermissions::default();
        for permission in all.iter().filter(|permission| permission.user == user) {
            let wrong = |why: String| permission.wrong(why);
            let keys = |text: &str| Keys::new(text, user, &permission.vhost).map_err(wrong);
            let both = [keys(&permission.write)?, keys(&permission.read)?];
            let place = (permission.vhost.as_str().into(), permission.exchange.as_str().into());
            if own.0.insert(place, both).is_some() {
                return Err(wrong("it is there twice".to_owned()));
            }
        }
        Ok(Some(own).filter(|own| !own.0.is_empty()))
    }

    /// What narrows this user's keys at this exchange.
    pub(super) fn at(&self, vhost: &str, exchange: &str) -> Option<&[Keys; 2]> {
        self.0.get(&(vhost.into(), exchange.into()))
    }
}

impl TopicPermission {
    pub(super) fn wrong(&self, why: String) -> ConfigError {
        ConfigError::TopicPermission { user: self.user.clone(), exchange: self.exchange.clone(), why }
    }
}

/// The routing keys that an expression allows.
#[derive(Debug)]
pub(super) enum Keys {
    All,
    Matching(NamePattern),
    /// Made for each client id when it first comes.
    OfClient {
        text: String,
        made: Mutex<HashMap<Box<str>, Option<Arc<NamePattern>>, RandomState>>,
    },
}

impl Keys {
    fn new(text: &str, user: &str, vhost: &str) -> Result<Keys, String> {
        let text = text.replace("{username}", &regex::escape(user)).replace("{vhost}", &regex::escape(vhost));
        match &*text {
            // As of names: an empty expression is the empty key, not all of them.
            "" => NamePattern::parse("^$").map(Keys::Matching),
            ".*" | "^.*$" => Ok(Keys::All),
            _ if text.contains(CLIENT_ID) => {
                NamePattern::parse(&text.replace(CLIENT_ID, "id"))?;
                Ok(Keys::OfClient { text, made: Mutex::default() })
            }
            _ => NamePattern::parse(&text).map(Keys::Matching),
        }
    }

    pub(super) fn allow(&self, client: &str, key: &str) -> bool {
        match self {
            Keys::All => true,
            Keys::Matching(pattern) => pattern.matches(key),
            Keys::OfClient { text, made } => {
                let mut made = made.lock();
                if !made.contains_key(client) && made.len() >= CLIENTS_MAX {
                    made.clear();
                }
                // An id that makes the expression too long: nothing is allowed.
                let make = || NamePattern::parse(&text.replace(CLIENT_ID, &regex::escape(client))).ok().map(Arc::new);
                let pattern = made.entry(client.into()).or_insert_with(make).clone();
                drop(made);
                pattern.is_some_and(|pattern| pattern.matches(key))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(write: &str, read: &str) -> TopicPermissions {
        let all = [TopicPermission::parse("u.1", "/", "amq.topic", write, read).expect("expressions")];
        TopicPermissions::of("u.1", &all).expect("once").expect("some")
    }

    #[test]
    fn expressions_match_keys_and_values_stand_for_themselves() {
        let own = of("^{username}\\.{client_id}\\.", "");
        let [write, read] = own.at("/", "amq.topic").expect("narrowed");
        assert!(write.allow("c", "u.1.c.x") && !write.allow("c", "u.1.d.x") && !write.allow("c", "uX1.c.x"));
        assert!(!write.allow(".*", "u.1.d.x") && write.allow(".*", "u.1..*.x"));
        assert!(read.allow("c", "") && !read.allow("c", "a"));
        assert!(own.at("/", "other").is_none() && own.at("x", "amq.topic").is_none());
        (0..3000).for_each(|n| assert!(write.allow(&n.to_string(), &format!("u.1.{n}.x"))));
        let Keys::OfClient { made, .. } = write else { panic!("of a client") };
        assert!(made.lock().len() <= CLIENTS_MAX);
    }

    #[test]
    fn what_is_no_expression_or_there_twice_is_said() {
        let error = TopicPermission::parse("u", "/", "x", ".*", "(").expect_err("refused").to_string();
        assert!(error.contains("read") && error.contains("\"u\"") && error.contains("\"x\""), "{error}");
        let one = TopicPermission::parse("u", "/", "x", "", "").expect("expressions");
        assert!(TopicPermissions::of("u", &[one.clone(), one.clone()]).expect_err("twice").to_string().contains("twice"));
        assert!(TopicPermissions::of("v", &[one]).expect("none").is_none());
    }
}
