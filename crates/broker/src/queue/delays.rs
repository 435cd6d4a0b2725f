//! A queue in which messages wait until they are due: what an exchange holds back that delays.
//!
//! It is a queue like others (references in pages, in checkpoints, in the log, read back when they are needed), but nobody consumes from it
//! and its order is that of the times at which its messages are due. An entry's `expires` is that time, in ticks of its own. Beside the
//! pages stands the earliest time of each: the page that is due first is looked through for what is due, so an index costs some bytes for
//! 256 messages, and a page that only the page file has is read when its first message is due.

use super::{Entry, Follow, Gone, Leaving, Page, Queue, State, Status, PAGE};
use crate::timers::TimerKey;
use broker_api::{QueueId, QueueName, QueueSpec, Seq};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A delay is exact to this, rounded up.
const DELAY_TICK_MS: u64 = 10;
/// Further ahead than this nothing is due: the longest delay is 2^32 ms. What seems to be is overdue, by up to a year.
const AHEAD_MAX: u32 = 1 << 29;
/// Messages that one look takes out: the queue's lock is held meanwhile.
const DUE_MAX: usize = 256;

/// When the messages of a page are due.
#[derive(Default)]
pub(crate) struct Delays {
    /// The earliest of each page, of those that are ready. 0: nobody knows.
    pages: BTreeMap<u64, u64>,
    /// The same by time.
    order: BTreeSet<(u64, u64)>,
    /// What recovery found in the checkpoint for pages that are away, as entries count it.
    recovered: BTreeMap<u64, u32>,
    /// The timer that is set, and for when.
    alarm: Option<(u64, TimerKey)>,
}

/// What a look at what is due came to.
pub(crate) enum Due {
    /// This page has to be read first.
    Read(u64),
    /// There is more, now.
    More,
    Nothing,
}

fn ticks(ms: u64) -> u64 {
    ms.div_ceil(DELAY_TICK_MS)
}

/// The time of an entry, as it keeps it. Never 0.
fn narrow(due_ms: u64) -> u32 {
    (ticks(due_ms) as u32).max(1)
}

/// The time of an entry in whole ticks.
fn widen(tick: u32, now_ms: u64) -> u64 {
    let now = now_ms / DELAY_TICK_MS;
    let ahead = tick.wrapping_sub(now as u32);
    match ahead <= AHEAD_MAX {
        true => now + u64::from(ahead),
        false => now.saturating_sub(u64::from((now as u32).wrapping_sub(tick))),
    }
}

impl Delays {
    fn set(&mut self, page: u64, due: Option<u64>) {
        let before = match due {
            Some(due) => self.pages.insert(page, due),
            None => self.pages.remove(&page),
        };
        if let Some(before) = before {
            self.order.remove(&(before, page));
        }
        self.order.extend(due.map(|due| (due, page)));
    }

    /// A message of this page is due then. Answers whether it is the first of all.
    fn note(&mut self, page: u64, due: u64) -> bool {
        if self.pages.get(&page).is_none_or(|known| due < *known) {
            self.set(page, Some(due));
        }
        let first = self.order.first().map(|(due, _)| due * DELAY_TICK_MS);
        match (first, self.alarm) {
            (Some(first), Some((set, _))) => first < set,
            (first, None) => first.is_some(),
            (None, _) => false,
        }
    }

    /// When the first message is due, in ms.
    pub fn first_ms(&self) -> Option<u64> {
        self.order.first().map(|(due, _)| due * DELAY_TICK_MS)
    }

    /// The timer that is set from now on, and for when. Answers the one that is to be taken off.
    pub fn set_alarm(&mut self, alarm: Option<(u64, TimerKey)>) -> Option<TimerKey> {
        std::mem::replace(&mut self.alarm, alarm).map(|(_, key)| key)
    }

    /// As a checkpoint keeps it: 0 where nobody knows.
    pub fn of_page(&self, page: u64) -> u32 {
        self.pages.get(&page).map_or(0, |due| *due as u32)
    }

    /// What a checkpoint kept.
    pub fn recover_page(&mut self, page: u64, due: u32) {
        self.recovered.insert(page, due);
    }
}

impl Queue {
    /// For what the exchange of this id and name holds back.
    pub fn delaying(exchange: u64, name: &str, vhost: u32, durable: bool, messages: u64) -> Arc<Queue> {
        let spec = QueueSpec { durable, keeps_all: true, reject_at_bound: true, max_length: Some(messages), ..QueueSpec::default() };
        let bound = super::bound_of(&spec);
        let mut queue = Queue::new(QueueId(exchange), QueueName::new(name), vhost, spec, bound);
        if let Some(queue) = Arc::get_mut(&mut queue) {
            queue.delays = true;
            queue.state.get_mut().delays = Some(Box::default());
        }
        queue
    }

