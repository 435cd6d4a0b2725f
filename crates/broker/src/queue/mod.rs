//! A queue: references in order, consumers with credit, leases that name (queue, seq). One lock, never held while routing or reading a disk.

mod group;
mod lane;
mod lanes;
mod leave;
mod life;
mod paging;
mod take;

pub(crate) use group::Group;
pub(crate) use lane::{Entry, Held, Lane, Page, Status, PAGE};
pub(crate) use lanes::Lanes;
pub(crate) use leave::{Modified, Peek};
pub(crate) use life::Life;
pub(crate) use paging::Wanted;
pub(crate) use take::Taken;

use lane::Next;

use crate::outbox::Outbox;
use crate::store::Log;
use broker_api::{
    Batch, ConsumerIx, DeliverTo, Delivery, QueueId, QueueName, QueueSpec, Seq, Side, DELIVERY_REDELIVERED, DELIVERY_RESUMED,
};
use journal::{Release, Releases, Slot};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// What a queue does with a message that finds it full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtBound {
    DropOldest,
    DropNewest,
    Reject,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bound {
    pub messages: u64,
    pub bytes: u64,
    pub then: AtBound,
}

pub(crate) struct Consumer {
    pub outbox: Arc<Outbox>,
    pub to: ConsumerIx,
    /// Who may settle what this consumer was handed.
    pub owner: u64,
    pub group: Option<Arc<Group>>,
    /// `u32::MAX` = only the group bounds it.
    pub credit: u32,
    /// What it takes is settled as it leaves.
    pub settled: bool,
    /// Deliveries are granted at most this level.
    pub level: u8,
    /// What its subscription adds to each delivery: identifiers, and flags. Members of a share differ in these.
    pub side: Option<Arc<Side>>,
    pub flags: u8,
    pub active: bool,
    pub priority: i32,
    /// Nobody else may consume while it does.
    pub exclusive: bool,
}

impl Consumer {
    fn is(&self, outbox: u64, to: ConsumerIx) -> bool {
        self.outbox.id == outbox && self.to == to
    }
}

#[derive(Default)]
pub(crate) struct State {
    /// By priority level; almost always one.
    pub lanes: Lanes,
    pub consumers: Vec<Consumer>,
    turn: usize,
    pub ready: u64,
    pub leased: u64,
    /// On their way to a dead-letter exchange: in no bound, handed to nobody.
    pub moving: u64,
    /// Of what is ready or leased.
    pub bytes: u64,
    /// When the timer looks at this queue's heads next, in seconds; 0: it does not.
    pub alarm_s: u32,
    pub wants_alarm: bool,
    /// Something that expires came since the queue was last found empty.
    pub expiring: bool,
    /// Bytes of messages that are held in memory.
    held_bytes: u64,
    pub deleted: bool,
    pub dropped_messages: u64,
}

pub(crate) struct Queue {
    pub id: QueueId,
    pub name: QueueName,
    pub vhost: u32,
    pub spec: Arc<QueueSpec>,
    /// References in it are logged.
    pub durable: bool,
    pub bound: Bound,
    pub life: Life,
    loading: AtomicBool,
    /// Set while the queue stands on the list of queues that the next checkpoint looks at.
    pub listed: AtomicBool,
    pub depth: AtomicU64,
    state: Mutex<State>,
}

/// What has to happen after the queue's lock is released: slots reserved under it to fill, queues to read from the log or to pump.
#[derive(Default)]
pub(crate) struct Follow {
    pub fills: Vec<Fill>,
    pub load: Vec<Arc<Queue>>,
    pub pump: Vec<Arc<Queue>>,
    /// Left a queue without being consumed.
    pub leaving: Vec<Leaving>,
}

