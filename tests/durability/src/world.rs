//! What clients and rig share: where the broker is, whether to go on, and gauges that the rig reads at the moment of a fault.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::checker;

/// The eight places of a QoS 2 exchange at which a broker can be killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    SentPublish = 1,
    GotPubrec,
    SentPubrel,
    GotPubcomp,
    GotPublish,
    SentPubrec,
    GotPubrel,
    SentPubcomp,
}

pub const POINTS: [Point; 8] = [
    Point::SentPublish,
    Point::GotPubrec,
    Point::SentPubrel,
    Point::GotPubcomp,
    Point::GotPublish,
    Point::SentPubrec,
    Point::GotPubrel,
    Point::SentPubcomp,
];

/// How far a consumer is.
#[derive(Clone, Copy, Default)]
pub struct Progress {
    pub ready: bool,
    pub connection: u32,
    pub received: u64,
    pub settled: u64,
}

/// What a consumer waits for. Where messages come in the order in which they were sent, the last one of each producer says that all came;
/// elsewhere each is ticked off.
struct Waiting {
    plan: checker::Consumer,
    /// By producer: the last confirmed, the last that came.
    last: HashMap<u16, (u64, u64)>,
    /// Confirmed and not there; there and not confirmed.
    missing: HashSet<(u16, u64)>,
    early: HashSet<(u16, u64)>,
}

impl Waiting {
    fn confirmed(&mut self, producer: u16, n: u64) {
        if !self.plan.wants(producer, n) {
        } else if let checker::Order::Sent = self.plan.order {
            let (last, _) = self.last.entry(producer).or_default();
            *last = n.max(*last);
        } else if !self.early.remove(&(producer, n)) {
            self.missing.insert((producer, n));
        }
    }

    fn received(&mut self, producer: u16, n: u64) {
        if let checker::Order::Sent = self.plan.order {
            let (_, last) = self.last.entry(producer).or_default();
            *last = n.max(*last);
        } else if !self.missing.remove(&(producer, n)) {
            self.early.insert((producer, n));
        }
    }

    fn has_all(&self) -> bool {
        self.missing.is_empty() && self.last.values().all(|(confirmed, came)| came >= confirmed)
    }

    fn has(&self, mark: &Mark) -> bool {
        let came = |producer: &u16| self.last.get(producer).map_or(0, |(_, came)| *came);
        mark.last.iter().all(|(producer, n)| came(producer) >= *n) && self.missing.is_disjoint(&mark.missing)
    }
}

/// What was confirmed at some moment and had not come to a consumer.
pub struct Mark {
    consumer: u16,
    last: Vec<(u16, u64)>,
    missing: HashSet<(u16, u64)>,
}

type Action = Box<dyn FnOnce() + Send>;

pub struct World {
    pub run: u32,
    pub payload: usize,
    pub keep_every: u64,
    addr: Mutex<Option<SocketAddr>>,
    pub sending: AtomicBool,
    pub ending: AtomicBool,
    /// Consumers that began offline come now.
    pub all_online: AtomicBool,
    /// Consumers that come and go are wanted now.
    pub asked: AtomicBool,
    pub confirmed: AtomicU64,
    pub received: AtomicU64,
    pub in_flight: AtomicI64,
    pub producers_busy: AtomicI64,
    pub refused: AtomicU64,
    /// How often packet ids of producers began again at 1.
    pub wraps: AtomicU64,
    /// By consumer.
    waiting: Mutex<HashMap<u16, Waiting>>,
    progress: Mutex<HashMap<u16, Progress>>,
    trouble: Mutex<Option<String>>,
    armed: AtomicU8,
    countdown: AtomicI64,
    action: Mutex<Option<Action>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(run: u32, payload: usize, keep_every: u64, consumers: &[checker::Consumer]) -> Arc<World> {
        let waiting =
            |plan: &checker::Consumer| Waiting { plan: *plan, last: HashMap::new(), missing: HashSet::new(), early: HashSet::new() };
        Arc::new(World {
            run,
            payload,
            keep_every,
            addr: Mutex::new(None),
            sending: AtomicBool::new(true),
            ending: AtomicBool::new(false),
            all_online: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            confirmed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            producers_busy: AtomicI64::new(0),
            refused: AtomicU64::new(0),
            wraps: AtomicU64::new(0),
            waiting: Mutex::new(consumers.iter().map(|plan| (plan.id, waiting(plan))).collect()),
            progress: Mutex::default(),
            trouble: Mutex::new(None),
            armed: AtomicU8::new(0),
            countdown: AtomicI64::new(0),
            action: Mutex::new(None),
        })
    }

