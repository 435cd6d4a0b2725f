//! References that only the page file has: sending them there, and reading them back before they are needed.

use super::lane::Next;
use super::leave::Head;
use super::{Entry, Follow, Held, Page, Queue, State, Status, HELD_BYTES, LOAD};
use crate::store::Log;
use broker_api::Seq;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// What the reader thread has to fetch before the queue can go on.
pub(crate) enum Wanted {
    Nothing,
    /// The page of this level and number.
    Page(u8, u64),
    /// The same, and then its head is to be looked at, before the page is sent away again.
    Head(u8, u64),
    /// The messages of these entries: the next ones.
    Messages(Vec<(Seq, u64)>),
}

impl Queue {
    /// What stands next and is not in memory: a page, or a run of messages.
    pub fn wanted(&self, now: u32) -> Wanted {
        let mut state = self.lock();
        if let Some(level) = state.head_away.take() {
            if let Some(Head::Away(number)) = state.head_of(level) {
                state.alarm = now.max(1);
                return Wanted::Head(level, number);
            }
        }
        if let Some(wanted) = state.unread_aside() {
            return wanted;
        }
        let level = match state.next() {
            None => return Wanted::Nothing,
            Some((level, Next::Away(number))) => return Wanted::Page(level, number),
            Some((level, _)) => level,
        };
        let Some(lane) = state.lanes.get(level) else { return Wanted::Nothing };
        let returned = lane.returned.iter().filter_map(|p| lane.iter_from(*p).next());
        let mut wanted = Vec::new();
        let mut bytes = 0u64;
        for (position, entry) in returned.chain(lane.iter_from(lane.cursor)) {
            if entry.status != Status::Ready {
                continue;
            }
            if entry.held.is_some() || wanted.len() >= LOAD || bytes > HELD_BYTES / 4 {
                break;
            }
            bytes += u64::from(entry.bytes) + 64;
            wanted.push((Seq::new(level, position), entry.known_lsn()));
        }
        Wanted::Messages(wanted)
    }

    /// Puts back what the reader thread fetched and goes on delivering.
    pub fn loaded(self: &Arc<Queue>, found: Vec<(Seq, Arc<Held>, u32)>, log: &Log, now: u32, follow: &mut Follow) {
        let mut state = self.lock();
        state.put_back(found.into_iter());
        self.loading.store(false, Ordering::Release);
        self.pump_locked(&mut state, log, now, follow);
    }

    /// The same where nobody waits to be served.
    pub fn put_back(&self, found: impl Iterator<Item = (Seq, Arc<Held>, u32)>) {
        self.lock().put_back(found);
    }

    /// Puts back the entries of a page. Counters do not change: they counted it all the time.
    pub fn page_read(&self, level: u8, number: u64, entries: Vec<(u64, Entry)>) {
        let mut state = self.lock();
        install(&mut state, level, number, entries);
    }

    /// Reads every page of this queue that is away, for what concerns all of it (ending, purging, counting again).
    pub(super) fn read_all(&self, state: &mut State, log: &Log) {
        for (level, number) in state.away() {
            self.read_now(state, level, number, log);
        }
    }

    /// Reads a page while the queue waits. For rare cases; deliveries go through the reader thread.
    pub(super) fn read_now(&self, state: &mut State, level: u8, number: u64, log: &Log) {
        match log.read_page(self.id, level, number) {
            Ok(entries) => install(state, level, number, entries),
            Err(error) => tracing::error!(queue = %self.name, level, number, %error, "a page of references cannot be read"),
        }
    }

    /// Entries in memory, in bytes.
    pub fn resident(&self) -> usize {
        let state = self.lock();
        let entries: usize = state.lanes.iter().flat_map(|(_, lane)| lane.pages.iter()).map(|p| p.entries.capacity()).sum();
        entries * std::mem::size_of::<Entry>()
    }

    /// Pages that the next checkpoint writes anew and of which it has to read a part before.
    pub fn to_merge(&self) -> Vec<(u8, u64)> {
        let state = self.lock();
        let merged = |p: &&Page| p.dirty && p.away > 0;
        state.lanes.iter().flat_map(|(level, lane)| lane.pages.iter().filter(merged).map(move |p| (level, p.number))).collect()
    }
}

impl State {
    pub(super) fn put_back(&mut self, found: impl Iterator<Item = (Seq, Arc<Held>, u32)>) {
        for (seq, held, head) in found {
            let entry = self.lanes.get_mut(seq.lane()).and_then(|l| l.get_mut(seq.position()));
            if let Some(entry) = entry.filter(|e| e.status != Status::Gone && e.held.is_none()) {
                entry.lsn = entry.known_lsn();
                entry.hold(held, head);
                self.held_bytes += u64::from(entry.bytes);
            }
        }
    }

    /// Sends away what the page file has. A queue with consumers keeps the pages around its next message. Answers how many bytes went.
    pub fn send_away(&mut self, committed: u64) -> usize {
        let busy = self.consumers.iter().any(|c| c.active);
        let State { lanes, held_bytes, .. } = self;
        let mut gone = 0;
        for (_, lane) in lanes.iter_mut() {
            let (cursor, next) = (lane.cursor / super::PAGE, lane.next / super::PAGE);
            for page in lane.pages.iter_mut() {
                let near = page.number == next || (page.number >= cursor && page.number <= cursor + 2);
                if busy && near {
                    continue;
                }
                let (n, held) = page.send_away(committed);
                *held_bytes = held_bytes.saturating_sub(held);
                gone += n * std::mem::size_of::<Entry>();
            }
        }
        gone
    }

    fn away(&self) -> Vec<(u8, u64)> {
        let lanes = self.lanes.iter();
        lanes.flat_map(|(level, lane)| lane.pages.iter().filter(|p| p.away > 0).map(move |p| (level, p.number))).collect()
    }
}

fn install(state: &mut State, level: u8, number: u64, entries: Vec<(u64, Entry)>) {
    if let Some(lane) = state.lanes.get_mut(level) {
        lane.install(number, entries);
    }
}

/// Recovery.
impl Queue {
    /// The pages of which only the page file has a part.
    pub fn away(&self) -> Vec<(u8, u64)> {
        self.lock().away()
    }

    /// Puts a reference back, unless it is there.
    pub fn recover_insert(&self, state: &mut State, seq: Seq, entry: Entry) {
        let (bytes, expires) = (u64::from(entry.bytes), entry.expires);
        if state.lanes.open(seq.lane()).insert(seq.position(), entry) {
            state.ready += 1;
            state.bytes += bytes;
            if !self.delays {
                state.expires(expires);
            }
            self.depth.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes a page that the checkpoint has, made when `end` was the next position.
    pub fn recover_away(&self, state: &mut State, level: u8, number: u64, (live, bytes): (u16, u64), end: u64) {
        state.lanes.open(level).add_away(number, live, bytes, end);
        state.ready += u64::from(live);
        state.bytes += bytes;
        self.depth.fetch_add(u64::from(live), Ordering::Relaxed);
    }
}
