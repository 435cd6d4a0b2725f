//! The core's records, field by field. Numbers of kinds are for ever; docs/format.md lists them.

mod side;

pub(crate) use side::{read_side, write_side, Move};

use super::wire::{Reader, Writer};
use crate::queue::Gone;
use broker_api::{Batch, Expiry, Head, QueueId, QueueSpec, Seq, Side, Span, StateEdit, StateValue};
use bytes::Bytes;
use std::sync::Arc;

pub(crate) mod kind {
    pub const PUBLISH: u8 = 16;
    pub const SETTLE: u8 = 17;
    pub const REQUEUE: u8 = 18;
    pub const QUEUE: u8 = 19;
    pub const QUEUE_GONE: u8 = 20;
    pub const EXCHANGE: u8 = 21;
    pub const EXCHANGE_GONE: u8 = 22;
    pub const BIND: u8 = 23;
    pub const UNBIND: u8 = 24;
    pub const SESSION: u8 = 25;
    pub const SESSION_GONE: u8 = 26;
    pub const SUBSCRIPTION: u8 = 27;
    pub const SUBSCRIPTION_GONE: u8 = 28;
    pub const STATE: u8 = 29;
    pub const RETAIN: u8 = 30;
    // 31 was never written.
    pub const MOVE: u8 = 32;
    pub const HANDED: u8 = 33;
    pub const REFS: u8 = 34;
    pub const FAN_VOID: u8 = 35;
    pub const VHOST: u8 = 40;
    pub const VHOST_GONE: u8 = 41;
    pub const POLICY: u8 = 42;
    pub const POLICY_GONE: u8 = 43;
}

/// The log level that this version writes.
pub(crate) const LEVEL: u8 = 1;

/// Bytes of one reference in a publish record.
pub(crate) const REFERENCE: usize = 20;
/// Where they begin in the fields of a publish record, and of one of further references.
pub(crate) const REFERENCES_AT: usize = 3;
pub(crate) const FURTHER_AT: usize = 15;

/// A reference as a record holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reference {
    pub queue: QueueId,
    pub seq: Seq,
    pub level: u8,
    pub flags: u8,
    /// One plus the index into the record's side entries; 0 = none.
    pub side: u16,
}

/// A publish record under construction: sequence numbers are not known yet when it is written, only their place.
pub(crate) fn write_publish(
    out: &mut Vec<u8>,
    batch: &Batch,
    head: &Head,
    references: &[Reference],
    sides: &[Arc<Side>],
    state: Option<(u64, &StateEdit)>,
    fan: Option<(u64, bool)>,
) {
    let mut w = Writer(out);
    w.u16(references.len() as u16);
    w.u8(u8::from(state.is_some()) | u8::from(!sides.is_empty()) << 1 | u8::from(fan.is_some()) << 2);
    write_references(&mut w, references);
    write_message(&mut w, batch, head, batch.arrived_ms);
    if let Some((session, edit)) = state {
        write_edit(&mut w, session, edit);
    }
    if !sides.is_empty() {
        write_sides(&mut w, sides);
    }
    if let Some((id, last)) = fan {
        w.u64(id);
        w.u8(u8::from(last));
    }
}

fn write_references(w: &mut Writer<'_>, references: &[Reference]) {
    for r in references {
        w.u64(r.queue.0);
        w.u64(r.seq.0);
        w.u8(r.level);
        w.u8(r.flags);
        w.u16(r.side);
    }
}

fn read_references(r: &mut Reader<'_>, n: u16) -> Option<Vec<Reference>> {
    let mut references = Vec::with_capacity(usize::from(n.min(1024)));
    for _ in 0..n {
        references.push(Reference { queue: QueueId(r.u64()?), seq: Seq(r.u64()?), level: r.u8()?, flags: r.u8()?, side: r.u16()? });
    }
    Some(references)
}

fn write_sides(w: &mut Writer<'_>, sides: &[Arc<Side>]) {
    w.u16(sides.len() as u16);
    for side in sides {
        write_side(w, side);
    }
}

