//! From the policies of a virtual host to what holds for each queue and exchange in it.

use super::{PolicyKind, Rules, Thing};
use crate::core::Shared;
use crate::exchange::Exchange;
use crate::queue::{Follow, Queue};
use crate::timers::Timer;
use crate::vhost::Vhost;
use broker_api::{ExchangeName, QueueId, Signal};
use std::sync::Arc;

impl Shared {
    /// The policies of a virtual host have changed: by the timer's thread, over all that is in it.
    pub fn policies_changed(&self, vhost: u32) {
        let Some(vhost) = self.vhost_by_id(vhost) else { return };
        let queues: Vec<Arc<Queue>> = vhost.queues.iter().map(|queue| queue.clone()).collect();
        queues.iter().for_each(|queue| self.rule(&vhost, queue));
        let exchanges: Vec<Arc<Exchange>> = vhost.exchanges.iter().map(|exchange| exchange.clone()).collect();
        exchanges.iter().for_each(|exchange| rule_exchange(&vhost, exchange));
    }

    /// Works out what holds for a queue that others can find by now: a policy that comes later finds it too.
    pub fn rule(&self, vhost: &Vhost, queue: &Arc<Queue>) {
        if queue.is_share() {
            return;
        }
        let expires_before = {
            let mut state = queue.lock();
            // Read under the queue's lock, so that of two who do this the later has the newer.
            let policies = vhost.policies.read().clone();
            if policies.is_empty() && !state.rules.is_by_policy() {
                return;
            }
            let arguments = self.arguments(queue.spec.format, &queue.spec.arguments);
            let rules = Rules::with(&queue.spec, queue.name.as_str(), &arguments, &policies);
            if *state.rules == rules {
                return;
            }
            let before = std::mem::replace(&mut state.rules, rules.shared());
            let ms = state.rules.consumer_timeout_ms;
            for consumer in state.consumers.iter().filter(|c| c.active && ms != before.consumer_timeout_ms) {
                consumer.outbox.signal(Signal::SettleWithin { consumer: consumer.to, ms });
            }
            state.wants_trim |= state.is_over();
            self.arm(queue, &mut state);
            before.expires_ms
        };
        if queue.rules().expires_ms != expires_before {
            self.watch_expiry(queue);
        }
    }

    /// A bound was lowered: takes out what is too much, a batch at a time, so that others get at the queue in between.
    pub fn trim(&self, id: u64) {
        let Some(queue) = self.queue(QueueId(id)) else { return };
        let mut follow = Follow::default();
        let more = queue.trim_to_bound(&self.log, &mut follow);
        self.checkpoint.queue(&queue);
        self.follow_up(follow);
        if more {
            self.timers.add(self.now_ms(), Timer::Trim { queue: id });
        }
    }
}

/// An exchange that others can find by now.
pub(crate) fn rule_exchange(vhost: &Vhost, exchange: &Exchange) {
    let mut alternate = exchange.alternate_by_policy.write();
    let policies = vhost.policies.read().clone();
    let known = policies.find(PolicyKind::User, Thing::Exchange, exchange.name.as_str());
    let wanted = known.and_then(|known| known.settings.alternate.as_deref()).map(ExchangeName::new);
    if *alternate != wanted {
        *alternate = wanted;
        drop(alternate);
        // Routes that were remembered through it are no longer right.
        exchange.bump_all();
    }
}
