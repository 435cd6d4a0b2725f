//! One connection's door to the core: a turn goes in as segments between control commands.
//!
//! Per segment: publishes are routed and their slot of the log reserved, each destination is visited once, then settlements, then credit.
//! The slots are filled last, the completion standing ready in the outbox before the slot that calls it back.

/// The protocol name of doors without a connection.
pub(crate) const INTERNAL: &str = "internal";

mod access;
mod attach;
mod auto_create;
mod commit;
mod control;
mod exchanges;
mod fanout;
mod named;
mod pace;
mod publish;
mod queues;
mod recurring;
mod retained;
mod scope;
mod segment;
mod stage;
mod stop;
mod trace;

pub(crate) use access::may_stay_subscribed;
pub(crate) use attach::{add_consumer, consumer_of};
pub(crate) use commit::{Commit, Hidden};
pub(crate) use fanout::{FanOut, Fans};
pub(crate) use publish::{copy_out, store_retained, RouteRun};
pub(crate) use retained::{end as end_sending, Sending};
pub(crate) use stage::{append_one, number, one_run, targets_of, write_records, Bundle, Target, NO_SEQ};

use crate::auth::{LoginState, Principal};
use crate::core::{Counters, Shared};
use crate::outbox::{Outbox, Work};
use crate::queue::{Follow, Group, Queue};
use crate::route::RouteCache;
use crate::session::{Live, Session};
use crate::vhost::Vhost;
use broker_api::{
    Batch, ConnectionInfo, ConsumerIx, CoreSession, Entry, EventBatch, GroupIx, OwnerIx, QueueId, Refusal, Serial, SessionName, StateEdit,
    Turn, TxIx,
};
use broker_api::{HEAD_DURABLE, HEAD_RETAIN};
use journal::Ticket;
use segment::Segment;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::task::{Context, Poll};

type Entered = (Arc<Principal>, Arc<Vhost>, trace::Takes);

/// Who owns leases and state on this connection.
enum Owner {
    Local { id: u64, consumers: Vec<(ConsumerIx, Arc<Queue>)>, stop: stop::Stop, channel: u16 },
    Session { session: Arc<Session>, live: Arc<Live> },
}

/// A turn that waits because publishes are held, or because other connections have their turn first.
struct HeldTurn {
    batch: Option<Arc<Batch>>,
    entries: Vec<Entry>,
    states: Vec<StateEdit>,
    bytes: usize,
}

/// What is left of a turn in which a wide fan-out began.
struct Cut {
    batch: Option<Arc<Batch>>,
    segment: Segment,
    entries: Vec<Entry>,
    states: Vec<StateEdit>,
}

impl HeldTurn {
    fn new(batch: Option<Arc<Batch>>, entries: Vec<Entry>, states: Vec<StateEdit>) -> HeldTurn {
        let bytes = batch.as_ref().map_or(0, |b| b.footprint()) + 64 * entries.len();
        HeldTurn { batch, entries, states, bytes }
    }
}

/// A connection whose publishes are held is read on until this much waits.
const HELD_MAX: usize = 1 << 20;

pub(crate) struct Link {
    core: Arc<Shared>,
    outbox: Arc<Outbox>,
    info: ConnectionInfo,
    vhost: Arc<Vhost>,
    /// As whom and where it is counted; and while this is traced, who asked for single messages.
    entered: Option<Box<Entered>>,
    login: Option<Box<LoginState>>,
    owners: Vec<(OwnerIx, Owner)>,
    groups: Vec<(GroupIx, Arc<Group>)>,
    /// Serials given out so far.
    serial: u64,
    last_ticket: Option<Ticket>,
    /// Made by the first publish: a connection that only listens needs none.
    routes: Option<Box<RouteCache>>,
    queue_memo: Option<Arc<Queue>>,
    write_memo: access::WriteMemo,
    /// There is an owner that a refusal stops.
    may_stop: bool,
    /// What it publishes has been logged by a queue that keeps everything, though it need not be durable: it may be so again.
    logs_all: bool,
    /// The transaction that what comes now belongs to.
    scope: Option<TxIx>,
    /// The same for what is submitted, which may wait behind held publishes.
    scope_submitted: Option<TxIx>,
    transactions: scope::Transactions,
    held: VecDeque<HeldTurn>,
    held_bytes: usize,
    /// Under way: what this connection sends waits for it.
    fan: Option<Arc<FanOut>>,
    /// The rest of the turn that it stands in.
    cut: Option<Box<Cut>>,
    /// The connection is going: nothing is put off any more.
    whole: bool,
    /// The connection was told that its publishes are held.
    blocked: bool,
    /// Queues that go with this connection.
    exclusive: Vec<Arc<Queue>>,
    /// Where owners of this connection may hold leases: by consuming, whether they still do or not, and by taking.
    leasing: Vec<(u64, Arc<Queue>)>,
    /// Client id for access rules; the session's name once attached.
    client: SessionName,
    open: bool,
    /// A session of ours is being sent what is retained, and this connection has been told to look whether there is room for more.
    retaining: bool,
    retaining_woken: bool,
    /// Commands have been put off until this connection's task is run again.
    yielding: bool,
    /// `Work::Resume` for it stands in the outbox.
    resume_asked: bool,
}