fn read_sides(r: &mut Reader<'_>) -> Option<Vec<Arc<Side>>> {
    (0..r.u16()?).map(|_| read_side(r)).collect()
}

/// Further references to the body of a fan-out; `first` is the ordinal of the first of them.
pub(crate) fn write_refs(out: &mut Vec<u8>, fan: (u64, bool), first: u32, references: &[Reference], sides: &[Arc<Side>]) {
    let mut w = Writer(out);
    w.u64(fan.0);
    w.u8(u8::from(fan.1));
    w.u32(first);
    w.u16(references.len() as u16);
    write_references(&mut w, references);
    write_sides(&mut w, sides);
}

pub(crate) struct RefsRecord {
    pub fan: u64,
    pub last: bool,
    pub first: u32,
    pub references: Vec<Reference>,
    pub sides: Vec<Arc<Side>>,
}

pub(crate) fn read_refs(r: &mut Reader<'_>) -> Option<RefsRecord> {
    let (fan, last, first, n) = (r.u64()?, r.u8()? != 0, r.u32()?, r.u16()?);
    Some(RefsRecord { fan, last, first, references: read_references(r, n)?, sides: read_sides(r)? })
}

/// Writes the sequence number of one reference into a record whose references start at `references`.
pub(crate) fn patch_seq(out: &mut [u8], references: usize, nth: usize, seq: Seq) {
    let at = references + nth * REFERENCE + 8;
    out[at..at + 8].copy_from_slice(&seq.0.to_le_bytes());
}

/// The attempts that deliveries of one queue count by now: absolute, so that redoing changes nothing.
pub(crate) fn write_requeue(out: &mut Vec<u8>, queue: QueueId, counts: &[(Seq, u16)]) {
    let mut w = Writer(out);
    w.u64(queue.0);
    w.u32(counts.len() as u32);
    for (seq, attempts) in counts {
        w.u64(seq.0);
        w.u16(*attempts);
    }
}

pub(crate) fn read_requeue(r: &mut Reader<'_>) -> Option<(QueueId, Vec<(Seq, u16)>)> {
    let queue = QueueId(r.u64()?);
    let n = r.u32()?;
    let counts = (0..n).map(|_| Some((Seq(r.u64()?), r.u16()?))).collect::<Option<Vec<_>>>()?;
    Some((queue, counts))
}

/// Up to where what still stands in a queue has been handed out, by level; a mark only ever rises.
pub(crate) fn write_handed(out: &mut Vec<u8>, queue: QueueId, marks: &[(u8, u64)]) {
    let mut w = Writer(out);
    w.u64(queue.0);
    w.u8(marks.len() as u8);
    for (level, position) in marks {
        w.u8(*level);
        w.u64(*position);
    }
}

pub(crate) fn read_handed(r: &mut Reader<'_>) -> Option<(QueueId, Vec<(u8, u64)>)> {
    let queue = QueueId(r.u64()?);
    let n = r.u8()?;
    let marks = (0..n).map(|_| Some((r.u8()?, r.u64()?))).collect::<Option<Vec<_>>>()?;
    Some((queue, marks))
}

pub(crate) fn write_message(w: &mut Writer<'_>, batch: &Batch, head: &Head, arrived_ms: u64) {
    w.u16(head.flags & !broker_api::HEAD_VERBATIM);
    w.u8(head.priority);
    w.u8(head.level);
    w.u8(head.format);
    w.u8(head.separator);
    w.u8(u8::from(head.topic) | u8::from(!head.keys.is_empty()) << 1);
    w.u64(head.expires_ms);
    w.u64(arrived_ms);
    w.u32(head.delay_ms);
    let spans = [head.exchange, head.key, head.origin, head.body, head.user, head.group, head.keys];
    // Further keys are rare: only what has them says how long they are.
    let spans = if head.keys.is_empty() { &spans[..6] } else { &spans[..] };
    for span in spans {
        w.u32(span.len);
    }
    for span in spans {
        w.0.extend_from_slice(batch.bytes(*span));
    }
}

