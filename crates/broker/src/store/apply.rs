//! Recovery: checkpoint objects and records back into the core. No clock, no randomness, no limits; redoing changes nothing.

use super::records::{
    self, kind, read_expiry, read_message, read_own_message, read_publish, read_requeue, read_settle, read_side, Move, Reference,
};
use super::snapshot::class;
use super::wire::Reader;
use crate::exchange::Views;
use crate::link::NO_SEQ;
use crate::policy::Rules;
use crate::queue::{session_spec, Bound, Entry, Queue, Status, PAGE};
use crate::session::{Session, SessionState, StateEntry, SubscriptionKey};
use crate::vhost::Vhost;
use ahash::{AHashMap, AHashSet};
use broker_api::{Expiry, Parting, QueueId, QueueName, Seq, SessionName, Side, StateEdit, VhostName};
use journal::{Apply, ApplyError, Lsn, ObjectKey, ObjectRef, Objects, RecordRef, Release};
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
    pub flags: u8,
}

pub(crate) struct Recovery {
    pub vhosts: Vec<Arc<Vhost>>,
    pub queues: AHashMap<u64, Arc<Queue>>,
    pub sessions: AHashMap<u64, Arc<Session>>,
    pub subscriptions: AHashMap<(u64, SubscriptionKey), Recovered>,
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
    /// Their retained messages may still stand in the checkpoint.
    pub ended_vhosts: Vec<u32>,
    pub session_bound: Bound,
    views: Views,
    /// Virtual hosts whose policies changed since what holds for their queues was worked out.
    stale_rules: BTreeSet<u32>,
    pub touched_policies: BTreeSet<u32>,
    reader: Option<Arc<dyn Objects>>,
    buffer: Vec<u8>,
}

/// What references to a message need to know of it.
#[derive(Clone, Copy)]
struct Message {
    lsn: Lsn,
    bytes: u32,
    expires_ms: u64,
    arrived_ms: u64,
}

#[derive(Default)]
struct OpenFanOut {
    bodies: Vec<OpenBody>,
    references: Vec<(QueueId, Seq)>,
}

struct OpenBody {
    message: Message,
    pins: u32,
    /// References that came so far.
    seen: u32,
}

impl OpenFanOut {
    fn add(&mut self, message: Message, pins: u32, references: &[Reference]) {
        self.bodies.push(OpenBody { message, pins, seen: 0 });
        self.more(references);
    }

    fn more(&mut self, references: &[Reference]) {
        if let Some(body) = self.bodies.last_mut() {
            body.seen += references.len() as u32;
        }
        self.references.extend(references.iter().filter(|r| r.seq != NO_SEQ).map(|r| (r.queue, r.seq)));
    }
}

fn malformed(what: &str) -> ApplyError {
    ApplyError(format!("{what} cannot be read"))
}

