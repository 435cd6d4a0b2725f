//! A virtual host: its names, its topic space, its retained messages.

use crate::exchange::{Bindings, Exchange};
use crate::outbox::Outbox;
use crate::policy::Policies;
use crate::queue::Queue;
use crate::routing;
use crate::session::{Session, Share, Subscription, SubscriptionKey};
use ahash::RandomState;
use broker_api::{Batch, ExchangeName, QueueName, SessionName, VhostName};
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// A retained message: one head in a batch of its own.
#[derive(Clone)]
pub(crate) struct RetainedMessage {
    pub message: Arc<Batch>,
    /// In the log; what the broker says of itself (`$SYS`) is not.
    pub durable: bool,
    /// Counts what was retained since the start; 0: before it.
    pub order: u64,
}

/// What a pattern of the topic space leads to.
#[derive(Clone)]
pub(crate) enum TopicTarget {
    Subscription(Arc<Subscription>),
    Share(Arc<Share>),
    Queue(Arc<Queue>),
    Exchange(Arc<Exchange>),
}

/// Writers of one retained topic take one of these over store and enqueue.
const STRIPES: usize = 64;

pub(crate) struct Vhost {
    pub id: u32,
    pub name: VhostName,
    pub queues: DashMap<QueueName, Arc<Queue>, RandomState>,
    pub sessions: DashMap<SessionName, Arc<Session>, RandomState>,
    pub shares: DashMap<SubscriptionKey, Arc<Share>, RandomState>,
    pub topics: routing::Trie<TopicTarget>,
    pub generations: routing::Generations,
    /// Connections in here, and what the operator lets be at a time.
    pub connected: AtomicU64,
    pub connections_max: AtomicU64,
    pub queues_max: AtomicU64,
    /// Publishes and deliveries in here are told to who looks on.
    pub traced: AtomicBool,
    /// What a queue is that is declared without a type.
    pub default_queue_type: RwLock<Option<Arc<str>>>,
    pub policies: RwLock<Arc<Policies>>,
    pub exchanges: DashMap<ExchangeName, Arc<Exchange>, RandomState>,
    /// `exchanges` by the empty name.
    pub default_exchange: Arc<Exchange>,
    /// Orders changes of bindings, of exchanges, and the end of what they lead to. Taken before any queue's lock.
    pub bindings: Mutex<Bindings>,
    /// Whoever looks at a session's subscriptions again.
    pub reviewing: Mutex<()>,
    pub retained: routing::Retained<RetainedMessage>,
    /// Connections that are in here.
    pub links: DashMap<u64, Arc<Outbox>, RandomState>,
    pub watches: crate::watch::Watches,
    deleted: AtomicBool,
    pub expiring: crate::retained_expiry::Expiring,
    stripes: Vec<Mutex<()>>,
    retained_order: AtomicU64,
}

impl Vhost {
    pub fn new(id: u32, name: VhostName) -> Arc<Vhost> {
        let exchanges: DashMap<ExchangeName, Arc<Exchange>, RandomState> = Exchange::fixed().map(|x| (x.name.clone(), x)).collect();
        let default_exchange = exchanges.get("").map(|x| x.clone()).expect("the default exchange is among the fixed ones");
        Arc::new(Vhost {
            id,
            name,
            queues: DashMap::default(),
            sessions: DashMap::default(),
            shares: DashMap::default(),
            topics: routing::Trie::new(routing::Dollar::Hidden),
            generations: routing::Generations::default(),
            connected: AtomicU64::new(0),
            connections_max: AtomicU64::new(u64::MAX),
            queues_max: AtomicU64::new(u64::MAX),
            traced: AtomicBool::new(false),
            default_queue_type: RwLock::default(),
            policies: RwLock::default(),
            exchanges,
            default_exchange,
            bindings: Mutex::default(),
            reviewing: Mutex::default(),
            retained: routing::Retained::default(),
            links: DashMap::default(),
            watches: Default::default(),
            deleted: AtomicBool::new(false),
            expiring: Default::default(),
            retained_order: AtomicU64::new(0),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        })
    }

    /// Nothing is made in here any more.
    pub fn end(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Order of the newest retained message. Read after a change of routing: the publisher of whatever is newer has seen that change
    /// (both sides modify the counter, so that each sees what the other did before).
    pub fn retained_order(&self) -> u64 {
        self.retained_order.fetch_add(0, Ordering::AcqRel)
    }

    /// Taken before the message is routed.
    pub fn next_retained_order(&self) -> u64 {
        self.retained_order.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub fn stripe(&self, key: &[u8]) -> &Mutex<()> {
        &self.stripes[stripe_of(key)]
    }

    /// The stripes of several topics, each once and in the order in which they have to be taken.
    pub fn stripes<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Vec<&Mutex<()>> {
        let stripes: std::collections::BTreeSet<usize> = keys.map(stripe_of).collect();
        stripes.into_iter().map(|at| &self.stripes[at]).collect()
    }
}

fn stripe_of(key: &[u8]) -> usize {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    hash as usize % STRIPES
}
