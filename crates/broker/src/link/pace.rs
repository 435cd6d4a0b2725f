//! Taking turns: a connection that gives many commands at once has a few of them done, and the rest after others had their turn.
//!
//! A command costs far more than its bytes, and a worker thread serves many connections. When a thousand clients subscribe to a hundred
//! filters each, whoever only passes messages on waits for one slice of each, not for all of them.

use super::{HeldTurn, Link};
use crate::outbox::Work;
use broker_api::{Batch, Control, Entry, Signal, StateEdit, TxIx};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Commands of one go, at most, and at least however many connections wait for their next.
const COMMANDS_MAX: usize = 16;
const COMMANDS_MIN: usize = 2;
/// Commands that all waiting connections together do in one round of the run queue, as long as that leaves each the least.
const COMMANDS_ROUND: usize = 256;
/// Events that wait for the end of a turn in slices.
const ANSWERS_MAX: usize = 256;

impl Link {
    pub(super) fn slice(&self) -> usize {
        match self.open {
            true => (COMMANDS_ROUND / (1 + self.core.yielding.load(Ordering::Relaxed))).clamp(COMMANDS_MIN, COMMANDS_MAX),
            // The last words are not put off: nobody would come back for them.
            false => usize::MAX,
        }
    }

    /// What comes next waits until the connection's task is run again.
    pub(super) fn put_off(&mut self, batch: Option<Arc<Batch>>, entries: Vec<Entry>, states: Vec<StateEdit>) {
        let turn = HeldTurn::new(batch, entries, states);
        self.held_bytes += turn.bytes;
        self.held.push_front(turn);
        if !std::mem::replace(&mut self.yielding, true) {
            self.core.yielding.fetch_add(1, Ordering::Relaxed);
        }
        if !std::mem::replace(&mut self.resume_asked, true) {
            self.outbox.work(Work::Resume);
        }
    }

    /// The scope that a turn which has just been processed, or put off in part, ends with.
    pub(super) fn scope_at_the_end(&self) -> Option<TxIx> {
        let cut = self.cut.as_ref().map_or(&[][..], |cut| &cut.entries);
        let put_off = self.held.front().map_or(cut, |turn| &turn.entries);
        let last = put_off.iter().rev().find_map(|entry| if let Entry::Scope(scope) = entry { Some(*scope) } else { None });
        last.unwrap_or(self.scope)
    }

    fn stop_yielding(&mut self) {
        if std::mem::take(&mut self.yielding) {
            self.core.yielding.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The next slice of what was put off. `true`: there is more, and what the commands so far have answered can wait for the rest, so that
    /// they leave in one write.
    pub(super) fn goes_on(&mut self) -> bool {
        if !self.yielding {
            return false;
        }
        self.resume();
        self.yielding && self.resume_asked && self.outbox.events() < ANSWERS_MAX
    }

    /// Publishes have to wait: for the disk or for memory, and hear so, or for some milliseconds until the spiller has caught up.
    pub(super) fn block(&mut self) {
        let told = self.core.memory.is_full() || self.core.log.holds_publishers();
        if told && !std::mem::replace(&mut self.blocked, true) {
            self.outbox.signal(Signal::Blocked(self.why_held()));
        }
        self.wait_at_gate();
    }

    /// Goes on with what was put off or held.
    pub(super) fn resume(&mut self) {
        self.stop_yielding();
        // The rest of a turn behind a fan-out may be put off again.
        if !self.after_fan_out() || self.yielding {
            return;
        }
        while let Some(turn) = self.held.pop_front() {
            if !self.may_publish_now(turn.batch.as_deref(), &turn.entries) {
                self.held.push_front(turn);
                return self.block();
            }
            self.held_bytes -= turn.bytes;
            self.process(turn.batch, turn.entries, turn.states);
            if !self.after_fan_out() || self.yielding {
                return;
            }
        }
        // Whoever waited at the gate twice is called twice.
        if std::mem::take(&mut self.blocked) {
            self.outbox.signal(Signal::Unblocked);
        }
    }

    /// The connection ends: what was put off is done, and what would only have waited for the spiller. Of what is held because no publishes are
    /// taken, only the ends of owners are.
    pub(super) fn finish_held(&mut self) {
        self.stop_yielding();
        self.whole = true;
        for mut turn in std::mem::take(&mut self.held) {
            if !self.has_room_for(turn.batch.as_deref(), &turn.entries) {
                turn.entries.retain(|entry| matches!(entry, Entry::Control(_, control) if matches!(**control, Control::EndOwner(_))));
            }
            self.process(turn.batch, turn.entries, turn.states);
        }
        self.held_bytes = 0;
    }
}
