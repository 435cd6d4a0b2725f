//! What a move makes of a message: its history as a dead letter, its new exchange and key, the expiry that it has now.

use crate::link::copy_out;
use crate::queue::{Gone, Queue};
use broker_api::{Batch, Death, DeathReason, Head, Moved, Side, Span, DELIVERY_DELAYED};
use std::sync::Arc;

/// What a move makes of the message.
pub(super) enum Change {
    /// It is a dead letter.
    Dead(Moved),
    /// It is due. What it was before stays.
    Due(Option<Moved>),
    /// It is due, and so is it again after so many ms, if that was not the last time.
    Again(Option<u32>),
}

impl Change {
    pub fn moved(&self) -> Option<&Moved> {
        match self {
            Change::Dead(moved) => Some(moved),
            Change::Due(before) => before.as_ref(),
            Change::Again(_) => None,
        }
    }

    /// What its references say beside the subscriptions that it matches.
    pub fn side(&self, of: Option<&Side>) -> Option<Arc<Side>> {
        let subscriptions = of.map_or_else(Vec::new, |side| side.subscriptions.clone());
        let moved = self.moved().map(|moved| Box::new(moved.clone()));
        (moved.is_some() || !subscriptions.is_empty()).then(|| Arc::new(Side { subscriptions, moved }))
    }

    pub fn flags(&self, waited: bool) -> u8 {
        match self {
            Change::Due(_) | Change::Again(_) => DELIVERY_DELAYED,
            Change::Dead(_) if waited => DELIVERY_DELAYED,
            Change::Dead(_) => 0,
        }
    }

    /// When it expires where it goes to: a dead letter has lost its own time, which begins for what was held back, unless it comes again and
    /// again: then it is when this ends.
    pub fn expires_ms(&self, head: &Head, arrived_ms: u64, now_ms: u64) -> u64 {
        match self {
            Change::Due(_) if head.expires_ms != 0 => now_ms + head.expires_ms.saturating_sub(arrived_ms),
            Change::Again(_) => head.expires_ms,
            _ => 0,
        }
    }
}

/// What this death makes of the message.
pub(super) fn moved(queue: &Queue, batch: &Batch, index: u32, before: Option<&Moved>, why: Gone, now_ms: u64) -> Moved {
    let head = &batch.heads[index as usize];
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    let (exchange, key): (Box<str>, Box<[u8]>) = match before {
        Some(before) => (before.exchange.clone(), before.key.clone()),
        None if head.topic => ("amq.topic".into(), batch.key(head).into()),
        None => (text(batch.bytes(head.exchange)), batch.key(head).into()),
    };
    let why = match why {
        Gone::Expired => DeathReason::Expired,
        Gone::Evicted => DeathReason::MaxLength,
        Gone::Limit => DeathReason::DeliveryLimit,
        Gone::Rejected | Gone::Accepted | Gone::Purged | Gone::Due => DeathReason::Rejected,
    };
    let mut deaths = before.map_or_else(Vec::new, |before| before.deaths.clone());
    let name = queue.name.as_str();
    match deaths.iter().position(|d| &*d.queue == name && d.reason == why) {
        Some(at) => {
            let mut death = deaths.remove(at);
            death.count += 1;
            deaths.insert(0, death);
        }
        None => {
            // Only the first move finds the message's own expiry: it loses it there.
            let had_ttl = before.is_none() && head.expires_ms != 0;
            let expiration_ms = had_ttl.then(|| head.expires_ms.saturating_sub(batch.arrived_ms));
            let death = Death {
                queue: name.into(),
                reason: why,
                count: 1,
                time_ms: now_ms,
                exchange: exchange.clone(),
                key: key.clone(),
                expiration_ms,
            };
            deaths.insert(0, death);
            deaths.truncate(DEATHS_MAX);
        }
    }
    let first = before.map_or_else(|| (name.into(), why, exchange.clone()), |before| before.first.clone());
    let rules = queue.rules();
    let replaced = rules.dead_letter_key.as_ref();
    Moved {
        exchange: rules.dead_letter_exchange.as_deref().unwrap_or_default().into(),
        key: replaced.map_or(key, |key| key.as_bytes().into()),
        key_replaced: replaced.is_some() || before.is_some_and(|before| before.key_replaced),
        deaths,
        first,
    }
}

/// Distinct queues and reasons that a message remembers.
const DEATHS_MAX: usize = 64;

/// RabbitMQ's rule: a message does not come back to a queue that it died in, unless a consumer rejected it on the way.
pub(super) fn is_cycle(deaths: &[Death], queue: &str) -> bool {
    let Some(at) = deaths.iter().position(|d| &*d.queue == queue) else { return false };
    deaths[..=at].iter().all(|d| d.reason != DeathReason::Rejected)
}

/// A copy of one message with its new exchange and key, and with the expiry that it has now.
pub(super) fn edited(batch: &Batch, index: u32, change: &Change, separator: u8, now_ms: u64) -> Batch {
    let mut copy = copy_out(batch, index);
    let arrived_ms = std::mem::replace(&mut copy.arrived_ms, now_ms);
    if let Some(head) = copy.heads.first_mut() {
        head.expires_ms = change.expires_ms(head, arrived_ms, now_ms);
        head.flags &= !(broker_api::HEAD_VERBATIM | broker_api::HEAD_RETAIN | broker_api::HEAD_MANDATORY | broker_api::HEAD_CONFIRM);
        head.state = 0;
        if let Change::Again(Some(again_ms)) = change {
            head.delay_ms = *again_ms;
        }
    }
    let Some(moved) = change.moved() else { return copy };
    let mut put = |bytes: &[u8]| {
        let at = copy.arena.len();
        copy.arena.extend_from_slice(bytes);
        Span::arena(at, bytes.len())
    };
    let (exchange, key) = (put(moved.exchange.as_bytes()), put(&moved.key));
    if let Some(head) = copy.heads.first_mut() {
        head.exchange = exchange;
        head.key = key;
        head.separator = separator;
        head.topic = &*moved.exchange == "amq.topic";
        if moved.key_replaced {
            head.keys = Span::EMPTY;
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(queue: &str, reason: DeathReason) -> Death {
        Death { queue: queue.into(), reason, count: 1, time_ms: 0, exchange: "".into(), key: Box::default(), expiration_ms: None }
    }

    #[test]
    fn a_cycle_ends_unless_a_consumer_rejected_on_the_way() {
        use DeathReason::{Expired, Rejected};
        assert!(!is_cycle(&[death("a", Expired)], "b"));
        assert!(is_cycle(&[death("a", Expired)], "a"));
        assert!(is_cycle(&[death("b", Expired), death("a", Expired)], "a"));
        assert!(!is_cycle(&[death("b", Rejected), death("a", Expired)], "a"));
        assert!(!is_cycle(&[death("b", Expired), death("a", Rejected)], "a"));
        // What happened before the last visit does not count.
        assert!(is_cycle(&[death("b", Expired), death("a", Expired), death("c", Rejected)], "a"));
    }
}
