//! What was given back and may not be had again before its time (`redelivery-delay`).
//!
//! It stays where it stands, leased to nobody's name, so that whoever comes passes it by; a timer gives it back. The attempts, by which the
//! time grows, are in the log and the time is not: after a restart it begins anew when the message is met.

use super::{Entry, Follow, Queue, State, Status};
use crate::policy::{Backoff, Rules};
use crate::store::Log;
use broker_api::Seq;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Of an entry's flags: it has waited for the attempt that comes. Says nothing outside the queue.
pub(crate) const RESTED: u8 = 64;
/// No owner has this id.
const NOBODY: u64 = u64::MAX;
/// Messages that one look wakes: the queue's lock is held meanwhile.
const WAKE_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct Resting {
    /// By broker time, in ms.
    until: BTreeSet<(u64, Seq)>,
    bytes: u64,
    /// What the timer is set for; 0: it is not.
    alarm_ms: u64,
}

impl Backoff {
    /// How long after so many attempts.
    fn after_ms(&self, attempts: u16) -> u64 {
        let factor = u64::from(self.multiplier).saturating_pow(u32::from(attempts).saturating_sub(1));
        u64::from(self.delay_ms).saturating_mul(factor).min(u64::from(self.max_ms))
    }
}

impl State {
    /// Messages and bytes that count for the bound though nobody may have them yet: else there would be none for what is given back.
    pub(super) fn resting(&self) -> (u64, u64) {
        self.resting.as_ref().map_or((0, 0), |resting| (resting.until.len() as u64, resting.bytes))
    }

    /// One that is leased, and has been tried so often by now, rests where its queue asks for that.
    pub(super) fn rest(&mut self, queue: &Arc<Queue>, seq: Seq, attempts: u16, log: &Log, follow: &mut Follow) -> bool {
        let Some(backoff) = self.rules.backoff else { return false };
        let State { lanes, held_bytes, .. } = self;
        let Some(lane) = lanes.get_mut(seq.lane()) else { return false };
        let Some(entry) = lane.get_mut(seq.position()).filter(|entry| entry.status == Status::Leased) else { return false };
        let until = log.now_ms() + backoff.after_ms(attempts);
        entry.attempts = attempts;
        entry.owner = NOBODY;
        entry.flags &= !RESTED;
        entry.forget_body(log.committed_lsn(), held_bytes);
        let bytes = entry.bytes;
        lane.touch(seq.position());
        let resting = self.resting.get_or_insert_default();
        resting.until.insert((until, seq));
        resting.bytes += u64::from(bytes);
        if resting.alarm_ms == 0 || until < resting.alarm_ms {
            resting.alarm_ms = until;
            follow.resting.push((queue.clone(), until));
        }
        true
    }

    /// One that is ready rests first, see [`Entry::is_to_rest`].
    #[cold]
    pub(super) fn rest_again(&mut self, queue: &Arc<Queue>, seq: Seq, log: &Log, follow: &mut Follow) {
        let Some(entry) = self.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position())) else { return };
        entry.status = Status::Leased;
        let (bytes, attempts) = (entry.bytes, entry.attempts);
        self.taken(seq.lane(), seq.position(), bytes);
        self.rest(queue, seq, attempts, log, follow);
    }
}

impl Entry {
    /// One that was tried has not waited since: a restart came between.
    pub(super) fn is_to_rest(&self, rules: &Rules) -> bool {
        rules.backoff.is_some() && self.flags & RESTED == 0
    }
}

impl Queue {
    /// Those whose time has come are ready again, so many at a time. Answers when to look next.
    pub fn wake_rested(&self, now_ms: u64) -> Option<u64> {
        let mut state = self.lock();
        for _ in 0..WAKE_MAX {
            let resting = state.resting.as_mut()?;
            let Some((until, seq)) = resting.until.first().copied().filter(|(until, _)| *until <= now_ms) else { break };
            resting.until.remove(&(until, seq));
            let Some(entry) = state.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position())) else { continue };
            entry.flags |= RESTED;
            let bytes = u64::from(entry.bytes);
            if let Some(resting) = &mut state.resting {
                resting.bytes = resting.bytes.saturating_sub(bytes);
            }
            state.return_one(seq.lane(), seq.position(), NOBODY, false);
        }
        let resting = state.resting.as_mut()?;
        resting.alarm_ms = resting.until.first().map_or(0, |(until, _)| *until);
        let next = resting.alarm_ms;
        if next == 0 {
            state.resting = None;
        }
        (next != 0).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_longer_up_to_the_longest() {
        let waits = |delay_ms, multiplier, max_ms| {
            let backoff = Backoff { delay_ms, multiplier, max_ms };
            [1, 2, 3, 4, u16::MAX].map(|attempts| backoff.after_ms(attempts))
        };
        assert_eq!(waits(100, 2, 500), [100, 200, 400, 500, 500]);
        assert_eq!(waits(100, 1, u32::MAX), [100; 5]);
        assert_eq!(waits(100, 10, 50), [50; 5]);
    }
}
