//! The only place that knows how a change in the core becomes a record, and a record or a checkpoint object a change in the core.

mod apply;
mod digest;
pub(crate) mod exchanges;
mod page;
pub(crate) mod policies;
pub(crate) mod records;
mod snapshot;
mod warm;
pub(crate) mod wire;

pub(crate) use apply::{Limits as RecoveryLimits, Recovery};
pub use digest::Compared;
pub(crate) use digest::Digests;
pub(crate) use snapshot::{CoreSnapshot, Dirty};
pub(crate) use warm::Warm;

use crate::mutants::{self, Mutant};
use crate::outbox::{Outbox, Work};
use crate::queue::{Entry, Fill, Gone, Held, Queue};
use crate::session::{Session, Subscription, SubscriptionKey};
use crate::spill::{is_spilled, name_of, Spill};
use broker_api::{Batch, Head, QueueId, StateEdit};
use bytes::Bytes;
use journal::{CloseError, Failure, Filled, Hooks, Journal, Lsn, ObjectError, ReadError, Records, Slot};
use parking_lot::Mutex;
pub(crate) use records::kind;
use records::{write_expiry, write_message, write_queue_spec, write_settle, LEVEL};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use wire::Writer;

/// The journal as the core uses it.
pub(crate) struct Log {
    journal: Arc<Journal>,
    /// Where messages are that are not logged and not in memory.
    spill: Arc<Spill>,
    failed: Arc<AtomicBool>,
    gate: Arc<Gate>,
    clock: Arc<dyn journal::Clock>,
    late: bool,
}

/// Connections whose publishes are held, and whether the disk holds them.
#[derive(Default)]
struct Gate {
    full: AtomicBool,
    waiting: Mutex<Vec<Arc<Outbox>>>,
}

impl Gate {
    fn open(&self) {
        for outbox in std::mem::take(&mut *self.waiting.lock()) {
            outbox.work(Work::Resume);
        }
    }
}

/// Called by the journal's threads.
struct Watch {
    failed: Arc<AtomicBool>,
    gate: Arc<Gate>,
    on_failure: Box<dyn Fn(&Failure) + Send + Sync>,
    core: std::sync::OnceLock<Weak<crate::core::Shared>>,
}

impl Hooks for Watch {
    fn resumed(&self) {
        self.gate.full.store(false, Ordering::Release);
        self.gate.open();
    }
    fn held(&self, _why: journal::Held) {
        self.gate.full.store(true, Ordering::Release);
    }
    fn failed(&self, failure: &Failure) {
        self.failed.store(true, Ordering::Release);
        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
            for link in core.links.iter() {
                link.signal(broker_api::Signal::Lost);
            }
        }
        (self.on_failure)(failure);
    }
}

/// Set once the core exists, so that a failing journal can tell its connections.
pub(crate) struct FailureDoor(Arc<Watch>);

impl FailureDoor {
    pub fn connect(&self, core: &Arc<crate::core::Shared>) {
        self.0.core.set(Arc::downgrade(core)).ok();
    }
}

impl Log {
    /// `late`: what is logged is delivered after the commit point only.
    pub fn new(
        journal: Journal,
        spill: Arc<Spill>,
        clock: Arc<dyn journal::Clock>,
        late: bool,
        on_failure: Box<dyn Fn(&Failure) + Send + Sync>,
    ) -> (Log, FailureDoor) {
        let failed = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Gate::default());
        let watch = Arc::new(Watch { failed: failed.clone(), gate: gate.clone(), on_failure, core: std::sync::OnceLock::new() });
        journal.set_hooks(watch.clone());
        (Log { journal: Arc::new(journal), spill, failed, gate, clock, late }, FailureDoor(watch))
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub fn reserve(&self) -> Slot {
        self.journal.reserve()
    }

    /// Must durable publishes wait, for room in staging or on the disk? (A failed journal refuses them instead.)
    pub fn holds_publishers(&self) -> bool {
        matches!(self.journal.held(), Some(journal::Held::Staging | journal::Held::DiskFull))
    }

