//! What time brings to sessions: wills that are due, sessions that expire, take-overs whose last words did not come.

use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    Parting {
        session: u64,
        incarnation: u64,
    },
    Expiry {
        session: u64,
        incarnation: u64,
    },
    LastWords {
        session: u64,
        incarnation: u64,
    },
    /// A queue that ends when nobody uses it.
    QueueExpiry {
        queue: u64,
        /// The time it was set for, which tells it from one that a policy has replaced.
        at_ms: u64,
    },
    /// Take out what is beyond a queue's bound.
    Trim {
        queue: u64,
    },
    /// The policies of a virtual host have changed.
    Policies {
        vhost: u32,
    },
    /// Look whether publishers that wait for memory may go on.
    Memory,
    /// Remove retained messages that have expired.
    Retained,
    /// Update what the broker says of itself.
    Sys,
    /// Look for expired messages at the heads of queues whose second has come.
    Heads {
        queue: u64,
    },
    /// Try dead letters again that nothing took.
    Stuck {
        queue: u64,
    },
    /// Something that an exchange holds back is due.
    Due {
        queue: u64,
    },
}

/// Names a timer that stands on the list.
pub(crate) type TimerKey = (u64, u64);

#[derive(Default)]
struct State {
    /// By broker time in ms and order of arrival.
    due: BTreeMap<(u64, u64), Timer>,
    next: u64,
    stopped: bool,
}

/// A bound on the list comes from its makers: a session has at most three, and sessions are bounded.
#[derive(Default)]
pub(crate) struct Timers {
    state: Mutex<State>,
    changed: Condvar,
}

impl Timers {
    pub fn add(&self, at_ms: u64, timer: Timer) -> TimerKey {
        let mut state = self.state.lock();
        let n = state.next;
        state.next += 1;
        state.due.insert((at_ms, n), timer);
        if state.due.first_key_value().is_some_and(|((_, first), _)| *first == n) {
            self.changed.notify_one();
        }
        (at_ms, n)
    }

    /// Takes one off the list; it may have gone off before.
    pub fn remove(&self, key: TimerKey) {
        self.state.lock().due.remove(&key);
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }

    /// The next timer that is due, without waiting.
    pub fn take_due(&self, now_ms: u64) -> Option<Timer> {
        let mut state = self.state.lock();
        let due = state.due.first_key_value().is_some_and(|((at, _), _)| *at <= now_ms);
        due.then(|| state.due.pop_first()).flatten().map(|(_, timer)| timer)
    }

    /// Waits for the next timer; `None` when stopped. `now_ms` is broker time, which may run up to 5 % off the clock we wait by.
    pub fn next(&self, now_ms: impl Fn() -> u64) -> Option<Timer> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            let now = now_ms();
            match state.due.first_key_value() {
                Some(((at, _), _)) if *at <= now => return state.due.pop_first().map(|(_, timer)| timer),
                Some(((at, _), _)) => {
                    let wait = Duration::from_millis((at - now).clamp(1, 1000));
                    self.changed.wait_for(&mut state, wait);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_of_time_and_then_of_arrival() {
        let timers = Timers::default();
        let parting = |session| Timer::Parting { session, incarnation: 1 };
        timers.add(30, parting(3));
        timers.add(10, parting(1));
        timers.add(30, parting(4));
        timers.add(20, parting(2));
        let order: Vec<_> = (0..4).filter_map(|_| timers.next(|| 100)).collect();
        assert_eq!(order, (1..5).map(parting).collect::<Vec<_>>());
        timers.stop();
        assert_eq!(timers.next(|| 100), None);
    }
}
