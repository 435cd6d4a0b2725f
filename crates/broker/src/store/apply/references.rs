//! What the log says of references: put into queues, taken out, handed over, counted. Each is redone to the page it belongs to, which is read first if
//! the checkpoint may know the reference.

use super::Recovery;
use crate::link::NO_SEQ;
use crate::queue::{Entry, Queue, Status, PAGE};
use crate::store::page::{page_key, read_page};
use crate::store::records::{self, read_publish, read_requeue, read_settle, Move, Reference};
use crate::store::wire::Reader;
use broker_api::{Head, QueueId, Seq, Side};
use journal::{Lsn, Objects, Release};
use std::sync::Arc;

/// What references to a message need to know of it.
#[derive(Clone, Copy)]
struct Message {
    lsn: Lsn,
    bytes: u32,
    expires_ms: u64,
    arrived_ms: u64,
    delay_ms: u32,
}

#[derive(Default)]
pub(super) struct OpenFanOut {
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

impl Recovery {
    pub(super) fn publish(&mut self, lsn: Lsn, fields: &[u8], pins: u32, releases: &mut Vec<Release>) -> Option<()> {
        let record = read_publish(fields, 0)?;
        if let Some((session, edit)) = &record.state {
            self.edit(*session, edit);
        }
        let bytes = record.head.key.len + record.head.body.len;
        let Head { expires_ms, delay_ms, .. } = record.head;
        let message = Message { lsn, bytes, expires_ms, arrived_ms: record.arrived_ms, delay_ms };
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
    pub(super) fn further(&mut self, r: &mut Reader<'_>, releases: &mut Vec<Release>) -> Option<()> {
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
                expires: queue.time_of(queue.rules().message_ttl_ms, of.expires_ms, of.arrived_ms, of.delay_ms),
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
    pub(super) fn void_fan_out(&mut self, id: u64, releases: &mut Vec<Release>) {
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

    pub(super) fn settle(&mut self, fields: &[u8], releases: &mut Vec<Release>) -> Option<()> {
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
    pub(super) fn movement(&mut self, r: &mut Reader<'_>) -> Option<()> {
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

    pub(super) fn requeue(&mut self, r: &mut Reader<'_>) -> Option<()> {
        let (queue, counts) = read_requeue(r)?;
        let Some(queue) = self.queues.get(&queue.0) else { return Some(()) };
        for (seq, attempts) in counts {
            bring(&self.reader, queue, seq);
            queue.recover_attempts(seq, attempts);
        }
        self.touched_queues.insert(queue.id.0);
        Some(())
    }
}

/// Reads the page that an entry stands in, if the checkpoint has it and it was not read yet: what is redone to it has to be told, and
/// which bodies that lets go of.
pub(super) fn bring(reader: &Option<Arc<dyn Objects>>, queue: &Arc<Queue>, seq: Seq) {
    let Some(number) = queue.lock().away_page(seq) else { return };
    let Some(reader) = reader else { return };
    let mut bytes = Vec::new();
    let read = reader.read(page_key(queue.id, seq.lane(), number), &mut bytes).map_err(|e| e.to_string());
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
