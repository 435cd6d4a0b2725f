//! Whether a command or a publish is this user's to give: permissions on exchanges and queues by name, and rules on topics where a name
//! leads into the topic space.
//!
//! Checked as RabbitMQ does: configure to make and delete; write to publish, and to bind a destination; read to consume, and to bind to a
//! source. What names an alternate or a dead-letter exchange needs read on what it declares and write on that exchange. Passive declares
//! need nothing.

use super::Link;
use crate::auth::{Operation, Principal};
use broker_api::spelling::{key_of_topic, read_word};
use broker_api::{Batch, Bind, Control, Declare, Destination, Head, Limit, Refusal, VhostName};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

const TOPICS: &str = "amq.topic";

/// The last exchange that was asked about, and whether this connection may publish to it, as who it was then.
pub(super) type WriteMemo = Option<Box<(Box<[u8]>, bool, Arc<Principal>)>>;

/// The rules speak of topics. A user whom rules confine, and for whom there are no permissions, reaches queues and exchanges by name only
/// as an administrator, so that no name leads around a rule.
fn may_use_names(principal: &Principal) -> Result<(), Refusal> {
    if principal.unrestricted() || principal.administrator() {
        return Ok(());
    }
    Err(Refusal::AccessRefused(format!("{} may use topics only", principal.name())))
}

/// A filter over slashes as a binding key.
fn key_of_filter(filter: &str) -> Vec<u8> {
    let levels = filter.split('/').map(|level| if level == "+" { b"*".to_vec() } else { key_of_topic(level.as_bytes()) });
    levels.collect::<Vec<_>>().join(&b'.')
}

/// May this user be in this virtual host?
pub(super) fn may_enter(principal: &Principal, vhost: &VhostName) -> Result<(), Refusal> {
    if principal.may_enter(vhost.as_str()) {
        return Ok(());
    }
    Err(Refusal::AccessRefused(format!("access to vhost '{vhost}' refused for user '{}'", principal.name())))
}

/// May who subscribed to this filter in a session still be sent what it leads to?
pub(crate) fn may_stay_subscribed(principal: &Principal, vhost: &str, client: &str, filter: &str) -> bool {
    principal.may_enter(vhost)
        && principal.may(vhost, Operation::Read, TOPICS)
        && principal.may_subscribe(filter, client)
        && (!principal.has_topic_permissions()
            || principal.may_use_key(vhost, Operation::Read, TOPICS, &String::from_utf8_lossy(&key_of_filter(filter)), client))
}

/// Commands that act on queues and exchanges by name.
fn uses_names(control: &Control) -> bool {
    matches!(
        control,
        Control::Declare(_)
            | Control::DeleteExchange { .. }
            | Control::DeleteQueue { .. }
            | Control::Bind(_)
            | Control::Unbind(_)
            | Control::Purge { .. }
            | Control::Consume(_)
            | Control::Take(_)
            | Control::Watch(_)
    )
}

/// What a user may do in one virtual host.
struct Asked<'a> {
    principal: &'a Principal,
    vhost: &'a str,
}

impl Asked<'_> {
    fn may(&self, operation: Operation, what: &str, name: &str) -> Result<(), Refusal> {
        let name = if what == "exchange" && name.is_empty() { "amq.default" } else { name };
        if self.principal.may(self.vhost, operation, name) {
            return Ok(());
        }
        Err(Refusal::AccessRefused(format!(
            "access to {what} '{name}' in vhost '{}' refused for user '{}'",
            self.vhost,
            self.principal.name()
        )))
    }

    fn command(&self, control: &Control) -> Result<(), Refusal> {
        use Operation::{Configure, Read, Write};
        match control {
            Control::Declare(Declare::Exchange { passive: true, .. } | Declare::Queue { passive: true, .. }) => Ok(()),
            Control::Declare(Declare::Exchange { name, spec, .. }) => {
                self.may(Configure, "exchange", name.as_str())?;
                let Some(alternate) = &spec.alternate else { return Ok(()) };
                self.may(Read, "exchange", name.as_str())?;
                self.may(Write, "exchange", alternate.as_str())
            }
            Control::Declare(Declare::Queue { name, spec, .. }) => {
                self.may(Configure, "queue", name.as_str())?;
                let Some(exchange) = &spec.dead_letter_exchange else { return Ok(()) };
                self.may(Read, "queue", name.as_str())?;
                self.may(Write, "exchange", exchange)
            }
            Control::DeleteExchange { name, .. } => self.may(Configure, "exchange", name.as_str()),
            Control::DeleteQueue { name, .. } => self.may(Configure, "queue", name.as_str()),
            Control::Purge { queue, .. } => self.may(Read, "queue", queue.as_str()),
            Control::Consume(consume) => self.may(Read, "queue", consume.queue.as_str()),
            Control::Take(take) => self.may(Read, "queue", take.queue.as_str()),
            Control::Bind(bind) | Control::Unbind(bind) => {
                match &bind.destination {
                    Destination::Queue(name) => self.may(Write, "queue", name.as_str())?,
                    Destination::Exchange(name) => self.may(Write, "exchange", name.as_str())?,
                }
                self.may(Read, "exchange", bind.source.as_str())
            }
            Control::Subscribe(_) => self.may(Read, "exchange", TOPICS),
            _ => Ok(()),
        }
    }

    /// A binding to the topic space is a subscription by another name.
    fn topics_of(&self, bind: &Bind, client: &str) -> Result<(), Refusal> {
        let confined = !self.principal.unrestricted() && !self.principal.administrator();
        if bind.source.as_str() != TOPICS || !confined || filter_of(&bind.key).is_some_and(|f| self.principal.may_subscribe(&f, client)) {
            return Ok(());
        }
        Err(Refusal::AccessRefused(format!("{} may not bind to '{}'", self.principal.name(), bind.key)))
    }
}

