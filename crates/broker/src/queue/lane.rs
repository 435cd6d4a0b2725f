//! One priority lane of a queue: entries by position, in pages of 256 that grow from nothing and vanish when all in them is gone.
//! The front of a page may be *away*: only the page file has it, while what comes is appended behind it in memory.
//!
//! A position is never reused. Everything from `cursor` on was never taken; what was taken and given back stands in `returned`, so that it
//! goes out again at its original place. Pages are kept in order of their number, without the gaps that a restart leaves.

use crate::link::FanOut;
use crate::spill::Spilled;
use crate::store::Log;
use broker_api::{Batch, Side};
use journal::{Lsn, Place, Release, Releases};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

pub(crate) const PAGE: u64 = 256;

/// A turn's messages as the entries of queues hold them, with the place of their records in the log.
pub(crate) struct Held {
    pub batch: Arc<Batch>,
    /// `None`: nothing of this turn was logged, or it was read back from the log.
    pub place: Option<Arc<Place>>,
    /// A fan-out that may not have reached everybody yet: nobody sees it before.
    pub fan: Option<Arc<FanOut>>,
    /// Where those of its messages are that were spilled from one queue while others had them too.
    pub spilled: Spilled,
}

impl Held {
    pub fn new(batch: Arc<Batch>, place: Option<Arc<Place>>, fan: Option<Arc<FanOut>>) -> Arc<Held> {
        Arc::new(Held { batch, place, fan, spilled: Spilled::default() })
    }

    /// May this be handed out? If not, the queue is pumped when it may.
    pub fn is_shown_to(&self, queue: &Arc<super::Queue>) -> bool {
        self.fan.as_ref().is_none_or(|fan| fan.shown_or_wait(queue))
    }

    pub fn is_shown(&self) -> bool {
        self.fan.as_ref().is_none_or(|fan| fan.is_shown())
    }

    /// Has everything of it passed the commit point?
    pub fn is_committed(&self, log: &Log) -> bool {
        self.fan.as_ref().is_none_or(|fan| fan.is_shown() && fan.ticket() < log.committed_next().0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Ready,
    /// Handed to a consumer; `owner` may settle it.
    Leased,
    /// On its way to a dead-letter exchange.
    Moving,
    /// Settled, expired or evicted.
    Gone,
}

/// A reference to a message.
pub(crate) struct Entry {
    /// The message in memory; `None` when only the log has it, or a spill file.
    pub held: Option<Arc<Held>>,
    pub side: Option<Arc<Side>>,
    /// Where its record is; 0 while unknown or when it has none. What is not durable has a place in a spill file here (see `spill`), or 0.
    pub lsn: u64,
    pub owner: u64,
    pub head: u32,
    /// Offset of its record in the slot of `held.place`.
    pub offset: u32,
    /// Key and body.
    pub bytes: u32,
    /// In ticks (see `tick`); 0 = never.
    pub expires: u32,
    pub attempts: u16,
    /// Which of the record's references this is.
    pub ordinal: u16,
    pub level: u8,
    pub flags: u8,
    pub durable: bool,
    pub status: Status,
}

impl Entry {
    /// The record's position, if the commit thread has given it one.
    pub fn known_lsn(&self) -> u64 {
        if self.lsn != 0 || !self.durable {
            return self.lsn;
        }
        let base = self.held.as_ref().and_then(|h| h.place.as_ref()).and_then(|p| p.get()).map_or(0, |lsn| lsn.0);
        if base == 0 {
            0
        } else {
            base + u64::from(self.offset)
        }
    }

    /// Lets go of the record's body.
    pub fn release(&self, into: &mut Releases) {
        if !self.durable {
            return;
        }
        match self.known_lsn() {
            0 => {
                if let Some(place) = self.held.as_ref().and_then(|h| h.place.clone()) {
                    into.pending.push((place, self.offset, self.ordinal));
                }
            }
            lsn => into.known.push(Release { lsn: Lsn(lsn), ordinal: self.ordinal }),
        }
    }
}

pub(crate) struct Page {
    pub number: u64,
    /// Position within the page of `entries[0]`. Nothing before it is in memory: what stands there is away, or gone.
    first: u16,
    pub entries: Vec<Entry>,
    /// Entries that are not gone, those that are away included.
    pub live: u16,
    /// Changed since it was last written to a page file.
    pub dirty: bool,
    /// Of `live`: those that only the page file has, all of them before `first` and ready.
    pub away: u16,
    /// Bytes of the messages that are away.
    pub away_bytes: u64,
}

/// What stands next in a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Ready(u64),
    /// This page has to be read first.
    Away(u64),
    Nothing,
}

#[derive(Default)]
pub(crate) struct Lane {
    pub pages: VecDeque<Page>,
    /// The position that the next message takes.
    pub next: u64,
    pub cursor: u64,
    pub returned: BTreeSet<u64>,
    /// What stands before this may have been handed to a connection that a crash cut off: it goes out as redelivered.
    pub suspect: u64,
    /// Where the search for what has expired goes on.
    pub swept: u64,
    /// The position up to which messages in memory were let go.
    pub trimmed: u64,
    /// What was looked at for spilling: nothing in between is worth another look.
    pub spilled: std::ops::Range<u64>,
    /// Numbers of pages that went away and that the last checkpoint may still hold.
    pub dropped: Vec<u64>,
}

impl Lane {
    #[cfg(test)]
    pub fn starting_at(next: u64) -> Lane {
        Lane { next, cursor: next, ..Lane::default() }
    }

