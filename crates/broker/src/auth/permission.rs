//! What a user may do with exchanges and queues, by name: RabbitMQ's three regular expressions per virtual host.
//!
//! As there, a pattern matches anywhere in the name unless it is anchored, an empty one matches nothing, and the default exchange is called
//! `amq.default`. The engine works in linear time; what it has decided is remembered.

use super::config::ConfigError;
use crate::pattern::NamePattern;
use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Names whose decision is remembered, per user, virtual host and operation.
const DECIDED_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Make and delete.
    Configure,
    /// Publish to an exchange, bind a queue.
    Write,
    /// Consume from a queue, bind to an exchange.
    Read,
}

/// One `[[permission]]`: what a user may do in a virtual host.
#[derive(Clone, Debug)]
pub struct Permission {
    user: String,
    vhost: String,
    /// By operation.
    patterns: [Pattern; 3],
}

#[derive(Clone, Debug)]
enum Pattern {
    Nothing,
    Everything,
    Matches(NamePattern),
}

impl Permission {
    pub fn parse(user: &str, vhost: &str, configure: &str, write: &str, read: &str) -> Result<Permission, ConfigError> {
        let compile = |what: &str, text: &str| {
            Pattern::parse(text).map_err(|why| ConfigError::Permission {
                user: user.to_owned(),
                vhost: vhost.to_owned(),
                why: format!("{what}: {why}"),
            })
        };
        let patterns = [compile("configure", configure)?, compile("write", write)?, compile("read", read)?];
        Ok(Permission { user: user.to_owned(), vhost: vhost.to_owned(), patterns })
    }

    pub fn user(&self) -> &str {
        &self.user
    }
    pub fn vhost(&self) -> &str {
        &self.vhost
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, String> {
        match text {
            "" | "^$" => Ok(Pattern::Nothing),
            ".*" | "^.*$" => Ok(Pattern::Everything),
            _ => NamePattern::parse(text).map(Pattern::Matches),
        }
    }
}

/// The permissions of one user, by virtual host.
pub(super) type Permissions = HashMap<Box<str>, Access, RandomState>;

/// What one user may do in one virtual host.
#[derive(Debug)]
pub(super) struct Access {
    patterns: [Pattern; 3],
    decided: [Mutex<HashMap<Box<str>, bool, RandomState>>; 3],
}

impl Access {
    pub(super) fn new(permission: &Permission) -> Access {
        Access { patterns: permission.patterns.clone(), decided: Default::default() }
    }

    pub(super) fn may(&self, operation: Operation, name: &str) -> bool {
        let pattern = match &self.patterns[operation as usize] {
            Pattern::Nothing => return false,
            Pattern::Everything => return true,
            Pattern::Matches(pattern) => pattern,
        };
        let mut decided = self.decided[operation as usize].lock();
        if let Some(decision) = decided.get(name) {
            return *decision;
        }
        let decision = pattern.matches(name);
        if decided.len() >= DECIDED_MAX {
            decided.clear();
        }
        decided.insert(name.into(), decision);
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(configure: &str, write: &str, read: &str) -> Access {
        Access::new(&Permission::parse("u", "/", configure, write, read).expect("patterns"))
    }

    #[test]
    fn patterns_match_as_rabbitmq_s_do() {
        let a = access("^mine-", "", "a|b$");
        for _ in 0..2 {
            assert!(a.may(Operation::Configure, "mine-1") && !a.may(Operation::Configure, "not mine-1"));
            assert!(!a.may(Operation::Write, "") && !a.may(Operation::Write, "x"));
            assert!(a.may(Operation::Read, "xax") && a.may(Operation::Read, "xb") && !a.may(Operation::Read, "bx"));
        }
        assert!(access(".*", ".*", ".*").may(Operation::Write, "anything"));
        // Any number of names is decided in bounded memory.
        (0..3000).for_each(|n| assert!(a.may(Operation::Configure, &format!("mine-{n}"))));
        assert!(a.decided[0].lock().len() <= DECIDED_MAX);
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        let error = |pattern: &str| Permission::parse("u", "v", ".*", pattern, ".*").expect_err("refused").to_string();
        assert!(error("(").contains("write") && error("(").contains("\"u\"") && error("(").contains("\"v\""));
        assert!(error(&"x".repeat(5000)).contains("longer"));
        assert!(error("(\\w{100}){100}{100}").contains("limit"));
    }
}
