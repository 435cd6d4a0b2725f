//! Consumers that do not take what stands next: those with a selector, and those that only look.
//!
//! A scan is how far consumers with one selector have looked, by lane. What matched waits in `found` until one of them takes it; looking
//! stops while there is enough of it. What is in memory is looked at under the lock, a little at a time; the rest, and what is much, by the
//! reader thread (`read_through`), which copies what it needs, asks without the lock, and then notes what matched. So a consumer with a
//! selector holds nobody up, and nothing is looked at twice, but for what comes back: that goes to `again`.

use super::lane::Next;
use super::pump::{Giving, Step};
use super::{Consumer, Entry, Follow, Grant, Held, Lane, Queue, State, Status, HELD_BYTES, PAGE};
use crate::selector::{Selector, Subject};
use crate::store::Log;
use broker_api::{ConsumerIx, Seq, Signal, Views};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Messages that one look under the lock asks about.
const LOOK: usize = 256;
/// Messages that the reader thread asks about in one go, at most.
const LOOK_FAR: usize = 4096;
/// From so many on that wait to be taken nobody looks on.
const FOUND_MAX: usize = 1024;

pub(crate) struct Scan {
    id: u32,
    /// `None`: everything matches.
    selector: Option<Arc<Selector>>,
    views: Views,
    /// By level: what stands before this has been looked at.
    at: Vec<(u8, u64)>,
    /// Who only looks sees what was there when he came: by level, what stands behind it.
    until: Option<Vec<(u8, u64)>>,
    /// Came back since it was looked at.
    again: BTreeSet<Seq>,
    /// Matches and may be taken. The lanes are upside down: the highest level comes first.
    found: BTreeSet<Seq>,
    /// What the reader thread looks at: its level, and the position behind it.
    running: Option<(u8, u64)>,
    /// The reader thread has been asked to look.
    asked: bool,
    said_end: bool,
}

/// What [`State::look`] came to.
enum Sight {
    /// So much was found.
    Enough,
    /// There is nothing more to look at now.
    End,
    /// The reader thread has to go on.
    Unread,
}

/// The order in which what was found is taken; its own inverse.
fn upside_down(seq: Seq) -> Seq {
    Seq::new(u8::MAX - seq.lane(), seq.position())
}

fn of_level(list: &[(u8, u64)], level: u8) -> u64 {
    list.iter().find(|(l, _)| *l == level).map_or(0, |(_, position)| *position)
}

impl Scan {
    fn at(&self, level: u8) -> u64 {
        of_level(&self.at, level)
    }

    fn set(&mut self, level: u8, position: u64) {
        match self.at.iter_mut().find(|(l, _)| *l == level) {
            Some((_, at)) => *at = (*at).max(position),
            None => self.at.push((level, position)),
        }
    }

    fn end(&self, level: u8, lane: &Lane) -> u64 {
        self.until.as_ref().map_or(lane.next, |until| of_level(until, level))
    }

    fn matches(&self, held: &Held, head: u32) -> bool {
        let Some(selector) = &self.selector else { return true };
        let Some(head) = held.batch.heads.get(head as usize) else { return false };
        selector.matches(&Subject { views: &self.views, batch: &held.batch, head, arrived_ms: held.batch.arrived_ms })
    }

    fn was_looked_at(&self, level: u8, position: u64) -> bool {
        position < self.at(level) || self.running.is_some_and(|(running, end)| running == level && position < end)
    }
}

impl State {
    /// The scan of consumers with this selector, which the first of them makes. One that only looks has its own.
    pub(super) fn scan(&mut self, selector: Option<Arc<Selector>>, views: &Views, browses: bool) -> u32 {
        let same = |scan: &&Scan| !browses && scan.until.is_none() && scan.selector == selector;
        if let Some(known) = self.scans.iter().find(same) {
            return known.id;
        }
        let id = self.scans.iter().map(|scan| scan.id).max().unwrap_or(0) + 1;
        let until = browses.then(|| self.lanes.iter().map(|(level, lane)| (level, lane.next)).collect());
        self.scans.push(Scan {
            id,
            selector,
            views: views.clone(),
            at: Vec::new(),
            until,
            again: BTreeSet::new(),
            found: BTreeSet::new(),
            running: None,
            asked: false,
            said_end: false,
        });
        id
    }

    /// Scans whose consumers are gone go too.
    pub fn drop_scans(&mut self) {
        let State { scans, consumers, browsers, .. } = self;
        scans.retain(|scan| consumers.iter().chain(browsers.iter()).any(|c| c.scan == Some(scan.id)));
    }