    pub fn why_held(&self) -> &'static str {
        match self.journal.held() {
            Some(journal::Held::DiskFull) => "low on disk",
            _ => "the disk cannot keep up",
        }
    }

    /// The connection hears by `Work::Resume` when it may try again.
    pub fn when_publishers_may_go_on(&self, outbox: &Arc<Outbox>) {
        self.gate.waiting.lock().push(outbox.clone());
        // Room that came back between the refusal and this line.
        if self.journal.reserve_publish().is_ok() {
            self.gate.open();
        }
    }

    pub fn delivers_late(&self) -> bool {
        self.late
    }

    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Records below this position are committed.
    pub fn committed_lsn(&self) -> u64 {
        self.journal.committed_lsn().0
    }

    /// Tickets from here on are not committed yet.
    pub fn committed_next(&self) -> journal::Ticket {
        self.journal.committed()
    }

    pub fn now_ms(&self) -> u64 {
        if mutants::active(Mutant::ExpireOnStep) {
            return self.clock.wall_ms();
        }
        self.journal.broker_time_ms()
    }

    pub fn close(&self) -> Result<(), CloseError> {
        self.journal.close()
    }

    /// Fills a slot that a queue reserved for what left it, where there is one.
    pub fn fill_settle(&self, fill: Fill, edits: &[(u64, &StateEdit)]) {
        if let Some((slot, filled)) = settle_filled(fill, edits) {
            slot.fill(filled);
        }
    }

    /// One message read back, as a batch of its own.
    pub fn read_one(&self, lsn: u64) -> Result<Arc<Held>, ReadError> {
        let mut found = self.read_many(&[lsn])?;
        found.pop().map(|(held, _)| held).ok_or(ReadError::Gone(Lsn(lsn)))
    }

    /// The references of a page that only the page file has.
    pub fn read_page(&self, queue: QueueId, level: u8, number: u64) -> Result<Vec<(u64, Entry)>, ObjectError> {
        let mut bytes = Vec::new();
        self.journal.get_object(page::page_key(queue, level, number), &mut bytes)?;
        page::read_page(&mut wire::Reader::new(&bytes)).ok_or_else(|| ObjectError::Damaged("not a page of references".into()))
    }

    /// Messages read back from the log or from spill files, in the order asked for: all in one batch, with each one's head.
    pub fn read_many(&self, places: &[u64]) -> Result<Vec<(Arc<Held>, u32)>, ReadError> {
        let (mut batch, _) = self.read_batch(places)?;
        if places.iter().any(|place| is_spilled(*place)) {
            // It was counted before it was spilled.
            self.spill.count(&mut batch);
        }
        let held = Held::new(Arc::new(batch), None, None);
        Ok((0..places.len() as u32).map(|i| (held.clone(), i)).collect())
    }

    /// Of the messages at these places, those that are `wanted`, by their index here: each in a batch of its own.
    pub fn read_some(
        &self,
        places: &[u64],
        wanted: &dyn Fn(&Batch, &broker_api::Head, u64) -> bool,
    ) -> Result<Vec<(usize, Arc<Held>)>, ReadError> {
        let (batch, arrived) = self.read_batch(places)?;
        let found = batch.heads.iter().enumerate().filter(|(i, head)| wanted(&batch, head, arrived[*i]));
        let alone = found.map(|(i, _)| {
            let mut own = crate::link::copy_out(&batch, i as u32);
            own.arrived_ms = arrived[i];
            if is_spilled(places[i]) {
                self.spill.count(&mut own);
            }
            (i, Held::new(Arc::new(own), None, None))
        });
        Ok(alone.collect())
    }

    /// With the time at which each came in.
    fn read_batch(&self, places: &[u64]) -> Result<(Batch, Vec<u64>), ReadError> {
        // Each is read in its own order, and each record once. What is in the log comes first.
        let mut sorted: Vec<(Lsn, usize)> = places.iter().enumerate().map(|(i, lsn)| (Lsn(*lsn), i)).collect();
        sorted.sort_unstable();
        let lsns: Vec<Lsn> = sorted.iter().map(|(lsn, _)| *lsn).collect();
        let (logged, spilled) = lsns.split_at(lsns.partition_point(|lsn| !is_spilled(lsn.0)));
        let mut bytes = Vec::new();
        let mut fields = vec![(0usize, 0usize); lsns.len()];
        if !logged.is_empty() {
            self.journal.read_run(logged, &mut |i, _, record| {
                fields[sorted[i].1] = (bytes.len(), record.len());
                bytes.extend_from_slice(record);
            })?;
        }
        if !spilled.is_empty() {
            let found = self.read_spilled(spilled, &mut bytes)?;
            sorted[logged.len()..].iter().zip(found).for_each(|((_, i), found)| fields[*i] = found);
        }
        let mut batch = Batch { heads: Vec::with_capacity(fields.len()), ..Batch::default() };
        let mut arrived = Vec::with_capacity(fields.len());
        for (i, (start, len)) in fields.iter().enumerate() {
            let record = records::read_publish(&bytes[*start..start + len], *start);
            let Some(record) = record else {
                return Err(ReadError::Damaged { lsn: Lsn(places[i]), what: "not a publish record".into() });
            };
            batch.heads.push(record.head);
            batch.arrived_ms = record.arrived_ms;
            arrived.push(record.arrived_ms);
        }
        batch.block = Bytes::from(bytes);
        Ok((batch, arrived))
    }

    fn read_spilled(&self, places: &[Lsn], into: &mut Vec<u8>) -> Result<Vec<(usize, usize)>, ReadError> {
        let places: Vec<u64> = places.iter().map(|place| place.0).collect();
        self.spill.read(&places, into).map_err(|(place, why)| {
            let what = format!("{}: {why}", name_of(place));
            ReadError::Damaged { lsn: Lsn(place), what }
        })
    }
}

