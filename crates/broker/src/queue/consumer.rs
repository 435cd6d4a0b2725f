//! Who takes from a queue, and in which order they are asked.

use super::{Follow, Group, Queue};
use crate::outbox::Outbox;
use crate::store::Log;
use broker_api::{ConsumerIx, Side};
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
        state.consumers.push(consumer);
        // Higher priority first; the rotation only goes round among equals.
        state.consumers.sort_by_key(|c| -c.priority);
    }

    /// `false`: there is an exclusive consumer, or this one wants to be alone and is not.
    pub fn try_consumer(&self, consumer: Consumer) -> bool {
        let mut state = self.lock();
        let taken = if consumer.exclusive { !state.consumers.is_empty() } else { state.consumers.iter().any(|c| c.exclusive) };
        if taken || state.deleted {
            return false;
        }
        state.consumers.push(consumer);
        // The first to come stays active where only one may be; elsewhere higher priority goes first.
        if !self.spec.single_active_consumer {
            state.consumers.sort_by_key(|c| -c.priority);
        }
        true
    }

    /// Removes consumers of a connection (all of them for `None`); answers whether one went.
    pub fn remove_consumer(&self, outbox: u64, to: Option<ConsumerIx>) -> bool {
        let mut state = self.lock();
        let before = state.consumers.len();
        state.consumers.retain(|c| !(c.outbox.id == outbox && to.is_none_or(|to| c.to == to)));
        before != state.consumers.len()
    }

    pub fn activate(self: &Arc<Queue>, outbox: u64, to: ConsumerIx, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut state = self.lock();
        if let Some(consumer) = state.consumers.iter_mut().find(|c| c.is(outbox, to)) {
            consumer.active = true;
        }
        self.pump_locked(&mut state, log, now_s, follow);
    }

    pub fn credit(self: &Arc<Queue>, outbox: u64, to: ConsumerIx, add: u32, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut state = self.lock();
        if let Some(consumer) = state.consumers.iter_mut().find(|c| c.is(outbox, to)) {
            consumer.credit = consumer.credit.saturating_add(add);
        }
        self.pump_locked(&mut state, log, now_s, follow);
    }
}
