//! Where the next entry of a queue stands, and entries going back and forth between ready and leased.

use super::hidden::is_behind;
use super::lane::Next;
use super::{Entry, Lane, Page, State, Status, PAGE};
use broker_api::{Seq, DELIVERY_REDELIVERED};

impl State {
    /// What to hand out next: the highest level that has something, and there the returned before the fresh.
    pub(super) fn next(&mut self) -> Option<(u8, Next)> {
        for (level, lane) in self.lanes.iter_mut().rev() {
            if let Some(position) = lane.returned.first() {
                if is_behind(&self.barriers, level, *position) {
                    continue;
                }
                return Some((level, lane.look(*position)));
            }
            if lane.cursor < lane.next {
                match lane.next_ready(lane.cursor) {
                    Next::Ready(position) if is_behind(&self.barriers, level, position) => {}
                    Next::Ready(position) => {
                        lane.cursor = position;
                        return Some((level, Next::Ready(position)));
                    }
                    Next::Away(number) => return Some((level, Next::Away(number))),
                    Next::Nothing => lane.cursor = lane.next,
                }
            }
        }
        None
    }

    /// The one to evict: the oldest of the lowest level.
    pub(super) fn oldest(&mut self) -> Option<(u8, Next)> {
        let State { lanes, grouping, .. } = self;
        lanes.iter().find_map(|(level, lane)| {
            let aside = grouping.as_ref().and_then(|grouping| grouping.first_aside(level));
            let next = match lane.returned.first().copied().into_iter().chain(aside).min() {
                Some(position) => lane.look(position),
                None => lane.next_ready(lane.cursor),
            };
            (next != Next::Nothing).then_some((level, next))
        })
    }

    pub(super) fn taken(&mut self, level: u8, position: u64, bytes: u32) {
        if let Some(lane) = self.lanes.get_mut(level) {
            // What was picked out from further behind leaves the cursor where it is.
            if position == lane.cursor {
                lane.cursor = position + 1;
            } else if position < lane.cursor {
                lane.returned.remove(&position);
            }
        }
        self.not_aside(level, position);
        self.leases(bytes);
    }

    /// So many bytes are no longer ready but leased.
    pub(super) fn leases(&mut self, bytes: u32) {
        self.ready -= 1;
        self.leased += 1;
        self.leased_bytes += u64::from(bytes);
    }

    /// The other way.
    pub(super) fn unleases(&mut self, bytes: u32) {
        self.leased -= 1;
        self.ready += 1;
        self.leased_bytes -= u64::from(bytes);
    }

    pub(super) fn return_one(&mut self, level: u8, position: u64, owner: u64, counted: bool) -> bool {
        let Some(lane) = self.lanes.get_mut(level) else { return false };
        let Some(entry) = lane.get_mut(position) else { return false };
        if entry.status != Status::Leased || entry.owner != owner {
            return false;
        }
        entry.status = Status::Ready;
        entry.owner = 0;
        if counted {
            entry.attempts = entry.attempts.saturating_add(1);
        } else {
            entry.flags |= DELIVERY_REDELIVERED;
        }
        let bytes = entry.bytes;
        lane.touch(position);
        // Before the cursor; what lies beyond (a lease pinned in recovery) is met there.
        if position < lane.cursor {
            lane.returned.insert(position);
        }
        self.unleases(bytes);
        self.scan_again(level, position);
        true
    }

    pub(super) fn is_ready(&mut self, seq: Seq) -> bool {
        let entry = self.lanes.get_mut(seq.lane()).and_then(|lane| lane.get_mut(seq.position()));
        entry.is_some_and(|e| e.status == Status::Ready)
    }

    /// Leases an entry to a durable session again, in recovery.
    pub fn pin(&mut self, seq: Seq, owner: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(seq.lane()) else { return false };
        let Some(entry) = lane.get_mut(seq.position()) else { return false };
        if entry.status != Status::Ready {
            return false;
        }
        entry.status = Status::Leased;
        entry.owner = owner;
        let bytes = entry.bytes;
        lane.returned.remove(&seq.position());
        self.not_aside(seq.lane(), seq.position());
        self.leases(bytes);
        true
    }

    /// The page of an entry that recovery wants to lease, if it has to be read first.
    pub fn away_page(&self, seq: Seq) -> Option<u64> {
        let lane = self.lanes.get(seq.lane())?;
        match lane.look(seq.position()) {
            Next::Away(number) => Some(number),
            _ => None,
        }
    }

    /// Leases an entry to nobody: its message cannot be read. It is handed out again after a restart.
    pub fn set_aside(&mut self, seq: Seq) {
        self.pin(seq, 0);
    }

    pub(super) fn leased_to(&self, owner: u64) -> impl Iterator<Item = Seq> + '_ {
        self.lanes.iter().flat_map(move |(level, lane)| {
            let mine = lane.iter().filter(move |(_, e)| e.status == Status::Leased && e.owner == owner);
            mine.map(move |(position, _)| Seq::new(level, position))
        })
    }
}

impl Lane {
    pub(super) fn iter_from(&self, position: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let start = match self.page_index(position / PAGE) {
            Ok(at) | Err(at) => at,
        };
        let pages = self.pages.iter().skip(start);
        pages.flat_map(Page::live_entries).skip_while(move |(p, _)| *p < position)
    }
}