/// What left a queue, as a record among others of its slot; nothing if none of it was logged.
pub(crate) fn push_settle(records: &mut Records, gone: &Fill) {
    if !gone.runs.is_empty() {
        records.push(kind::SETTLE, LEVEL, 0, 0, |out| write_settle(out, gone.queue, gone.why, &gone.runs, &[]));
    }
}

pub(crate) fn push_queue_gone(records: &mut Records, id: QueueId) {
    records.push(kind::QUEUE_GONE, LEVEL, 0, 0, |out| Writer(out).u64(id.0));
}

pub(crate) fn requeue_record(queue: QueueId, counts: &[(broker_api::Seq, u16)]) -> Records {
    one(kind::REQUEUE, |w| records::write_requeue(w.0, queue, counts))
}

/// Nothing where no mark rose.
pub(crate) fn push_handed(records: &mut Records, queue: QueueId, marks: &[(u8, u64)]) {
    if !marks.is_empty() {
        records.push(kind::HANDED, LEVEL, 0, 0, |out| records::write_handed(out, queue, marks));
    }
}

pub(crate) fn settle_filled(fill: Fill, edits: &[(u64, &StateEdit)]) -> Option<(Slot, Filled)> {
    let slot = fill.slot?;
    let mut records = Records::new();
    records.push(kind::SETTLE, LEVEL, 0, 0, |out| write_settle(out, fill.queue, fill.why, &fill.runs, edits));
    Some((slot, Filled { records, releases: fill.releases, ..Filled::default() }))
}

fn one(kind: u8, write: impl FnOnce(&mut Writer<'_>)) -> Records {
    let mut records = Records::new();
    records.push(kind, LEVEL, 0, 0, |out| write(&mut Writer(out)));
    records
}

pub(crate) fn edits_record(edits: &[(u64, &StateEdit)]) -> Records {
    one(kind::STATE, |w| records::write_edits(w.0, edits))
}

pub(crate) fn write_vhost(w: &mut Writer<'_>, id: u32, name: &str) {
    w.u32(id);
    w.bytes(name.as_bytes());
}

pub(crate) fn vhost_record(id: u32, name: &str) -> Records {
    one(kind::VHOST, |w| write_vhost(w, id, name))
}

/// Everything in it is gone by now.
pub(crate) fn vhost_gone_record(id: u32) -> Records {
    one(kind::VHOST_GONE, |w| w.u32(id))
}

/// A retained message, as a record among others of its slot.
pub(crate) fn push_retain(records: &mut Records, vhost: u32, batch: &Batch, head: &Head) {
    records.push(kind::RETAIN, LEVEL, 0, 0, |out| {
        let mut w = Writer(out);
        w.u32(vhost);
        write_message(&mut w, batch, head, batch.arrived_ms);
    });
}

pub(crate) fn push_edits(records: &mut Records, edits: &[(u64, &StateEdit)]) {
    records.push(kind::STATE, LEVEL, 0, 0, |out| records::write_edits(out, edits));
}

pub(crate) fn push_requeue(records: &mut Records, queue: QueueId, counts: &[(broker_api::Seq, u16)]) {
    records.push(kind::REQUEUE, LEVEL, 0, 0, |out| records::write_requeue(out, queue, counts));
}

/// A session without its subscriptions and its map; those have records of their own.
pub(crate) fn write_session(w: &mut Writer<'_>, session: &Session) {
    let state = session.state.lock();
    w.u64(session.id);
    w.u32(session.vhost);
    w.bytes(session.name.as_str().as_bytes());
    w.bytes(state.user.as_bytes());
    write_expiry(w, state.expiry.unwrap_or(broker_api::Expiry::WithConnection));
    w.u64(state.detached_ms);
    w.u8(u8::from(session.is_durable()));
    match state.parting.as_ref().and_then(|p| p.message.heads.first().map(|h| (p, h))) {
        Some((parting, head)) => {
            w.u8(1);
            w.u32(parting.delay_secs);
            write_message(w, &parting.message, head, 0);
        }
        None => w.u8(0),
    }
}

pub(crate) fn session_record(session: &Session) -> Records {
    one(kind::SESSION, |w| write_session(w, session))
}

pub(crate) fn push_session(records: &mut Records, session: &Session) {
    records.push(kind::SESSION, LEVEL, 0, 0, |out| write_session(&mut Writer(out), session));
}

pub(crate) fn session_gone_record(id: u64) -> Records {
    one(kind::SESSION_GONE, |w| w.u64(id))
}

/// What the log keeps of a subscription.
pub(crate) struct Kept<'a> {
    id: u64,
    level: u8,
    identifier: u32,
    no_local: bool,
    selector: Option<&'a crate::selector::Selector>,
    flags: u8,
}