/// Reads a message whose bytes stand in `block` at the reader's position plus `base`.
pub(crate) fn read_message(r: &mut Reader<'_>, base: usize) -> Option<(Head, u64)> {
    let mut head = Head { flags: r.u16()?, priority: r.u8()?, level: r.u8()?, format: r.u8()?, separator: r.u8()?, ..Head::default() };
    let what = r.u8()?;
    head.topic = what & 1 != 0;
    head.expires_ms = r.u64()?;
    let arrived_ms = r.u64()?;
    head.delay_ms = r.u32()?;
    let count = if what & 2 != 0 { 7 } else { 6 };
    let mut lens = [0usize; 7];
    for len in &mut lens[..count] {
        *len = r.u32()? as usize;
    }
    let mut spans = [Span::EMPTY; 7];
    for (span, len) in spans[..count].iter_mut().zip(lens) {
        *span = Span::block(base + r.position(), len);
        r.take(len)?;
    }
    [head.exchange, head.key, head.origin, head.body, head.user, head.group, head.keys] = spans;
    Some((head, arrived_ms))
}

/// A message of its own, out of a reader: for retained messages and wills.
pub(crate) fn read_own_message(r: &mut Reader<'_>, all: &[u8]) -> Option<Batch> {
    let start = r.position();
    let (head, arrived_ms) = read_message(r, 0)?;
    let block = Bytes::copy_from_slice(all.get(start..r.position())?);
    let shift = |span: Span| Span::block(span.offset() - start, span.len as usize);
    let head = Head {
        exchange: shift(head.exchange),
        key: shift(head.key),
        origin: shift(head.origin),
        body: shift(head.body),
        user: shift(head.user),
        group: shift(head.group),
        keys: if head.keys.is_empty() { Span::EMPTY } else { shift(head.keys) },
        ..head
    };
    // There may be a million of them: room for one head, where a push would make room for four.
    Some(Batch { block, heads: vec![head], arrived_ms, ..Batch::default() })
}

pub(crate) struct PublishRecord {
    pub references: Vec<Reference>,
    pub head: Head,
    pub arrived_ms: u64,
    pub state: Option<(u64, StateEdit)>,
    pub sides: Vec<Arc<Side>>,
    /// Further records of references follow this one, by this name, unless it is the last.
    pub fan: Option<(u64, bool)>,
}

/// Spans of the head point into `block`, in which the fields start at `base`.
pub(crate) fn read_publish(fields: &[u8], base: usize) -> Option<PublishRecord> {
    let mut r = Reader::new(fields);
    let n = r.u16()?;
    let what = r.u8()?;
    let references = read_references(&mut r, n)?;
    let (head, arrived_ms) = read_message(&mut r, base)?;
    let state = if what & 1 != 0 { Some(read_edit(&mut r)?) } else { None };
    let sides = if what & 2 != 0 { read_sides(&mut r)? } else { Vec::new() };
    let fan = if what & 4 != 0 { Some((r.u64()?, r.u8()? != 0)) } else { None };
    Some(PublishRecord { references, head, arrived_ms, state, sides, fan })
}

pub(crate) fn write_edit(w: &mut Writer<'_>, session: u64, edit: &StateEdit) {
    w.u64(session);
    w.u64(edit.key);
    let what = u8::from(edit.value.is_some()) | u8::from(edit.lease.is_some()) << 1;
    w.u8(what);
    if let Some(value) = &edit.value {
        w.bytes(value);
    }
    if let Some((queue, seq)) = edit.lease {
        w.u64(queue.0);
        w.u64(seq.0);
    }
}

/// The owner index in the answer is meaningless; the session id stands beside it.
pub(crate) fn read_edit(r: &mut Reader<'_>) -> Option<(u64, StateEdit)> {
    let session = r.u64()?;
    let key = r.u64()?;
    let what = r.u8()?;
    let value = if what & 1 != 0 { Some(StateValue::from_slice(r.bytes()?)) } else { None };
    let lease = if what & 2 != 0 { Some((QueueId(r.u64()?), Seq(r.u64()?))) } else { None };
    Some((session, StateEdit { owner: broker_api::OwnerIx(0), key, value, lease }))
}