    /// The time that an entry of this queue keeps: when it is due where messages wait, else when it expires.
    pub fn time_of(&self, message_ttl_ms: Option<u64>, expires_ms: u64, arrived_ms: u64, delay_ms: u32) -> u32 {
        match self.delays {
            true => narrow(arrived_ms + u64::from(delay_ms)),
            false => super::expiry_tick(expires_ms, arrived_ms, message_ttl_ms),
        }
    }

    /// Takes out what is due, in the order in which it is, so much at a time.
    pub fn take_due(self: &Arc<Queue>, now_ms: u64, follow: &mut Follow) -> Due {
        let mut state = self.lock();
        let now = now_ms / DELAY_TICK_MS;
        for _ in 0..DUE_MAX {
            let Some(delays) = state.delays.as_ref().filter(|_| !state.deleted) else { return Due::Nothing };
            let mut order = delays.order.iter();
            let Some((due, number)) = order.next().copied().filter(|(due, _)| *due <= now) else {
                return Due::Nothing;
            };
            // What is due after the first of the next page comes after that one.
            let until = order.next().map_or(now, |(next, _)| (*next).min(now)).max(due);
            if state.lanes.get(0).is_some_and(|lane| lane.is_partly_away(number)) {
                return Due::Read(number);
            }
            let (mut taken, rest) = state.due_in(number, until, now_ms);
            let left = DUE_MAX.saturating_sub(follow.leaving.len());
            let cut = taken.get(left).map(|(due, _)| *due);
            taken.truncate(left);
            for (_, position) in &taken {
                if state.set_moving(0, *position) {
                    follow.leaving.push(Leaving { queue: self.clone(), seq: Seq::new(0, *position), why: Gone::Due });
                }
            }
            if let Some(delays) = state.delays.as_mut() {
                delays.set(number, cut.into_iter().chain(rest).min());
            }
            if follow.leaving.len() >= DUE_MAX {
                break;
            }
        }
        Due::More
    }

    /// A page cannot be read: what stands there is not due before a restart.
    pub fn skip_due(&self, number: u64) {
        if let Some(delays) = &mut self.lock().delays {
            delays.set(number, None);
        }
    }

    /// Recovery is over and it is this late: puts in order what is there.
    pub fn wake_delays(&self, now_ms: u64) {
        let mut state = self.lock();
        let State { delays: Some(delays), lanes, .. } = &mut *state else { return };
        let recovered = std::mem::take(&mut delays.recovered);
        for page in lanes.get(0).into_iter().flat_map(|lane| &lane.pages) {
            let entries = page.live_entries().map(|(_, entry)| entry.expires);
            // Where nobody knows, the page is read at once.
            let away = (page.away > 0).then(|| recovered.get(&page.number).copied().unwrap_or(0));
            let due = entries.chain(away).map(|tick| if tick == 0 { 0 } else { widen(tick, now_ms) }).min();
            delays.set(page.number, due);
        }
        state.wants_alarm = true;
    }
}

impl State {
    /// An entry came, or can be had again.
    pub(super) fn waits(&mut self, position: u64, tick: u32, now_ms: u64) {
        let Some(delays) = &mut self.delays else { return };
        self.wants_alarm |= delays.note(position / PAGE, widen(tick, now_ms));
    }

    /// What of a page is ready and due by then, in the order of its times, and when the next is.
    fn due_in(&self, number: u64, until: u64, now_ms: u64) -> (Vec<(u64, u64)>, Option<u64>) {
        let (mut taken, mut rest): (Vec<(u64, u64)>, Option<u64>) = (Vec::new(), None);
        let page = self.lanes.get(0).and_then(|lane| lane.pages.get(lane.page_index(number).ok()?));
        let ready = |(_, entry): &(u64, &Entry)| entry.status == Status::Ready;
        for (position, entry) in page.into_iter().flat_map(Page::live_entries).filter(ready) {
            match widen(entry.expires, now_ms) {
                due if due <= until => taken.push((due, position)),
                due => rest = Some(rest.map_or(due, |rest| rest.min(due))),
            }
        }
        taken.sort_unstable();
        (taken, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_round_and_what_is_long_overdue_is_due() {
        let round = DELAY_TICK_MS << 32;
        for now in [round * 410 - 70, round * 410 + 30, 1_800_000_000_000] {
            let longest = now + u64::from(u32::MAX);
            for due in [now, now + 1, now + 999, longest, now - 5, now - 300 * 86_400_000] {
                let read = widen(narrow(due), now);
                // The one tick that would be 0 is 1.
                let exact = if ticks(due) as u32 == 0 { ticks(due) + 1 } else { ticks(due) };
                assert_eq!(read, exact, "{due} at {now}");
                assert_eq!(read <= now / DELAY_TICK_MS, ticks(due) <= now / DELAY_TICK_MS, "{due} at {now}");
            }
        }
    }
}