    /// An entry is ready again.
    pub(super) fn scan_again(&mut self, level: u8, position: u64) {
        for scan in self.scans.iter_mut().filter(|scan| scan.until.is_none()) {
            if scan.was_looked_at(level, position) {
                scan.again.insert(Seq::new(level, position));
            }
        }
    }

    /// Is this a message that those with this scan want?
    pub(super) fn is_match(&self, scan: u32, held: &Held, head: u32) -> bool {
        self.scans.iter().find(|known| known.id == scan).is_some_and(|scan| scan.matches(held, head))
    }

    fn find_scan(&mut self, id: u32) -> Option<&mut Scan> {
        self.scans.iter_mut().find(|scan| scan.id == id)
    }

    /// Looks at what is in memory until `want` were found.
    fn look(&mut self, id: u32, want: usize, queue: &Arc<Queue>) -> Sight {
        let State { scans, lanes, barriers, .. } = self;
        let Some(scan) = scans.iter_mut().find(|scan| scan.id == id) else { return Sight::End };
        if scan.running.is_some() {
            return Sight::End;
        }
        let mut budget = LOOK;
        while let Some(seq) = scan.again.first().copied() {
            let Some(lane) = lanes.get_mut(seq.lane()) else { break };
            if matches!(lane.look(seq.position()), Next::Away(_)) || budget == 0 {
                return Sight::Unread;
            }
            if let Some(entry) = lane.get_mut(seq.position()).filter(|e| e.status == Status::Ready) {
                let Some(held) = &entry.held else { return Sight::Unread };
                budget -= 1;
                if scan.matches(held, entry.head) {
                    scan.found.insert(upside_down(seq));
                }
            }
            scan.again.pop_first();
        }
        for (level, lane) in lanes.iter_mut().rev() {
            let (mut position, end) = (scan.at(level), scan.end(level, lane));
            let sight = loop {
                if scan.found.len() >= want {
                    break Some(Sight::Enough);
                }
                let next = match lane.next_ready(position) {
                    Next::Ready(next) if next < end => next,
                    Next::Away(number) if number * PAGE < end => break Some(Sight::Unread),
                    _ => {
                        position = end;
                        break None;
                    }
                };
                position = next;
                let Some(entry) = lane.get_mut(next).filter(|_| !super::hidden::holds_up(barriers, level, next)) else { break None };
                let Some(held) = entry.held.clone() else { break Some(Sight::Unread) };
                if !held.is_shown_to(queue) {
                    break None;
                }
                if budget == 0 {
                    break Some(Sight::Unread);
                }
                budget -= 1;
                if scan.matches(&held, entry.head) {
                    scan.found.insert(upside_down(Seq::new(level, next)));
                }
                position = next + 1;
            };
            scan.set(level, position);
            if let Some(sight) = sight {
                return sight;
            }
        }
        Sight::End
    }

    /// Is there somebody who would take more of this?
    fn is_scan_wanted(&self, id: u32) -> bool {
        let mut those = self.consumers.iter().chain(&self.browsers).filter(|c| c.scan == Some(id));
        those.any(|c| c.active && c.credit > 0 && !c.outbox.is_full())
    }
}

impl Queue {
    /// Takes up to `want` of what matches, for one consumer.
    #[allow(clippy::too_many_arguments, reason = "whom, what, and what the queue's lock guards")]
    pub(super) fn give_found(
        self: &Arc<Queue>,
        state: &mut State,
        mut giving: Giving,
        (id, at): (u32, usize),
        log: &Log,
        now: u32,
        follow: &mut Follow,
    ) -> (u32, Grant) {
        let mut unread = false;
        let mut after = Seq(0);
        while giving.may_go_on() {
            let found = state.find_scan(id).and_then(|scan| scan.found.range(after..).next().copied());
            let Some(found) = found else {
                if unread {
                    break;
                }
                let more = giving.messages_left().min(FOUND_MAX as u32) as usize + state.find_scan(id).map_or(0, |scan| scan.found.len());
                match state.look(id, more, self) {
                    Sight::Enough => continue,
                    Sight::End => unread = true,
                    Sight::Unread => {
                        unread = true;
                        self.ask_to_look(state, id, follow);
                    }
                }
                continue;
            };
            let seq = upside_down(found);
            let lane = state.lanes.get_mut(seq.lane());
            let next = lane.map_or(Next::Nothing, |lane| match lane.look(seq.position()) {
                Next::Ready(position) if lane.get_mut(position).is_some_and(|e| e.status == Status::Ready) => Next::Ready(position),
                Next::Away(number) => Next::Away(number),
                _ => Next::Nothing,
            });
            let step = match next {
                Next::Ready(position) => match giving.one(self, state, seq.lane(), position, log, now, follow) {
                    Step::Grouped => self.give_grouped(state, &mut giving, at, seq, false, log, now, follow),
                    step => step,
                },
                Next::Away(_) => Step::Unread,
                Next::Nothing => Step::Gone,
            };
            after = found.plus(1);
            let Some(scan) = state.find_scan(id) else { break };
            match step {
                Step::NotYet => break,
                // It may become this one's, or anybody's.
                Step::Grouped | Step::Aside | Step::NotMine => {}
                Step::Given | Step::Gone => {
                    scan.found.remove(&found);
                }
                Step::Unread => {
                    scan.found.remove(&found);
                    scan.again.insert(seq);
                }
            }
        }
        giving.finish(self, log, follow)
    }

