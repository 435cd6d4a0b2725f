//! Out of the queue: settled, given back, purged, ended; and leases that a session takes up again.

use super::{Consumer, Entry, Fill, Follow, Gone, Held, Lane, Queue, State, Status, INSIDE};
use crate::store::Log;
use ahash::AHashMap;
use broker_api::{DeliverTo, Delivery, Seq, DELIVERY_REDELIVERED, DELIVERY_RESUMED};
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Queue {
    /// Removes an entry and writes it down in `gone`.
    pub(super) fn take_out(&self, state: &mut State, level: u8, position: u64, gone: &mut Fill) -> Option<Entry> {
        let lane = state.lanes.get_mut(level)?;
        let entry = lane.remove(position)?;
        match entry.status {
            Status::Ready => {
                state.ready -= 1;
                lane.returned.remove(&position);
            }
            Status::Leased => {
                state.leased -= 1;
                state.leased_bytes -= u64::from(entry.bytes);
            }
            Status::Moving => state.moving -= 1,
            Status::Gone => {}
        }
        if entry.status != Status::Moving {
            state.bytes -= u64::from(entry.bytes);
        }
        if entry.held.is_some() {
            state.held_bytes = state.held_bytes.saturating_sub(u64::from(entry.bytes));
        }
        if !entry.durable {
            state.left(&entry);
        }
        state.not_aside(level, position);
        self.depth.fetch_sub(1, Ordering::Relaxed);
        gone.add(Seq::new(level, position), &entry);
        Some(entry)
    }

    /// Settles leases of `owner`; what is not leased to it is passed over. The slot is reserved while the lock is held.
    pub fn settle(self: &Arc<Queue>, first: Seq, count: u32, owner: u64, why: Gone, log: &Log, follow: &mut Follow) -> Option<Fill> {
        let mut gone = Fill::new(self.id, why);
        let mut state = self.lock();
        for i in 0..u64::from(count) {
            let seq = first.plus(i);
            let mine = state
                .lanes
                .get_mut(seq.lane())
                .and_then(|lane| lane.get_mut(seq.position()))
                .is_some_and(|e| e.status == Status::Leased && e.owner == owner);
            if mine {
                if why == Gone::Rejected {
                    self.leave(&mut state, seq.lane(), seq.position(), why, &mut gone, follow);
                } else {
                    self.take_out(&mut state, seq.lane(), seq.position(), &mut gone);
                }
            }
        }
        if !gone.is_worth_it() {
            return None;
        }
        gone.reserve(self.durable, log);
        Some(gone)
    }

    /// Gives leases back to their original places.
    pub fn give_back(self: &Arc<Queue>, first: Seq, count: u32, owner: u64, counted: bool) -> u32 {
        let mut state = self.lock();
        let mut n = 0;
        for i in 0..u64::from(count) {
            let seq = first.plus(i);
            n += u32::from(state.return_one(seq.lane(), seq.position(), owner, counted));
        }
        n
    }

    /// Gives back everything leased to `owner`, except what `keep` says.
    pub fn give_back_all(self: &Arc<Queue>, owner: u64, keep: impl Fn(Seq) -> bool) {
        let mut state = self.lock();
        let leased: Vec<Seq> = state.leased_to(owner).filter(|seq| !keep(*seq)).collect();
        for seq in leased {
            state.return_one(seq.lane(), seq.position(), owner, false);
        }
    }

    /// Hands the leases that a durable session kept to its new consumer, oldest first, and only then anything else. They spend its
    /// credit, though it may have none yet. What only the log has is read without the lock: nobody but the session itself may change
    /// these leases, and its consumer is not active yet.
    pub fn resume(self: &Arc<Queue>, to: &Consumer, log: &Log) {
        let unread: Vec<(Seq, u64)> = {
            let mut state = self.lock();
            let mine: Vec<Seq> = state.leased_to(to.owner).collect();
            let mut lsn = |seq: &Seq| {
                let entry = state.lanes.get_mut(seq.lane())?.get_mut(seq.position())?;
                entry.held.is_none().then(|| entry.known_lsn())
            };
            mine.into_iter().filter_map(|seq| Some((seq, lsn(&seq)?))).collect()
        };
        let mut read: AHashMap<Seq, Arc<Held>> = unread.iter().filter_map(|(seq, lsn)| Some((*seq, self.fetch(*lsn, log)?))).collect();
        let mut state = self.lock();
        let mine: Vec<Seq> = state.leased_to(to.owner).collect();
        for seq in mine {
            let Some(entry) = state.lanes.get_mut(seq.lane()).and_then(|l| l.get_mut(seq.position())) else { continue };
            let mut fresh = 0;
            if let Some(held) = read.remove(&seq).filter(|_| entry.held.is_none()) {
                entry.hold(held, 0);
                fresh = u64::from(entry.bytes);
            }
            let Some(held) = entry.held.clone() else { continue };
            let delivery = Delivery {
                seq,
                index: entry.head,
                side: entry.side.clone().or_else(|| to.side.clone()),
                attempts: entry.attempts,
                level: entry.level.min(to.level),
                flags: entry.flags & !INSIDE | to.flags | DELIVERY_RESUMED | DELIVERY_REDELIVERED,
            };
            state.held_bytes += fresh;
            if let Some(group) = &to.group {
                group.spend(held.batch.heads.get(delivery.index as usize).map_or(0, |head| head.body.len));
            }
            to.outbox.run(DeliverTo::Consumer(to.to), self.id, &held.batch, std::iter::once(delivery));
        }
    }

    fn fetch(&self, lsn: u64, log: &Log) -> Option<Arc<Held>> {
        match log.read_one(lsn) {
            Ok(held) => Some(held),
            Err(error) => {
                tracing::error!(queue = %self.name, lsn, %error, "a message in flight cannot be read back");
                None
            }
        }
    }

    /// Up to where entries that are still here have been handed out, where that changed: for the log, so that after a crash they go out
    /// as redelivered.
    pub fn mark_handed(&self) -> Vec<(u8, u64)> {
        let mut state = self.lock();
        let behind = state.leased > 0 || state.lanes.iter().any(|(_, lane)| !lane.returned.is_empty());
        if !self.durable || !behind || state.deleted {
            return Vec::new();
        }
        let raise = |(level, lane): (u8, &mut Lane)| {
            let raised = lane.cursor > lane.suspect;
            lane.suspect = lane.suspect.max(lane.cursor);
            raised.then_some((level, lane.cursor))
        };
        state.lanes.iter_mut().filter_map(raise).collect()
    }

    /// Takes everything ready out.
    pub fn purge(self: &Arc<Queue>, log: &Log) -> (u64, Fill) {
        let mut gone = Fill::new(self.id, Gone::Purged);
        let mut state = self.lock();
        self.read_all(&mut state, log);
        let n = self.take_all(&mut state, |e| e.status == Status::Ready, &mut gone);
        gone.reserve(self.durable, log);
        (n, gone)
    }

    /// Takes everything out and lets nothing in any more. The slot is reserved last and under the lock, so that every reference that was
    /// ever made here has a lower ticket; the caller fills it with the record that ends the queue. Answers how many were ready.
    pub fn end(self: &Arc<Queue>, log: &Log) -> (u64, Fill) {
        let mut gone = Fill::new(self.id, Gone::Purged);
        let mut state = self.lock();
        state.deleted = true;
        self.read_all(&mut state, log);
        let n = state.ready;
        self.take_all(&mut state, |_| true, &mut gone);
        gone.slot = Some(log.reserve());
        (n, gone)
    }

    pub(super) fn take_all(&self, state: &mut State, which: impl Fn(&Entry) -> bool, gone: &mut Fill) -> u64 {
        let mut all: Vec<(u8, u64)> = Vec::new();
        for (level, lane) in state.lanes.iter() {
            all.extend(lane.iter().filter(|(_, e)| which(e)).map(|(position, _)| (level, position)));
        }
        for (level, position) in &all {
            self.take_out(state, *level, *position, gone);
        }
        all.len() as u64
    }
}
