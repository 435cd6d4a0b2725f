//! Access rules over topics, with the meaning of a Mosquitto ACL file.
//!
//! A rule is for one user, for clients without credentials, or for everybody. A client is first looked up in its own list and then in
//! the list for everybody; within a list a denial beats a grant, and the first list that says anything decides. What no rule grants is
//! denied, but only where there are rules: no rules at all means that everything is allowed.
//!
//! Where we differ from Mosquitto 2.0:
//! - it accepts every subscription and filters at delivery, we answer a subscription that no rule covers with a refusal;
//! - a client id or user name that cannot stand for one level (`+`, `#`, `/`, a leading `$`, empty) closes only the rules that name it;
//!   Mosquitto then closes the whole list of patterns (the hole that both close is CVE-2017-7650).

use super::config::ConfigError;
use super::filter::{self, Level};
use std::collections::HashMap;
use std::sync::Arc;

/// Whom a rule speaks of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    User(String),
    /// Clients that came without credentials: a `topic` line above the first `user` line of a Mosquitto file.
    Anonymous,
    /// Each client, with or without credentials: a `pattern` line of a Mosquitto file.
    Everybody,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

/// One access rule. `%c` and `%u` as a whole level stand for the client id and the user name of whoever asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    who: Who,
    access: Access,
    topic: String,
}

impl Rule {
    pub fn new(who: Who, access: Access, topic: &str) -> Result<Rule, ConfigError> {
        filter::check(topic).map_err(|why| ConfigError::Rule { topic: topic.to_owned(), why: why.to_owned() })?;
        Ok(Rule { who, access, topic: topic.to_owned() })
    }

    /// A rule as a configuration file writes it. `user = "*"` is everybody; without a user a rule is for everybody if it names `%c` or
    /// `%u` (Mosquitto's `pattern`) and for clients without credentials if not (its `topic` before any `user`).
    pub fn parse(user: Option<&str>, access: &str, topic: &str) -> Result<Rule, ConfigError> {
        let access = match access {
            "read" => Access::Read,
            "write" => Access::Write,
            "readwrite" => Access::ReadWrite,
            "deny" => Access::Deny,
            other => {
                let why = format!("access {other:?} is not one of read, write, readwrite, deny");
                return Err(ConfigError::Rule { topic: topic.to_owned(), why });
            }
        };
        let who = match user {
            Some("*") => Who::Everybody,
            Some(super::ANONYMOUS) => Who::Anonymous,
            Some(name) => Who::User(name.to_owned()),
            None if topic.split('/').any(|level| level == "%c" || level == "%u") => Who::Everybody,
            None => Who::Anonymous,
        };
        Rule::new(who, access, topic)
    }

    pub fn who(&self) -> &Who {
        &self.who
    }
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// What a subscription may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grant {
    /// Each topic of the filter may be read.
    Whole,
    /// A rule covers the filter and a denial cuts into it: ask `may_read` for each message.
    Filtered,
    Refused,
}

/// Who asks. The strings are compared with levels, never parsed, so wildcards in them cannot widen a rule.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// None for clients without credentials.
    pub(super) user: Option<&'a str>,
    pub(super) client_id: &'a str,
}

impl<'a> Subject<'a> {
    fn level(text: &'a str) -> Option<&'a [u8]> {
        let usable = !text.is_empty() && !text.starts_with('$') && !text.contains(['+', '#', '/']);
        usable.then_some(text.as_bytes())
    }
}

#[derive(Debug)]
enum Part {
    Text(Box<[u8]>),
    One,
    Rest,
    ClientId,
    User,
}

#[derive(Debug)]
struct Compiled {
    parts: Box<[Part]>,
    client_id: bool,
    user: bool,
}

impl Compiled {
    fn new(topic: &str) -> Compiled {
        let parts = topic.split('/').map(|level| match level {
            "+" => Part::One,
            "#" => Part::Rest,
            "%c" => Part::ClientId,
            "%u" => Part::User,
            text => Part::Text(text.as_bytes().into()),
        });
        let parts: Box<[Part]> = parts.collect();
        let client_id = parts.iter().any(|p| matches!(p, Part::ClientId));
        let user = parts.iter().any(|p| matches!(p, Part::User));
        Compiled { parts, client_id, user }
    }