impl Recovery {
    pub fn new(vhosts: Vec<Arc<Vhost>>, session_bound: Bound, views: Views) -> Recovery {
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
            ended_vhosts: Vec::new(),
            session_bound,
            views,
            stale_rules: BTreeSet::new(),
            touched_policies: BTreeSet::new(),
            reader: None,
            buffer: Vec::new(),
        }
    }

    fn vhost(&self, id: u32) -> Option<&Arc<Vhost>> {
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

    fn publish(&mut self, lsn: Lsn, fields: &[u8], pins: u32, releases: &mut Vec<Release>) -> Option<()> {
        let record = read_publish(fields, 0)?;
        if let Some((session, edit)) = &record.state {
            self.edit(*session, edit);
        }
        let bytes = record.head.key.len + record.head.body.len;
        let message = Message { lsn, bytes, expires_ms: record.head.expires_ms, arrived_ms: record.arrived_ms };
        self.references(message, 0, &record.references, &record.sides, releases);
        match record.fan {
            Some((id, true)) => {
                self.fan_outs.remove(&id);
            }
            Some((id, false)) => self.fan_outs.entry(id).or_default().add(message, pins, &record.references),
            None => {}
        }
        Some(())
    }

    /// Further references of a fan-out. One whose body is not known was complete when the checkpoint was made, which then has them all.
    fn further(&mut self, r: &mut Reader<'_>, releases: &mut Vec<Release>) -> Option<()> {
        let record = records::read_refs(r)?;
        let Some(message) = self.fan_outs.get(&record.fan).and_then(|fan| fan.bodies.last().map(|b| b.message)) else { return Some(()) };
        self.references(message, record.first, &record.references, &record.sides, releases);
        if record.last {
            self.fan_outs.remove(&record.fan);
        } else if let Some(fan) = self.fan_outs.get_mut(&record.fan) {
            fan.more(&record.references);
        }
        Some(())
    }

    fn references(&mut self, of: Message, first: u32, references: &[Reference], sides: &[Arc<Side>], releases: &mut Vec<Release>) {
        for (ordinal, reference) in (first..).zip(references) {
            let release = Release { lsn: of.lsn, ordinal: ordinal as u16 };
            let Reference { queue, seq, level, flags, side } = *reference;
            if seq == NO_SEQ {
                releases.push(release);
                continue;
            }
            let Some(queue) = self.queues.get(&queue.0) else {
                self.ownerless.entry(queue.0).or_default().push(release);
                continue;
            };
            let entry = Entry {
                held: None,
                side: usize::from(side).checked_sub(1).and_then(|i| sides.get(i).cloned()),
                lsn: of.lsn.0,
                owner: 0,
                head: 0,
                offset: 0,
                bytes: of.bytes,
                expires: crate::queue::expiry_tick(of.expires_ms, of.arrived_ms, queue.rules().message_ttl_ms),
                attempts: 0,
                ordinal: ordinal as u16,
                level,
                flags,
                durable: true,
                status: Status::Ready,
            };
            self.touched_queues.insert(queue.id.0);
            bring(&self.reader, queue, seq);
            insert(queue, seq, entry);
        }
    }

    /// Takes back what a fan-out without a last part has put anywhere: it never was.
    fn void_fan_out(&mut self, id: u64, releases: &mut Vec<Release>) {
        let Some(fan) = self.fan_outs.remove(&id) else { return };
        for (queue, seq) in fan.references {
            let Some(queue) = self.queues.get(&queue.0) else { continue };
            bring(&self.reader, queue, seq);
            queue.recover_settle(seq, 1, releases);
            self.touched_queues.insert(queue.id.0);
        }
        for body in fan.bodies {
            releases.extend((body.seen..body.pins).map(|n| Release { lsn: body.message.lsn, ordinal: n as u16 }));
        }
    }

    /// Fan-outs that the end of the log cut short, each with what taking it back lets go of.
    pub fn void_fan_outs(&mut self) -> Vec<(u64, Vec<Release>)> {
        let ids: Vec<u64> = self.fan_outs.keys().copied().collect();
        let void = |id: u64| {
            let mut releases = Vec::new();
            self.void_fan_out(id, &mut releases);
            (id, releases)
        };
        ids.into_iter().map(void).collect()
    }

    fn settle(&mut self, fields: &[u8], releases: &mut Vec<Release>) -> Option<()> {
        let record = read_settle(fields)?;
        for (session, edit) in &record.edits {
            self.edit(*session, edit);
        }
        if let Some(queue) = self.queues.get(&record.queue.0) {
            self.touched_queues.insert(queue.id.0);
            for (first, count) in record.runs {
                bring_run(&self.reader, queue, first, count);
                queue.recover_settle(first, count, releases);
            }
        }
        Some(())
    }

    /// Hands a reference over. Either end may be gone, or ahead: the reference is where it belongs afterwards, and nowhere else.
    fn movement(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let record = Move::read(r)?;
        let release = Release { lsn: Lsn(record.lsn), ordinal: record.ordinal };
        match self.queues.get(&record.source.0) {
            // Not released: it goes on elsewhere.
            Some(source) => {
                bring(&self.reader, source, record.seq);
                source.recover_take(record.seq);
                self.touched_queues.insert(record.source.0);
            }
            None => {
                if let Some(left) = self.ownerless.get_mut(&record.source.0) {
                    left.retain(|r| *r != release);
                }
            }
        }
        let Some(target) = self.queues.get(&record.target.0) else {
            self.ownerless.entry(record.target.0).or_default().push(release);
            return Some(());
        };
        let entry = Entry {
            held: None,
            side: record.side,
            lsn: record.lsn,
            owner: 0,
            head: 0,
            offset: 0,
            bytes: record.bytes,
            expires: record.expires,
            attempts: 0,
            ordinal: record.ordinal,
            level: record.level,
            flags: record.flags,
            durable: true,
            status: Status::Ready,
        };
        bring(&self.reader, target, record.to);
        insert(target, record.to, entry);
        self.touched_queues.insert(record.target.0);
        Some(())
    }

    fn requeue(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let (queue, counts) = read_requeue(r)?;
        let Some(queue) = self.queues.get(&queue.0) else { return Some(()) };
        for (seq, attempts) in counts {
            bring(&self.reader, queue, seq);
            queue.recover_attempts(seq, attempts);
        }
        self.touched_queues.insert(queue.id.0);
        Some(())
    }

    fn edit(&mut self, session: u64, edit: &StateEdit) {
        self.touched_sessions.insert(session);
        if let Some(session) = self.sessions.get(&session) {
            session.state.lock().apply(edit);
        }
    }

    fn queue(&mut self, r: &mut Reader<'_>, of_session: bool) -> Option<Arc<Queue>> {
        let (id, vhost) = (r.u64()?, r.u32()?);
        let name = QueueName::new(r.text()?);
        let spec = records::read_queue_spec(r)?;
        self.saw_id(id);
        if let Some(queue) = self.queues.get(&id) {
            return Some(queue.clone());
        }
        let bound = if of_session { self.session_bound } else { crate::queue::bound_of(&spec) };
        let spec = if of_session { session_spec(spec.durable) } else { Arc::new(spec) };
        let queue = Queue::new(QueueId(id), name.clone(), vhost, spec, bound);
        self.queues.insert(id, queue.clone());
        if let (Some(vhost), false) = (self.vhost(vhost), of_session) {
            vhost.queues.insert(name, queue.clone());
            self.rule(vhost, &queue);
        }
        Some(queue)
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
        state.user = user;
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
            None => Queue::new(QueueId(id), name.into(), vhost, session_spec(durable), self.session_bound),
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
        self.subscriptions.retain(|(session, _), _| *session != id);
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
        let (no_local, flags) = (r.u8()? != 0, r.u8()?);
        self.saw_id(id);
        if let Some(owner) = self.sessions.get(&session) {
            let found = Recovered { session: owner.clone(), id, level, identifier, no_local, flags };
            self.subscriptions.insert((session, key), found);
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
                let id = self.exchanges.exchange(&mut r)?;
                self.exchanges.touch_exchange(id);
                self.saw_id(id);
            }
            kind::EXCHANGE_GONE => self.exchanges.exchange_gone(r.u64()?),
            kind::BIND => self.exchanges.bind(&mut r)?,
            kind::UNBIND => self.exchanges.unbind(&mut r)?,
            kind::QUEUE => {
                self.queue(&mut r, false)?;
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
                self.subscriptions.remove(&(session, key));
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
                let of_session = r.u8()? != 0;
                let queue = self.queue(&mut r, of_session)?;
                let mut state = queue.lock();
                for _ in 0..r.u8()? {
                    let (level, next, suspect) = (r.u8()?, r.u64()?, r.u64()?);
                    let lane = state.lanes.open(level);
                    lane.next = lane.next.max(next);
                    lane.suspect = lane.suspect.max(suspect);
                    for _ in 0..r.u32()? {
                        let (number, live, bytes) = (r.u64()?, r.u16()?, r.u64()?);
                        queue.recover_away(&mut state, level, number, (live, bytes), next);
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
                let id = self.exchanges.exchange(&mut r)?;
                self.saw_id(id);
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

/// Bytes of an entry of a page without its side: position, place, bytes, expiry, attempts, ordinal, level, flags, and whether there is one.
const PAGE_ENTRY: usize = 8 + 8 + 4 + 4 + 2 + 2 + 1 + 1 + 1;

/// The references of a page, by position.
pub(super) fn read_page(r: &mut Reader<'_>) -> Option<Vec<(u64, Entry)>> {
    let n = r.u32()?;
    let mut entries = Vec::with_capacity(n.min(256) as usize);
    for _ in 0..n {
        let position = r.u64()?;
        let entry = Entry {
            held: None,
            lsn: r.u64()?,
            bytes: r.u32()?,
            expires: r.u32()?,
            attempts: r.u16()?,
            ordinal: r.u16()?,
            level: r.u8()?,
            flags: r.u8()?,
            side: if r.u8()? != 0 { Some(read_side(r)?) } else { None },
            owner: 0,
            head: 0,
            offset: 0,
            durable: true,
            status: Status::Ready,
        };
        entries.push((position, entry));
    }
    Some(entries)
}

/// How many entries of a page stand before a position, and their bytes as they are.
pub(super) fn page_before(bytes: &[u8], position: u64) -> Option<(u16, &[u8])> {
    let mut r = Reader::new(bytes);
    let all = r.u32()?;
    let (start, mut end, mut n) = (r.position(), r.position(), 0u16);
    for _ in 0..all {
        if r.u64()? >= position {
            break;
        }
        r.take(PAGE_ENTRY - 9)?;
        if r.u8()? != 0 {
            read_side(&mut r)?;
        }
        (n, end) = (n.checked_add(1)?, r.position());
    }
    Some((n, &bytes[start..end]))
}

/// Reads the page that an entry stands in, if the checkpoint has it and it was not read yet: what is redone to it has to be told, and
/// which bodies that lets go of.
fn bring(reader: &Option<Arc<dyn Objects>>, queue: &Arc<Queue>, seq: Seq) {
    let Some(number) = queue.lock().away_page(seq) else { return };
    let Some(reader) = reader else { return };
    let mut bytes = Vec::new();
    let read = reader.read(super::snapshot::page_key(queue.id, seq.lane(), number), &mut bytes).map_err(|e| e.to_string());
    match read.and_then(|()| read_page(&mut Reader::new(&bytes)).ok_or_else(|| "not a page of references".to_string())) {
        Ok(entries) => queue.page_read(seq.lane(), number, entries),
        Err(error) => tracing::error!(queue = %queue.name, number, error, "a page of references cannot be read in recovery"),
    }
}

fn bring_run(reader: &Option<Arc<dyn Objects>>, queue: &Arc<Queue>, first: Seq, count: u32) {
    let last = first.plus(u64::from(count.max(1)) - 1);
    for number in first.position() / PAGE..=last.position() / PAGE {
        bring(reader, queue, Seq::new(first.lane(), first.position().max(number * PAGE)));
    }
}

/// Puts a reference back, unless it is there.
fn insert(queue: &Arc<Queue>, seq: Seq, entry: Entry) {
    queue.recover_insert(&mut queue.lock(), seq, entry);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_of_a_page_is_found_and_no_cut_page_is_taken_for_one() {
        let mut bytes = Vec::new();
        let mut w = super::super::wire::Writer(&mut bytes);
        w.u32(3);
        for position in [256u64, 258, 300] {
            w.u64(position);
            w.0.extend_from_slice(&[7; PAGE_ENTRY - 9]);
            w.u8(u8::from(position == 258));
            if position == 258 {
                records::write_side(&mut w, &Side::default());
            }
        }
        assert_eq!(read_page(&mut Reader::new(&bytes)).unwrap().len(), 3);
        assert_eq!(page_before(&bytes, 256), Some((0, &[][..])));
        assert_eq!(page_before(&bytes, 257), Some((1, &bytes[4..4 + PAGE_ENTRY])));
        let (n, front) = page_before(&bytes, 300).unwrap();
        assert_eq!((n, front), (2, &bytes[4..bytes.len() - PAGE_ENTRY]));
        assert_eq!(page_before(&bytes, 301), Some((3, &bytes[4..])));
        for end in 0..bytes.len() {
            assert_eq!(page_before(&bytes[..end], 301), None, "{end}");
        }
    }
}
