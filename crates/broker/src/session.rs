//! A session: one queue, any number of subscriptions, a small state map for its protocol, and a parting message. It outlives its
//! connection for as long as its expiry says.

use crate::link::Sending;
use crate::outbox::Outbox;
use crate::queue::{Group, Queue};
use crate::selector::Selector;
use arc_swap::ArcSwapOption;
use broker_api::{ConsumerIx, Expiry, OwnerIx, Parting, QueueId, Seq, SessionName, Side, StateEdit, StateValue, Token};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

/// A session that may hold this many state entries and subscriptions; past it commands are refused.
pub(crate) const STATE_MAX: usize = 200_000;
pub(crate) const SUBSCRIPTIONS_MAX: usize = 100_000;

/// The connection that a session is attached to.
pub(crate) struct Live {
    pub outbox: Arc<Outbox>,
    pub owner: OwnerIx,
    pub consumer: ConsumerIx,
    pub group: Arc<Group>,
    /// Of this attachment; nothing from an older one counts.
    pub incarnation: u64,
    /// The attach command has been answered.
    pub active: AtomicBool,
}

pub(crate) struct Session {
    /// Owner of its leases. From the same counter as queue ids, never reused.
    pub id: u64,
    pub vhost: u32,
    pub name: SessionName,
    pub queue: Arc<Queue>,
    pub live: ArcSwapOption<Live>,
    pub state: Mutex<SessionState>,
    /// Messages that found no connection or no room, and were not to be kept.
    pub dropped: AtomicU64,
    /// Set while the session stands on the list of what the next checkpoint looks at.
    pub listed: AtomicBool,
}

#[derive(Default)]
pub(crate) struct SessionState {
    pub expiry: Option<Expiry>,
    /// Whether there is a record of it.
    pub logged: bool,
    pub map: BTreeMap<u64, StateEntry>,
    pub subscriptions: HashMap<SubscriptionKey, Arc<Subscription>>,
    pub parting: Option<Parting>,
    /// Subscriptions that are being sent what is retained, one after the other.
    #[allow(clippy::box_collection, reason = "almost always none, and each session has one: a pointer is smaller")]
    pub sending: Option<Box<VecDeque<Sending>>>,
    /// Subscriptions that this user may not have (any more): kept, but out of routing. See `review`.
    #[allow(clippy::box_collection, reason = "almost always none, and each session has one: a pointer is smaller")]
    pub resting: Option<Box<HashSet<SubscriptionKey>>>,
    /// Whose session this is, and who may publish its parting.
    pub user: Box<str>,
    /// Broker time of the last disconnect; 0 while attached.
    pub detached_ms: u64,
    pub incarnation: u64,
    /// An attach that waits for the last words of the connection with this incarnation.
    pub waiting: Option<Box<WaitingAttach>>,
    pub last_words_of: u64,
    pub ended: bool,
}

#[derive(Clone)]
pub(crate) struct StateEntry {
    pub value: StateValue,
    pub lease: Option<(QueueId, Seq)>,
}

pub(crate) struct WaitingAttach {
    pub outbox: Arc<Outbox>,
    pub token: Token,
    pub live: Arc<Live>,
    pub present: bool,
    pub ticket: Option<journal::Ticket>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SubscriptionKey {
    pub pattern: Box<str>,
    pub separator: u8,
    pub share: Option<Box<str>>,
}

/// One filter of a session, as routing finds it.
pub(crate) struct Subscription {
    pub id: u64,
    pub session: Arc<Session>,
    pub level: u8,
    /// Client's identifier; 0 = none.
    pub identifier: u32,
    pub no_local: bool,
    /// `broker_api::DELIVERY_AS_PUBLISHED` or 0.
    pub flags: u8,
    pub share: Option<Arc<Share>>,
    pub selector: Option<Box<Selector>>,
}

/// One queue for all members of a group that share a filter.
pub(crate) struct Share {
    pub id: u64,
    pub queue: Arc<Queue>,
    pub members: Mutex<Vec<Arc<Subscription>>>,
    turn: AtomicUsize,
}

impl Share {
    pub fn new(id: u64, queue: Arc<Queue>) -> Arc<Share> {
        Arc::new(Share { id, queue, members: Mutex::default(), turn: AtomicUsize::new(0) })
    }

    /// The member whose turn it is, among those that are connected.
    pub fn next_live(&self) -> Option<(Arc<Subscription>, Arc<Live>)> {
        let members = self.members.lock();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..members.len()).find_map(|i| {
            let member = &members[(start + i) % members.len()];
            let live = member.session.live.load_full()?;
            live.active.load(Ordering::Acquire).then(|| (member.clone(), live))
        })
    }

    /// The highest level that a member wants.
    pub fn level(&self) -> u8 {
        self.members.lock().iter().map(|m| m.level).max().unwrap_or(0)
    }
}

impl Session {
    pub fn new(id: u64, vhost: u32, name: SessionName, queue: Arc<Queue>, expiry: Expiry) -> Arc<Session> {
        Arc::new(Session {
            id,
            vhost,
            name,
            queue,
            live: ArcSwapOption::empty(),
            state: Mutex::new(SessionState { expiry: Some(expiry), ..SessionState::default() }),
            dropped: AtomicU64::new(0),
            listed: AtomicBool::new(false),
        })
    }

    /// The connection that may be sent to now.
    pub fn active(&self) -> Option<arc_swap::Guard<Option<Arc<Live>>>> {
        let live = self.live.load();
        let on = live.as_ref().is_some_and(|l| l.active.load(Ordering::Acquire));
        on.then_some(live)
    }

    pub fn is_durable(&self) -> bool {
        self.queue.durable
    }
}

impl SessionState {
    pub fn apply(&mut self, edit: &StateEdit) {
        match &edit.value {
            Some(value) => {
                self.map.insert(edit.key, StateEntry { value: value.clone(), lease: edit.lease });
            }
            None => {
                self.map.remove(&edit.key);
            }
        }
    }

    pub fn rests(&self, key: &SubscriptionKey) -> bool {
        self.resting.as_ref().is_some_and(|resting| resting.contains(key))
    }

    /// Ended, or granted anew.
    pub fn rests_no_more(&mut self, key: &SubscriptionKey) {
        if let Some(resting) = &mut self.resting {
            resting.remove(key);
        }
    }

    pub fn is_full(&self) -> bool {
        self.map.len() >= STATE_MAX
    }
}

impl Subscription {
    /// The same in another share.
    pub fn in_share(&self, share: Arc<Share>) -> Subscription {
        let Subscription { id, level, identifier, no_local, flags, .. } = *self;
        // Members of a share have no selector.
        Subscription { id, session: self.session.clone(), level, identifier, no_local, flags, share: Some(share), selector: None }
    }
}

/// What the matching subscriptions of one session come to: the highest level, all identifiers, any wish to see the retain flag.
#[derive(Clone)]
pub(crate) struct SessionTarget {
    pub session: Arc<Session>,
    pub level: u8,
    pub flags: u8,
    pub side: Option<Arc<Side>>,
}
