//! A run of entries between control commands: publish, settle, credit, then one completion for all of it.

use super::publish::Staged;
use super::{Link, Owner};
use crate::dead_letter::How;
use crate::queue::{Fill, Follow, Gone, Modified, Queue};
use crate::session::{Live, SessionState};
use crate::store::{edits_record, requeue_record, settle_filled};
use broker_api::{Batch, Credit, CreditTo, Outcome, Serial, Settle, StateEdit};
use journal::{Filled, Records, Slot, Ticket};
use std::sync::Arc;

/// Moves to dead-letter exchanges that a turn does itself, before its completion; more are done after it.
const MOVES_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Segment {
    /// (first head, count, serial of the first)
    pub publishes: Vec<(u32, u32, Serial)>,
    /// With the serial behind which each stands.
    pub settles: Vec<(u64, Settle)>,
    pub credits: Vec<Credit>,
    /// Edits with records of their own, by index.
    pub states: Vec<u32>,
    pub fenced: bool,
    /// Publishes before these asked for a confirm.
    pub owes: bool,
}

impl Segment {
    fn is_empty(&self) -> bool {
        self.publishes.is_empty()
            && self.settles.is_empty()
            && self.credits.is_empty()
            && self.states.is_empty()
            && !self.fenced
            && !self.owes
    }
}

/// Slots to fill when everything of the segment stands in memory.
#[derive(Default)]
pub(super) struct Fills {
    pub slots: Vec<(Slot, Filled)>,
}

impl Fills {
    pub fn push(&mut self, slot: Slot, filled: Filled) {
        self.slots.push((slot, filled));
    }

    pub fn settle(&mut self, fill: Fill, edits: &[(u64, &StateEdit)]) {
        if let Some((slot, filled)) = settle_filled(fill, edits) {
            self.push(slot, filled);
        }
    }

    /// The highest ticket among them.
    fn last(&self) -> Option<usize> {
        (0..self.slots.len()).max_by_key(|i| self.slots[*i].0.ticket())
    }
}

impl Link {
    /// `true`: a fan-out is under way, and what is left in the segment comes after it.
    pub(super) fn run(&mut self, segment: &mut Segment, batch: Option<&Arc<Batch>>, states: &mut [StateEdit]) -> bool {
        if segment.is_empty() {
            return false;
        }
        let mut fills = Fills::default();
        let mut follow = Follow::default();
        let mut confirm = segment.fenced | segment.owes;
        if let Some(batch) = batch {
            if !segment.publishes.is_empty() {
                let staged = self.publish(batch, &segment.publishes, states, &mut fills, &mut follow);
                let Staged { wants_confirm, rest } = staged;
                if let Some(rest) = rest {
                    segment.publishes = rest;
                    segment.owes |= wants_confirm;
                    self.finish(fills, false);
                    self.core.follow_up(follow);
                    return true;
                }
                confirm |= wants_confirm;
            }
        }
        self.bare_states(segment, states, &mut fills);
        for (after, settle) in segment.settles.drain(..) {
            if !self.is_stopped(settle.owner, after) {
                self.settle(&settle, states, &mut fills, &mut follow);
            }
        }
        for credit in segment.credits.drain(..) {
            self.credit(credit, &mut follow);
        }
        // A move belongs to what caused it: the completion waits for its record too.
        let mut moves = 0;
        while !follow.leaving.is_empty() && moves < MOVES_MAX {
            for leaving in std::mem::take(&mut follow.leaving) {
                self.core.dead_letter(leaving, &mut follow, &mut How::Own(&mut |slot, filled| fills.push(slot, filled)));
                moves += 1;
            }
        }
        self.finish(fills, confirm);
        self.core.follow_up(follow);
        segment.publishes.clear();
        segment.states.clear();
        segment.fenced = false;
        segment.owes = false;
        false
    }

    /// Leaves the completion in the outbox and fills the slots, the last of which calls it back.
    pub(super) fn finish(&mut self, mut fills: Fills, confirm: bool) {
        let last = fills.last();
        let ticket = match last {
            Some(at) => Some(fills.slots[at].0.ticket()),
            None => self.last_ticket.filter(|t| *t >= self.core.log.committed_next()),
        };
        if let Some(at) = last {
            self.last_ticket = Some(fills.slots[at].0.ticket());
        }
        if confirm {
            let serial = Serial(self.serial);
            match (ticket, last) {
                (Some(ticket), Some(at)) => {
                    self.outbox.done_at(Some(ticket), serial);
                    fills.slots[at].1.done = Some((self.outbox.clone(), ticket.0));
                }
                // What came before on this connection is not committed yet: an empty slot behind it says when it is.
                (Some(_), None) => {
                    let slot = self.core.log.reserve();
                    let ticket = slot.ticket();
                    self.outbox.done_at(Some(ticket), serial);
                    slot.fill(Filled { done: Some((self.outbox.clone(), ticket.0)), ..Filled::default() });
                    self.last_ticket = Some(ticket);
                }
                (None, _) => self.outbox.done_at(None, serial),
            }
        }
        for (slot, filled) in fills.slots {
            slot.fill(filled);
        }
    }

    /// Fills one slot whose commit `then` waits for. Answers its ticket.
    pub(super) fn fill_with_callback(&mut self, slot: Slot, records: Records) -> Ticket {
        let ticket = slot.ticket();
        self.last_ticket = Some(ticket);
        slot.fill(Filled { records, done: Some((self.outbox.clone(), ticket.0)), ..Filled::default() });
        ticket
    }

