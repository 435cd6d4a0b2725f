//! From a run to its records and its queues: who gets it, what is written, and references appended.

use super::commit::Hidden;
use super::publish::{Retains, RouteRun};
use crate::core::Shared;
use crate::queue::{AtBound, Fill, Follow, Held, Incoming, Queue};
use crate::route::Route;
use crate::session::Session;
use crate::store::records::{kind, patch_seq, write_edits, write_publish, write_refs, Reference, FURTHER_AT, LEVEL, REFERENCES_AT};
use crate::store::{push_retain, push_settle, Log};
use broker_api::{Batch, Seq, Serial, Side, StateEdit};
use journal::{Filled, Place, RecordHead, Records};
use std::sync::Arc;

/// One destination of a run.
pub(crate) struct Target {
    pub queue: Arc<Queue>,
    pub level: u8,
    pub flags: u8,
    pub side: Option<Arc<Side>>,
    /// Which reference of the run's records this is; `None`: not logged.
    pub ordinal: Option<(u32, u16)>,
    /// It takes the place of what just left this queue, so there is room.
    pub in_place: bool,
}

/// A sequence number that stands for "this reference was not made": the queue was full or gone.
pub(crate) const NO_SEQ: Seq = Seq(u64::MAX);
/// References in one record; a wider fan-out takes several records in the same slot.
pub(super) const REFERENCES_MAX: usize = 1024;

/// References to one body; a wider fan-out writes it again. An ordinal has 16 bits.
pub(super) const VOLUME: usize = 64 * REFERENCES_MAX;

/// Where the records of a run's heads are, by head and part.
#[derive(Default)]
pub(crate) struct Written {
    /// Offset in its slot of the record that has the body, and of the part's references.
    pub(super) at: Vec<(u32, u32)>,
    pub(super) parts: usize,
    /// How many references of the message stand in parts before the first one here.
    pub(super) base: u32,
}

impl Written {
    /// Where the body is, where the part's references are, which of these is meant, and its ordinal.
    fn find(&self, head: usize, (part, within): (u32, u16)) -> (u32, u32, usize, u16) {
        let (body, references) = self.at[head * self.parts + part as usize];
        let nth = self.base as usize + part as usize * REFERENCES_MAX + usize::from(within);
        (body, references, usize::from(within), (nth % VOLUME) as u16)
    }
}

/// Which part of a fan-out a record is.
#[derive(Clone, Copy)]
pub(super) struct PartOf {
    /// Its name, and whether this is the last part. `None`: there is only this one.
    pub fan: Option<(u64, bool)>,
    /// Ordinal of its first reference.
    pub first: u32,
    /// It has the body, with so many references to it in all.
    pub pins: Option<u32>,
}

/// A publish that a full queue rejected: its serial, its head, the queue.
pub(super) type Rejected = (u64, u32, Arc<Queue>);
/// A run with where it goes and where its records are.
pub(super) type Work<'a> = (Vec<Target>, Written, &'a RouteRun);
/// Edits that were made, by the head that each belongs to.
pub(super) type Edits = Vec<(u32, Arc<Session>, StateEdit)>;

/// What one slot of the log is going to hold.
#[derive(Default)]
pub(crate) struct Bundle {
    pub records: Records,
    pub place: Arc<Place>,
    pub releases: journal::Releases,
    /// A topic whose retained message this replaces.
    pub(super) retains: Option<Retains>,
}

impl Bundle {
    pub fn filled(self) -> Filled {
        Filled { records: self.records, place: Some(self.place), releases: self.releases, done: None }
    }

    /// What left a queue by this slot, instead of by one of its own.
    pub fn gone(&mut self, mut gone: Fill) {
        push_settle(&mut self.records, &gone);
        self.releases.known.append(&mut gone.releases.known);
        self.releases.pending.append(&mut gone.releases.pending);
    }

    pub(super) fn retain(&mut self, vhost: u32, batch: &Batch, topic: &Retains) {
        if topic.logged {
            push_retain(&mut self.records, vhost, batch, &batch.heads[topic.index as usize]);
        }
    }
}

/// Writes the records of gathered runs, sequence numbers left open.
pub(super) fn prepare<'a>(core: &Shared, bundle: &mut Bundle, batch: &Batch, runs: &'a [RouteRun], edits: &Edits) -> Vec<Work<'a>> {
    let mut work = Vec::with_capacity(runs.len());
    for run in runs {
        let targets = targets_of(run);
        let edit = edits.iter().find(|(head, session, _)| *head == run.first && session.is_durable());
        let written = write_records(core, &mut bundle.records, batch, run, &targets, edit.map(|(_, session, edit)| (session.id, edit)));
        work.push((targets, written, run));
    }
    work
}

