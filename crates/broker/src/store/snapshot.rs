//! Checkpoints: which objects changed, and how each is written.
//!
//! Classes: 1 counters and virtual hosts, 2 queues, 3 pages of references, 4 sessions, 5 retained messages, 6 exchanges, 7 the
//! bindings between two ends, 8 the policies of a virtual host. An object is copied under its own lock; what
//! happens meanwhile is redone from the log, and redoing what an object already contains changes nothing.
//!
//! Two can be written: a core that serves, and a recovery that follows another node's log ([`super::warm`]).

use super::page::{page_before, page_key, write_page, Front};
use super::wire::Writer;
use super::{records, write_queue, write_session, write_subscription};
use crate::core::Shared;
use crate::exchange::DestId;
use crate::mutants::{self, Mutant};
use crate::queue::{Page, Queue, State};
use crate::session::{Session, SessionState};
use crate::vhost::Vhost;
use journal::{ObjectError, ObjectKey, ObjectSink, Snapshot, SnapshotError};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(super) mod class {
    pub const COUNTERS: u8 = 1;
    pub const QUEUE: u8 = 2;
    pub const PAGE: u8 = 3;
    pub const SESSION: u8 = 4;
    pub const RETAINED: u8 = 5;
    pub const EXCHANGE: u8 = 6;
    pub const BINDINGS: u8 = 7;
    pub const POLICIES: u8 = 8;
}

/// What changed since the last checkpoint.
#[derive(Default)]
pub(crate) struct Dirty {
    exchanges: super::exchanges::DirtyExchanges,
    lists: Mutex<Changed>,
}

impl Dirty {
    pub fn queue(&self, queue: &Arc<Queue>) {
        if queue.durable && !queue.listed.swap(true, Ordering::AcqRel) {
            self.lists.lock().queues.push(queue.clone());
        }
    }

    pub fn session(&self, session: &Arc<Session>) {
        if !session.listed.swap(true, Ordering::AcqRel) {
            self.lists.lock().sessions.push(session.clone());
        }
    }

    pub fn queue_gone(&self, queue: &Queue) {
        if queue.durable {
            self.lists.lock().gone_queues.push(queue.id.0);
        }
    }

    pub fn session_gone(&self, session: &Session) {
        let mut lists = self.lists.lock();
        lists.gone_sessions.push(session.id);
        lists.gone_queues.push(session.id);
    }

    pub fn vhost_gone(&self, id: u32) {
        self.lists.lock().gone_vhosts.push(id);
    }

    pub fn policies(&self, vhost: u32) {
        self.lists.lock().policies.insert(vhost);
    }

    pub fn exchange(&self, vhost: u32, id: u64) {
        self.exchanges.exchange(vhost, id);
    }

    pub fn exchanges_changed(&self, changes: super::exchanges::Changes) {
        self.exchanges.give_back(changes);
    }

    pub fn binding(&self, vhost: u32, binding: &crate::exchange::Binding) {
        self.exchanges.binding(vhost, binding);
    }

    /// The same of a queue.
    pub fn queue_ended(&self, id: u64) {
        self.lists.lock().gone_queues.push(id);
    }

    /// Recovery saw a session end of which only the id is left.
    pub fn session_ended(&self, id: u64) {
        self.lists.lock().gone_sessions.push(id);
    }
}

/// How long a checkpoint waits for fan-outs that are half made.
const FAN_OUTS: Duration = Duration::from_secs(2);

pub(crate) struct CoreSnapshot(pub Weak<Shared>);