    fn bare_states(&mut self, segment: &Segment, states: &[StateEdit], fills: &mut Fills) {
        if segment.states.is_empty() {
            return;
        }
        // Reserved before anything changes in memory; a void slot costs next to nothing.
        let slot = self.core.log.reserve();
        let mut logged: Vec<(u64, &StateEdit)> = Vec::new();
        for index in &segment.states {
            let Some(edit) = states.get(*index as usize) else { continue };
            let Some(session) = self.editable(edit) else { continue };
            if session.is_durable() {
                logged.push((session.id, edit));
            }
            session.state.lock().apply(edit);
            self.core.checkpoint.session(&session);
        }
        if !logged.is_empty() {
            fills.push(slot, Filled { records: edits_record(&logged), ..Filled::default() });
        }
    }

    /// The session that an edit is for, if this connection may still edit it: while attached, and once more after it was superseded.
    pub(super) fn editable(&self, edit: &StateEdit) -> Option<Arc<crate::session::Session>> {
        let Owner::Session { session, live } = self.owner(edit.owner)? else { return None };
        let may = may_edit(&session.state.lock(), live, edit);
        may.then(|| session.clone())
    }

    /// Makes an edit if this connection may: both under one lock, so that no takeover comes between.
    pub(super) fn claim(&self, edit: &StateEdit) -> Option<Arc<crate::session::Session>> {
        let Owner::Session { session, live } = self.owner(edit.owner)? else { return None };
        let mut state = session.state.lock();
        if !may_edit(&state, live, edit) {
            return None;
        }
        state.apply(edit);
        drop(state);
        self.core.checkpoint.session(session);
        Some(session.clone())
    }

    fn settle(&mut self, settle: &Settle, states: &[StateEdit], fills: &mut Fills, follow: &mut Follow) {
        let Some(owner) = self.lease_owner(settle.owner) else { return };
        let edit = settle.state.checked_sub(1).and_then(|i| states.get(i as usize));
        let session = edit.and_then(|edit| self.editable(edit));
        let edits: Vec<(u64, &StateEdit)> = match (&session, edit) {
            (Some(session), Some(edit)) if session.is_durable() => vec![(session.id, edit)],
            _ => Vec::new(),
        };
        // An edit is made once a slot behind it is reserved, whichever slot that turns out to be.
        let make_edit = |core: &crate::core::Shared| {
            if let (Some(session), Some(edit)) = (&session, edit) {
                session.state.lock().apply(edit);
                core.checkpoint.session(session);
            }
        };
        let Some(queue) = self.queue(settle.queue) else {
            self.edits_alone(&edits, make_edit, fills);
            return;
        };
        let why = match settle.outcome {
            Outcome::Accepted => Gone::Accepted,
            Outcome::Rejected => Gone::Rejected,
            Outcome::Released | Outcome::Modified => {
                if settle.outcome == Outcome::Modified {
                    self.modify(&queue, settle, owner, fills, follow);
                } else {
                    queue.give_back(settle.first, settle.count, owner, false);
                }
                follow.pump.push(queue);
                self.edits_alone(&edits, make_edit, fills);
                return;
            }
        };
        match queue.settle(settle.first, settle.count, owner, why, &self.core.log, follow) {
            Some(fill) if fill.slot.is_some() => {
                make_edit(&self.core);
                fills.settle(fill, &edits);
            }
            _ => self.edits_alone(&edits, make_edit, fills),
        }
        self.core.checkpoint.queue(&queue);
    }

    /// Gives back with the attempt counted; the counts are written down.
    fn modify(&self, queue: &Arc<Queue>, settle: &Settle, owner: u64, fills: &mut Fills, follow: &mut Follow) {
        let Modified { requeued, gone } = queue.modify(settle.first, settle.count, owner, &self.core.log, follow);
        if let Some((slot, counts)) = requeued {
            fills.push(slot, Filled { records: requeue_record(queue.id, &counts), ..Filled::default() });
        }
        if let Some(gone) = gone {
            fills.settle(gone, &[]);
        }
        self.core.checkpoint.queue(queue);
    }

    fn edits_alone(&self, edits: &[(u64, &StateEdit)], make: impl Fn(&crate::core::Shared), fills: &mut Fills) {
        let slot = (!edits.is_empty()).then(|| self.core.log.reserve());
        make(&self.core);
        if let Some(slot) = slot {
            fills.push(slot, Filled { records: edits_record(edits), ..Filled::default() });
        }
    }

    fn credit(&mut self, credit: Credit, follow: &mut Follow) {
        match credit.to {
            CreditTo::Group(ix) => {
                if let Some(group) = self.group(ix) {
                    follow.pump.extend(group.add(credit.add, credit.bytes));
                }
            }
            CreditTo::Consumer(ix) => {
                let now_ticks = self.core.now_ticks();
                for queue in self.queues_of(ix) {
                    queue.credit(self.outbox.id, ix, credit.add, &self.core.log, now_ticks, follow);
                }
            }
        }
    }

    pub(super) fn queues_of(&self, ix: broker_api::ConsumerIx) -> Vec<Arc<crate::queue::Queue>> {
        self.owners
            .iter()
            .flat_map(|(_, owner)| match owner {
                Owner::Local { consumers, .. } => consumers.iter().filter(|(c, _)| *c == ix).map(|(_, q)| q.clone()).collect(),
                Owner::Session { .. } => Vec::new(),
            })
            .collect()
    }
}

fn may_edit(state: &SessionState, live: &Live, edit: &StateEdit) -> bool {
    let last_words = state.waiting.is_some() && state.last_words_of == live.incarnation;
    !state.ended && (state.incarnation == live.incarnation || last_words) && (edit.value.is_none() || !state.is_full())
}