/// Does a queue log what need not be durable?
pub(super) fn logs_all(work: &[Work<'_>]) -> bool {
    work.iter().any(|(targets, _, run)| !run.durable && targets.iter().any(|target| target.ordinal.is_some()))
}

pub(crate) fn targets_of(run: &RouteRun) -> Vec<Target> {
    let mut targets = targets_between(run, 0, run.route.width());
    number(&mut targets);
    targets
}

/// The targets that stand between two places of the route, not numbered yet.
pub(super) fn targets_between(run: &RouteRun, from: usize, to: usize) -> Vec<Target> {
    let route = &run.route;
    let mut targets = Vec::with_capacity(to - from);
    let mut add = |queue: &Arc<Queue>, level: u8, flags: u8, side: Option<Arc<Side>>, durable: bool| {
        targets.push(Target { queue: queue.clone(), level, flags, side, ordinal: durable.then_some((0, 0)), in_place: false });
    };
    let (mut skip, mut left) = (from, to - from);
    for t in part_of(&route.sessions, &mut skip, &mut left) {
        let level = t.level.min(run.level);
        if level > 0 {
            add(&t.session.queue, level, t.flags, t.side.clone(), t.session.queue.keeps(run.durable));
        }
    }
    for share in part_of(&route.shares, &mut skip, &mut left) {
        let level = share.level().min(run.level);
        if level > 0 {
            add(&share.queue, level, 0, None, share.queue.keeps(run.durable));
        }
    }
    for queue in part_of(&route.queues, &mut skip, &mut left) {
        add(queue, run.level, 0, None, queue.keeps(run.durable));
    }
    targets
}

/// What of this list is wanted, when `skip` entries come before it and `left` are wanted.
fn part_of<'a, T>(list: &'a [T], skip: &mut usize, left: &mut usize) -> &'a [T] {
    let from = list.len().min(*skip);
    let to = list.len().min(from + *left);
    *skip -= from;
    *left -= to - from;
    &list[from..to]
}

/// Which reference of the record each logged target is: they are written in this order, so this comes after any is left out.
pub(crate) fn number(targets: &mut [Target]) {
    let logged = targets.iter_mut().filter_map(|target| target.ordinal.as_mut());
    for (n, ordinal) in logged.enumerate() {
        *ordinal = ((n / REFERENCES_MAX) as u32, (n % REFERENCES_MAX) as u16);
    }
}

/// Writes a record for each head of the run, its sequence numbers left open. A wide fan-out takes several in this slot: the body once.
pub(crate) fn write_records(
    core: &Shared,
    records: &mut Records,
    batch: &Batch,
    run: &RouteRun,
    targets: &[Target],
    edit: Option<(u64, &StateEdit)>,
) -> Written {
    let logged: Vec<&Target> = targets.iter().filter(|t| t.ordinal.is_some()).collect();
    let parts: Vec<&[&Target]> = logged.chunks(REFERENCES_MAX).collect();
    let mut at = Vec::with_capacity(run.count as usize * parts.len());
    for index in run.first..run.first + run.count {
        let fan = (parts.len() > 1).then(|| core.ids(1));
        let mut body = 0;
        for (p, part) in parts.iter().enumerate() {
            let from = p * REFERENCES_MAX;
            let pins = (from % VOLUME == 0).then(|| (logged.len() - from).min(VOLUME) as u32);
            let of = PartOf { fan: fan.map(|id| (id, p + 1 == parts.len())), first: (from % VOLUME) as u32, pins };
            let edit = if index == run.first && p == 0 { edit } else { None };
            let (record, references) = part_record(records, batch, index, part, of, edit);
            body = if pins.is_some() { record } else { body };
            at.push((body, references));
        }
        if parts.is_empty() && index == run.first {
            if let Some(edit) = edit {
                records.push(kind::STATE, LEVEL, 0, 0, |out| write_edits(out, &[edit]));
            }
        }
    }
    Written { at, parts: parts.len(), base: 0 }
}

