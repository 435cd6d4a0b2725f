//! From the queue to its consumers: ready messages to those that have credit and room, turn by turn.

use super::lane::Next;
use super::{Fill, Follow, Gone, Queue, State, Status};
use crate::store::Log;
use broker_api::{Batch, DeliverTo, Delivery, Seq, DELIVERY_REDELIVERED};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// A consumer gets at most this many in a row while others wait.
const CHUNK: u32 = 64;

impl Queue {
    pub fn pump(self: &Arc<Queue>, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut state = self.lock();
        self.pump_locked(&mut state, log, now_s, follow);
    }

    /// Hands ready messages to consumers that have credit and room, turn by turn.
    pub fn pump_locked(self: &Arc<Queue>, state: &mut State, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut idle = 0;
        while state.ready > 0 && idle < state.consumers.len() {
            if state.turn >= state.consumers.len() {
                state.turn = 0;
            }
            let at = state.turn;
            state.turn += 1;
            let consumer = &mut state.consumers[at];
            if !consumer.active || consumer.credit == 0 || !consumer.outbox.room_for(self) {
                idle += 1;
                continue;
            }
            let mut want = u32::try_from(state.ready).unwrap_or(u32::MAX).min(consumer.credit);
            if state.consumers.len() > 1 {
                want = want.min(CHUNK).min((state.ready / state.consumers.len() as u64).max(1) as u32);
            } else {
                want = want.min(1024);
            }
            let consumer = &mut state.consumers[at];
            let granted = match &consumer.group {
                Some(group) => group.take(want, self),
                None => want,
            };
            if granted == 0 {
                idle += 1;
                continue;
            }
            let (given, starved) = self.give(state, at, granted, log, now_s, follow);
            let consumer = &mut state.consumers[at];
            if consumer.credit != u32::MAX {
                consumer.credit -= given;
            }
            if given < granted {
                if let Some(group) = consumer.group.clone() {
                    follow.pump.extend(group.untake(granted - given));
                }
            }
            idle = if given == 0 { idle + 1 } else { 0 };
            if starved {
                break;
            }
        }
    }

    /// Takes up to `want` ready entries for one consumer. The second answer says that the next one has to be read from the log first.
    fn give(self: &Arc<Queue>, state: &mut State, at: usize, want: u32, log: &Log, now_s: u32, follow: &mut Follow) -> (u32, bool) {
        let (owner, to, settled, cap, extra) = {
            let c = &state.consumers[at];
            (c.owner, c.to, c.settled, c.level, c.flags)
        };
        let (outbox, side) = (state.consumers[at].outbox.clone(), state.consumers[at].side.clone());
        let mut run: Vec<Delivery> = Vec::with_capacity(want.min(256) as usize);
        let mut of: Option<Arc<Batch>> = None;
        let mut given = 0;
        let mut starved = false;
        let mut gone = Fill::new(self.id, Gone::Accepted);
        let mut expired = Fill::new(self.id, Gone::Expired);
        while given < want {
            let (level, position) = match state.next() {
                Some((level, Next::Ready(position))) => (level, position),
                Some((_, Next::Away(_))) => {
                    starved = true;
                    break;
                }
                _ => break,
            };
            let Some(lane) = state.lanes.get_mut(level) else { break };
            let suspect = position < lane.suspect;
            let Some(entry) = lane.get_mut(position) else { break };
            if entry.expires_s != 0 && entry.expires_s <= now_s {
                self.leave(state, level, position, Gone::Expired, &mut expired, follow);
                continue;
            }
            let Some(held) = entry.held.clone() else {
                starved = true;
                break;
            };
            if of.as_ref().is_none_or(|b| !Arc::ptr_eq(b, &held.batch)) {
                if let Some(batch) = of.replace(held.batch.clone()) {
                    outbox.run(DeliverTo::Consumer(to), self.id, &batch, run.drain(..));
                }
            }
            let mut flags = entry.flags | extra;
            if entry.attempts > 0 || suspect {
                flags |= DELIVERY_REDELIVERED;
            }
            run.push(Delivery {
                seq: Seq::new(level, position),
                index: entry.head,
                side: entry.side.clone().or_else(|| side.clone()),
                attempts: entry.attempts,
                level: entry.level.min(cap),
                flags,
            });
            entry.status = Status::Leased;
            entry.owner = owner;
            state.taken(level, position);
            if settled {
                self.take_out(state, level, position, &mut gone);
            }
            given += 1;
        }
        if let Some(batch) = of {
            outbox.run(DeliverTo::Consumer(to), self.id, &batch, run.drain(..));
        }
        for mut fill in [gone, expired] {
            if fill.is_worth_it() {
                fill.reserve(self.durable, log);
                follow.fills.push(fill);
            }
        }
        if starved && !self.loading.swap(true, Ordering::AcqRel) {
            follow.load.push(self.clone());
        }
        (given, starved)
    }
}