    pub(super) fn page_index(&self, number: u64) -> Result<usize, usize> {
        let front = match self.pages.front() {
            Some(page) => page.number,
            None => return Err(0),
        };
        if number >= front {
            let guess = (number - front) as usize;
            if self.pages.get(guess).is_some_and(|p| p.number == number) {
                return Ok(guess);
            }
        }
        self.pages.binary_search_by_key(&number, |p| p.number)
    }

    pub fn get_mut(&mut self, position: u64) -> Option<&mut Entry> {
        let at = self.page_index(position / PAGE).ok()?;
        let page = &mut self.pages[at];
        let within = (position % PAGE).checked_sub(u64::from(page.first))? as usize;
        page.entries.get_mut(within)
    }

    /// What a checkpoint holds of this entry changed.
    pub fn touch(&mut self, position: u64) {
        if let Ok(at) = self.page_index(position / PAGE) {
            self.pages[at].dirty = true;
        }
    }

    /// An entry has been tried at least this often.
    pub fn count(&mut self, position: u64, attempts: u16) {
        if let Some(entry) = self.get_mut(position).filter(|e| e.status != Status::Gone) {
            entry.attempts = entry.attempts.max(attempts);
            self.touch(position);
        }
    }

    /// Appends at `next` and answers the position.
    pub fn push(&mut self, entry: Entry) -> u64 {
        let position = self.next;
        self.next += 1;
        let (number, within) = (position / PAGE, (position % PAGE) as u16);
        if self.pages.back().is_none_or(|p| p.number != number) {
            if self.pages.is_empty() {
                // Most queues never have a second one.
                self.pages.reserve_exact(1);
            }
            self.pages.push_back(Page::new(number, within));
        }
        if let Some(page) = self.pages.back_mut() {
            if page.entries.is_empty() {
                page.first = within;
            }
            debug_assert_eq!(page.end(), position, "a page has no gaps at its end");
            page.live += 1;
            page.dirty = true;
            page.entries.push(entry);
        }
        position
    }

    /// Puts an entry back at a position, in recovery; `false` if it is there already. What is away is read before anything in it changes;
    /// where that failed, the page file has the last word.
    pub fn insert(&mut self, position: u64, entry: Entry) -> bool {
        let (number, within) = (position / PAGE, (position % PAGE) as u16);
        let at = match self.page_index(number) {
            Ok(at) => at,
            Err(at) => {
                self.pages.insert(at, Page::new(number, within));
                at
            }
        };
        self.next = self.next.max(position + 1);
        let page = &mut self.pages[at];
        if page.away > 0 && within < page.first {
            return false;
        }
        if page.entries.is_empty() && page.away == 0 {
            page.first = within;
        }
        if within < page.first {
            let missing = page.first - within;
            page.entries.splice(0..0, (0..missing).map(|_| Entry::gone()));
            page.first = within;
        }
        let index = (within - page.first) as usize;
        while page.entries.len() <= index {
            page.entries.push(Entry::gone());
        }
        if page.entries[index].status != Status::Gone {
            return false;
        }
        page.entries[index] = entry;
        page.live += 1;
        page.dirty = true;
        true
    }