/// One record of a message: with its body, or only references to it. Answers its offset, and that of its references.
pub(super) fn part_record(
    records: &mut Records,
    batch: &Batch,
    index: u32,
    part: &[&Target],
    of: PartOf,
    edit: Option<(u64, &StateEdit)>,
) -> (u32, u32) {
    let mut sides: Vec<Arc<Side>> = Vec::new();
    let references: smallvec::SmallVec<[Reference; 4]> = part
        .iter()
        .map(|t| Reference {
            queue: t.queue.id,
            seq: NO_SEQ,
            level: t.level,
            flags: t.flags,
            side: side_number(&mut sides, t.side.as_ref()),
        })
        .collect();
    let head = &batch.heads[index as usize];
    let (offset, references_at) = match (of.pins, of.fan) {
        (None, Some(fan)) => {
            let write = |out: &mut Vec<u8>| write_refs(out, fan, of.first, &references, &sides);
            (records.push(kind::REFS, LEVEL, 0, 0, write), FURTHER_AT)
        }
        (pins, fan) => {
            let write = |out: &mut Vec<u8>| write_publish(out, batch, head, &references, &sides, edit, fan);
            (records.push(kind::PUBLISH, LEVEL, 0, pins.unwrap_or(part.len() as u32), write), REFERENCES_AT)
        }
    };
    let head_len = RecordHead::parse(&records.bytes()[offset as usize..]).map_or(0, |h| h.head_len);
    (offset, offset + head_len + references_at as u32)
}

/// A run of one message in a batch of its own.
pub(crate) fn one_run(route: Arc<Route>, level: u8, durable: bool) -> RouteRun {
    RouteRun { route, first: 0, count: 1, level, durable, serial: Serial(0) }
}

/// Appends a message of its own to one of its targets. `false`: a full queue rejected it, and nobody waits for an answer.
#[allow(clippy::too_many_arguments, reason = "the pieces of one record and the queue it goes to")]
pub(crate) fn append_one(
    target: &Target,
    held: &Arc<Held>,
    written: &Written,
    bundle: &mut Bundle,
    hidden: Option<&mut Hidden>,
    run: &RouteRun,
    state: &mut crate::queue::State,
    core: &crate::core::Shared,
    follow: &mut Follow,
) -> bool {
    let mut refused = Vec::new();
    Append { queue: &target.queue, target, held, written, bundle, hidden, refused: &mut refused }.run(run, state, &core.log, follow);
    core.arm(&target.queue, state);
    refused.is_empty()
}

fn side_number(sides: &mut Vec<Arc<Side>>, side: Option<&Arc<Side>>) -> u16 {
    let Some(side) = side else { return 0 };
    match sides.iter().position(|s| s == side) {
        Some(at) => at as u16 + 1,
        None => {
            sides.push(side.clone());
            sides.len() as u16
        }
    }
}

/// Appends a run to one queue.
pub(super) struct Append<'a> {
    pub queue: &'a Arc<Queue>,
    pub target: &'a Target,
    pub held: &'a Arc<Held>,
    pub written: &'a Written,
    pub bundle: &'a mut Bundle,
    /// Part of a transaction: handed to nobody before the commit point.
    pub hidden: Option<&'a mut Hidden>,
    /// Where a queue that rejects was full.
    pub refused: &'a mut Vec<Rejected>,
}

impl Append<'_> {
    pub fn run(&mut self, run: &RouteRun, state: &mut crate::queue::State, log: &Log, follow: &mut Follow) {
        for n in 0..run.count {
            let index = run.first + n;
            let record = self.target.ordinal.map(|at| self.written.find(n as usize, at));
            let head = &self.held.batch.heads[index as usize];
            if !self.has_room(state, head.key.len + head.body.len, log, follow) {
                if state.rules.bound.then == AtBound::Reject && !state.deleted {
                    self.refused.push((run.serial.0 + u64::from(n), index, self.queue.clone()));
                }
                if let (Some((offset, _, _, ordinal)), Some(place)) = (record, &self.held.place) {
                    self.bundle.releases.pending.push((place.clone(), offset, ordinal));
                }
                continue;
            }
            let (offset, references, nth, ordinal) = record.unwrap_or((0, 0, 0, 0));
            let seq = self.queue.append(
                state,
                &Incoming {
                    held: self.held,
                    side: self.target.side.as_ref(),
                    head: index,
                    offset,
                    ordinal,
                    level: self.target.level,
                    flags: self.target.flags,
                    durable: record.is_some(),
                    committed: log.committed_lsn(),
                },
            );
            if record.is_some() {
                patch_seq(self.bundle.records.bytes_mut(), references as usize, nth, seq);
            }
            if let Some(hidden) = &mut self.hidden {
                hidden.hide(self.queue, state, seq);
            }
        }
    }

    fn has_room(&self, state: &mut crate::queue::State, bytes: u32, log: &Log, follow: &mut Follow) -> bool {
        if self.target.in_place {
            return !state.deleted;
        }
        // What a transaction makes too much is dropped when it shows, the oldest first.
        if self.hidden.is_some() && state.rules.bound.then == AtBound::DropOldest {
            return !state.deleted;
        }
        self.queue.make_room(state, bytes, log, follow)
    }
}