impl Link {
    pub fn open(core: &Arc<Shared>, info: ConnectionInfo) -> Result<Link, Refusal> {
        let vhost = core.vhost(&info.vhost).ok_or_else(|| Refusal::NotFound { what: "vhost", name: info.vhost.to_string() })?;
        let id = core.next_link.fetch_add(1, Ordering::Relaxed);
        let outbox = Outbox::new(id);
        core.links.insert(id, outbox.clone());
        vhost.links.insert(id, outbox.clone());
        let now = core.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        core.counters.connections_max_seen.fetch_max(now, Ordering::Relaxed);
        Counters::add(&core.counters.connections_total, 1);
        Ok(Link::with(core, info, vhost, outbox))
    }

    /// A door without a connection behind it, for what the core itself publishes.
    pub fn internal(core: &Arc<Shared>, info: ConnectionInfo, vhost: Arc<Vhost>) -> Link {
        let id = core.next_link.fetch_add(1, Ordering::Relaxed);
        Link::with(core, info, vhost, Outbox::new(id))
    }

    /// With an administrator behind it whom no rule confines.
    pub fn trusted(self) -> Link {
        self.outbox.principal.store(Some(Arc::new(Principal::trusted())));
        self
    }

    fn with(core: &Arc<Shared>, info: ConnectionInfo, vhost: Arc<Vhost>, outbox: Arc<Outbox>) -> Link {
        Link {
            core: core.clone(),
            outbox,
            info,
            vhost,
            entered: None,
            login: None,
            owners: Vec::new(),
            groups: Vec::new(),
            serial: 0,
            last_ticket: None,
            routes: None,
            queue_memo: None,
            write_memo: None,
            may_stop: false,
            logs_all: false,
            scope: None,
            scope_submitted: None,
            transactions: scope::Transactions::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            fan: None,
            cut: None,
            whole: false,
            blocked: false,
            exclusive: Vec::new(),
            leasing: Vec::new(),
            client: SessionName::new(""),
            open: true,
            retaining: false,
            retaining_woken: false,
            yielding: false,
            resume_asked: false,
        }
    }

    /// Publishes a batch of one message.
    pub fn publish_one(&mut self, batch: Arc<Batch>) {
        self.process(Some(batch), vec![Entry::Publish { first: 0, count: 1 }], Vec::new());
    }

    fn queue(&mut self, id: QueueId) -> Option<Arc<Queue>> {
        if let Some(queue) = self.queue_memo.as_ref().filter(|q| q.id == id) {
            return Some(queue.clone());
        }
        let queue = self.core.queue(id)?;
        self.queue_memo = Some(queue.clone());
        Some(queue)
    }

    fn group(&self, ix: GroupIx) -> Option<Arc<Group>> {
        self.groups.iter().find(|(g, _)| *g == ix).map(|(_, group)| group.clone())
    }

    fn owner(&self, ix: OwnerIx) -> Option<&Owner> {
        self.owners.iter().find(|(o, _)| *o == ix).map(|(_, owner)| owner)
    }

    /// The session of an owner whose attachment still counts.
    fn session(&self, ix: OwnerIx) -> Option<&Arc<Session>> {
        match self.owner(ix)? {
            Owner::Session { session, live } if is_current(session, live) => Some(session),
            _ => None,
        }
    }

    /// The id that an owner's leases carry, if it may still settle.
    fn lease_owner(&self, ix: OwnerIx) -> Option<u64> {
        match self.owner(ix)? {
            Owner::Local { id, .. } => Some(*id),
            Owner::Session { session, live } => is_current(session, live).then_some(session.id),
        }
    }

