//! What recovery does to a queue, and the count that its counters must equal.

use super::{Fill, Gone, Lane, Queue, Status, PAGE};
use crate::store::Log;
use broker_api::Seq;
use journal::Release;
use std::sync::atomic::Ordering;

/// Recovery only: no clock, no limits, no slots. Pages are read before anything in them is changed.
impl Queue {
    /// The queue has ended: everything in it is let go of.
    pub fn recover_end(&self, releases: &mut Vec<Release>) {
        let mut state = self.lock();
        state.deleted = true;
        let mut gone = Fill::new(self.id, Gone::Purged);
        self.take_all(&mut state, |_| true, &mut gone);
        releases.append(&mut gone.releases.known);
    }

    pub fn recover_settle(&self, first: Seq, count: u32, releases: &mut Vec<Release>) {
        let mut state = self.lock();
        let mut gone = Fill::new(self.id, Gone::Accepted);
        for i in 0..u64::from(count) {
            let seq = first.plus(i);
            self.take_out(&mut state, seq.lane(), seq.position(), &mut gone);
        }
        releases.append(&mut gone.releases.known);
    }

    /// The reference went to another queue: out of here, and not let go of.
    pub fn recover_take(&self, seq: Seq) {
        let mut state = self.lock();
        self.take_out(&mut state, seq.lane(), seq.position(), &mut Fill::new(self.id, Gone::Accepted));
    }

    pub fn recover_attempts(&self, seq: Seq, attempts: u16) {
        let mut state = self.lock();
        if let Some(lane) = state.lanes.get_mut(seq.lane()) {
            lane.count(seq.position(), attempts);
        }
    }

    /// Somebody may have been served when the process died: what is here may have been delivered before, or not (deliveries are not
    /// logged). Answers up to where, for the log: the next crash must not forget it.
    pub fn suspect(&self) -> Vec<(u8, u64)> {
        let mut state = self.lock();
        let mark = |(level, lane): (u8, &mut Lane)| {
            lane.suspect = lane.next;
            (!lane.pages.is_empty()).then_some((level, lane.next))
        };
        state.lanes.iter_mut().filter_map(mark).collect()
    }

    pub fn recover_handed(&self, level: u8, position: u64) {
        let mut state = self.lock();
        let lane = state.lanes.open(level);
        lane.suspect = lane.suspect.max(position);
    }

    /// Everything recovered is ready, from the first entry on.
    pub fn recovered(&self) {
        let mut state = self.lock();
        for (_, lane) in state.lanes.iter_mut() {
            lane.cursor = lane.pages.front().map_or(lane.next, |p| p.number * PAGE);
        }
    }

    /// A checkpoint failed: everything has to be written again.
    pub fn mark_all_dirty(&self) {
        for (_, lane) in self.lock().lanes.iter_mut() {
            // What is away is in the page file already.
            lane.pages.iter_mut().filter(|p| !p.entries.is_empty()).for_each(|p| p.dirty = true);
        }
    }
}

impl Queue {
    /// Leases an entry to a durable session again, in recovery; reads its page for it.
    pub fn pin(&self, seq: Seq, owner: u64, log: &Log) -> bool {
        let mut state = self.lock();
        if let Some(number) = state.away_page(seq) {
            self.read_now(&mut state, seq.lane(), number, log);
        }
        state.pin(seq, owner)
    }

    /// Every counter must equal what counting again finds, and every entry must be where its status says.
    pub fn recount(&self) -> Result<(), String> {
        let state = self.lock();
        let (mut ready, mut leased, mut moving, mut bytes, mut held) = (0u64, 0u64, 0u64, 0u64, 0u64);
        let mut leased_bytes = 0;
        for (level, lane) in state.lanes.iter() {
            for page in &lane.pages {
                ready += u64::from(page.away);
                bytes += page.away_bytes;
            }
            for (position, entry) in lane.iter() {
                bytes += if entry.status == Status::Moving { 0 } else { u64::from(entry.bytes) };
                held += if entry.held.is_some() { u64::from(entry.bytes) } else { 0 };
                let returned = lane.returned.contains(&position);
                match entry.status {
                    Status::Ready => ready += 1,
                    Status::Moving => moving += 1,
                    _ => {
                        leased += 1;
                        leased_bytes += u64::from(entry.bytes);
                    }
                }
                let aside = state.is_aside(level, position);
                if aside && (returned || position >= lane.cursor || entry.status != Status::Ready) {
                    return Err(format!("{}: {level}/{position} is put aside but stands elsewhere", self.name));
                }
                let reachable = position >= lane.cursor || returned || aside;
                if entry.status == Status::Ready && !reachable {
                    return Err(format!("{}: {level}/{position} is ready but behind the cursor {}", self.name, lane.cursor));
                }
                if returned && (entry.status != Status::Ready || position >= lane.cursor) {
                    return Err(format!("{}: {level}/{position} stands among the returned but is not", self.name));
                }
            }
        }
        let found = (ready, leased, moving, bytes, ready + leased + moving);
        let kept = (state.ready, state.leased, state.moving, state.bytes, self.depth.load(Ordering::Relaxed));
        if found != kept {
            return Err(format!("{}: ready, leased, moving, bytes, depth are {found:?} but are counted as {kept:?}", self.name));
        }
        state.recount_unspilled().map_err(|wrong| format!("{}: {wrong}", self.name))?;
        if leased_bytes != state.leased_bytes {
            return Err(format!("{}: {leased_bytes} bytes are leased but {} are counted", self.name, state.leased_bytes));
        }
        if held > state.held_bytes {
            return Err(format!("{}: {held} bytes are held in memory but {} are counted", self.name, state.held_bytes));
        }
        Ok(())
    }
}