    pub fn addr(&self) -> Option<SocketAddr> {
        *lock(&self.addr)
    }

    pub fn set_addr(&self, addr: Option<SocketAddr>) {
        *lock(&self.addr) = addr;
    }

    /// Whether the broker that a packet came from still counts. A rig that cuts the power withdraws the address first: what a client reads
    /// later never happened, for a sync that was under way may have been answered by a file system that is shut down already.
    pub fn still_at(&self, addr: SocketAddr) -> io::Result<()> {
        if self.addr() == Some(addr) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the rig has withdrawn this broker"))
    }

    pub fn note_confirmed(&self, producer: u16, n: u64) {
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiting).values_mut().for_each(|waiting| waiting.confirmed(producer, n));
    }

    /// The `count`-th message of a consumer.
    pub fn note_received(&self, consumer: u16, producer: u16, n: u64, count: u64) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.progress(consumer, |progress| progress.received = count);
        if let Some(waiting) = lock(&self.waiting).get_mut(&consumer) {
            waiting.received(producer, n);
        }
    }

    pub fn progress(&self, consumer: u16, change: impl FnOnce(&mut Progress)) {
        change(lock(&self.progress).entry(consumer).or_default());
    }

    pub fn progress_of(&self, consumer: u16) -> Progress {
        lock(&self.progress).get(&consumer).copied().unwrap_or_default()
    }

    /// The last thing that went wrong with a connection, for the message of a rig that waits in vain.
    pub fn note_trouble(&self, trouble: String) {
        *lock(&self.trouble) = Some(trouble);
    }

    pub fn trouble(&self) -> String {
        lock(&self.trouble).clone().unwrap_or_else(|| "none".into())
    }

    /// Whether this consumer has everything that was confirmed for it.
    pub fn has_all(&self, consumer: u16) -> bool {
        lock(&self.waiting).get(&consumer).is_none_or(Waiting::has_all)
    }

    pub fn mark(&self) -> Vec<Mark> {
        let waiting = lock(&self.waiting);
        let mark = |(consumer, waiting): (&u16, &Waiting)| Mark {
            consumer: *consumer,
            last: waiting.last.iter().map(|(producer, (confirmed, _))| (*producer, *confirmed)).collect(),
            missing: waiting.missing.clone(),
        };
        waiting.iter().map(mark).collect()
    }

    /// Whether everything of the marks has come by now.
    pub fn is_past(&self, marks: &[Mark]) -> bool {
        let waiting = lock(&self.waiting);
        marks.iter().all(|mark| waiting.get(&mark.consumer).is_none_or(|waiting| waiting.has(mark)))
    }

    /// At the `countdown`-th time a client comes past `point`, `action` is run, in that client's thread.
    pub fn arm(&self, point: Point, countdown: u64, action: Action) {
        *lock(&self.action) = Some(action);
        self.countdown.store(countdown as i64, Ordering::Relaxed);
        self.armed.store(point as u8, Ordering::Release);
    }

    pub fn disarm(&self) -> bool {
        self.armed.store(0, Ordering::Release);
        lock(&self.action).take().is_some()
    }

    /// Whether the trap at this point closes now; the caller flushes what the point says was sent and then calls [`World::fire`].
    pub fn springs(&self, point: Point) -> bool {
        self.armed.load(Ordering::Acquire) == point as u8 && self.countdown.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub fn fire(&self) {
        self.armed.store(0, Ordering::Release);
        let action = lock(&self.action).take();
        if let Some(action) = action {
            action();
        }
    }
}

/// Waits for a condition; `false` when it did not come true in time.
pub fn wait_for(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