impl Snapshot for CoreSnapshot {
    fn snapshot(&self, sink: &mut dyn ObjectSink) -> Result<(), SnapshotError> {
        let Some(core) = self.0.upgrade() else { return Ok(()) };
        // Without threads nobody would finish one meanwhile.
        let patience = if core.stepped { Duration::ZERO } else { FAN_OUTS };
        if !core.fans.wait_for_none(patience) {
            return Err(SnapshotError("fan-outs are under way".into()));
        }
        core.digests.checkpoint_begins();
        let mut changed = std::mem::take(&mut *core.checkpoint.lists.lock());
        changed.exchanges = core.checkpoint.exchanges.take();
        let sending = resident(&core) > core.config.index_bytes;
        for queue in &changed.queues {
            // Off the list before it is copied: a change during the copy lists it again.
            queue.listed.store(false, Ordering::Release);
        }
        for session in &changed.sessions {
            session.listed.store(false, Ordering::Release);
        }
        let result = write(&*core, sink, &changed, sending);
        if result.is_ok() {
            send_pages_away(&core);
        } else {
            // Everything taken off the lists has to be looked at again.
            for queue in &changed.queues {
                core.checkpoint.queue(queue);
                queue.mark_all_dirty();
            }
            for session in &changed.sessions {
                core.checkpoint.session(session);
            }
            core.checkpoint.exchanges.give_back(changed.exchanges);
            let mut now = core.checkpoint.lists.lock();
            now.gone_queues.extend(&changed.gone_queues);
            now.gone_sessions.extend(&changed.gone_sessions);
            now.gone_vhosts.extend(&changed.gone_vhosts);
            now.policies.extend(&changed.policies);
            drop(now);
            for vhost in core.vhosts.iter() {
                vhost.retained.all_changed([]);
            }
        }
        result
    }
}

/// What references to durable messages take in memory.
fn resident(core: &Shared) -> usize {
    core.queues.iter().filter(|q| q.durable).map(|q| q.resident()).sum()
}

/// References may take so much memory as the settings say; what is beyond goes to the page files with a checkpoint. First all of queues
/// without consumers (the messages themselves go in any case): of what the checkpoint wrote, it has gone by now. Then the middle of long
/// ones that have consumers.
fn send_pages_away(core: &Shared) {
    let budget = core.config.index_bytes;
    let committed = core.log.committed_lsn();
    let queues: Vec<Arc<Queue>> = core.queues.iter().filter(|q| q.durable).map(|q| q.clone()).collect();
    let (idle, busy): (Vec<_>, Vec<_>) = queues.into_iter().partition(|q| q.lock().consumers.is_empty());
    for queue in &idle {
        queue.shed(committed, 0);
    }
    let mut resident: usize = idle.iter().chain(&busy).map(|q| q.resident()).sum();
    if resident <= budget {
        return;
    }
    for queue in &idle {
        resident = resident.saturating_sub(queue.lock().send_away(committed));
    }
    for queue in &busy {
        if resident <= budget {
            return;
        }
        resident = resident.saturating_sub(queue.lock().send_away(committed));
    }
}

