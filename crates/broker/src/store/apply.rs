//! Recovery: checkpoint objects and records back into the core. No clock, no randomness, no limits; redoing changes nothing.

mod references;

use super::records::{self, kind, read_expiry, read_message, read_own_message, SELECTOR_FOLLOWS};
use super::snapshot::{class, OF_EXCHANGE, OF_SESSION};
use super::wire::Reader;
use crate::exchange::Views;
use crate::policy::Rules;
use crate::queue::{session_spec, Bound, Queue, PAGE};
use crate::selector::Selector;
use crate::session::{Session, SessionState, StateEntry, SubscriptionKey};
use crate::vhost::Vhost;
use ahash::{AHashMap, AHashSet};
use broker_api::{Expiry, Parting, QueueId, QueueName, Seq, SessionName, StateEdit, VhostName};
use journal::{Apply, ApplyError, Lsn, ObjectKey, ObjectRef, Objects, RecordRef, Release};
use references::{bring, OpenFanOut};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sequence numbers and ids that a new reign leaves out, so that none given out before a crash is given out again.
const SKIP: u64 = 1 << 20;

/// A subscription that is routed once the core stands.
pub(crate) struct Recovered {
    pub session: Arc<Session>,
    pub id: u64,
    pub level: u8,
    pub identifier: u32,
    pub no_local: bool,
    pub selector: Option<Box<Selector>>,
    pub flags: u8,
}

pub(crate) struct Recovery {
    pub vhosts: Vec<Arc<Vhost>>,
    pub queues: AHashMap<u64, Arc<Queue>>,
    pub sessions: AHashMap<u64, Arc<Session>>,
    /// By session.
    pub subscriptions: AHashMap<u64, AHashMap<SubscriptionKey, Recovered>>,
    pub exchanges: super::exchanges::RecoveredExchanges,
    /// References to queues that are not there any more: their end follows in the log and releases them, unless they moved on before.
    ownerless: AHashMap<u64, Vec<Release>>,
    /// Fan-outs whose last part has not come.
    fan_outs: AHashMap<u64, OpenFanOut>,
    pub next_id: u64,
    pub next_vhost: u32,
    /// What redo changed: the next checkpoint has to write it, since it begins behind these records.
    pub touched_queues: AHashSet<u64>,
    pub touched_sessions: AHashSet<u64>,
    /// Queues that ended; their pages in the checkpoint still have to be read for what they held, and deleted.
    pub ended: Vec<Arc<Queue>>,
    pub ended_sessions: Vec<u64>,
    /// Queues that ended, of which a checkpoint that failed has left only the numbers.
    pub ended_queues: Vec<u64>,
    /// Their retained messages may still stand in the checkpoint.
    pub ended_vhosts: Vec<u32>,
    pub limits: Limits,
    views: Views,
    /// Virtual hosts whose policies changed since what holds for their queues was worked out.
    stale_rules: BTreeSet<u32>,
    pub touched_policies: BTreeSet<u32>,
    pub(super) reader: Option<Arc<dyn Objects>>,
    buffer: Vec<u8>,
}

/// Bounds of queues that no description of their own has them in.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub session: Bound,
    /// Messages that an exchange holds back.
    pub delayed_max: u64,
}

fn malformed(what: &str) -> ApplyError {
    ApplyError(format!("{what} cannot be read"))
}

impl Recovery {
    pub fn new(vhosts: Vec<Arc<Vhost>>, limits: Limits, views: Views) -> Recovery {
        Recovery {
            vhosts,
            queues: AHashMap::default(),
            sessions: AHashMap::default(),
            subscriptions: AHashMap::default(),
            exchanges: Default::default(),
            ownerless: AHashMap::default(),
            fan_outs: AHashMap::default(),
            next_id: 1,
            next_vhost: 1,
            touched_queues: AHashSet::default(),
            touched_sessions: AHashSet::default(),
            ended: Vec::new(),
            ended_sessions: Vec::new(),
            ended_queues: Vec::new(),
            ended_vhosts: Vec::new(),
            limits,
            views,
            stale_rules: BTreeSet::new(),
            touched_policies: BTreeSet::new(),
            reader: None,
            buffer: Vec::new(),
        }
    }