    fn process(&mut self, mut batch: Option<Arc<Batch>>, entries: Vec<Entry>, states: Vec<StateEdit>) {
        // Not before: turns that wait for memory must not be what it is short of.
        if let Some(batch) = batch.as_mut().and_then(Arc::get_mut) {
            self.core.memory.count(batch);
        }
        self.go_on(Cut { batch, segment: Segment::default(), entries, states });
    }

    /// Runs a turn, or the rest of one, up to the next wide fan-out or to as many commands as one go may have.
    fn go_on(&mut self, cut: Cut) {
        let Cut { batch, mut segment, entries, mut states } = cut;
        let mut commands = self.slice();
        let mut entries = entries.into_iter();
        let mut put_back = None;
        let mut stopped = self.run(&mut segment, batch.as_ref(), &mut states);
        while !stopped {
            let Some(entry) = entries.next() else {
                stopped = self.run(&mut segment, batch.as_ref(), &mut states);
                break;
            };
            match entry {
                // What came before a scope may stop the owner of what comes.
                Entry::Control(..) | Entry::Scope(_) => {
                    stopped = self.run(&mut segment, batch.as_ref(), &mut states);
                    match entry {
                        entry if stopped => put_back = Some(entry),
                        Entry::Control(..) if commands == 0 => {
                            let rest = std::iter::once(entry).chain(entries).collect();
                            return self.put_off(batch, rest, states);
                        }
                        Entry::Control(token, control) => {
                            self.control(token, *control);
                            commands -= 1;
                        }
                        Entry::Scope(scope) => self.scope = scope,
                        _ => {}
                    }
                }
                Entry::Publish { first, count } => {
                    let serial = Serial(self.serial + 1);
                    self.serial += u64::from(count);
                    match (self.scope, &batch) {
                        (Some(tx), Some(batch)) => segment.fenced |= self.collect_publishes(tx, batch, (first, count, serial), &states),
                        _ => segment.publishes.push((first, count, serial)),
                    }
                }
                Entry::Fence => {
                    self.serial += 1;
                    segment.fenced = true;
                }
                Entry::Settle(settle) => match self.scope {
                    Some(tx) => self.collect_settle(tx, settle, &states),
                    None => segment.settles.push((self.serial, settle)),
                },
                Entry::Credit(credit) => segment.credits.push(credit),
                Entry::State(index) => segment.states.push(index),
            }
        }
        if stopped {
            let entries = put_back.into_iter().chain(entries).collect();
            self.cut = Some(Box::new(Cut { batch, segment, entries, states }));
        }
    }

    /// `false`: the fan-out that the rest of a turn waits for is still under way.
    fn after_fan_out(&mut self) -> bool {
        while let Some(fan) = &self.fan {
            if !fan.is_shown() {
                return false;
            }
            let ticket = Ticket(fan.ticket());
            self.last_ticket = self.last_ticket.max(Some(ticket));
            self.fan = None;
            if let Some(cut) = self.cut.take() {
                self.go_on(*cut);
            }
        }
        true
    }

    /// The connection is going: it makes the rest of its fan-out itself, and what waited only for that.
    fn finish_fan_out(&mut self) {
        let Some(fan) = self.fan.clone() else { return };
        self.whole = true;
        while fan.step(&self.core) {}
        if self.after_fan_out() && !self.blocked {
            self.resume();
        }
    }

    /// `false`: not before there is room, or before the spiller has caught up.
    fn may_publish_now(&self, batch: Option<&Batch>, entries: &[Entry]) -> bool {
        if self.core.spill.is_behind() && batch.is_some_and(|b| b.heads.iter().any(|h| h.level > 0)) {
            return false;
        }
        self.has_room_for(batch, entries)
    }

    /// `false` = the journal takes no publishes that are logged now, or memory none at all.
    fn has_room_for(&self, batch: Option<&Batch>, entries: &[Entry]) -> bool {
        if batch.is_some() && self.core.memory.is_full() {
            return false;
        }
        let logged = HEAD_DURABLE | HEAD_RETAIN;
        let durable =
            batch.is_some_and(|b| self.logs_all || b.heads.iter().any(|h| h.flags & logged != 0)) || self.commits_publishes(entries);
        !durable || !self.core.log.holds_publishers()
    }