pub(crate) fn write_edits(out: &mut Vec<u8>, edits: &[(u64, &StateEdit)]) {
    let mut w = Writer(out);
    w.u16(edits.len() as u16);
    for (session, edit) in edits {
        write_edit(&mut w, *session, edit);
    }
}

pub(crate) fn read_edits(r: &mut Reader<'_>) -> Option<Vec<(u64, StateEdit)>> {
    (0..r.u16()?).map(|_| read_edit(r)).collect()
}

pub(crate) fn write_settle(out: &mut Vec<u8>, queue: QueueId, why: Gone, runs: &[(Seq, u32)], edits: &[(u64, &StateEdit)]) {
    let mut w = Writer(out);
    w.u64(queue.0);
    w.u8(why as u8);
    w.u32(runs.len() as u32);
    for (first, count) in runs {
        w.u64(first.0);
        w.u32(*count);
    }
    write_edits(w.0, edits);
}

pub(crate) struct SettleRecord {
    pub queue: QueueId,
    pub runs: Vec<(Seq, u32)>,
    pub edits: Vec<(u64, StateEdit)>,
}

pub(crate) fn read_settle(fields: &[u8]) -> Option<SettleRecord> {
    let mut r = Reader::new(fields);
    let queue = QueueId(r.u64()?);
    r.u8()?;
    let n = r.u32()?;
    let mut runs = Vec::with_capacity(n.min(4096) as usize);
    for _ in 0..n {
        runs.push((Seq(r.u64()?), r.u32()?));
    }
    let edits = read_edits(&mut r)?;
    Some(SettleRecord { queue, runs, edits })
}

pub(crate) fn write_queue_spec(w: &mut Writer<'_>, spec: &QueueSpec) {
    let flags = [
        spec.durable,
        spec.exclusive,
        spec.auto_delete,
        spec.reject_at_bound,
        spec.single_active_consumer,
        spec.dead_letter_refused,
        spec.counts_attempts,
        has_more(spec),
    ];
    w.u8(flags.iter().enumerate().fold(0, |all, (i, on)| all | u8::from(*on) << i));
    w.u8(spec.max_priority);
    for number in [spec.message_ttl_ms, spec.expires_ms, spec.max_length, spec.max_length_bytes, spec.delivery_limit.map(u64::from)] {
        w.opt_u64(number);
    }
    w.opt_text(spec.dead_letter_exchange.as_deref());
    w.opt_text(spec.dead_letter_key.as_deref());
    w.bytes(&spec.arguments);
    w.u8(spec.format);
    if has_more(spec) {
        w.opt_u64(spec.consumer_timeout_ms);
        let once = match spec.dead_letter_at_least_once {
            None => 0,
            Some(once) => 1 + u8::from(once),
        };
        let selects = if spec.selector.is_some() { SELECTOR_FOLLOWS } else { 0 };
        let no_local = if spec.no_local { NO_LOCAL } else { 0 };
        w.u8(once | selects | no_local | if says_keeps_all(spec) { KEEPS_ALL } else { 0 });
        if let Some(selector) = &spec.selector {
            w.bytes(selector.as_bytes());
        }
    }
}

/// A bit of the byte before the selector of a queue or a subscription.
pub(crate) const SELECTOR_FOLLOWS: u8 = 0x80;
/// The same of a queue: not what its consumer's own connection publishes.
const NO_LOCAL: u8 = 0x40;
/// The same of a queue: it keeps everything, and does not count attempts.
const KEEPS_ALL: u8 = 0x20;

/// A queue that counts attempts keeps everything without saying so: such queues are older than the bit.
fn says_keeps_all(spec: &QueueSpec) -> bool {
    spec.keeps_all && !spec.counts_attempts
}