impl Link {
    /// May this user publish with this key there, or bind with it? Only topic exchanges narrow it.
    fn check_key(&self, principal: &Principal, operation: Operation, exchange: &str, key: &[u8]) -> Result<(), Refusal> {
        let (vhost, key) = (self.vhost.name.as_str(), String::from_utf8_lossy(key));
        if principal.may_use_key(vhost, operation, exchange, &key, &self.client) {
            return Ok(());
        }
        // What is said of an exchange that is not there, or is of another kind, is said elsewhere.
        if !self.vhost.exchange(exchange).is_some_and(|found| found.is_topics() || found.spec.kind == "topic") {
            return Ok(());
        }
        Err(Refusal::AccessRefused(format!(
            "access to topic '{key}' in exchange '{exchange}' in vhost '{vhost}' refused for user '{}'",
            principal.name()
        )))
    }

    fn check_keys_of(&self, principal: &Principal, control: &Control) -> Result<(), Refusal> {
        match control {
            Control::Bind(bind) | Control::Unbind(bind) => {
                self.check_key(principal, Operation::Read, bind.source.as_str(), bind.key.as_bytes())
            }
            Control::Subscribe(subscribe) => self.check_key(principal, Operation::Read, TOPICS, &key_of_filter(&subscribe.filter.pattern)),
            _ => Ok(()),
        }
    }
}

/// The filter over slashes that takes at least what a binding key over dots takes; `None`: none does.
fn filter_of(key: &str) -> Option<String> {
    let mut levels = Vec::new();
    for word in key.split('.') {
        match word {
            "*" => levels.push("+"),
            // Whatever follows: the rest of the tree covers it.
            "#" => {
                levels.push("#");
                break;
            }
            word if word.contains(['/', '+', '#']) => return None,
            word => levels.push(word),
        }
    }
    let levels: Vec<_> = levels.into_iter().map(|level| read_word(level.as_bytes())).collect();
    String::from_utf8(levels.join(&b'/')).ok()
}

/// The topic that a routing key is; `None`: a word has a slash in it, which no topic's level has.
fn topic_of(key: &[u8]) -> Option<Vec<u8>> {
    if key.contains(&b'/') {
        return None;
    }
    let levels: Vec<_> = key.split(|byte| *byte == b'.').map(read_word).collect();
    Some(levels.join(&b'/'))
}

impl Link {
    /// May whoever is logged in do anything in here? The first time it is asked, there is one connection more.
    pub(super) fn check_entry(&mut self) -> Result<(), Refusal> {
        let Some(principal) = self.outbox.principal.load_full() else { return Err(Refusal::AccessRefused("not logged in".into())) };
        may_enter(&principal, &self.vhost.name)?;
        if principal.is_operator() || self.entered.as_ref().is_some_and(|entered| Arc::ptr_eq(&entered.1, &self.vhost)) {
            return Ok(());
        }
        self.leave();
        let (vhost, user) = (&self.vhost, principal.name());
        let over = |why: String| Refusal::OverLimit { limit: Limit::Connections, why };
        let max = vhost.connections_max.load(Relaxed);
        let room = |now: u64| (now < max).then(|| now + 1);
        if vhost.connected.fetch_update(Relaxed, Relaxed, room).is_err() {
            return Err(over(format!("access to vhost '{}' refused for user '{user}': connection limit ({max}) is reached", vhost.name)));
        }
        if let Err(max) = principal.join() {
            vhost.connected.fetch_sub(1, Relaxed);
            return Err(over(format!("connection refused for user '{user}': user connection limit ({max}) is reached")));
        }
        self.entered = Some(Box::new((principal, self.vhost.clone(), Vec::new())));
        Ok(())
    }

