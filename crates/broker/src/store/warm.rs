//! A recovery that does not end: it follows another node's log, and writes checkpoints of what it has, as a core does that serves.

use super::kind;
use super::snapshot::{write, Changed, Stock};
use super::wire::Writer;
use super::{write_subscription, Compared, Recovery};
use crate::exchange::DestId;
use crate::mutants::{self, Mutant};
use crate::queue::{Queue, State as QueueState};
use crate::session::SessionState;
use crate::vhost::Vhost;
use journal::record::KIND_DIGEST;
use journal::{
    Apply, ApplyError, Lsn, ObjectError, ObjectKey, ObjectRef, ObjectSink, Objects, RecordRef, Release, Snapshot, SnapshotError,
};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// Which settlement a deliberate fault leaves out.
const SKIPPED: u32 = 10;
/// How often a checkpoint is put off because references wait for the end of their queue, which follows in the log.
const OWNERLESS_PATIENCE: u32 = 100;

/// Shared by who redoes and by who writes checkpoints.
pub(crate) struct Warm {
    state: Mutex<State>,
    /// Bytes that references may take in memory.
    index_bytes: usize,
}

struct State {
    recovery: Recovery,
    /// Queues of which the last checkpoint could not write everything.
    again: Mutex<Vec<Arc<Queue>>>,
    put_off: u32,
    compared: Compared,
    /// Settlements that were redone, for a deliberate fault.
    settled: u32,
}

impl Warm {
    pub fn new(recovery: Recovery, index_bytes: usize) -> Warm {
        Warm {
            state: Mutex::new(State { recovery, again: Mutex::default(), put_off: 0, compared: Compared::default(), settled: 0 }),
            index_bytes,
        }
    }

    /// For redoing.
    pub fn redo(&self) -> Redo<'_> {
        Redo(self.state.lock())
    }

    /// Digests of the primary's that were compared with what stands here.
    pub fn compared(&self) -> Compared {
        self.state.lock().compared.clone()
    }

    pub fn into_recovery(self) -> Recovery {
        self.state.into_inner().recovery
    }

    /// Queues and messages in them.
    pub fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        let queues = state.recovery.queues.values();
        (state.recovery.queues.len(), queues.map(|queue| queue.depth.load(std::sync::atomic::Ordering::Relaxed)).sum())
    }
}

pub(crate) struct Redo<'a>(MutexGuard<'a, State>);

impl Apply for Redo<'_> {
    fn load(&mut self, key: ObjectKey, object: ObjectRef<'_>) -> Result<(), ApplyError> {
        self.0.recovery.load(key, object)
    }

    fn objects(&mut self, objects: Arc<dyn Objects>) {
        self.0.recovery.objects(objects);
    }

    fn apply(&mut self, lsn: Lsn, record: RecordRef<'_>, releases: &mut Vec<Release>) -> Result<(), ApplyError> {
        let state = &mut *self.0;
        match record.kind {
            // Only here: a recovery from files may be ahead of what it redoes.
            KIND_DIGEST => {
                let (differed, read) = (state.compared.differs.is_some(), state.recovery.compare(record.fields, &mut state.compared));
                if let (false, Some(what)) = (differed, &mut state.compared.differs) {
                    what.push_str(&format!(", at {lsn}"));
                }
                read.ok_or_else(|| ApplyError("a digest cannot be read".into()))
            }
            kind::SETTLE if mutants::active(Mutant::SkipSettlement) => {
                state.settled += 1;
                match state.settled {
                    SKIPPED => Ok(()),
                    _ => state.recovery.apply(lsn, record, releases),
                }
            }
            _ => state.recovery.apply(lsn, record, releases),
        }
    }
}

impl Snapshot for Warm {
    fn snapshot(&self, sink: &mut dyn ObjectSink) -> Result<(), SnapshotError> {
        let mut state = self.state.lock();
        let (fan_outs, ownerless) = state.recovery.half_done();
        if fan_outs {
            return Err(SnapshotError("a fan-out is under way".into()));
        }
        if ownerless && state.put_off < OWNERLESS_PATIENCE {
            state.put_off += 1;
            return Err(SnapshotError("a queue is about to end".into()));
        }
        state.put_off = 0;
        let changed = state.take_changed();
        let sending = state.resident() > self.index_bytes;
        let result = write(&*state, sink, &changed, sending);
        match result {
            Ok(()) if state.resident() > self.index_bytes => state.send_pages_away(),
            Ok(()) => {}
            Err(_) => state.give_back(changed),
        }
        result
    }
}