pub(crate) struct Fill {
    pub slot: Option<Slot>,
    pub queue: QueueId,
    pub why: Gone,
    /// Runs of settled sequence numbers.
    pub runs: Vec<(Seq, u32)>,
    pub releases: Releases,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Gone {
    Accepted = 0,
    Rejected = 1,
    Expired = 2,
    Evicted = 3,
    Purged = 4,
    /// Given back too often.
    Limit = 5,
}

/// A message on its way to a dead-letter exchange.
pub(crate) struct Leaving {
    pub queue: Arc<Queue>,
    pub seq: Seq,
    pub why: Gone,
}

/// A new reference, as routing hands it over.
pub(crate) struct Incoming<'a> {
    pub held: &'a Arc<Held>,
    pub side: Option<&'a Arc<Side>>,
    pub head: u32,
    pub offset: u32,
    pub ordinal: u16,
    pub level: u8,
    pub flags: u8,
    pub durable: bool,
    /// Records below this position are committed.
    pub committed: u64,
}

/// Messages above this stay in memory only at the queue's head; the log has the rest.
const HELD_BYTES: u64 = 1 << 20;
/// A consumer gets at most this many in a row while others wait.
const CHUNK: u32 = 64;
/// How many entries one load reads back, at most.
pub(crate) const LOAD: usize = 256;