    /// One channel more of this user and of this broker, if there may be.
    pub(super) fn check_channel(&self, channel: u16) -> Result<(), Refusal> {
        let Some((principal, ..)) = self.entered.as_deref().filter(|_| channel != 0) else { return Ok(()) };
        principal.open_channel().map_err(|max| {
            let user = principal.name();
            let why = format!("number of channels opened for user '{user}' has reached the maximum allowed user limit of ({max})");
            Refusal::OverLimit { limit: Limit::Channels, why }
        })?;
        let max = self.core.config.channels_max;
        let room = |now: u64| (now < max).then(|| now + 1);
        self.core.counters.channels.fetch_update(Relaxed, Relaxed, room).map(drop).map_err(|_| {
            principal.close_channel();
            let why = format!("number of channels opened on node 'carrick' has reached the maximum allowed limit of ({max})");
            Refusal::OverLimit { limit: Limit::Channels, why }
        })
    }

    pub(super) fn close_channel(&self, channel: u16) {
        if let Some((principal, ..)) = self.entered.as_deref().filter(|_| channel != 0) {
            principal.close_channel();
            self.core.counters.channels.fetch_sub(1, Relaxed);
        }
    }

    /// This connection is not counted any more.
    pub(super) fn leave(&mut self) {
        if let Some(entered) = self.entered.take() {
            let (principal, vhost, _) = *entered;
            principal.part();
            vhost.connected.fetch_sub(1, Relaxed);
        }
    }

    /// May this user give this command? (A topic filter is looked at where it is parsed.)
    pub(super) fn check_access(&self, control: &Control) -> Result<(), Refusal> {
        let principal = self.outbox.principal.load();
        // Who is nobody yet is told so elsewhere.
        let Some(principal) = principal.as_deref() else { return Ok(()) };
        if principal.has_topic_permissions() {
            self.check_keys_of(principal, control)?;
        }
        if !principal.has_permissions() {
            return if uses_names(control) { may_use_names(principal) } else { Ok(()) };
        }
        let asked = Asked { principal, vhost: self.vhost.name.as_str() };
        asked.command(control)?;
        match control {
            Control::Bind(bind) => asked.topics_of(bind, self.client.as_str()),
            _ => Ok(()),
        }
    }

    /// May this user publish this?
    pub(super) fn check_publish(&mut self, batch: &Batch, head: &Head) -> Result<(), Refusal> {
        let principal = self.outbox.principal.load();
        let Some(principal) = principal.as_ref() else { return Err(Refusal::AccessRefused("not logged in".into())) };
        let client = self.client.as_str();
        let forbidden = || Refusal::AccessRefused(format!("{} may not publish here", principal.name()));
        if head.topic && !principal.may_publish(batch.key(head), client) {
            return Err(forbidden());
        }
        if principal.has_topic_permissions() {
            match head.topic {
                true => self.check_key(principal, Operation::Write, TOPICS, &key_of_topic(batch.key(head)))?,
                false => {
                    let exchange = String::from_utf8_lossy(batch.bytes(head.exchange));
                    for key in std::iter::once(batch.key(head)).chain(batch.keys(head)) {
                        self.check_key(principal, Operation::Write, &exchange, key)?;
                    }
                }
            }
        }
        if !principal.has_permissions() {
            return if head.topic { Ok(()) } else { may_use_names(principal) };
        }
        let exchange = if head.topic { TOPICS.as_bytes() } else { batch.bytes(head.exchange) };
        let known = self.write_memo.as_ref().filter(|memo| *memo.0 == *exchange && Arc::ptr_eq(&memo.2, principal)).map(|memo| memo.1);
        if known != Some(true) {
            let name = String::from_utf8_lossy(exchange);
            let may = Asked { principal, vhost: self.vhost.name.as_str() }.may(Operation::Write, "exchange", &name);
            self.write_memo = Some(Box::new((exchange.into(), may.is_ok(), principal.clone())));
            may?;
        }
        let confined = !head.topic && exchange == TOPICS.as_bytes() && !principal.unrestricted() && !principal.administrator();
        let may = |key: &[u8]| topic_of(key).is_some_and(|topic| principal.may_publish(&topic, client));
        if confined && !std::iter::once(batch.key(head)).chain(batch.keys(head)).all(may) {
            return Err(forbidden());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_key_is_covered_by_its_filter() {
        for (key, filter) in [
            ("a.b", Some("a/b")),
            ("a.*.c", Some("a/+/c")),
            ("#", Some("#")),
            ("a.#.b", Some("a/#")),
            ("a/b.c", None),
            ("+", None),
            ("a.b%2Ec.*", Some("a/b.c/+")),
        ] {
            assert_eq!(filter_of(key).as_deref(), filter, "{key}");
        }
        assert_eq!((topic_of(b"a.b"), topic_of(b"a/b")), (Some(b"a/b".to_vec()), None));
        assert_eq!(topic_of(b"a.b%2Ec"), Some(b"a/b.c".to_vec()));
    }
}