/// What a checkpoint is made of.
pub(super) trait Stock {
    /// The id that is given out next.
    fn next_id(&self) -> u64;
    /// The number of the next virtual host, and those that are there.
    fn vhosts(&self) -> (u32, Vec<Arc<Vhost>>);
    fn vhost(&self, id: u32) -> Option<Arc<Vhost>>;
    fn is_session(&self, queue: u64) -> bool;
    /// How many, and each: under the lock of the session's state, which has them where the core serves.
    fn write_subscriptions(&self, session: u64, state: &SessionState, w: &mut Writer<'_>);
    /// References below this position are committed.
    fn committed(&self) -> u64;
    fn object_keys(&self, class: u8, a: u64) -> Vec<ObjectKey>;
    fn get_object(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError>;
    /// This queue is about to be written, and its lock is held.
    fn digest(&self, queue: &Queue, state: &State);
    /// Not all of it could be written: the next checkpoint does it.
    fn again(&self, queue: &Arc<Queue>);
    /// A page was read to be written again with what came behind it.
    fn merged(&self);
    /// Messages are lost with a page that is damaged.
    fn lost(&self);
    /// An exchange, or nothing when it is gone; and all bindings between two ends.
    fn exchange_object(&self, vhost: u32, id: u64) -> Option<Vec<u8>>;
    fn pair_object(&self, vhost: u32, source: u64, to: DestId) -> Option<Vec<u8>>;
}

impl Stock for Shared {
    fn next_id(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    fn vhosts(&self) -> (u32, Vec<Arc<Vhost>>) {
        let next = self.next_vhost.lock();
        (*next, self.vhosts.iter().map(|v| v.clone()).collect())
    }

    fn vhost(&self, id: u32) -> Option<Arc<Vhost>> {
        self.vhost_by_id(id)
    }

    fn is_session(&self, queue: u64) -> bool {
        self.sessions.contains_key(&queue)
    }

    fn write_subscriptions(&self, _: u64, state: &SessionState, w: &mut Writer<'_>) {
        w.u32(state.subscriptions.len() as u32);
        for (key, subscription) in &state.subscriptions {
            write_subscription(w, key, &**subscription);
        }
    }

    fn committed(&self) -> u64 {
        self.log.committed_lsn()
    }

    fn object_keys(&self, class: u8, a: u64) -> Vec<ObjectKey> {
        self.log.journal().object_keys(class, a)
    }

    fn get_object(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        self.log.journal().get_object(key, into)
    }

    fn digest(&self, queue: &Queue, state: &State) {
        self.write_digest(queue, state);
    }

    fn again(&self, queue: &Arc<Queue>) {
        self.checkpoint.queue(queue);
    }

    fn merged(&self) {
        self.counters.pages_merged.fetch_add(1, Ordering::Relaxed);
    }

    fn lost(&self) {
        self.digests.switch_off();
    }

    fn exchange_object(&self, vhost: u32, id: u64) -> Option<Vec<u8>> {
        super::exchanges::exchange_object(self, vhost, id)
    }

    fn pair_object(&self, vhost: u32, source: u64, to: DestId) -> Option<Vec<u8>> {
        super::exchanges::pair_object(&*self.vhost_by_id(vhost)?, source, to)
    }
}

/// The queues, sessions and the rest that a checkpoint has to write.
#[derive(Default)]
pub(super) struct Changed {
    pub queues: Vec<Arc<Queue>>,
    pub sessions: Vec<Arc<Session>>,
    pub gone_queues: Vec<u64>,
    pub gone_sessions: Vec<u64>,
    pub gone_vhosts: Vec<u32>,
    pub policies: BTreeSet<u32>,
    pub exchanges: super::exchanges::Changes,
}

/// Writes what has changed. `sending`: references of queues without consumers go out of memory as soon as they are written.
pub(super) fn write(stock: &dyn Stock, sink: &mut dyn ObjectSink, changed: &Changed, sending: bool) -> Result<(), SnapshotError> {
    let mut pass = Pass { core: stock, sink, bytes: Vec::new(), sending };
    pass.all(changed)?;
    pass.exchanges(&changed.exchanges)
}

struct Pass<'a> {
    core: &'a dyn Stock,
    sink: &'a mut dyn ObjectSink,
    bytes: Vec<u8>,
    /// References take more memory than they may: those of queues without consumers go as soon as they are written. Later there might be
    /// a change again, and at full load there is one in each queue.
    sending: bool,
}

/// How a queue is found again: by its name, by its session (which has its bound, and no name that others could use), or by the exchange that
/// holds back what stands in it.
fn of_what(core: &dyn Stock, queue: &Queue) -> u8 {
    match queue.delays {
        true => OF_EXCHANGE,
        false => u8::from(core.is_session(queue.id.0)),
    }
}

pub(super) const OF_SESSION: u8 = 1;
pub(super) const OF_EXCHANGE: u8 = 2;

/// Pages as they were written, by level and number.
type Fronts = Vec<((u8, u64), Option<Vec<u8>>)>;
/// Level, number, entries, bytes of their messages.
type PageLine = (u8, u64, u16, u64);

impl Pass<'_> {
    fn all(&mut self, changed: &Changed) -> Result<(), SnapshotError> {
        self.bytes.clear();
        let mut w = Writer(&mut self.bytes);
        w.u64(self.core.next_id());
        let (next, vhosts) = self.core.vhosts();
        w.u32(next);
        w.u32(vhosts.len() as u32);
        vhosts.iter().for_each(|vhost| super::write_vhost(&mut w, vhost.id, vhost.name.as_str()));
        self.put(ObjectKey::new(class::COUNTERS, 0, 0))?;
        changed.queues.iter().try_for_each(|queue| self.queue(queue))?;
        changed.sessions.iter().try_for_each(|session| self.session(session))?;
        for id in &changed.gone_queues {
            self.forget_queue(*id);
        }
        for id in &changed.gone_sessions {
            self.delete(ObjectKey::new(class::SESSION, *id, 0));
        }
        for id in &changed.gone_vhosts {
            self.delete_all(class::RETAINED, u64::from(*id));
        }
        for id in changed.policies.iter().chain(&changed.gone_vhosts) {
            let object = self.core.vhost(*id).and_then(|vhost| super::policies::policies_object(&vhost));
            self.put_or_delete(ObjectKey::new(class::POLICIES, u64::from(*id), 0), object)?;
        }
        vhosts.iter().try_for_each(|vhost| self.retained(vhost))
    }

    fn exchanges(&mut self, changes: &super::exchanges::Changes) -> Result<(), SnapshotError> {
        for (vhost, id) in &changes.exchanges {
            self.put_or_delete(ObjectKey::new(class::EXCHANGE, *id, 0), self.core.exchange_object(*vhost, *id))?;
        }
        for (vhost, source, to) in &changes.pairs {
            self.put_or_delete(ObjectKey::new(class::BINDINGS, to.number(), *source), self.core.pair_object(*vhost, *source, *to))?;
        }
        Ok(())
    }

    fn put_or_delete(&mut self, key: ObjectKey, object: Option<Vec<u8>>) -> Result<(), SnapshotError> {
        match object {
            Some(bytes) => {
                self.bytes = bytes;
                self.put(key)
            }
            None => {
                self.delete(key);
                Ok(())
            }
        }
    }

    fn put(&mut self, key: ObjectKey) -> Result<(), SnapshotError> {
        Ok(self.sink.put(key, &self.bytes)?)
    }

    fn delete(&mut self, key: ObjectKey) {
        self.sink.delete(key);
    }

    fn delete_all(&mut self, class: u8, a: u64) {
        for key in self.core.object_keys(class, a) {
            self.delete(key);
        }
    }

    fn forget_queue(&mut self, id: u64) {
        self.delete_all(class::PAGE, id);
        self.delete(ObjectKey::new(class::QUEUE, id, 0));
    }

    /// The description and, per lane, the next position and the dirty pages. A page whose records have no LSN yet stays dirty.
    fn queue(&mut self, queue: &Arc<Queue>) -> Result<(), SnapshotError> {
        // Mostly from the page cache, but not while the queue waits.
        let mut fronts = Fronts::new();
        for (level, number) in queue.to_merge() {
            fronts.push(((level, number), self.read_page(queue, level, number)?));
        }
        let mut state = queue.lock();
        if state.deleted {
            return Ok(());
        }
        self.core.digest(queue, &state);
        let (pages, complete) = self.pages(queue, &mut state, &mut fronts)?;
        self.bytes.clear();
        let mut w = Writer(&mut self.bytes);
        w.u8(of_what(self.core, queue));
        write_queue(&mut w, queue);
        w.u8(state.lanes.len() as u8);
        for (level, lane) in state.lanes.iter() {
            w.u8(level);
            w.u64(lane.next);
            w.u64(lane.suspect);
            let mine = pages.iter().filter(|p| p.0 == level);
            w.u32(mine.clone().count() as u32);
            for (_, number, live, bytes) in mine {
                w.u64(*number);
                w.u16(*live);
                w.u64(*bytes);
                if let Some(delays) = &state.delays {
                    // What is on its way is not in there, and stays if we crash: then the page is looked at first.
                    let known = state.moving + state.leased == 0;
                    w.u32(if known { delays.of_page(*number) } else { 0 });
                }
            }
        }
        self.put(ObjectKey::new(class::QUEUE, queue.id.0, 0))?;
        if self.sending && state.consumers.is_empty() {
            state.send_away(self.core.committed());
        }
        drop(state);
        if !complete {
            self.core.again(queue);
        }
        Ok(())
    }

    /// Writes the dirty pages. Answers all there are, by level and number, with their entries and the bytes of their messages; and whether
    /// every entry could be written.
    fn pages(&mut self, queue: &Queue, state: &mut State, fronts: &mut Fronts) -> Result<(Vec<PageLine>, bool), SnapshotError> {
        let mut pages = Vec::new();
        let mut all_complete = true;
        let State { lanes, ready, bytes, dropped_messages, .. } = state;
        for (level, lane) in lanes.iter_mut() {
            for number in std::mem::take(&mut lane.dropped) {
                self.delete(page_key(queue.id, level, number));
            }
            for page in lane.pages.iter_mut().filter(|p| p.live > 0) {
                if !page.dirty {
                    pages.push((level, page.number, page.live, page.bytes()));
                    continue;
                }
                let front = self.front(queue, level, page, fronts)?.unwrap_or_else(|| {
                    let (lost, lost_bytes) = page.give_up();
                    *ready -= lost;
                    *bytes -= lost_bytes;
                    *dropped_messages += lost;
                    queue.depth.fetch_sub(lost, Ordering::Relaxed);
                    Front::default()
                });
                if page.live == 0 {
                    self.delete(page_key(queue.id, level, page.number));
                    continue;
                }
                self.bytes.clear();
                let (complete, live, bytes) = write_page(&mut Writer(&mut self.bytes), page, &front);
                page.dirty = !complete;
                all_complete &= complete;
                self.put(page_key(queue.id, level, page.number))?;
                pages.push((level, page.number, live, bytes));
            }
        }
        Ok((pages, all_complete))
    }

    /// The entries of a page that are away, as they were written. `None`: they cannot be read any more, and nobody else has them.
    fn front(&self, queue: &Queue, level: u8, page: &Page, fronts: &mut Fronts) -> Result<Option<Front>, SnapshotError> {
        if page.away == 0 || mutants::active(Mutant::ForgetFront) {
            return Ok(Some(Front::default()));
        }
        let found = fronts.iter().position(|(key, _)| *key == (level, page.number));
        let bytes = match found {
            Some(at) => fronts.swap_remove(at).1,
            // It was changed after one looked.
            None => self.read_page(queue, level, page.number)?,
        };
        let front = bytes.and_then(|bytes| {
            let (n, front) = page_before(&bytes, page.start())?;
            (n == page.away).then(|| Front { entries: n, bytes: front.to_vec() })
        });
        match front {
            Some(_) => self.core.merged(),
            None => {
                let (number, messages) = (page.number, page.away);
                tracing::error!(queue = %queue.name, level, number, messages, "a page of references is damaged: these messages are lost");
                self.core.lost();
                return Ok(None);
            }
        };
        Ok(front)
    }

    /// `None`: it is damaged. A disk that cannot read now may later, and so may the checkpoint.
    fn read_page(&self, queue: &Queue, level: u8, number: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        let mut bytes = Vec::new();
        match self.core.get_object(page_key(queue.id, level, number), &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error @ (ObjectError::Io(_) | ObjectError::Failed(_))) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    fn session(&mut self, session: &Arc<Session>) -> Result<(), SnapshotError> {
        {
            let state = session.state.lock();
            if state.ended || !state.logged {
                return Ok(());
            }
        }
        self.bytes.clear();
        let mut w = Writer(&mut self.bytes);
        write_session(&mut w, session);
        let state = session.state.lock();
        self.core.write_subscriptions(session.id, &state, &mut w);
        w.u32(state.map.len() as u32);
        for (key, entry) in &state.map {
            let edit =
                broker_api::StateEdit { owner: broker_api::OwnerIx(0), key: *key, value: Some(entry.value.clone()), lease: entry.lease };
            records::write_edit(&mut w, session.id, &edit);
        }
        drop(state);
        self.put(ObjectKey::new(class::SESSION, session.id, 0))
    }

    fn retained(&mut self, vhost: &Arc<Vhost>) -> Result<(), SnapshotError> {
        use crate::routing::retained::Change;
        loop {
            let changes = vhost.retained.take_changes(256);
            if changes.is_empty() {
                return Ok(());
            }
            for change in changes {
                match change {
                    Change::Put { id, value, .. } if value.durable => {
                        let Some(head) = value.message.heads.first() else { continue };
                        self.bytes.clear();
                        let mut w = Writer(&mut self.bytes);
                        w.u32(vhost.id);
                        records::write_message(&mut w, &value.message, head, value.message.arrived_ms);
                        self.put(ObjectKey::new(class::RETAINED, u64::from(vhost.id), id))?;
                    }
                    Change::Put { .. } => {}
                    Change::Delete { id } => self.delete(ObjectKey::new(class::RETAINED, u64::from(vhost.id), id)),
                }
            }
        }
    }
}
