//! Who takes from a queue, and in which order they are asked.

use super::{Follow, Group, Queue, State};
use crate::outbox::Outbox;
use crate::selector::Selector;
use crate::store::Log;
use broker_api::{ConsumerIx, Side, Signal, Views};
use std::sync::Arc;

pub(crate) struct Consumer {
    pub outbox: Arc<Outbox>,
    pub to: ConsumerIx,
    /// Who may settle what this consumer was handed.
    pub owner: u64,
    pub group: Option<Arc<Group>>,
    /// `u32::MAX` = only the group bounds it.
    pub credit: u32,
    /// What it takes is settled as it leaves.
    pub settled: bool,
    /// Deliveries are granted at most this level.
    pub level: u8,
    /// What its subscription adds to each delivery: identifiers, and flags. Members of a share differ in these.
    pub side: Option<Arc<Side>>,
    pub flags: u8,
    pub active: bool,
    pub priority: i32,
    /// Nobody else may consume while it does.
    pub exclusive: bool,
    /// While it is there nobody else is served.
    pub alone: bool,
    /// It has a selector, or only looks: which scan of the queue it takes from.
    pub scan: Option<u32>,
}

impl Consumer {
    pub(super) fn is(&self, outbox: u64, to: ConsumerIx) -> bool {
        self.outbox.id == outbox && self.to == to
    }
}

impl Queue {
    pub fn add_consumer(&self, consumer: Consumer) {
        let mut state = self.lock();
        state.consumers.reserve_exact(1);
        self.seat(&mut state, consumer);
    }

    /// `false`: there is an exclusive consumer, or this one wants to be alone and is not.
    pub fn try_consumer(&self, mut consumer: Consumer, selector: Option<Arc<Selector>>, views: &Views) -> bool {
        let mut state = self.lock();
        let taken = match consumer.exclusive {
            // Where only one of several is served, one that refuses the others makes no sense: RabbitMQ refuses it.
            true => !state.consumers.is_empty() || self.spec.single_active_consumer,
            false => state.consumers.iter().any(|c| c.exclusive),
        };
        if taken || state.deleted {
            return false;
        }
        consumer.scan = selector.map(|selector| state.scan(Some(selector), views, false));
        self.seat(&mut state, consumer);
        true
    }

    /// Higher priority first, among equals in the order of coming. Where only one is served it stands first and stays there until it goes,
    /// whoever comes (RabbitMQ 3.13; a switch to a later one of higher priority is 4.0's). Those that are to be alone come before all others.
    fn seat(&self, state: &mut State, consumer: Consumer) {
        let stays = usize::from(self.spec.single_active_consumer && !state.consumers.is_empty());
        let alone = state.consumers.iter().take_while(|c| c.alone).count();
        if consumer.alone {
            // What was others' is this one's now.
            state.end_groups();
            let after = state.consumers[stays.min(alone)..alone].partition_point(|c| c.priority >= consumer.priority);
            return state.consumers.insert(if alone < stays { stays } else { stays + after }, consumer);
        }
        let stays = stays.max(alone);
        let after = state.consumers[stays..].partition_point(|c| c.priority >= consumer.priority);
        state.consumers.insert(stays + after, consumer);
    }

    /// Removes consumers of a connection (all of them for `None`); answers whether that left something for others.
    pub fn remove_consumer(&self, outbox: u64, to: Option<ConsumerIx>) -> bool {
        let mut state = self.lock();
        let goes = |c: &Consumer| c.outbox.id == outbox && to.is_none_or(|to| c.to == to);
        let first_goes = state.consumers.first().is_some_and(goes);
        state.consumers.retain(|c| !goes(c));
        state.browsers.retain(|c| !goes(c));
        state.drop_scans();
        let freed = state.free_groups();
        if first_goes {
            self.say_active(&state);
        }
        freed
    }

    /// It is handed nothing more, and stays until it is removed: what is only its to have waits. Answers whether it has groups.
    pub fn silence_consumer(&self, outbox: u64, to: ConsumerIx) -> bool {
        let mut state = self.lock();
        let State { consumers, browsers, .. } = &mut *state;
        if let Some(consumer) = consumers.iter_mut().chain(browsers).find(|c| c.is(outbox, to)) {
            consumer.active = false;
        }
        state.has_groups(outbox, to)
    }

    /// Has this connection a consumer here?
    pub fn is_consumed_by(&self, outbox: u64) -> bool {
        self.lock().consumers.iter().any(|c| c.outbox.id == outbox)
    }

    /// Tells the one consumer that is served that it is the one. One whose command is not answered yet hears it after that.
    fn say_active(&self, state: &State) {
        if !self.spec.single_active_consumer {
            return;
        }
        if let Some(first) = state.consumers.first().filter(|c| c.active) {
            first.outbox.signal(Signal::Active { consumer: first.to });
        }
    }

    pub fn activate(self: &Arc<Queue>, outbox: u64, to: ConsumerIx, log: &Log, now: u32, follow: &mut Follow) {
        let mut state = self.lock();
        if let Some(at) = state.consumers.iter().position(|c| c.is(outbox, to)) {
            let was = std::mem::replace(&mut state.consumers[at].active, true);
            if at == 0 && !was {
                self.say_active(&state);
            }
            if let Some(ms) = state.rules.consumer_timeout_ms {
                state.consumers[at].outbox.signal(Signal::SettleWithin { consumer: to, ms: Some(ms) });
            }
        }
        if let Some(at) = Queue::is_browser(&state, outbox, to) {
            state.browsers[at].active = true;
        }
        self.pump_locked(&mut state, log, now, follow);
    }

    pub fn credit(self: &Arc<Queue>, outbox: u64, to: ConsumerIx, add: u32, log: &Log, now: u32, follow: &mut Follow) {
        let mut state = self.lock();
        let State { consumers, browsers, .. } = &mut *state;
        if let Some(consumer) = consumers.iter_mut().chain(browsers).find(|c| c.is(outbox, to)) {
            consumer.credit = consumer.credit.saturating_add(add);
        }
        self.pump_locked(&mut state, log, now, follow);
    }
}