/// What came later stands behind the rest, where there is any of it.
fn has_more(spec: &QueueSpec) -> bool {
    let more = spec.consumer_timeout_ms.is_some() || spec.dead_letter_at_least_once.is_some() || spec.selector.is_some();
    more || spec.no_local || says_keeps_all(spec)
}

pub(crate) fn read_queue_spec(r: &mut Reader<'_>) -> Option<QueueSpec> {
    let flags = r.u8()?;
    let on = |bit: u8| flags & 1 << bit != 0;
    let mut spec = QueueSpec {
        durable: on(0),
        exclusive: on(1),
        auto_delete: on(2),
        reject_at_bound: on(3),
        single_active_consumer: on(4),
        dead_letter_refused: on(5),
        counts_attempts: on(6),
        keeps_all: on(6),
        max_priority: r.u8()?,
        message_ttl_ms: r.opt_u64()?,
        expires_ms: r.opt_u64()?,
        max_length: r.opt_u64()?,
        max_length_bytes: r.opt_u64()?,
        delivery_limit: r.opt_u64()?.map(|n| n as u32),
        dead_letter_exchange: r.opt_text()?.map(str::to_owned),
        dead_letter_key: r.opt_text()?.map(str::to_owned),
        arguments: r.bytes()?.to_vec(),
        format: r.u8()?,
        ..QueueSpec::default()
    };
    if on(7) {
        spec.consumer_timeout_ms = r.opt_u64()?;
        let bits = r.u8()?;
        spec.dead_letter_at_least_once = (bits & !(SELECTOR_FOLLOWS | NO_LOCAL | KEEPS_ALL)).checked_sub(1).map(|once| once == 1);
        spec.no_local = bits & NO_LOCAL != 0;
        spec.keeps_all |= bits & KEEPS_ALL != 0;
        if bits & SELECTOR_FOLLOWS != 0 {
            spec.selector = Some(r.text()?.to_owned());
        }
    }
    Some(spec)
}

pub(crate) fn write_expiry(w: &mut Writer<'_>, expiry: Expiry) {
    match expiry {
        Expiry::WithConnection => w.u64(0),
        Expiry::Seconds(n) => w.u64(1 + u64::from(n)),
        Expiry::Never => w.u64(u64::MAX),
    }
}

