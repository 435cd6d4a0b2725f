//! What a policy's definition says. The keys and what they may be are RabbitMQ's, but for [`OURS`].

use super::{Backoff, PolicyKind, PolicyValue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a queue answers at its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overflow {
    DropHead,
    RejectPublish,
    RejectPublishDlx,
}

/// Whose clients make queues by naming them.
#[derive(Clone, Debug)]
pub(crate) enum AutoCreate {
    Nobodys,
    Everybodys,
    /// Protocols, by the beginning of their names: `amqp`.
    Of(Vec<String>),
}

impl AutoCreate {
    fn read(value: &PolicyValue) -> Result<AutoCreate, String> {
        let protocol = |value: &PolicyValue| match value {
            PolicyValue::Text(text) if PROTOCOLS.contains(&text.as_str()) => Ok(text.clone()),
            _ => Err(format!("a list of protocols ({}), or true or false", PROTOCOLS.join(", "))),
        };
        match value {
            PolicyValue::Bool(true) => Ok(AutoCreate::Everybodys),
            PolicyValue::Bool(false) => Ok(AutoCreate::Nobodys),
            PolicyValue::List(all) => all.iter().map(protocol).collect::<Result<_, _>>().map(AutoCreate::Of),
            one => protocol(one).map(|one| AutoCreate::Of(vec![one])),
        }
    }

    pub fn is_for(&self, protocol: &str) -> bool {
        match self {
            AutoCreate::Nobodys => false,
            AutoCreate::Everybodys => true,
            AutoCreate::Of(all) => all.iter().any(|one| protocol.starts_with(one.as_str())),
        }
    }
}

/// What has a meaning here.
#[derive(Clone, Default, Debug)]
pub(crate) struct Settings {
    pub message_ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_key: Option<Arc<str>>,
    pub delivery_limit: Option<u32>,
    /// Ours: the same for queues of every type.
    pub redelivery_limit: Option<u32>,
    /// Ours: how long what was given back waits, how many times longer each time, and at most.
    pub redelivery_delay_ms: Option<u64>,
    pub redelivery_delay_multiplier: Option<u64>,
    pub redelivery_delay_max_ms: Option<u64>,
    pub consumer_timeout_ms: Option<u64>,
    pub dead_letter_at_least_once: Option<bool>,
    pub alternate: Option<Arc<str>>,
    /// Ours: queues are made when they are first named.
    pub auto_create: Option<AutoCreate>,
}

/// Keys that say how RabbitMQ places, mirrors or stores queues, or that belong to plug-ins: kept, listed, and without effect here.
const WITHOUT_EFFECT: [&str; 29] = [
    "consumer-disconnected-timeout",
    "delayed-retry-max",
    "delayed-retry-min",
    "delayed-retry-type",
    "federation-upstream",
    "federation-upstream-pattern",
    "federation-upstream-set",
    "ha-mode",
    "ha-params",
    "ha-promote-on-failure",
    "ha-promote-on-shutdown",
    "ha-sync-batch-size",
    "ha-sync-mode",
    "initial-cluster-size",
    "max-age",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "message-interceptors",
    "queue-leader-locator",
    "queue-master-locator",
    "queue-mode",
    "queue-version",
    "routing-key",
    "shards-per-node",
    "stream-filter-size-bytes",
    "stream-max-segment-size-bytes",
    "target-group-size",
    "unclean-leader-election",
    "x-queue-type",
];

/// Those who name queues.
const PROTOCOLS: [&str; 2] = ["amqp", "stomp"];

/// What RabbitMQ does not know.
const OURS: [&str; 5] = ["auto-create", "redelivery-limit", "redelivery-delay", "redelivery-delay-multiplier", "redelivery-delay-max"];

/// What an operator may bound.
const OF_OPERATORS: [&str; 7] =
    ["consumer-timeout", "delivery-limit", "expires", "max-length", "max-length-bytes", "message-ttl", "overflow"];

/// Timers of RabbitMQ take no more.
const MILLISECONDS_MAX: u64 = u32::MAX as u64;
const MULTIPLIER_MAX: u64 = 1000;
const TEXT_MAX: usize = 255;
/// A definition in the log.
const VALUES_MAX: usize = 1000;

impl Settings {
    pub fn read(kind: PolicyKind, definition: &BTreeMap<String, PolicyValue>) -> Result<Settings, String> {
        if definition.is_empty() {
            return Err("the definition is empty".to_owned());
        }
        let mut settings = Settings::default();
        let mut values = 0;
        for (key, value) in definition {
            count(value, 0, &mut values).map_err(|why| format!("{key}: {why}"))?;
            if without_effect(key) {
                continue;
            }
            settings.set(key, value).map_err(|why| format!("{key}: {why}"))?;
            if kind == PolicyKind::Operator && !OF_OPERATORS.contains(&key.as_str()) {
                return Err(format!("{key}: not a setting of operator policies"));
            }
        }
        if settings.redelivery_delay_ms.is_none() {
            let without = [("multiplier", settings.redelivery_delay_multiplier), ("max", settings.redelivery_delay_max_ms)];
            if let Some((what, _)) = without.iter().find(|(_, value)| value.is_some()) {
                return Err(format!("redelivery-delay-{what}: without redelivery-delay"));
            }
        }
        Ok(settings)
    }

    /// How long what was given back waits, if it does.
    pub fn backoff(&self) -> Option<Backoff> {
        let number = |number: Option<u64>, otherwise| number.map_or(otherwise, |number| u32::try_from(number).unwrap_or(u32::MAX));
        Some(Backoff {
            delay_ms: self.redelivery_delay_ms.filter(|ms| *ms > 0).map(|ms| number(Some(ms), 0))?,
            multiplier: number(self.redelivery_delay_multiplier, 1),
            max_ms: number(self.redelivery_delay_max_ms, u32::MAX),
        })
    }

    fn set(&mut self, key: &str, value: &PolicyValue) -> Result<(), String> {
        match key {
            "message-ttl" => self.message_ttl_ms = Some(milliseconds(value, 0)?),
            "expires" => self.expires_ms = Some(milliseconds(value, 1)?),
            "max-length" => self.max_length = Some(natural(value)?),
            "max-length-bytes" => self.max_length_bytes = Some(natural(value)?),
            "consumer-timeout" => self.consumer_timeout_ms = Some(milliseconds(value, 1)?),
            // -1: as often as it takes.
            "delivery-limit" if *value == PolicyValue::Int(-1) => {}
            "delivery-limit" => self.delivery_limit = Some(u32::try_from(natural(value)?).unwrap_or(u32::MAX)),
            "redelivery-limit" => self.redelivery_limit = Some(u32::try_from(natural(value)?).unwrap_or(u32::MAX)),
            "redelivery-delay" => self.redelivery_delay_ms = Some(milliseconds(value, 0)?),
            "redelivery-delay-max" => self.redelivery_delay_max_ms = Some(milliseconds(value, 1)?),
            "redelivery-delay-multiplier" => {
                self.redelivery_delay_multiplier = Some(natural(value)?).filter(|times| (1..=MULTIPLIER_MAX).contains(times));
                if self.redelivery_delay_multiplier.is_none() {
                    return Err(format!("not from 1 to {MULTIPLIER_MAX}"));
                }
            }
            "dead-letter-exchange" => self.dead_letter_exchange = Some(text(value)?),
            "dead-letter-routing-key" => self.dead_letter_key = Some(text(value)?),
            "auto-create" => self.auto_create = Some(AutoCreate::read(value)?),
            "alternate-exchange" => self.alternate = Some(text(value)?),
            "dead-letter-strategy" => {
                self.dead_letter_at_least_once = Some(match &*text(value)? {
                    "at-most-once" => false,
                    "at-least-once" => true,
                    other => return Err(format!("'{other}' is none of at-most-once, at-least-once")),
                });
            }
            "overflow" => {
                self.overflow = Some(match &*text(value)? {
                    "drop-head" => Overflow::DropHead,
                    "reject-publish" => Overflow::RejectPublish,
                    "reject-publish-dlx" => Overflow::RejectPublishDlx,
                    other => return Err(format!("'{other}' is none of drop-head, reject-publish, reject-publish-dlx")),
                });
            }
            _ => return Err("not a policy setting that is known".to_owned()),
        }
        Ok(())
    }
}

/// Is this a key of definitions, with an effect here or without?
/// Whether one that is known does anything here.
pub fn policy_setting_acts(key: &str) -> bool {
    !without_effect(key)
}

pub fn known_policy_setting(key: &str) -> bool {
    without_effect(key)
        || OF_OPERATORS.contains(&key)
        || OURS.contains(&key)
        || matches!(key, "dead-letter-exchange" | "dead-letter-routing-key" | "dead-letter-strategy" | "alternate-exchange")
}

fn without_effect(key: &str) -> bool {
    WITHOUT_EFFECT.contains(&key)
}

fn natural(value: &PolicyValue) -> Result<u64, String> {
    match value {
        PolicyValue::Int(number) => u64::try_from(*number).map_err(|_| format!("{number} is less than 0")),
        _ => Err("not a whole number".to_owned()),
    }
}

fn milliseconds(value: &PolicyValue, least: u64) -> Result<u64, String> {
    match natural(value)? {
        number if number < least => Err(format!("{number} is less than {least}")),
        number if number > MILLISECONDS_MAX => Err(format!("{number} is more than {MILLISECONDS_MAX}")),
        number => Ok(number),
    }
}

fn text(value: &PolicyValue) -> Result<Arc<str>, String> {
    match value {
        PolicyValue::Text(text) if text.len() <= TEXT_MAX => Ok(text.as_str().into()),
        PolicyValue::Text(_) => Err(format!("longer than {TEXT_MAX} bytes")),
        _ => Err("not a text".to_owned()),
    }
}

fn count(value: &PolicyValue, depth: usize, values: &mut usize) -> Result<(), String> {
    *values += 1;
    if depth > 4 || *values > VALUES_MAX {
        return Err("too large a definition".to_owned());
    }
    match value {
        PolicyValue::List(list) => list.iter().try_for_each(|value| count(value, depth + 1, values)),
        PolicyValue::Text(text) if text.len() > 4096 => Err("too long a text".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: PolicyKind, pairs: &[(&str, PolicyValue)]) -> Result<Settings, String> {
        Settings::read(kind, &pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    #[test]
    fn definitions_are_checked_and_what_has_no_effect_is_let_through() {
        use PolicyValue::{Int, List, Text};
        let text = |text: &str| Text(text.to_owned());
        let all = [
            ("message-ttl", Int(0)),
            ("expires", Int(1)),
            ("max-length", Int(0)),
            ("delivery-limit", Int(-1)),
            ("overflow", text("reject-publish")),
            ("dead-letter-exchange", text("")),
            ("redelivery-limit", Int(5)),
            ("redelivery-delay", Int(100)),
            ("ha-mode", text("nodes")),
            ("ha-params", List(vec![text("a@b")])),
        ];
        let settings = read(PolicyKind::User, &all).unwrap();
        assert_eq!((settings.message_ttl_ms, settings.expires_ms, settings.max_length), (Some(0), Some(1), Some(0)));
        assert_eq!((settings.delivery_limit, settings.overflow), (None, Some(Overflow::RejectPublish)));
        assert_eq!(settings.dead_letter_exchange.as_deref(), Some(""));
        let refused = |pairs: &[(&str, PolicyValue)]| read(PolicyKind::User, pairs).unwrap_err();
        assert_eq!(refused(&[]), "the definition is empty");
        assert_eq!(refused(&[("expires", Int(0))]), "expires: 0 is less than 1");
        assert_eq!(refused(&[("max-length", Int(-2))]), "max-length: -2 is less than 0");
        assert_eq!(refused(&[("message-ttl", Int(1 << 32))]), "message-ttl: 4294967296 is more than 4294967295");
        assert_eq!(refused(&[("max-length", text("5"))]), "max-length: not a whole number");
        assert_eq!(refused(&[("overflow", text("x"))]), "overflow: 'x' is none of drop-head, reject-publish, reject-publish-dlx");
        assert_eq!(refused(&[("max-lenght", Int(1))]), "max-lenght: not a policy setting that is known");
        assert_eq!(refused(&[("redelivery-delay-multiplier", Int(0))]), "redelivery-delay-multiplier: not from 1 to 1000");
        assert_eq!(refused(&[("redelivery-delay-max", Int(5))]), "redelivery-delay-max: without redelivery-delay");
        assert!(read(PolicyKind::User, &[("redelivery-delay", Int(0))]).unwrap().backoff().is_none());
        assert_eq!(refused(&[("ha-params", List(vec![Int(1); 2000]))]), "ha-params: too large a definition");
        let operator = read(PolicyKind::Operator, &[("dead-letter-exchange", text("x"))]).unwrap_err();
        assert_eq!(operator, "dead-letter-exchange: not a setting of operator policies");
        assert!(read(PolicyKind::Operator, &[("max-length", Int(5)), ("queue-version", Int(2))]).is_ok());
        assert!(
            all.iter().all(|(key, _)| known_policy_setting(key))
                && !policy_setting_acts("ha-mode")
                && policy_setting_acts("max-length")
                && !known_policy_setting("max-lenght")
        );
    }
}