    /// Takes an entry out for good; its page goes with its last entry.
    pub fn remove(&mut self, position: u64) -> Option<Entry> {
        let at = self.page_index(position / PAGE).ok()?;
        let page = &mut self.pages[at];
        let within = (position % PAGE).checked_sub(u64::from(page.first))? as usize;
        let slot = page.entries.get_mut(within)?;
        if slot.status == Status::Gone {
            return None;
        }
        let entry = std::mem::replace(slot, Entry::gone());
        page.live -= 1;
        page.dirty = true;
        if page.live == 0 {
            let number = page.number;
            let open = self.next / PAGE == number;
            if open {
                // The page that is being filled starts afresh, so that a busy short queue stays in one allocation.
                page.first = (self.next % PAGE) as u16;
                page.entries.clear();
            } else {
                self.pages.remove(at);
                self.dropped.push(number);
            }
        }
        Some(entry)
    }

    /// The first position from here on of which the entry is in memory, gaps and pages that are away left out.
    pub fn next_resident(&self, from: u64) -> u64 {
        let start = match self.page_index(from / PAGE) {
            Ok(at) | Err(at) => at,
        };
        let resident = self.pages.iter().skip(start).filter(|p| !p.entries.is_empty()).map(|p| p.start()..p.end());
        resident.into_iter().find(|page| from < page.end).map_or(self.next, |page| from.max(page.start))
    }

    /// What to hand out next, from `from` on.
    pub fn next_ready(&self, from: u64) -> Next {
        let start = match self.page_index(from / PAGE) {
            Ok(at) | Err(at) => at,
        };
        for page in self.pages.iter().skip(start) {
            let base = page.start();
            if page.away > 0 && from < base {
                return Next::Away(page.number);
            }
            let skip = from.saturating_sub(base) as usize;
            if let Some(i) = page.entries.iter().skip(skip).position(|e| e.status == Status::Ready) {
                return Next::Ready(base + (skip + i) as u64);
            }
        }
        Next::Nothing
    }

    /// Does only the page file have the front of this page?
    pub fn is_partly_away(&self, number: u64) -> bool {
        self.page_index(number).is_ok_and(|at| self.pages[at].away > 0)
    }

    /// A page that was given back is ready or has to be read; one that is neither is no longer there.
    pub fn look(&self, position: u64) -> Next {
        match self.page_index(position / PAGE) {
            Ok(at) if self.pages[at].is_away(position) => Next::Away(position / PAGE),
            Ok(_) => Next::Ready(position),
            Err(_) => Next::Nothing,
        }
    }

    /// Notes a page that the page file has. What stands at `end` and behind it came later, and is not in there.
    pub fn add_away(&mut self, number: u64, live: u16, bytes: u64, end: u64) {
        if let Err(at) = self.page_index(number) {
            let first = end.saturating_sub(number * PAGE).min(PAGE) as u16;
            let page = Page { live, away: live, away_bytes: bytes, dirty: false, ..Page::new(number, first) };
            self.pages.insert(at, page);
        }
    }

    pub fn page(&self, number: u64) -> Option<&Page> {
        self.page_index(number).ok().map(|at| &self.pages[at])
    }

    pub fn page_mut(&mut self, number: u64) -> Option<&mut Page> {
        self.page_index(number).ok().map(|at| &mut self.pages[at])
    }