impl Queue {
    pub fn new(id: QueueId, name: QueueName, vhost: u32, spec: impl Into<Arc<QueueSpec>>, bound: Bound) -> Arc<Queue> {
        let spec = spec.into();
        // An exclusive queue dies with its connection: nothing of it needs the log.
        let durable = spec.durable && !spec.exclusive;
        Arc::new(Queue {
            id,
            name,
            vhost,
            spec,
            durable,
            bound,
            life: Life::default(),
            loading: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            depth: AtomicU64::new(0),
            state: Mutex::new(State::default()),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn add_consumer(&self, consumer: Consumer) {
        let mut state = self.lock();
        state.consumers.reserve_exact(1);
        state.consumers.push(consumer);
        // Higher priority first; the rotation only goes round among equals.
        state.consumers.sort_by_key(|c| -c.priority);
    }

    /// Removes consumers of a connection (all of them for `None`); answers whether one went.
    pub fn remove_consumer(&self, outbox: u64, to: Option<ConsumerIx>) -> bool {
        let mut state = self.lock();
        let before = state.consumers.len();
        state.consumers.retain(|c| !(c.outbox.id == outbox && to.is_none_or(|to| c.to == to)));
        before != state.consumers.len()
    }

    pub fn activate(self: &Arc<Queue>, outbox: u64, to: ConsumerIx, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut state = self.lock();
        if let Some(consumer) = state.consumers.iter_mut().find(|c| c.is(outbox, to)) {
            consumer.active = true;
        }
        self.pump_locked(&mut state, log, now_s, follow);
    }

    pub fn credit(self: &Arc<Queue>, outbox: u64, to: ConsumerIx, add: u32, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut state = self.lock();
        if let Some(consumer) = state.consumers.iter_mut().find(|c| c.is(outbox, to)) {
            consumer.credit = consumer.credit.saturating_add(add);
        }
        self.pump_locked(&mut state, log, now_s, follow);
    }

    pub fn pump(self: &Arc<Queue>, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut state = self.lock();
        self.pump_locked(&mut state, log, now_s, follow);
    }

    /// Hands ready messages to consumers that have credit and room, turn by turn.
    pub fn pump_locked(self: &Arc<Queue>, state: &mut State, log: &Log, now_s: u32, follow: &mut Follow) {
        let mut idle = 0;
        while state.ready > 0 && idle < state.consumers.len() {
            if state.turn >= state.consumers.len() {
                state.turn = 0;
            }
            let at = state.turn;
            state.turn += 1;
            let consumer = &mut state.consumers[at];
            if !consumer.active || consumer.credit == 0 || !consumer.outbox.room_for(self) {
                idle += 1;
                continue;
            }
            let mut want = u32::try_from(state.ready).unwrap_or(u32::MAX).min(consumer.credit);
            if state.consumers.len() > 1 {
                want = want.min(CHUNK).min((state.ready / state.consumers.len() as u64).max(1) as u32);
            } else {
                want = want.min(1024);
            }
            let consumer = &mut state.consumers[at];
            let granted = match &consumer.group {
                Some(group) => group.take(want, self),
                None => want,
            };
            if granted == 0 {
                idle += 1;
                continue;
            }
            let (given, starved) = self.give(state, at, granted, log, now_s, follow);
            let consumer = &mut state.consumers[at];
            if consumer.credit != u32::MAX {
                consumer.credit -= given;
            }
            if given < granted {
                if let Some(group) = consumer.group.clone() {
                    follow.pump.extend(group.untake(granted - given));
                }
            }
            idle = if given == 0 { idle + 1 } else { 0 };
            if starved {
                break;
            }
        }
    }

    /// Takes up to `want` ready entries for one consumer. The second answer says that the next one has to be read from the log first.
    fn give(self: &Arc<Queue>, state: &mut State, at: usize, want: u32, log: &Log, now_s: u32, follow: &mut Follow) -> (u32, bool) {
        let (owner, to, settled, cap, extra) = {
            let c = &state.consumers[at];
            (c.owner, c.to, c.settled, c.level, c.flags)
        };
        let (outbox, side) = (state.consumers[at].outbox.clone(), state.consumers[at].side.clone());
        let mut run: Vec<Delivery> = Vec::with_capacity(want.min(256) as usize);
        let mut of: Option<Arc<Batch>> = None;
        let mut given = 0;
        let mut starved = false;
        let mut gone = Fill::new(self.id, Gone::Accepted);
        let mut expired = Fill::new(self.id, Gone::Expired);
        while given < want {
            let (level, position) = match state.next() {
                Some((level, Next::Ready(position))) => (level, position),
                Some((_, Next::Away(_))) => {
                    starved = true;
                    break;
                }
                _ => break,
            };
            let Some(lane) = state.lanes.get_mut(level) else { break };
            let suspect = position < lane.suspect;
            let Some(entry) = lane.get_mut(position) else { break };
            if entry.expires_s != 0 && entry.expires_s <= now_s {
                self.leave(state, level, position, Gone::Expired, &mut expired, follow);
                continue;
            }
            let Some(held) = entry.held.clone() else {
                starved = true;
                break;
            };
            if of.as_ref().is_none_or(|b| !Arc::ptr_eq(b, &held.batch)) {
                if let Some(batch) = of.replace(held.batch.clone()) {
                    outbox.run(DeliverTo::Consumer(to), self.id, &batch, run.drain(..));
                }
            }
            let mut flags = entry.flags | extra;
            if entry.attempts > 0 || suspect {
                flags |= DELIVERY_REDELIVERED;
            }
            run.push(Delivery {
                seq: Seq::new(level, position),
                index: entry.head,
                side: entry.side.clone().or_else(|| side.clone()),
                attempts: entry.attempts,
                level: entry.level.min(cap),
                flags,
            });
            entry.status = Status::Leased;
            entry.owner = owner;
            state.taken(level, position);
            if settled {
                self.take_out(state, level, position, &mut gone);
            }
            given += 1;
        }
        if let Some(batch) = of {
            outbox.run(DeliverTo::Consumer(to), self.id, &batch, run.drain(..));
        }
        for mut fill in [gone, expired] {
            if fill.is_worth_it() {
                fill.reserve(self.durable, log);
                follow.fills.push(fill);
            }
        }
        if starved && !self.loading.swap(true, Ordering::AcqRel) {
            follow.load.push(self.clone());
        }
        (given, starved)
    }

    /// Removes an entry and writes it down in `gone`.
    fn take_out(&self, state: &mut State, level: u8, position: u64, gone: &mut Fill) -> Option<Entry> {
        let lane = state.lanes.get_mut(level)?;
        let entry = lane.remove(position)?;
        match entry.status {
            Status::Ready => {
                state.ready -= 1;
                lane.returned.remove(&position);
            }
            Status::Leased => state.leased -= 1,
            Status::Moving => state.moving -= 1,
            Status::Gone => {}
        }
        if entry.status != Status::Moving {
            state.bytes -= u64::from(entry.bytes);
        }
        if entry.held.is_some() {
            state.held_bytes = state.held_bytes.saturating_sub(u64::from(entry.bytes));
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
        gone.add(Seq::new(level, position), &entry);
        Some(entry)
    }

    /// Is there no room for `more` messages? (Count what this turn has appended already.)
    pub fn is_full(&self, state: &State, bytes: u32) -> bool {
        state.ready + state.leased + 1 > self.bound.messages || state.bytes + u64::from(bytes) > self.bound.bytes
    }

    /// Appends a reference and answers its place.
    pub fn append(&self, state: &mut State, incoming: &Incoming<'_>) -> Seq {
        let head = &incoming.held.batch.heads[incoming.head as usize];
        let bytes = head.key.len + head.body.len;
        let entry = Entry {
            held: Some(incoming.held.clone()),
            side: incoming.side.cloned(),
            lsn: 0,
            owner: 0,
            head: incoming.head,
            offset: incoming.offset,
            bytes,
            expires_s: expiry_secs(head.expires_ms, incoming.held.batch.arrived_ms, self.spec.message_ttl_ms),
            attempts: 0,
            ordinal: incoming.ordinal,
            level: incoming.level,
            flags: incoming.flags,
            durable: incoming.durable,
            status: Status::Ready,
        };
        let level = head.priority.min(self.spec.max_priority);
        state.expires(entry.expires_s);
        let lane = state.lanes.open(level);
        let position = lane.push(entry);
        state.ready += 1;
        state.bytes += u64::from(bytes);
        state.held_bytes += u64::from(bytes);
        self.depth.fetch_add(1, Ordering::Relaxed);
        if state.held_bytes > HELD_BYTES {
            trim(state, level, incoming.committed);
        }
        Seq::new(level, position)
    }

    /// Drops the oldest ready message to make room.
    pub fn evict_oldest(self: &Arc<Queue>, state: &mut State, log: &Log, follow: &mut Follow) -> bool {
        let (level, position) = match state.oldest() {
            Some((level, Next::Ready(position))) => (level, position),
            Some((level, Next::Away(number))) => {
                self.read_now(state, level, number, log);
                return state.lanes.get(level).is_some_and(|lane| matches!(lane.next_ready(lane.cursor), Next::Ready(_)))
                    && self.evict_oldest(state, log, follow);
            }
            _ => return false,
        };
        let mut gone = Fill::new(self.id, Gone::Evicted);
        self.leave(state, level, position, Gone::Evicted, &mut gone, follow);
        state.dropped_messages += 1;
        gone.reserve(self.durable, log);
        follow.fills.push(gone);
        true
    }

    /// Settles leases of `owner`; what is not leased to it is passed over. The slot is reserved while the lock is held.
    pub fn settle(self: &Arc<Queue>, first: Seq, count: u32, owner: u64, why: Gone, log: &Log, follow: &mut Follow) -> Option<Fill> {
        let mut gone = Fill::new(self.id, why);
        let mut state = self.lock();
        for i in 0..u64::from(count) {
            let seq = first.plus(i);
            let mine = state
                .lanes
                .get_mut(seq.lane())
                .and_then(|lane| lane.get_mut(seq.position()))
                .is_some_and(|e| e.status == Status::Leased && e.owner == owner);
            if mine {
                if why == Gone::Rejected {
                    self.leave(&mut state, seq.lane(), seq.position(), why, &mut gone, follow);
                } else {
                    self.take_out(&mut state, seq.lane(), seq.position(), &mut gone);
                }
            }
        }
        if !gone.is_worth_it() {
            return None;
        }
        gone.reserve(self.durable, log);
        Some(gone)
    }

    /// Gives leases back to their original places.
    pub fn give_back(self: &Arc<Queue>, first: Seq, count: u32, owner: u64, counted: bool) -> u32 {
        let mut state = self.lock();
        let mut n = 0;
        for i in 0..u64::from(count) {
            let seq = first.plus(i);
            n += u32::from(state.return_one(seq.lane(), seq.position(), owner, counted));
        }
        n
    }

    /// Gives back everything leased to `owner`, except what `keep` says.
    pub fn give_back_all(self: &Arc<Queue>, owner: u64, keep: impl Fn(Seq) -> bool) {
        let mut state = self.lock();
        let leased: Vec<Seq> = state.leased_to(owner).filter(|seq| !keep(*seq)).collect();
        for seq in leased {
            state.return_one(seq.lane(), seq.position(), owner, false);
        }
    }

    /// Hands the leases that a durable session kept to its new consumer, oldest first, and only then anything else. They spend its
    /// credit, though it may have none yet.
    pub fn resume(self: &Arc<Queue>, to: &Consumer, log: &Log) -> Vec<Seq> {
        let mut state = self.lock();
        let mine: Vec<Seq> = state.leased_to(to.owner).collect();
        let mut unread = Vec::new();
        for seq in mine {
            let Some(entry) = state.lanes.get_mut(seq.lane()).and_then(|l| l.get_mut(seq.position())) else { continue };
            let mut read = 0;
            if entry.held.is_none() {
                let lsn = entry.known_lsn();
                match log.read_one(lsn) {
                    Ok(held) => {
                        entry.held = Some(held);
                        entry.head = 0;
                        read = u64::from(entry.bytes);
                    }
                    Err(error) => {
                        tracing::error!(queue = %self.name, lsn, %error, "a message in flight cannot be read back");
                        unread.push(seq);
                        continue;
                    }
                }
            }
            let Some(held) = entry.held.clone() else { continue };
            let delivery = Delivery {
                seq,
                index: entry.head,
                side: entry.side.clone().or_else(|| to.side.clone()),
                attempts: entry.attempts,
                level: entry.level.min(to.level),
                flags: entry.flags | to.flags | DELIVERY_RESUMED | DELIVERY_REDELIVERED,
            };
            state.held_bytes += read;
            if let Some(group) = &to.group {
                group.spend(1);
            }
            to.outbox.run(DeliverTo::Consumer(to.to), self.id, &held.batch, std::iter::once(delivery));
        }
        unread
    }

    /// Takes everything ready out.
    pub fn purge(self: &Arc<Queue>, log: &Log) -> (u64, Fill) {
        let mut gone = Fill::new(self.id, Gone::Purged);
        let mut state = self.lock();
        self.read_all(&mut state, log);
        let n = self.take_all(&mut state, |e| e.status == Status::Ready, &mut gone);
        gone.reserve(self.durable, log);
        (n, gone)
    }

    /// Takes everything out and lets nothing in any more. The slot is reserved last and under the lock, so that every reference that was
    /// ever made here has a lower ticket; the caller fills it with the record that ends the queue.
    pub fn end(self: &Arc<Queue>, log: &Log) -> (u64, Fill) {
        let mut gone = Fill::new(self.id, Gone::Purged);
        let mut state = self.lock();
        state.deleted = true;
        self.read_all(&mut state, log);
        let n = self.take_all(&mut state, |_| true, &mut gone);
        gone.slot = Some(log.reserve());
        (n, gone)
    }

    fn take_all(&self, state: &mut State, which: impl Fn(&Entry) -> bool, gone: &mut Fill) -> u64 {
        let mut all: Vec<(u8, u64)> = Vec::new();
        for (level, lane) in state.lanes.iter() {
            all.extend(lane.iter().filter(|(_, e)| which(e)).map(|(position, _)| (level, position)));
        }
        for (level, position) in &all {
            self.take_out(state, *level, *position, gone);
        }
        all.len() as u64
    }
}

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

    /// Somebody was attached when the process died: what is here may have been delivered before, or not (deliveries are not logged).
    pub fn suspect(&self) {
        for (_, lane) in self.lock().lanes.iter_mut() {
            lane.suspect = lane.next;
        }
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
            // One that is away is in the page file already.
            lane.pages.iter_mut().filter(|p| !p.away).for_each(|p| p.dirty = true);
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

    /// Every counter must equal what counting again finds, and every entry must be where its status says (LOG §7, 8).
    pub fn recount(&self) -> Result<(), String> {
        let state = self.lock();
        let (mut ready, mut leased, mut moving, mut bytes, mut held) = (0u64, 0u64, 0u64, 0u64, 0u64);
        for (level, lane) in state.lanes.iter() {
            for page in lane.pages.iter().filter(|p| p.away) {
                ready += u64::from(page.live);
                bytes += page.away_bytes;
            }
            for (position, entry) in lane.iter() {
                bytes += if entry.status == Status::Moving { 0 } else { u64::from(entry.bytes) };
                held += if entry.held.is_some() { u64::from(entry.bytes) } else { 0 };
                let returned = lane.returned.contains(&position);
                match entry.status {
                    Status::Ready => ready += 1,
                    Status::Moving => moving += 1,
                    _ => leased += 1,
                }
                let reachable = position >= lane.cursor || returned;
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
        if held > state.held_bytes {
            return Err(format!("{}: {held} bytes are held in memory but {} are counted", self.name, state.held_bytes));
        }
        Ok(())
    }
}

/// What the queues of sessions are, shared by all of them.
pub(crate) fn session_spec(durable: bool) -> Arc<QueueSpec> {
    static SPECS: LazyLock<[Arc<QueueSpec>; 2]> =
        LazyLock::new(|| [false, true].map(|durable| Arc::new(QueueSpec { durable, ..QueueSpec::default() })));
    SPECS[usize::from(durable)].clone()
}

/// The bound that a queue's own description asks for.
pub(crate) fn bound_of(spec: &QueueSpec) -> Bound {
    let then = if spec.reject_at_bound { AtBound::Reject } else { AtBound::DropOldest };
    Bound { messages: spec.max_length.unwrap_or(u64::MAX), bytes: spec.max_length_bytes.unwrap_or(u64::MAX), then }
}

impl State {
    /// What to hand out next: the highest level that has something, and there the returned before the fresh.
    fn next(&mut self) -> Option<(u8, Next)> {
        for (level, lane) in self.lanes.iter_mut().rev() {
            if let Some(position) = lane.returned.first() {
                return Some((level, lane.look(*position)));
            }
            if lane.cursor < lane.next {
                match lane.next_ready(lane.cursor) {
                    Next::Ready(position) => {
                        lane.cursor = position;
                        return Some((level, Next::Ready(position)));
                    }
                    Next::Away(number) => return Some((level, Next::Away(number))),
                    Next::Nothing => lane.cursor = lane.next,
                }
            }
        }
        None
    }

    /// The one to evict: the oldest of the lowest level.
    fn oldest(&mut self) -> Option<(u8, Next)> {
        self.lanes.iter().find_map(|(level, lane)| {
            let next = match lane.returned.first() {
                Some(position) => lane.look(*position),
                None => lane.next_ready(lane.cursor),
            };
            (next != Next::Nothing).then_some((level, next))
        })
    }

    fn taken(&mut self, level: u8, position: u64) {
        if let Some(lane) = self.lanes.get_mut(level) {
            if position >= lane.cursor {
                lane.cursor = position + 1;
            } else {
                lane.returned.remove(&position);
            }
        }
        self.ready -= 1;
        self.leased += 1;
    }

    fn return_one(&mut self, level: u8, position: u64, owner: u64, counted: bool) -> bool {
        let Some(lane) = self.lanes.get_mut(level) else { return false };
        let Some(entry) = lane.get_mut(position) else { return false };
        if entry.status != Status::Leased || entry.owner != owner {
            return false;
        }
        entry.status = Status::Ready;
        entry.owner = 0;
        if counted {
            entry.attempts = entry.attempts.saturating_add(1);
        } else {
            entry.flags |= DELIVERY_REDELIVERED;
        }
        lane.touch(position);
        // Before the cursor; what lies beyond (a lease pinned in recovery) is met there.
        if position < lane.cursor {
            lane.returned.insert(position);
        }
        self.leased -= 1;
        self.ready += 1;
        true
    }

    /// Leases an entry to a durable session again, in recovery.
    pub fn pin(&mut self, seq: Seq, owner: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(seq.lane()) else { return false };
        let Some(entry) = lane.get_mut(seq.position()) else { return false };
        if entry.status != Status::Ready {
            return false;
        }
        entry.status = Status::Leased;
        entry.owner = owner;
        lane.returned.remove(&seq.position());
        self.ready -= 1;
        self.leased += 1;
        true
    }

    /// The page of an entry that recovery wants to lease, if it has to be read first.
    pub fn away_page(&self, seq: Seq) -> Option<u64> {
        let lane = self.lanes.get(seq.lane())?;
        match lane.look(seq.position()) {
            Next::Away(number) => Some(number),
            _ => None,
        }
    }

    /// Leases an entry to nobody: its message cannot be read. It is handed out again after a restart.
    pub fn set_aside(&mut self, seq: Seq) {
        self.pin(seq, 0);
    }

    fn leased_to(&self, owner: u64) -> impl Iterator<Item = Seq> + '_ {
        self.lanes.iter().flat_map(move |(level, lane)| {
            let mine = lane.iter().filter(move |(_, e)| e.status == Status::Leased && e.owner == owner);
            mine.map(move |(position, _)| Seq::new(level, position))
        })
    }
}

impl Lane {
    fn iter_from(&self, position: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let pages = self.pages.iter().skip_while(move |p| (p.number + 1) * PAGE <= position);
        pages.flat_map(Page::live_entries).skip_while(move |(p, _)| *p < position)
    }
}

impl Follow {
    pub fn is_empty(&self) -> bool {
        self.fills.is_empty() && self.load.is_empty() && self.pump.is_empty() && self.leaving.is_empty()
    }
}

impl Fill {
    pub fn new(queue: QueueId, why: Gone) -> Fill {
        Fill { slot: None, queue, why, runs: Vec::new(), releases: Releases::default() }
    }

    fn add(&mut self, seq: Seq, entry: &Entry) {
        entry.release(&mut self.releases);
        if !entry.durable {
            return;
        }
        match self.runs.last_mut() {
            Some((first, count)) if first.plus(u64::from(*count)) == seq => *count += 1,
            _ => self.runs.push((seq, 1)),
        }
    }

    fn is_worth_it(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Only what was logged when it came is logged when it goes.
    fn reserve(&mut self, durable: bool, log: &Log) {
        if durable && !self.runs.is_empty() {
            self.slot = Some(log.reserve());
        }
    }
}

/// Lets go of messages in memory that the log has committed, beyond what stands at the head of the lane.
fn trim(state: &mut State, level: u8, committed: u64) {
    let State { lanes, held_bytes, .. } = state;
    let Some(lane) = lanes.get_mut(level) else { return };
    let mut position = lane.trimmed.max(lane.cursor + 64);
    for _ in 0..64 {
        if position >= lane.next || *held_bytes <= HELD_BYTES {
            break;
        }
        if let Some(entry) = lane.get_mut(position) {
            if entry.status == Status::Ready && entry.held.is_some() && entry.durable {
                let lsn = entry.known_lsn();
                if lsn == 0 || lsn >= committed {
                    break;
                }
                entry.lsn = lsn;
                entry.held = None;
                *held_bytes = held_bytes.saturating_sub(u64::from(entry.bytes));
            }
        }
        position += 1;
    }
    lane.trimmed = position;
}

/// The earlier of the message's own expiry and the queue's, in whole seconds.
pub(crate) fn expiry_secs(message_ms: u64, arrived_ms: u64, ttl_ms: Option<u64>) -> u32 {
    let queue_ms = ttl_ms.map_or(0, |ttl| arrived_ms + ttl);
    let ms = match (message_ms, queue_ms) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    };
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}