impl<'a> From<&'a Subscription> for Kept<'a> {
    fn from(of: &'a Subscription) -> Kept<'a> {
        let Subscription { id, level, identifier, no_local, flags, .. } = *of;
        Kept { id, level, identifier, no_local, selector: of.selector.as_deref(), flags }
    }
}

impl<'a> From<&'a apply::Recovered> for Kept<'a> {
    fn from(of: &'a apply::Recovered) -> Kept<'a> {
        let apply::Recovered { id, level, identifier, no_local, flags, .. } = *of;
        Kept { id, level, identifier, no_local, selector: of.selector.as_deref(), flags }
    }
}

pub(crate) fn write_subscription<'a>(w: &mut Writer<'_>, key: &SubscriptionKey, subscription: impl Into<Kept<'a>>) {
    let kept: Kept<'a> = subscription.into();
    write_key(w, key);
    w.u64(kept.id);
    w.u8(kept.level);
    w.u32(kept.identifier);
    let selects = if kept.selector.is_some() { records::SELECTOR_FOLLOWS } else { 0 };
    w.u8(u8::from(kept.no_local) | selects);
    w.u8(kept.flags);
    if let Some(selector) = kept.selector {
        w.bytes(selector.text().as_bytes());
    }
}

fn write_key(w: &mut Writer<'_>, key: &SubscriptionKey) {
    w.bytes(key.pattern.as_bytes());
    w.u8(key.separator);
    w.opt_text(key.share.as_deref());
}

pub(crate) fn subscription_record(session: u64, key: &SubscriptionKey, subscription: &Subscription) -> Records {
    one(kind::SUBSCRIPTION, |w| {
        w.u64(session);
        write_subscription(w, key, subscription);
    })
}

pub(crate) fn subscription_gone_record(session: u64, key: &SubscriptionKey) -> Records {
    one(kind::SUBSCRIPTION_GONE, |w| {
        w.u64(session);
        write_key(w, key);
    })
}

pub(crate) fn write_queue(w: &mut Writer<'_>, queue: &Queue) {
    w.u64(queue.id.0);
    w.u32(queue.vhost);
    w.bytes(queue.name.as_str().as_bytes());
    write_queue_spec(w, &queue.spec);
}

pub(crate) fn queue_record(queue: &Queue) -> Records {
    one(kind::QUEUE, |w| write_queue(w, queue))
}

pub(crate) fn fan_void_record(fan: u64) -> Records {
    one(kind::FAN_VOID, |w| w.u64(fan))
}

pub(crate) fn queue_gone_record(id: QueueId) -> Records {
    one(kind::QUEUE_GONE, |w| w.u64(id.0))
}

/// What a message that left a queue without being consumed is called in the log.
pub(crate) fn reason(why: Gone) -> &'static str {
    match why {
        Gone::Accepted => "accepted",
        Gone::Rejected => "rejected",
        Gone::Expired => "expired",
        Gone::Evicted => "maxlen",
        Gone::Purged => "purged",
        Gone::Limit => "delivery_limit",
        Gone::Due => "due",
    }
}