    fn ask_to_look(self: &Arc<Queue>, state: &mut State, id: u32, follow: &mut Follow) {
        if let Some(scan) = state.find_scan(id).filter(|scan| !scan.asked) {
            scan.asked = true;
            follow.look.push((self.clone(), id));
        }
    }

    /// Shows those who only look what they have not seen.
    pub(super) fn show_browsers(self: &Arc<Queue>, state: &mut State, log: &Log, now: u32, follow: &mut Follow) {
        for at in 0..state.browsers.len() {
            let browser = &state.browsers[at];
            let Some(id) = browser.scan.filter(|_| browser.active && browser.credit > 0 && browser.outbox.room_for(self)) else { continue };
            let giving = Giving::new(browser, self, log, true, Grant::of(browser.credit));
            let (given, _) = self.give_found(state, giving, (id, at), log, now, follow);
            let browser = &mut state.browsers[at];
            if browser.credit != u32::MAX {
                browser.credit -= given;
            }
            let (outbox, to) = (browser.outbox.clone(), browser.to);
            let Some(scan) = state.scans.iter().position(|scan| scan.id == id) else { continue };
            let lanes = &state.lanes;
            let scan = &mut state.scans[scan];
            let seen = scan.until.iter().flatten().all(|(level, end)| scan.at(*level) >= *end || lanes.get(*level).is_none());
            if seen && scan.found.is_empty() && scan.again.is_empty() && scan.running.is_none() && !scan.said_end {
                scan.said_end = true;
                outbox.signal(Signal::Browsed { consumer: to });
            }
        }
    }

    pub fn add_browser(&self, mut browser: Consumer, selector: Option<Arc<Selector>>, views: &Views) -> bool {
        let mut state = self.lock();
        if state.deleted {
            return false;
        }
        browser.scan = Some(state.scan(selector, views, true));
        state.browsers.push(browser);
        true
    }

    pub(super) fn is_browser(state: &State, outbox: u64, to: ConsumerIx) -> Option<usize> {
        state.browsers.iter().position(|c| c.is(outbox, to))
    }
}

/// What the reader thread looks at in one go.
pub(crate) struct Look {
    pub scan: u32,
    pub selector: Option<Arc<Selector>>,
    pub views: Views,
    level: u8,
    from: u64,
    end: u64,
    unreadable: bool,
    /// This page has to be read first, and what is asked about is in it.
    pub page: Option<u64>,
    pub candidates: Vec<Candidate>,
}

pub(crate) struct Candidate {
    pub seq: Seq,
    /// The message, if it is in memory; else where it is.
    pub held: Option<(Arc<Held>, u32)>,
    pub lsn: u64,
}

impl Candidate {
    fn of(seq: Seq, entry: &Entry) -> Candidate {
        Candidate { seq, held: entry.held.clone().map(|held| (held, entry.head)), lsn: entry.known_lsn() }
    }
}

impl Look {
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Its page cannot be read: what is in it is passed over.
    pub fn pass_over(&mut self) {
        self.unreadable = true;
    }

    /// The entries of the page that was read, which are asked about.
    pub fn take_page(&mut self, entries: &[(u64, Entry)]) {
        let within = entries.iter().filter(|(position, _)| (self.from..self.end).contains(position));
        self.candidates = within.map(|(position, entry)| Candidate::of(Seq::new(self.level, *position), entry)).collect();
    }
}