    /// The rule as a filter for this subject; None if it names something that the subject has not got.
    fn levels<'a>(&'a self, subject: Subject<'a>) -> Option<impl Iterator<Item = Level<'a>>> {
        let client_id = if self.client_id { Subject::level(subject.client_id)? } else { b"" };
        let user = if self.user { Subject::level(subject.user?)? } else { b"" };
        Some(self.parts.iter().map(move |part| match part {
            Part::Text(text) => Level::Text(text),
            Part::One => Level::One,
            Part::Rest => Level::Rest,
            Part::ClientId => Level::Text(client_id),
            Part::User => Level::Text(user),
        }))
    }

    fn matches(&self, subject: Subject<'_>, topic: &[u8]) -> bool {
        self.levels(subject).is_some_and(|levels| filter::matches(levels, topic))
    }
    fn covers(&self, subject: Subject<'_>, narrow: &[u8]) -> bool {
        self.levels(subject).is_some_and(|levels| filter::covers(levels, filter::levels(narrow)))
    }
    fn meets(&self, subject: Subject<'_>, other: &[u8]) -> bool {
        self.levels(subject).is_some_and(|levels| filter::meet(levels, filter::levels(other)))
    }
}

#[derive(Default, Debug)]
struct List {
    deny: Vec<Compiled>,
    read: Vec<Arc<Compiled>>,
    write: Vec<Arc<Compiled>>,
}

impl List {
    fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> List {
        let mut list = List::default();
        for rule in rules {
            let compiled = Compiled::new(&rule.topic);
            if rule.access == Access::Deny {
                list.deny.push(compiled);
                continue;
            }
            let compiled = Arc::new(compiled);
            if rule.access != Access::Write {
                list.read.push(compiled.clone());
            }
            if rule.access != Access::Read {
                list.write.push(compiled);
            }
        }
        list
    }
}

/// The rules that concern one principal.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    own: Arc<List>,
    everybody: Arc<List>,
}

impl Rules {
    fn allowed(&self, grants: fn(&List) -> &[Arc<Compiled>], subject: Subject<'_>, topic: &[u8]) -> bool {
        for list in [&*self.own, &*self.everybody] {
            if list.deny.iter().any(|rule| rule.matches(subject, topic)) {
                return false;
            }
            if grants(list).iter().any(|rule| rule.matches(subject, topic)) {
                return true;
            }
        }
        false
    }

    pub(super) fn may_read(&self, subject: Subject<'_>, topic: &[u8]) -> bool {
        self.allowed(|list| &list.read, subject, topic)
    }

    pub(super) fn may_write(&self, subject: Subject<'_>, topic: &[u8]) -> bool {
        self.allowed(|list| &list.write, subject, topic)
    }

    /// One rule has to cover the whole filter: several that do so only together are not put together.
    pub(super) fn subscription(&self, subject: Subject<'_>, filter: &[u8]) -> Grant {
        let mut cut = false;
        for list in [&*self.own, &*self.everybody] {
            if list.deny.iter().any(|rule| rule.covers(subject, filter)) {
                return Grant::Refused;
            }
            cut = cut || list.deny.iter().any(|rule| rule.meets(subject, filter));
            if list.read.iter().any(|rule| rule.covers(subject, filter)) {
                return if cut { Grant::Filtered } else { Grant::Whole };
            }
        }
        Grant::Refused
    }
}

/// All rules of a configuration, from which each principal takes its own.
pub(super) struct RuleBook<'a> {
    /// By user; None is for clients without credentials.
    own: HashMap<Option<&'a str>, Vec<&'a Rule>>,
    everybody: Arc<List>,
    empty: bool,
}

impl<'a> RuleBook<'a> {
    pub(super) fn new(rules: &'a [Rule]) -> RuleBook<'a> {
        let mut own: HashMap<Option<&str>, Vec<&Rule>> = HashMap::new();
        for rule in rules {
            match &rule.who {
                Who::User(name) => own.entry(Some(name)).or_default().push(rule),
                Who::Anonymous => own.entry(None).or_default().push(rule),
                Who::Everybody => {}
            }
        }
        let everybody = Arc::new(List::of(rules.iter().filter(|rule| rule.who == Who::Everybody)));
        RuleBook { own, everybody, empty: rules.is_empty() }
    }

    /// None where there are no rules at all: everything is allowed. `user` is None for clients without credentials.
    pub(super) fn of(&self, user: Option<&str>) -> Option<Rules> {
        if self.empty {
            return None;
        }
        let own = self.own.get(&user).into_iter().flatten().copied();
        Some(Rules { own: Arc::new(List::of(own)), everybody: self.everybody.clone() })
    }
}

#[cfg(test)]
mod tests;