    fn why_held(&self) -> &'static str {
        if self.core.memory.is_full() {
            return "low on memory";
        }
        self.core.log.why_held()
    }

    fn wait_at_gate(&self) {
        if self.core.memory.is_full() {
            return self.core.when_memory_is_back(&self.outbox);
        }
        if self.core.log.holds_publishers() {
            return self.core.log.when_publishers_may_go_on(&self.outbox);
        }
        self.core.spill.when_it_has_caught_up(&self.outbox);
    }

    /// Publishes are held: settlements and credit overtake them, everything else waits behind them in order.
    fn hold(&mut self, batch: Option<Arc<Batch>>, entries: Vec<Entry>, states: Vec<StateEdit>) {
        // Behind its own fan-out a connection waits for some milliseconds, and for nothing that it need be told.
        if self.held.is_empty() && self.fan.is_none() {
            self.block();
        }
        let mut waiting = Vec::new();
        let mut segment = Segment::default();
        for entry in entries {
            match entry {
                Entry::Scope(scope) => {
                    self.scope_submitted = scope;
                    waiting.push(entry);
                }
                // An edit in the settlement's record stays with it; a bare one keeps its place.
                Entry::Settle(settle) if self.scope_submitted.is_none() => segment.settles.push((self.serial, settle)),
                Entry::Credit(credit) => segment.credits.push(credit),
                other => waiting.push(other),
            }
        }
        let mut overtaking = states.clone();
        self.run(&mut segment, None, &mut overtaking);
        if !waiting.is_empty() {
            let turn = HeldTurn::new(batch, waiting, states);
            self.held_bytes += turn.bytes;
            self.held.push_back(turn);
        }
    }
}

/// Is this attachment the one that counts?
fn is_current(session: &Session, live: &Arc<Live>) -> bool {
    session.live.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, live))
}

impl CoreSession for Link {
    fn submit(&mut self, turn: &mut Turn) {
        if !self.open || self.vhost.is_deleted() {
            turn.clear();
            return;
        }
        let batch = (!turn.heads.is_empty()).then(|| {
            let bytes: u64 = turn.block.len() as u64;
            Counters::add(&self.core.counters.bytes_received, bytes);
            Arc::new(turn.freeze(self.core.now_ms()))
        });
        let entries = std::mem::take(&mut turn.entries);
        let states = std::mem::take(&mut turn.states);
        turn.clear();
        if self.fan.is_some() || !self.held.is_empty() || !self.may_publish_now(batch.as_deref(), &entries) {
            self.hold(batch, entries, states);
        } else {
            self.process(batch, entries, states);
            self.scope_submitted = self.scope_at_the_end();
        }
        self.wake_retained();
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.poll(cx)
    }

    fn swap(&mut self, into: &mut EventBatch) {
        if self.goes_on() {
            return;
        }
        let work = self.outbox.swap(into);
        if self.vhost.traced.load(Ordering::Relaxed) {
            self.trace_deliveries(into);
        }
        if work.is_empty() {
            return;
        }
        let mut follow = Follow::default();
        let now_ticks = self.core.now_ticks();
        for work in work {
            match work {
                Work::Activate(session) => self.activate(&session, &mut follow),
                Work::Retained(session, sending) => self.begin_retained(&session, *sending),
                Work::MoreRetained => self.retaining = true,
                Work::Start(queue, consumer) => queue.activate(self.outbox.id, consumer, &self.core.log, now_ticks, &mut follow),
                Work::Resume => {
                    self.resume_asked = false;
                    self.resume();
                }
                Work::Reveal(commit) => commit.reveal(&self.core, &mut follow),
            }
        }
        self.core.follow_up(follow);
        if self.retaining {
            self.send_retained();
        }
    }

    fn written(&mut self, bytes: usize) {
        let queues = self.outbox.written(bytes);
        if !queues.is_empty() {
            let mut follow = Follow::default();
            let now_ticks = self.core.now_ticks();
            for queue in queues {
                queue.pump(&self.core.log, now_ticks, &mut follow);
            }
            self.core.follow_up(follow);
        }
        self.wake_retained();
    }

    fn saturated(&self) -> bool {
        self.held_bytes >= HELD_MAX || self.yielding
    }

    fn now_ms(&self) -> u64 {
        self.core.now_ms()
    }

    fn disconnect(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        self.finish_fan_out();
        self.finish_held();
        for (_, owner) in std::mem::take(&mut self.owners) {
            self.end(owner, None, broker_api::PartingFate::Fire);
        }
        self.vhost.watches.end(self.outbox.id, None);
        self.outbox.close();
        self.end_exclusive();
        for (_, group) in self.groups.drain(..) {
            group.forget();
        }
        self.leave();
        self.vhost.links.remove(&self.outbox.id);
        if self.core.links.remove(&self.outbox.id).is_some() {
            self.core.counters.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.disconnect();
    }
}
