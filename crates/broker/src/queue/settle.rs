//! Out of the queue: settled, given back, purged, ended; and leases that a session takes up again.

use super::{Consumer, Entry, Fill, Follow, Gone, Queue, State, Status};
use crate::store::Log;
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
            Status::Leased => state.leased -= 1,
            Status::Moving => state.moving -= 1,
            Status::Gone => {}
        }
        if entry.status != Status::Moving {
            state.bytes -= u64::from(entry.bytes);
        }
        if entry.held.is_some() {
            state.held_bytes = state.held_bytes.saturating_sub(u64::from(entry.bytes));
        }
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
    /// credit, though it may have none yet.
    pub fn resume(self: &Arc<Queue>, to: &Consumer, log: &Log) -> Vec<Seq> {
        let mut state = self.lock();
        let mine: Vec<Seq> = state.leased_to(to.owner).collect();
        let mut unread = Vec::new();
        for seq in mine {
            let Some(entry) = state.lanes.get_mut(seq.lane()).and_then(|l| l.get_mut(seq.position())) else { continue };
            let mut read = 0;
            if entry.held.is_none() {
                let lsn = entry.known_lsn();
                match log.read_one(lsn) {
                    Ok(held) => {
                        entry.held = Some(held);
                        entry.head = 0;
                        read = u64::from(entry.bytes);
                    }
                    Err(error) => {
                        tracing::error!(queue = %self.name, lsn, %error, "a message in flight cannot be read back");
                        unread.push(seq);
                        continue;
                    }
                }
            }
            let Some(held) = entry.held.clone() else { continue };
            let delivery = Delivery {
                seq,
                index: entry.head,
                side: entry.side.clone().or_else(|| to.side.clone()),
                attempts: entry.attempts,
                level: entry.level.min(to.level),
                flags: entry.flags | to.flags | DELIVERY_RESUMED | DELIVERY_REDELIVERED,
            };
            state.held_bytes += read;
            if let Some(group) = &to.group {
                group.spend(1);
            }
            to.outbox.run(DeliverTo::Consumer(to.to), self.id, &held.batch, std::iter::once(delivery));
        }
        unread
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
    /// ever made here has a lower ticket; the caller fills it with the record that ends the queue.
    pub fn end(self: &Arc<Queue>, log: &Log) -> (u64, Fill) {
        let mut gone = Fill::new(self.id, Gone::Purged);
        let mut state = self.lock();
        state.deleted = true;
        self.read_all(&mut state, log);
        let n = self.take_all(&mut state, |_| true, &mut gone);
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