pub(crate) fn read_expiry(r: &mut Reader<'_>) -> Option<Expiry> {
    Some(match r.u64()? {
        0 => Expiry::WithConnection,
        u64::MAX => Expiry::Never,
        n => Expiry::Seconds(u32::try_from(n - 1).unwrap_or(u32::MAX)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::OwnerIx;

    fn message() -> Batch {
        let mut batch = Batch { block: Bytes::from_static(b"a/bpropspayload"), arrived_ms: 77, ..Batch::default() };
        batch.heads.push(Head {
            key: Span::block(0, 3),
            origin: Span::block(3, 5),
            body: Span::block(8, 7),
            level: 2,
            flags: broker_api::HEAD_DURABLE | broker_api::HEAD_VERBATIM,
            separator: b'/',
            topic: true,
            expires_ms: 99,
            ..Head::default()
        });
        batch
    }

    #[test]
    fn a_publish_record_comes_back() {
        let batch = message();
        let edit = StateEdit { owner: OwnerIx(0), key: 7, value: Some(StateValue::from_slice(b"v")), lease: Some((QueueId(3), Seq(4))) };
        let sides = [Arc::new(Side { subscriptions: vec![5, 6], ..Side::default() })];
        let reference = Reference { queue: QueueId(9), seq: Seq(0), level: 1, flags: 4, side: 1 };
        let mut out = vec![0xEE; 11];
        write_publish(&mut out, &batch, &batch.heads[0], &[reference, reference], &sides, Some((42, &edit)), Some((77, true)));
        patch_seq(&mut out, 11 + REFERENCES_AT, 1, Seq(1234));
        let record = read_publish(&out[11..], 11).expect("well formed");
        assert_eq!(record.references[1], Reference { seq: Seq(1234), ..reference });
        assert_eq!(record.references[0], reference);
        let body = record.head.body;
        assert_eq!(&out[body.offset()..body.end()], b"payload");
        assert_eq!((record.head.level, record.head.expires_ms, record.arrived_ms), (2, 99, 77));
        assert!(!record.head.has(broker_api::HEAD_VERBATIM) && record.head.has(broker_api::HEAD_DURABLE));
        assert_eq!(record.state, Some((42, edit)));
        assert_eq!(record.sides[0].subscriptions, vec![5, 6]);
        assert_eq!(record.fan, Some((77, true)));
        for cut in 0..out.len() - 11 {
            assert!(read_publish(&out[11..11 + cut], 11).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn further_references_come_back() {
        let reference = Reference { queue: QueueId(9), seq: Seq(0), level: 1, flags: 4, side: 1 };
        let sides = [Arc::new(Side { subscriptions: vec![5, 6], ..Side::default() })];
        let mut out = Vec::new();
        write_refs(&mut out, (7, true), 2048, &[reference, reference], &sides);
        patch_seq(&mut out, FURTHER_AT, 1, Seq(1234));
        let record = read_refs(&mut Reader::new(&out)).expect("well formed");
        assert_eq!((record.fan, record.last, record.first), (7, true, 2048));
        assert_eq!(record.references, [reference, Reference { seq: Seq(1234), ..reference }]);
        assert_eq!(record.sides[0].subscriptions, vec![5, 6]);
        for cut in 0..out.len() {
            assert!(read_refs(&mut Reader::new(&out[..cut])).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_message_of_its_own_points_into_its_own_block() {
        let batch = message();
        let mut out = vec![1, 2, 3];
        write_message(&mut Writer(&mut out), &batch, &batch.heads[0], batch.arrived_ms);
        let mut r = Reader::new(&out);
        r.take(3);
        let own = read_own_message(&mut r, &out).expect("well formed");
        assert_eq!((own.key(&own.heads[0]), own.body(&own.heads[0])), (&b"a/b"[..], &b"payload"[..]));
    }

    #[test]
    fn a_queue_spec_comes_back() {
        let spec = QueueSpec {
            durable: true,
            auto_delete: true,
            counts_attempts: true,
            keeps_all: true,
            max_length: Some(5),
            dead_letter_exchange: Some(String::new()),
            arguments: vec![1, 2],
            ..QueueSpec::default()
        };
        let mut out = Vec::new();
        write_queue_spec(&mut Writer(&mut out), &spec);
        assert_eq!(read_queue_spec(&mut Reader::new(&out)), Some(spec.clone()));
        for once in [None, Some(false), Some(true)] {
            let more = QueueSpec { consumer_timeout_ms: Some(7), dead_letter_at_least_once: once, ..spec.clone() };
            let mut longer = Vec::new();
            write_queue_spec(&mut Writer(&mut longer), &more);
            assert!(longer.len() > out.len(), "only what has more takes more");
            assert_eq!(read_queue_spec(&mut Reader::new(&longer)), Some(more));
            let selects = QueueSpec { selector: Some("a = 'b'".into()), dead_letter_at_least_once: once, ..spec.clone() };
            let mut longest = Vec::new();
            write_queue_spec(&mut Writer(&mut longest), &selects);
            assert_eq!(read_queue_spec(&mut Reader::new(&longest)), Some(selects));
            let others = QueueSpec { no_local: true, dead_letter_at_least_once: once, ..spec.clone() };
            longest.clear();
            write_queue_spec(&mut Writer(&mut longest), &others);
            assert_eq!(read_queue_spec(&mut Reader::new(&longest)), Some(others));
            let keeps = QueueSpec { keeps_all: true, counts_attempts: false, dead_letter_at_least_once: once, ..spec.clone() };
            longest.clear();
            write_queue_spec(&mut Writer(&mut longest), &keeps);
            assert_eq!(read_queue_spec(&mut Reader::new(&longest)), Some(keeps));
        }
    }
}