    pub(super) fn vhost(&self, id: u32) -> Option<&Arc<Vhost>> {
        self.vhosts.iter().find(|v| v.id == id)
    }

    fn add_vhost(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let (id, name) = (r.u32()?, r.text()?);
        self.next_vhost = self.next_vhost.max(id + 1);
        if self.vhost(id).is_none() {
            self.vhosts.push(Vhost::new(id, VhostName::new(name)));
        }
        Some(())
    }

    /// Its contents went before it, by records of their own; what a race left goes here.
    fn vhost_gone(&mut self, id: u32, releases: &mut Vec<Release>) {
        let sessions: Vec<u64> = self.sessions.values().filter(|s| s.vhost == id).map(|s| s.id).collect();
        sessions.into_iter().for_each(|id| self.session_gone(id, releases));
        let queues: Vec<u64> = self.queues.values().filter(|q| q.vhost == id).map(|q| q.id.0).collect();
        queues.into_iter().for_each(|id| self.queue_gone(id, releases));
        self.exchanges.vhost_gone(id);
        self.vhosts.retain(|v| v.id != id);
        self.ended_vhosts.push(id);
    }

    fn saw_id(&mut self, id: u64) {
        self.next_id = self.next_id.max(id + 1);
    }

    fn edit(&mut self, session: u64, edit: &StateEdit) {
        self.touched_sessions.insert(session);
        if let Some(session) = self.sessions.get(&session) {
            session.state.lock().apply(edit);
        }
    }

    fn queue(&mut self, r: &mut Reader<'_>, of_what: u8) -> Option<Arc<Queue>> {
        let (id, vhost) = (r.u64()?, r.u32()?);
        let name = QueueName::new(r.text()?);
        let spec = records::read_queue_spec(r)?;
        self.saw_id(id);
        if let Some(queue) = self.queues.get(&id) {
            return Some(queue.clone());
        }
        if of_what == OF_EXCHANGE {
            return Some(self.held_back(id, name.as_str(), vhost));
        }
        let of_session = of_what == OF_SESSION;
        let bound = if of_session { self.limits.session } else { crate::queue::bound_of(&spec) };
        let spec = if of_session { session_spec(spec.durable) } else { Arc::new(spec) };
        let queue = Queue::new(QueueId(id), name.clone(), vhost, spec, bound);
        self.queues.insert(id, queue.clone());
        if let (Some(vhost), false) = (self.vhost(vhost), of_session) {
            vhost.queues.insert(name, queue.clone());
            self.rule(vhost, &queue);
        }
        Some(queue)
    }

    /// What a durable exchange holds back; the exchange itself is made when all is there.
    fn held_back(&mut self, id: u64, name: &str, vhost: u32) -> Arc<Queue> {
        let max = self.limits.delayed_max;
        self.queues.entry(id).or_insert_with(|| Queue::delaying(id, name, vhost, true, max)).clone()
    }

    fn exchange(&mut self, r: &mut Reader<'_>) -> Option<u64> {
        let id = self.exchanges.exchange(r)?;
        self.saw_id(id);
        if let Some((vhost, name)) = self.exchanges.delaying(id) {
            self.held_back(id, &name, vhost);
        }
        Some(id)
    }

    /// Why a checkpoint would not be whole now: what is half there is in no object, and its rest would not be understood behind the checkpoint.
    pub(super) fn half_done(&self) -> (bool, bool) {
        (!self.fan_outs.is_empty(), !self.ownerless.is_empty())
    }

    /// Before anything is redone that depends on what holds for queues, and at the end.
    pub fn refresh_rules(&mut self) {
        for id in std::mem::take(&mut self.stale_rules) {
            if let Some(vhost) = self.vhost(id) {
                vhost.queues.iter().for_each(|queue| self.rule(vhost, &queue));
            }
        }
    }