impl State {
    fn take_changed(&mut self) -> Changed {
        let recovery = &mut self.recovery;
        let ids = std::mem::take(&mut recovery.touched_queues);
        let mut queues: Vec<_> = ids.iter().filter_map(|id| recovery.queues.get(id).cloned()).collect();
        queues.append(&mut self.again.lock());
        queues.sort_unstable_by_key(|queue| queue.id.0);
        queues.dedup_by_key(|queue| queue.id.0);
        let sessions = std::mem::take(&mut recovery.touched_sessions);
        let gone_sessions = std::mem::take(&mut recovery.ended_sessions);
        let ended = std::mem::take(&mut recovery.ended);
        Changed {
            queues,
            sessions: sessions.iter().filter_map(|id| recovery.sessions.get(id).cloned()).collect(),
            gone_queues: (ended.iter().map(|queue| queue.id.0))
                .chain(std::mem::take(&mut recovery.ended_queues))
                .chain(gone_sessions.iter().copied())
                .collect(),
            gone_sessions,
            gone_vhosts: std::mem::take(&mut recovery.ended_vhosts),
            policies: std::mem::take(&mut recovery.touched_policies),
            exchanges: std::mem::take(&mut recovery.exchanges.touched),
        }
    }

    /// The checkpoint failed: all of it has to be written again.
    fn give_back(&mut self, changed: Changed) {
        changed.queues.iter().for_each(|queue| queue.mark_all_dirty());
        let recovery = &mut self.recovery;
        recovery.touched_queues.extend(changed.queues.iter().map(|queue| queue.id.0));
        recovery.touched_sessions.extend(changed.sessions.iter().map(|session| session.id));
        recovery.ended_queues.extend(changed.gone_queues);
        recovery.ended_sessions.extend(changed.gone_sessions);
        recovery.ended_vhosts.extend(changed.gone_vhosts);
        recovery.touched_policies.extend(changed.policies);
        recovery.exchanges.touched.exchanges.extend(changed.exchanges.exchanges);
        recovery.exchanges.touched.pairs.extend(changed.exchanges.pairs);
        recovery.vhosts.iter().for_each(|vhost| vhost.retained.all_changed([]));
    }

    fn resident(&self) -> usize {
        self.recovery.queues.values().map(|queue| queue.resident()).sum()
    }

    fn send_pages_away(&self) {
        for queue in self.recovery.queues.values() {
            queue.lock().send_away(self.committed());
        }
    }
}

/// What stands here was committed before it was redone.
impl Stock for State {
    fn next_id(&self) -> u64 {
        self.recovery.next_id
    }

    fn vhosts(&self) -> (u32, Vec<Arc<Vhost>>) {
        (self.recovery.next_vhost, self.recovery.vhosts.clone())
    }

    fn vhost(&self, id: u32) -> Option<Arc<Vhost>> {
        self.recovery.vhost(id).cloned()
    }

    fn is_session(&self, queue: u64) -> bool {
        self.recovery.sessions.contains_key(&queue)
    }

    fn write_subscriptions(&self, session: u64, _: &SessionState, w: &mut Writer<'_>) {
        let own = self.recovery.subscriptions.get(&session);
        w.u32(own.map_or(0, |own| own.len()) as u32);
        for (key, subscription) in own.into_iter().flatten() {
            write_subscription(w, key, subscription);
        }
    }

    fn committed(&self) -> u64 {
        u64::MAX
    }

    fn object_keys(&self, class: u8, a: u64) -> Vec<ObjectKey> {
        self.recovery.reader.as_ref().map_or_else(Vec::new, |objects| objects.keys(class, a))
    }

    fn get_object(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        match &self.recovery.reader {
            Some(objects) => objects.read(key, into),
            None => Err(ObjectError::Damaged("there are no objects yet".into())),
        }
    }

    /// What stands here is what is compared.
    fn digest(&self, _: &Queue, _: &QueueState) {}

    fn again(&self, queue: &Arc<Queue>) {
        self.again.lock().push(queue.clone());
    }

    fn merged(&self) {}

    /// The primary's next digest of that page tells.
    fn lost(&self) {}

    fn exchange_object(&self, vhost: u32, id: u64) -> Option<Vec<u8>> {
        self.recovery.exchanges.exchange_object(vhost, id)
    }

    fn pair_object(&self, vhost: u32, source: u64, to: DestId) -> Option<Vec<u8>> {
        self.recovery.exchanges.pair_object(vhost, source, to)
    }
}
