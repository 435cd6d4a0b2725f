//! A queue: references in order, consumers with credit, leases that name (queue, seq). One lock, never held while routing or reading a disk.

mod append;
mod consumer;
mod delays;
mod follow;
mod group;
mod grouping;
mod hidden;
mod lane;
mod lanes;
mod leave;
mod life;
mod paging;
mod pump;
mod recover;
mod resting;
mod select;
mod settle;
mod spilling;
mod state;
mod stuck;
mod take;
mod tick;

pub(crate) use append::{Incoming, AHEAD};
pub(crate) use consumer::Consumer;
pub(crate) use delays::{Delays, Due};
pub(crate) use follow::{Fill, Follow, Gone, Leaving};
pub(crate) use group::{Grant, Group};
pub(crate) use grouping::GROUPED;
pub(crate) use lane::{Entry, Held, Lane, Page, Status, PAGE};
pub(crate) use lanes::Lanes;
pub(crate) use leave::{Modified, Peek};
pub(crate) use life::Life;
pub(crate) use paging::Wanted;
pub(crate) use resting::RESTED;
pub(crate) use select::Look;
pub(crate) use spilling::SpillRun;
pub(crate) use take::Taken;
pub(crate) use tick::{expiry_tick, ms_until, tick_of, TICK_MS};

use crate::policy::Rules;
use crate::selector::Selector;
use crate::spill::Spill;
use broker_api::{QueueId, QueueName, QueueSpec, Seq};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, AtomicU64};
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
    /// Whether what is handed out and not settled counts, too. In named queues it does not, as in RabbitMQ.
    pub in_flight: bool,
}

#[derive(Default)]
pub(crate) struct State {
    /// What holds for the queue now, by its arguments and by policies.
    pub rules: Arc<Rules>,
    /// By priority level; almost always one.
    pub lanes: Lanes,
    pub consumers: Vec<Consumer>,
    /// Consumers that only look: nothing that is said of consumers is said of them.
    pub browsers: Vec<Consumer>,
    /// How far consumers with selectors, and those that only look, have looked.
    scans: Vec<select::Scan>,
    turn: usize,
    pub ready: u64,
    pub leased: u64,
    /// On their way to a dead-letter exchange: in no bound, handed to nobody.
    pub moving: u64,
    /// Of what is ready or leased.
    pub bytes: u64,
    /// Of what is leased.
    leased_bytes: u64,
    /// Messages and bytes of transactions that are being committed: leased, but they are to stay and count for every bound.
    hidden: (u64, u64),
    /// The tick at which the timer looks at this queue's heads next; 0: it does not.
    pub alarm: u32,
    pub wants_alarm: bool,
    /// A level whose first message may have expired, and stands in a page that is not in memory.
    head_away: Option<u8>,
    /// There is more in the queue than its bound allows: the timer is to take it out.
    pub wants_trim: bool,
    /// The tick at which one looked behind the heads.
    swept: u32,
    /// Something that expires came since the queue was last found empty.
    pub expiring: bool,
    /// Entries that go now unless the pump that follows hands them out: their time to live is nothing.
    fleeting: Vec<Seq>,
    /// Bytes of messages that are held in memory.
    held_bytes: u64,
    /// What weighs in memory alone: messages that neither the log nor a spill file has. And how much of it the spiller knows of.
    pub(crate) unspilled: u64,
    pub(crate) reported: u64,
    /// Stands on the spiller's list of backlogs.
    pub(crate) listed_backlog: bool,
    /// Where spilled entries are let go of; there once one was spilled.
    spill: Option<Arc<Spill>>,
    /// Messages of transactions that have not passed the commit point: nothing behind them in their lane is handed out either.
    barriers: Vec<hidden::Barrier>,
    /// There where messages wait until they are due.
    pub delays: Option<Box<Delays>>,
    /// There where messages of groups were handed out.
    grouping: Option<Box<grouping::Grouping>>,
    /// There where what was given back waits for its time.
    resting: Option<Box<resting::Resting>>,
    /// Dead letters that nothing took and that stay.
    stuck: Option<Box<stuck::Stuck>>,
    pub deleted: bool,
    pub dropped_messages: u64,
}

pub(crate) struct Queue {
    pub id: QueueId,
    pub name: QueueName,
    pub vhost: u32,
    pub spec: Arc<QueueSpec>,
    /// What is put into it.
    pub selector: Option<Box<Selector>>,
    /// References in it are logged.
    pub durable: bool,
    /// Messages wait here until they are due (see `delays`).
    pub delays: bool,
    pub life: Life,
    loading: AtomicBool,
    /// Set while the queue stands on the list of queues that the next checkpoint looks at.
    pub listed: AtomicBool,
    pub depth: AtomicU64,
    state: Mutex<State>,
}

impl Queue {
    pub fn new(id: QueueId, name: QueueName, vhost: u32, spec: impl Into<Arc<QueueSpec>>, bound: Bound) -> Arc<Queue> {
        let spec = spec.into();
        let rules = Rules::of(&spec, bound).shared();
        // It was read before it was written down.
        let selector = spec.selector.as_deref().and_then(|text| Selector::parse(text).ok()).map(Box::new);
        // An exclusive queue dies with its connection: nothing of it needs the log.
        let durable = spec.durable && !spec.exclusive;
        Arc::new(Queue {
            id,
            name,
            vhost,
            spec,
            selector,
            durable,
            delays: false,
            life: Life::default(),
            loading: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            depth: AtomicU64::new(0),
            state: Mutex::new(State { rules, ..State::default() }),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What holds for it now. Takes the queue's lock; who has it looks into the state.
    pub fn rules(&self) -> Arc<Rules> {
        self.state.lock().rules.clone()
    }

    /// Is a message in it logged, when its publisher wants it durable, or not?
    pub fn keeps(&self, durable: bool) -> bool {
        self.durable && (durable || self.spec.keeps_all)
    }

    /// The queue of a share group, which policies leave alone like those of sessions.
    pub fn is_share(&self) -> bool {
        self.name.as_str().starts_with("$share/")
    }
}

/// Messages above this stay in memory only at the queue's head; the log has the rest.
const HELD_BYTES: u64 = 1 << 20;
/// Of an entry's flags: those that say nothing outside the queue.
pub(crate) const INSIDE: u8 = GROUPED | RESTED;
/// How many entries one load reads back, at most.
pub(crate) const LOAD: usize = 256;

/// What the queues of sessions are, shared by all of them.
pub(crate) fn session_spec(durable: bool) -> Arc<QueueSpec> {
    static SPECS: LazyLock<[Arc<QueueSpec>; 2]> =
        LazyLock::new(|| [false, true].map(|durable| Arc::new(QueueSpec { durable, ..QueueSpec::default() })));
    SPECS[usize::from(durable)].clone()
}

/// The bound that a queue's own description asks for.
pub(crate) fn bound_of(spec: &QueueSpec) -> Bound {
    let then = if spec.reject_at_bound { AtBound::Reject } else { AtBound::DropOldest };
    Bound { messages: spec.max_length.unwrap_or(u64::MAX), bytes: spec.max_length_bytes.unwrap_or(u64::MAX), then, in_flight: false }
}