    fn rule(&self, vhost: &Vhost, queue: &Queue) {
        let policies = vhost.policies.read().clone();
        let mut state = queue.lock();
        if queue.is_share() || policies.is_empty() && !state.rules.is_by_policy() {
            return;
        }
        let arguments = crate::exchange::read_arguments(&self.views, queue.spec.format, &queue.spec.arguments);
        state.rules = Rules::with(&queue.spec, queue.name.as_str(), &arguments, &policies).shared();
    }

    fn policy(&mut self, r: &mut Reader<'_>, change: fn(&Vhost, &mut Reader<'_>) -> Option<()>) -> Option<()> {
        let id = r.u32()?;
        self.stale_rules.insert(id);
        self.touched_policies.insert(id);
        // Of a virtual host that is gone by now, as in an object of a checkpoint that is older than its end.
        self.vhost(id).map_or(Some(()), |vhost| change(vhost, r))
    }

    fn policies(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let id = r.u32()?;
        self.stale_rules.insert(id);
        while r.u8()? != 0 {
            match self.vhost(id) {
                Some(vhost) => super::policies::set(vhost, r)?,
                None => super::policies::skip(r)?,
            }
        }
        Some(())
    }

    fn session(&mut self, r: &mut Reader<'_>, all: &[u8]) -> Option<Arc<Session>> {
        let (id, vhost) = (r.u64()?, r.u32()?);
        let name = SessionName::new(r.text()?);
        let user = r.text()?.to_owned();
        let expiry = read_expiry(r)?;
        let detached_ms = r.u64()?;
        let durable = r.u8()? != 0;
        let parting = match r.u8()? {
            0 => None,
            _ => {
                let delay_secs = r.u32()?;
                Some(Parting { message: Arc::new(read_own_message(r, all)?), delay_secs })
            }
        };
        self.saw_id(id);
        let session = match self.sessions.get(&id) {
            Some(session) => session.clone(),
            None => self.new_session(id, vhost, &name, durable, expiry),
        };
        let mut state = session.state.lock();
        state.user = user.into();
        state.expiry = Some(expiry);
        state.detached_ms = detached_ms;
        state.parting = parting;
        state.logged = true;
        drop(state);
        Some(session)
    }

    fn new_session(&mut self, id: u64, vhost: u32, name: &SessionName, durable: bool, expiry: Expiry) -> Arc<Session> {
        // Pages of references are loaded before sessions are (their class is lower), so the queue may be there.
        let queue = match self.queues.get(&id) {
            Some(queue) => queue.clone(),
            None => Queue::new(QueueId(id), name.into(), vhost, session_spec(durable), self.limits.session),
        };
        self.queues.insert(id, queue.clone());
        let session = Session::new(id, vhost, name.clone(), queue, expiry);
        self.sessions.insert(id, session.clone());
        if let Some(vhost) = self.vhost(vhost) {
            vhost.sessions.insert(name.clone(), session.clone());
        }
        session
    }

    fn session_gone(&mut self, id: u64, releases: &mut Vec<Release>) {
        self.ended_sessions.push(id);
        if let Some(session) = self.sessions.remove(&id) {
            if let Some(vhost) = self.vhost(session.vhost) {
                vhost.sessions.remove_if(&session.name, |_, s| Arc::ptr_eq(s, &session));
            }
        }
        self.subscriptions.remove(&id);
        self.queue_gone(id, releases);
    }

    fn queue_gone(&mut self, id: u64, releases: &mut Vec<Release>) {
        self.exchanges.queue_gone(id);
        if let Some(queue) = self.queues.remove(&id) {
            for (level, number) in queue.away() {
                bring(&self.reader, &queue, Seq::new(level, number * PAGE));
            }
            queue.recover_end(releases);
            self.ended.push(queue.clone());
            if let Some(vhost) = self.vhost(queue.vhost) {
                vhost.queues.remove_if(&queue.name, |_, q| Arc::ptr_eq(q, &queue));
            }
        }
    }

    fn subscription(&mut self, session: u64, r: &mut Reader<'_>) -> Option<()> {
        let key = read_key(r)?;
        let (id, level, identifier) = (r.u64()?, r.u8()?, r.u32()?);
        let (bits, flags) = (r.u8()?, r.u8()?);
        let no_local = bits & !SELECTOR_FOLLOWS != 0;
        // It was read before it was written.
        let selector = if bits & SELECTOR_FOLLOWS == 0 { None } else { Selector::parse(r.text()?).ok().map(Box::new) };
        self.saw_id(id);
        if let Some(owner) = self.sessions.get(&session) {
            let found = Recovered { session: owner.clone(), id, level, identifier, no_local, flags, selector };
            self.subscriptions.entry(session).or_default().insert(key, found);
        }
        Some(())
    }

    fn retain(&mut self, r: &mut Reader<'_>, all: &[u8], id: Option<u64>) -> Option<()> {
        let vhost = r.u32()?;
        let start = r.position();
        let (head, _) = read_message(r, 0)?;
        let mut again = Reader::new(all);
        again.take(start)?;
        let own = read_own_message(&mut again, all)?;
        // One that is gone took what it retained along.
        let Some(vhost) = self.vhost(vhost).cloned() else { return Some(()) };
        let key = own.key(own.heads.first()?).to_vec();
        let name = crate::routing::Name::parse(crate::route::syntax(head.separator), &key).ok()?;
        match id {
            Some(id) => {
                let topic = crate::routing::Encoded::of_name(&name);
                let message = Arc::new(own);
                vhost.expiring.note(&message);
                vhost.retained.restore(id, topic, crate::vhost::RetainedMessage { message, durable: true, order: 0 });
            }
            None => crate::link::store_retained(&vhost, &name, &own, 0, (true, 0)),
        }
        Some(())
    }

    fn record(&mut self, lsn: Lsn, record: RecordRef<'_>, releases: &mut Vec<Release>) -> Option<()> {
        let fields = record.fields;
        let mut r = Reader::new(fields);
        if !self.stale_rules.is_empty() && matches!(record.kind, kind::PUBLISH | kind::REFS | kind::MOVE) {
            self.refresh_rules();
        }
        match record.kind {
            journal::record::KIND_EPOCH_START => self.new_reign(),
            journal::record::KIND_SET_LEVEL | journal::record::KIND_DIGEST => {}
            kind::PUBLISH => self.publish(lsn, fields, record.pins, releases)?,
            kind::REFS => self.further(&mut r, releases)?,
            kind::FAN_VOID => self.void_fan_out(r.u64()?, releases),
            kind::SETTLE => self.settle(fields, releases)?,
            kind::STATE => {
                for (session, edit) in records::read_edits(&mut r)? {
                    self.edit(session, &edit);
                }
            }
            kind::MOVE => self.movement(&mut r)?,
            kind::REQUEUE => self.requeue(&mut r)?,
            kind::HANDED => {
                let (queue, marks) = records::read_handed(&mut r)?;
                if let Some(queue) = self.queues.get(&queue.0) {
                    marks.into_iter().for_each(|(level, position)| queue.recover_handed(level, position));
                    self.touched_queues.insert(queue.id.0);
                }
            }
            kind::EXCHANGE => {
                let id = self.exchange(&mut r)?;
                self.exchanges.touch_exchange(id);
                self.touched_queues.insert(id);
            }
            kind::EXCHANGE_GONE => self.exchanges.exchange_gone(r.u64()?),
            kind::BIND => self.exchanges.bind(&mut r)?,
            kind::UNBIND => self.exchanges.unbind(&mut r)?,
            kind::QUEUE => {
                let id = self.queue(&mut r, 0)?.id.0;
                self.touched_queues.insert(id);
            }
            kind::QUEUE_GONE => {
                let id = r.u64()?;
                releases.append(&mut self.ownerless.remove(&id).unwrap_or_default());
                self.queue_gone(id, releases);
            }
            kind::SESSION => {
                let id = self.session(&mut r, fields)?.id;
                self.touched_sessions.insert(id);
            }
            kind::SESSION_GONE => {
                let id = r.u64()?;
                releases.append(&mut self.ownerless.remove(&id).unwrap_or_default());
                self.session_gone(id, releases);
            }
            kind::SUBSCRIPTION => {
                let session = r.u64()?;
                self.touched_sessions.insert(session);
                self.subscription(session, &mut r)?;
            }
            kind::SUBSCRIPTION_GONE => {
                let session = r.u64()?;
                self.touched_sessions.insert(session);
                let key = read_key(&mut r)?;
                if let Some(own) = self.subscriptions.get_mut(&session) {
                    own.remove(&key);
                }
            }
            kind::RETAIN => self.retain(&mut r, fields, None)?,
            kind::VHOST => self.add_vhost(&mut r)?,
            kind::VHOST_GONE => self.vhost_gone(r.u32()?, releases),
            kind::POLICY => self.policy(&mut r, super::policies::set)?,
            kind::POLICY_GONE => self.policy(&mut r, super::policies::clear)?,
            _ => return None,
        }
        Some(())
    }

    fn new_reign(&mut self) {
        self.next_id += SKIP;
        for queue in self.queues.values() {
            let mut state = queue.lock();
            for (_, lane) in state.lanes.iter_mut() {
                lane.next += SKIP;
            }
        }
    }

    fn object(&mut self, key: ObjectKey, bytes: &[u8]) -> Option<()> {
        let mut r = Reader::new(bytes);
        match key.class {
            class::COUNTERS => {
                self.saw_id(r.u64()?.checked_sub(1)?);
                self.next_vhost = self.next_vhost.max(r.u32()?);
                for _ in 0..r.u32()? {
                    self.add_vhost(&mut r)?;
                }
            }
            class::QUEUE => {
                let of_what = r.u8()?;
                let queue = self.queue(&mut r, of_what)?;
                let mut state = queue.lock();
                for _ in 0..r.u8()? {
                    let (level, next, suspect) = (r.u8()?, r.u64()?, r.u64()?);
                    let lane = state.lanes.open(level);
                    lane.next = lane.next.max(next);
                    lane.suspect = lane.suspect.max(suspect);
                    for _ in 0..r.u32()? {
                        let (number, live, bytes) = (r.u64()?, r.u16()?, r.u64()?);
                        queue.recover_away(&mut state, level, number, (live, bytes), next);
                        if let Some(delays) = &mut state.delays {
                            delays.recover_page(number, r.u32()?);
                        }
                    }
                }
            }
            // Read when it is needed; the queue's own object says what it holds.
            class::PAGE => {}
            class::SESSION => {
                let session = self.session(&mut r, bytes)?;
                for _ in 0..r.u32()? {
                    self.subscription(session.id, &mut r)?;
                }
                let mut state = session.state.lock();
                for _ in 0..r.u32()? {
                    let (_, edit) = records::read_edit(&mut r)?;
                    keep(&mut state, edit);
                }
            }
            class::RETAINED => self.retain(&mut r, bytes, Some(key.b))?,
            class::EXCHANGE => {
                self.exchange(&mut r)?;
            }
            class::BINDINGS => self.exchanges.pair(&mut r)?,
            class::POLICIES => self.policies(&mut r)?,
            _ => return None,
        }
        Some(())
    }
}

fn keep(state: &mut SessionState, edit: StateEdit) {
    if let Some(value) = edit.value {
        state.map.insert(edit.key, StateEntry { value, lease: edit.lease });
    }
}

fn read_key(r: &mut Reader<'_>) -> Option<SubscriptionKey> {
    Some(SubscriptionKey { pattern: r.text()?.into(), separator: r.u8()?, share: r.opt_text()?.map(Into::into) })
}

impl Apply for Recovery {
    fn objects(&mut self, objects: Arc<dyn Objects>) {
        self.reader = Some(objects);
    }

    fn load(&mut self, key: ObjectKey, mut object: ObjectRef<'_>) -> Result<(), ApplyError> {
        if key.class == class::PAGE {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        object.read(&mut bytes)?;
        let done = self.object(key, &bytes);
        self.buffer = bytes;
        done.ok_or_else(|| malformed(&format!("checkpoint object of class {} ({}, {})", key.class, key.a, key.b)))
    }

    fn apply(&mut self, lsn: Lsn, record: RecordRef<'_>, releases: &mut Vec<Release>) -> Result<(), ApplyError> {
        self.record(lsn, record, releases).ok_or_else(|| malformed(&format!("record of kind {}", record.kind)))
    }
}
