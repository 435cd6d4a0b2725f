//! Retained messages that expire are removed when their time comes, not only passed over when somebody asks.

use crate::core::Shared;
use crate::routing::Name;
use crate::store::push_retain;
use crate::vhost::Vhost;
use broker_api::{Batch, Span};
use journal::{Filled, Records};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// How often one looks; an expiry is at most so late.
pub(crate) const LOOK_MS: u64 = 1000;
/// Messages that one look removes.
const AT_ONCE: usize = 1024;

/// By expiry. A value that was replaced meanwhile is found to be gone.
#[derive(Default)]
pub(crate) struct Expiring(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    due: BTreeMap<(u64, u64), Weak<Batch>>,
    next: u64,
    /// Values that are gone are looked for when there are so many entries.
    prune_at: usize,
}

impl Expiring {
    /// Notes a message that was just retained, if it expires.
    pub fn note(&self, message: &Arc<Batch>) {
        let Some(head) = message.heads.first().filter(|head| head.expires_ms != 0) else { return };
        let mut entries = self.0.lock();
        if entries.due.len() >= entries.prune_at.max(64) {
            entries.due.retain(|_, message| message.strong_count() > 0);
            entries.prune_at = 2 * entries.due.len();
        }
        let n = entries.next;
        entries.next += 1;
        entries.due.insert((head.expires_ms, n), Arc::downgrade(message));
    }

    fn take(&self, now_ms: u64) -> Vec<Arc<Batch>> {
        let mut entries = self.0.lock();
        let mut found = Vec::new();
        while found.len() < AT_ONCE && entries.due.first_key_value().is_some_and(|((at, _), _)| *at <= now_ms) {
            found.extend(entries.due.pop_first().and_then(|(_, message)| message.upgrade()));
        }
        found
    }
}

impl Shared {
    /// Removes what has expired. Answers whether there may be more.
    pub fn expire_retained(&self) -> bool {
        let vhosts: Vec<Arc<Vhost>> = self.vhosts.iter().map(|v| v.clone()).collect();
        let mut more = false;
        for vhost in vhosts {
            let due = vhost.expiring.take(self.now_ms());
            more |= due.len() == AT_ONCE;
            for message in due {
                self.remove_retained(&vhost, &message);
            }
        }
        more
    }

    fn remove_retained(&self, vhost: &Arc<Vhost>, message: &Arc<Batch>) {
        let Some(head) = message.heads.first() else { return };
        let key = message.key(head);
        let Ok(name) = Name::parse(crate::route::syntax(head.separator), key) else { return };
        let _order = vhost.stripe(key).lock();
        let slot = self.log.reserve();
        let Some(removed) = vhost.retained.remove_if(&name, |value| Arc::ptr_eq(&value.message, message)) else { return };
        if removed.durable {
            let mut records = Records::new();
            let mut gone = *head;
            gone.body = Span::EMPTY;
            push_retain(&mut records, vhost.id, message, &gone);
            slot.fill(Filled { records, ..Filled::default() });
        }
    }
}