    /// Puts back what was away of a page, in order of position. The page file may have more than that, as it was at the last
    /// checkpoint; memory knows better.
    pub fn install(&mut self, number: u64, entries: Vec<(u64, Entry)>) {
        let open = self.next / PAGE == number;
        let Some(page) = self.page_mut(number).filter(|p| p.away > 0) else { return };
        let (start, end) = (number * PAGE, page.start());
        let mut front: Vec<Entry> = Vec::with_capacity(entries.len() + page.entries.len());
        let mut first = end;
        page.live -= page.away;
        for (position, entry) in entries.into_iter().filter(|(position, _)| (start..end).contains(position)) {
            if front.is_empty() {
                first = position;
            }
            if position < first + front.len() as u64 {
                continue;
            }
            front.resize_with((position - first) as usize, Entry::gone);
            front.push(entry);
            page.live += 1;
        }
        if !front.is_empty() && (open || !page.entries.is_empty()) {
            front.resize_with((end - first) as usize, Entry::gone);
        }
        front.append(&mut page.entries);
        page.first = (first - start) as u16;
        page.entries = front;
        (page.away, page.away_bytes) = (0, 0);
    }

    /// All entries that are not gone, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.pages.iter().flat_map(|page| {
            let base = page.start();
            page.entries.iter().enumerate().filter(|(_, e)| e.status != Status::Gone).map(move |(i, e)| (base + i as u64, e))
        })
    }
}

impl Page {
    fn new(number: u64, first: u16) -> Page {
        Page { number, first, entries: Vec::new(), live: 0, dirty: true, away: 0, away_bytes: 0 }
    }

    /// Of the messages.
    pub fn bytes(&self) -> u64 {
        self.away_bytes + self.live_entries().map(|(_, e)| u64::from(e.bytes)).sum::<u64>()
    }

    /// Does this position stand in the part that only the page file has?
    pub fn is_away(&self, position: u64) -> bool {
        self.away > 0 && position < self.start()
    }

    /// Lets go of the front of a page that the page file has as it is, up to the first entry that somebody holds or that cannot be read
    /// back yet. Answers how many entries went, and the bytes of messages that they held in memory.
    pub fn send_away(&mut self, committed: u64) -> (usize, u64) {
        if self.dirty {
            return (0, 0);
        }
        let stays = |e: &Entry| match e.status {
            Status::Gone => false,
            Status::Ready => !e.durable || e.known_lsn() >= committed || e.held.as_ref().is_some_and(|held| !held.is_shown()),
            Status::Leased | Status::Moving => true,
        };
        let n = self.entries.iter().position(stays).unwrap_or(self.entries.len());
        if n == 0 {
            return (0, 0);
        }
        let rest = if n == self.entries.len() { Vec::new() } else { self.entries.split_off(n) };
        let mut held = 0;
        for entry in std::mem::replace(&mut self.entries, rest).iter().filter(|e| e.status == Status::Ready) {
            self.away += 1;
            self.away_bytes += u64::from(entry.bytes);
            held += if entry.held.is_some() { u64::from(entry.bytes) } else { 0 };
        }
        self.first += n as u16;
        (n, held)
    }

    /// What is away cannot be read. Answers how many entries that were, and the bytes of their messages.
    pub fn give_up(&mut self) -> (u64, u64) {
        self.live -= self.away;
        (u64::from(std::mem::take(&mut self.away)), std::mem::take(&mut self.away_bytes))
    }

    /// Where what is in memory begins.
    pub fn start(&self) -> u64 {
        self.number * PAGE + u64::from(self.first)
    }

    /// Behind its last entry in memory.
    fn end(&self) -> u64 {
        self.start() + self.entries.len() as u64
    }

    /// Entries at `position` and behind it.
    pub fn entries_from(&mut self, position: u64) -> impl Iterator<Item = &mut Entry> {
        let skip = position.saturating_sub(self.start());
        self.entries.iter_mut().skip(skip as usize)
    }

    pub fn live_entries(&self) -> impl DoubleEndedIterator<Item = (u64, &Entry)> {
        let base = self.start();
        self.entries.iter().enumerate().filter(|(_, e)| e.status != Status::Gone).map(move |(i, e)| (base + i as u64, e))
    }
}

impl Entry {
    pub(crate) fn gone() -> Entry {
        Entry {
            held: None,
            side: None,
            lsn: 0,
            owner: 0,
            head: 0,
            offset: 0,
            bytes: 0,
            expires: 0,
            attempts: 0,
            ordinal: 0,
            level: 0,
            flags: 0,
            durable: false,
            status: Status::Gone,
        }
    }
}

#[cfg(test)]
mod tests;