impl Queue {
    /// What the reader thread is to look at next. `None`: nothing now; who wants more asks again.
    pub fn plan_look(self: &Arc<Queue>, id: u32) -> Option<Look> {
        let mut state = self.lock();
        let wanted = state.is_scan_wanted(id);
        let State { scans, lanes, barriers, .. } = &mut *state;
        let scan = scans.iter_mut().find(|scan| scan.id == id)?;
        scan.asked = false;
        if !wanted || scan.running.is_some() || scan.found.len() >= FOUND_MAX {
            return None;
        }
        let (selector, views) = (scan.selector.clone(), scan.views.clone());
        let mut look = Look { scan: id, selector, views, level: 0, from: 0, end: 0, unreadable: false, page: None, candidates: Vec::new() };
        let mut bytes = 0;
        // What came back is not looked at again and again: it leaves the list here.
        while let Some(seq) = scan.again.first().copied() {
            look.level = seq.lane();
            let lane = lanes.get_mut(seq.lane());
            match lane.map(|lane| (lane.look(seq.position()), lane)) {
                Some((Next::Away(number), _)) if look.candidates.is_empty() => {
                    look.page = Some(number);
                    return Some(look);
                }
                Some((Next::Away(_), _)) => break,
                Some((_, lane)) => {
                    if let Some(entry) = lane.get_mut(seq.position()).filter(|e| e.status == Status::Ready) {
                        bytes += u64::from(entry.bytes);
                        look.candidates.push(Candidate::of(seq, entry));
                    }
                }
                None => {}
            }
            scan.again.pop_first();
            if look.candidates.len() >= LOOK || bytes >= HELD_BYTES {
                break;
            }
        }
        if !look.candidates.is_empty() {
            scan.running = Some((look.level, 0));
            return Some(look);
        }
        for (level, lane) in lanes.iter_mut().rev() {
            let end = scan.end(level, lane);
            (look.level, look.from, look.end) = (level, scan.at(level), scan.at(level));
            loop {
                let next = match lane.next_ready(look.end) {
                    Next::Ready(next) if next < end => next,
                    Next::Away(number) if number * PAGE < end => {
                        if look.candidates.is_empty() {
                            look.page = Some(number);
                            look.end = lane.page_mut(number).map_or(look.end, |page| page.start()).min(end);
                        }
                        break;
                    }
                    _ => {
                        look.end = end;
                        break;
                    }
                };
                let Some(entry) = lane.get_mut(next).filter(|_| !super::hidden::holds_up(barriers, level, next)) else { break };
                if entry.held.as_ref().is_some_and(|held| !held.is_shown_to(self)) {
                    break;
                }
                bytes += if entry.held.is_none() { u64::from(entry.bytes) } else { 0 };
                look.candidates.push(Candidate::of(Seq::new(level, next), entry));
                look.end = next + 1;
                if look.candidates.len() >= LOOK_FAR || bytes >= HELD_BYTES {
                    break;
                }
            }
            if look.page.is_some() || !look.candidates.is_empty() {
                scan.running = Some((level, look.end));
                return Some(look);
            }
            let end = look.end;
            scan.set(level, end);
        }
        None
    }

    /// What came of a look: these match. `page`: entries of a page that had to be read, wanted back if one of them matches.
    pub fn looked(
        self: &Arc<Queue>,
        look: &Look,
        page: Option<Vec<(u64, Entry)>>,
        matching: Vec<(Seq, Option<Arc<Held>>)>,
        log: &Log,
        now: u32,
        follow: &mut Follow,
    ) {
        let mut state = self.lock();
        if let (Some(number), Some(entries)) = (look.page, page) {
            if let Some(lane) = state.lanes.get_mut(look.level) {
                lane.install(number, entries);
            }
        }
        let fresh = matching.iter().filter_map(|(seq, held)| Some((*seq, held.clone()?, 0)));
        state.put_back(fresh);
        if let Some(scan) = state.find_scan(look.scan) {
            scan.running = None;
            if look.unreadable {
                scan.again.retain(|seq| (seq.lane(), Some(seq.position() / PAGE)) != (look.level, look.page));
            }
            if look.end > look.from {
                scan.set(look.level, look.end);
            }
            scan.found.extend(matching.iter().map(|(seq, _)| upside_down(*seq)));
        }
        self.pump_locked(&mut state, log, now, follow);
    }
}
