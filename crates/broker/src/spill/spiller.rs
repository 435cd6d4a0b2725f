//! The thread that writes backlogs out, one run at a time.

use super::files::{encode, place_of, Writer};
use super::Spill;
use crate::core::Shared;
use crate::queue::{Queue, SpillRun};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// After a full disk or an error, how long nothing is tried.
const REST_MS: u64 = 1000;
/// A look that found nothing to do is not repeated at once, whatever comes.
const PAUSE: Duration = Duration::from_millis(20);
const FOR_EVER: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(crate) struct Spiller {
    writer: Option<Writer>,
    /// Backlogs that are still to be looked at, the longest last.
    order: Vec<Arc<Queue>>,
    /// Noted, and not written yet.
    run: Option<SpillRun>,
    bytes: Vec<u8>,
    rests_until_ms: u64,
    /// The operator knows that it does not go on.
    said: bool,
}

pub(crate) fn spill_backlogs(shared: &Weak<Shared>, spill: &Spill) {
    let mut spiller = Spiller::default();
    loop {
        let Some(core) = shared.upgrade() else { return };
        let worked = spiller.step(&core);
        let rests = spiller.rests_until_ms > 0;
        drop(core);
        if worked && !spill.is_stopped() {
            continue;
        }
        std::thread::sleep(PAUSE);
        let at_most = if rests { Duration::from_millis(REST_MS) } else { FOR_EVER };
        if !spill.wait(at_most) {
            return;
        }
    }
}

impl Spiller {
    /// One thing: a run noted, or a run written. `false`: there is nothing to do, or nothing can be done now.
    pub fn step(&mut self, core: &Shared) -> bool {
        let worked = self.one(core);
        core.spill.after_step(worked && self.rests_until_ms == 0);
        worked
    }

    fn one(&mut self, core: &Shared) -> bool {
        let spill = &*core.spill;
        let removed = spill.files.remove_dead();
        if self.rests_until_ms > 0 {
            if core.now_ms() < self.rests_until_ms {
                return removed;
            }
            self.rests_until_ms = 0;
        }
        if let Some(run) = self.run.take() {
            if let Err(error) = self.write(core, &run) {
                run.queue.spill_again();
                self.rest(core, &error);
            }
            return true;
        }
        if spill.is_enough() || (self.order.is_empty() && !spill.is_over()) {
            self.order.clear();
            if spill.is_list_long() {
                spill.longest();
            }
            return self.tidy(spill) || removed;
        }
        if self.order.is_empty() {
            self.order = spill.longest();
        }
        while let Some(queue) = self.order.pop() {
            if let Some(run) = queue.to_spill(crate::queue::AHEAD, spill.excess()) {
                self.run = Some(run);
                self.order.push(queue);
                return true;
            }
        }
        removed
    }

    /// The file that is being written goes too when nothing in it is needed.
    fn tidy(&mut self, spill: &Spill) -> bool {
        match self.writer.take() {
            Some(writer) if writer.end > 0 && !spill.files.is_needed(writer.number) => {
                spill.files.finish(writer);
                spill.files.remove_dead()
            }
            kept => {
                self.writer = kept;
                false
            }
        }
    }

    fn rest(&mut self, core: &Shared, error: &io::Error) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(%error, "transient messages cannot be spilled now and stay in memory");
        }
        if let Some(writer) = self.writer.take() {
            core.spill.files.finish(writer);
        }
        self.order.clear();
        self.rests_until_ms = core.now_ms() + REST_MS;
    }

    /// Writes a run and lets the queue forget what it may.
    fn write(&mut self, core: &Shared, run: &SpillRun) -> io::Result<()> {
        let spill = &*core.spill;
        let mut writer = self.take_writer(spill)?;
        self.bytes.clear();
        let mut places = Vec::with_capacity(run.len());
        let (mut fresh, mut again) = (0, Vec::new());
        for (held, head) in run.messages() {
            if let Some(place) = held.spilled.place(head).filter(|place| spill.files.hold_again(*place)) {
                places.push(place);
                again.push(place);
                continue;
            }
            let place = place_of(writer.number, writer.end + self.bytes.len() as u64);
            encode(&mut self.bytes, place, &held.batch, &held.batch.heads[head as usize]);
            places.push(place);
            fresh += 1;
        }
        let written = writer.write(&self.bytes);
        let number = writer.number;
        self.writer = Some(writer);
        if let Err(error) = written {
            for place in again {
                spill.files.release(place);
            }
            return Err(error);
        }
        spill.files.hold(number, fresh);
        spill.counts.written.fetch_add(fresh, Ordering::Relaxed);
        spill.counts.bytes_written.fetch_add(self.bytes.len() as u64, Ordering::Relaxed);
        self.bytes.shrink_to(RUN_BUFFER);
        run.note_shared(&places);
        spill.count_references(places.len() as u64, true);
        run.queue.spilled(run, &places, &core.spill);
        self.said = false;
        Ok(())
    }

    /// The file to write to, a new one if the last is full and the disk has room.
    fn take_writer(&mut self, spill: &Spill) -> io::Result<Writer> {
        match self.writer.take() {
            Some(writer) if writer.end < spill.limits.file_bytes => return Ok(writer),
            Some(writer) => spill.files.finish(writer),
            None => {}
        }
        let free = spill.files.free_bytes()?;
        if free < spill.limits.keep_free.saturating_add(spill.limits.file_bytes) {
            return Err(io::Error::other(format!("the disk has no room beyond what is kept free: {free} bytes are left")));
        }
        spill.files.create()
    }
}

/// The buffer is kept at this size; a run of large messages may need more for a moment.
const RUN_BUFFER: usize = 1 << 20;

impl Spill {
    /// The backlogs on the list as they are now, the longest last. What is none any more leaves the list.
    fn longest(&self) -> Vec<Arc<Queue>> {
        // Off its lock: who reports holds a queue's lock and takes this one.
        let mut list = std::mem::take(&mut *self.list.lock());
        let mut found = Vec::with_capacity(list.len());
        list.retain(|queue| {
            let mut state = queue.lock();
            self.account(&mut state);
            state.listed_backlog = state.unspilled >= super::REPORT / 2 && !state.deleted;
            if state.listed_backlog {
                found.push((state.unspilled, queue.clone()));
            } else {
                self.total.fetch_sub(state.reported, Ordering::Relaxed);
                state.reported = 0;
            }
            state.listed_backlog
        });
        self.prune_at.store(super::PRUNE_FROM.max(2 * list.len()), Ordering::Relaxed);
        self.list.lock().append(&mut list);
        found.sort_unstable_by_key(|(weight, queue)| (*weight, queue.id.0));
        found.into_iter().map(|(_, queue)| queue).collect()
    }
}
