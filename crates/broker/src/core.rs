//! The broker: what all connections share.

use crate::auth::{self, Auth};
use crate::dead_letter::How;
use crate::link::Link;
use crate::outbox::Outbox;
use crate::queue::{ms_until, tick_of, AtBound, Bound, Follow, Queue};
use crate::session::Session;
use crate::store::Log;
use crate::timers::Timers;
use crate::vhost::Vhost;
use ahash::RandomState;
use broker_api::{Batch, Broker, ConnectionInfo, CoreSession, Elsewhere, Peer, QueueId, Refusal, Signal, VhostName};
use dashmap::DashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

/// When a message that is logged leaves for its consumers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DeliveryPoint {
    /// At once. A consumer may have seen a message that a power cut then takes back from a publisher who was not told that it is safe.
    #[default]
    Early,
    /// After the commit point.
    Committed,
}

/// What an operator may set; the server reads it from its file.
#[derive(Clone)]
pub struct Config {
    pub auth: auth::Config,
    /// Virtual hosts that are to be there beside `/`.
    pub vhosts: Vec<String>,
    /// What a queue is that is declared without a type, by virtual host; protocols that know types are told when they enter.
    pub default_queue_types: Vec<(String, String)>,
    /// By virtual host.
    pub vhost_limits: Vec<(String, VhostLimits)>,
    /// Messages that one session's queue keeps; at the bound new ones are dropped and counted.
    pub session_queue_messages: u64,
    pub session_queue_bytes: u64,
    /// Bytes that the open transactions of one connection may hold in memory, all together.
    pub transaction_bytes: usize,
    pub sessions_max: u64,
    pub retained_max: u64,
    /// Messages that one delaying exchange holds back at a time; beyond that new ones are refused.
    pub delayed_max: u64,
    pub connections_max: u64,
    /// Channels of all connections together: of AMQP, and one for each connection of STOMP.
    pub channels_max: u64,
    /// Virtual hosts, `/` included.
    pub vhosts_max: u64,
    /// Queues with names, over all virtual hosts.
    pub queues_max: u64,
    /// Exchanges over all virtual hosts, those that are always there included.
    pub exchanges_max: u64,
    /// Who declares a queue again that counts attempts, and asks for one that does not, is not refused for that.
    pub relaxed_redeclare: bool,
    /// When a message that is logged leaves for its consumers.
    pub delivery: DeliveryPoint,
    /// Bytes that references to messages may take in memory after a checkpoint.
    pub index_bytes: usize,
    /// Bytes of messages in memory above which publishers wait.
    pub memory_high: u64,
    /// Bytes of messages in memory above which backlogs of those that are not logged go to spill files; 0 = never.
    pub transient_memory: u64,
    /// How large one spill file becomes.
    pub spill_file_bytes: u64,
    /// Seconds between updates of `$SYS`; 0 = none.
    pub sys_interval_secs: u64,
    /// Grace for a will whose connection was lost by our own restart.
    pub restart_will_delay_secs: u32,
    /// Virtual hosts that are traced from the start.
    pub traced_vhosts: Vec<String>,
    /// Writes what is traced; without one nothing is.
    pub tracer: Option<Arc<dyn broker_api::Tracer>>,
    /// How each format's headers and arguments are read, for exchanges that look at them.
    pub header_views: Vec<(u8, Arc<dyn broker_api::HeaderView>)>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            auth: auth::Config::default(),
            vhosts: Vec::new(),
            default_queue_types: Vec::new(),
            vhost_limits: Vec::new(),
            session_queue_messages: u64::MAX,
            session_queue_bytes: u64::MAX,
            transaction_bytes: 32 << 20,
            sessions_max: 1_000_000,
            retained_max: 10_000_000,
            delayed_max: 10_000_000,
            connections_max: u64::MAX,
            channels_max: u64::MAX,
            vhosts_max: 10_000,
            queues_max: u64::MAX,
            exchanges_max: u64::MAX,
            relaxed_redeclare: false,
            delivery: DeliveryPoint::Early,
            index_bytes: 64 << 20,
            memory_high: u64::MAX,
            transient_memory: 64 << 20,
            spill_file_bytes: 32 << 20,
            sys_interval_secs: 10,
            restart_will_delay_secs: 5,
            traced_vhosts: Vec::new(),
            tracer: None,
            header_views: Vec::new(),
        }
    }
}

/// What the operator lets be in one virtual host at a time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VhostLimits {
    pub connections_max: Option<u64>,
    /// Queues with names; those of sessions and subscriptions do not count.
    pub queues_max: Option<u64>,
}

impl Config {
    pub(crate) fn session_bound(&self) -> Bound {
        Bound { messages: self.session_queue_messages, bytes: self.session_queue_bytes, then: AtBound::DropNewest, in_flight: true }
    }
}

/// Counters that `$SYS` and metrics show. Bumped once per batch.
#[derive(Default)]
pub(crate) struct Counters {
    pub messages_received: AtomicU64,
    pub messages_sent: AtomicU64,
    pub messages_dropped: AtomicU64,
    pub bytes_received: AtomicU64,
    pub connections: AtomicU64,
    pub connections_max_seen: AtomicU64,
    pub connections_total: AtomicU64,
    pub channels: AtomicU64,
    pub sessions_expired: AtomicU64,
    pub subscriptions: AtomicU64,
    /// Pages of references of which a checkpoint read a part to write it again with what came behind it.
    pub pages_merged: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What the reader thread is asked to do.
pub(crate) enum Job {
    /// This queue's next messages have to be read from the log.
    Load(Arc<Queue>),
    /// This transaction has passed the commit point.
    Reveal(Arc<crate::link::Commit>),
    /// Consumers of this queue have a selector, and the scan of this number goes on.
    Look(Arc<Queue>, u32),
    /// What these queues waited for has come.
    Pump(Vec<Arc<Queue>>),
    /// A slice of this is to be made.
    Fan(Arc<crate::link::FanOut>),
    /// What is due in here is to go where it goes.
    Due(Arc<Queue>),
}

pub(crate) struct Shared {
    pub config: Config,
    pub memory: crate::memory::Memory,
    pub log: Log,
    pub spill: Arc<crate::spill::Spill>,
    pub auth: Auth,
    pub vhosts: DashMap<VhostName, Arc<Vhost>, RandomState>,
    pub vhosts_by_id: DashMap<u32, Arc<Vhost>, RandomState>,
    /// Orders the making and ending of virtual hosts; the id that the next one takes.
    pub next_vhost: parking_lot::Mutex<u32>,
    pub queues: DashMap<u64, Arc<Queue>, RandomState>,
    pub sessions: DashMap<u64, Arc<Session>, RandomState>,
    pub links: DashMap<u64, Arc<Outbox>, RandomState>,
    /// Ids of queues, sessions, subscriptions and shares: one counter, never reused over restarts.
    pub next_id: AtomicU64,
    /// Ids of connections and incarnations; they do not outlive the process.
    pub next_link: AtomicU64,
    /// Connections whose commands have been put off until others had their turn.
    pub yielding: AtomicUsize,
    pub timers: Timers,
    pub counters: Counters,
    pub sys: crate::sys::Sys,
    /// For the reader thread.
    pub loader: std::sync::mpsc::Sender<Job>,
    pub commit_gate: Arc<crate::commit_gate::CommitGate>,
    pub fans: crate::link::Fans,
    /// Fan-outs that recovery took back, and what that lets go of.
    pub voided: parking_lot::Mutex<Vec<(u64, Vec<journal::Release>)>>,
    /// Nothing runs beside the caller, who takes every step himself.
    pub stepped: bool,
    pub checkpoint: crate::store::Dirty,
    pub digests: crate::store::Digests,
    pub started_ms: u64,
    pub stopping: AtomicBool,
    /// There is, or was, an exchange whose messages may come again and again: so most brokers never look for them.
    pub crons: AtomicBool,
}

impl Shared {
    pub fn now_ms(&self) -> u64 {
        self.log.now_ms()
    }

    /// Now, as queues count it: see `queue::tick`.
    pub fn now_ticks(&self) -> u32 {
        tick_of(self.now_ms())
    }

    /// The first of `n` ids.
    pub fn ids(&self, n: u64) -> u64 {
        self.next_id.fetch_add(n, Ordering::Relaxed)
    }

    pub fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn vhost(&self, name: &VhostName) -> Option<Arc<Vhost>> {
        self.vhosts.get(name).map(|v| v.clone())
    }

    pub fn vhost_by_id(&self, id: u32) -> Option<Arc<Vhost>> {
        self.vhosts_by_id.get(&id).map(|v| v.clone())
    }

    pub fn queue(&self, id: QueueId) -> Option<Arc<Queue>> {
        self.queues.get(&id.0).map(|q| q.clone())
    }

    /// Publishes what no connection publishes: wills, `$SYS`. Relative expiry becomes absolute here.
    pub fn publish_own(self: &Arc<Shared>, vhost: u32, message: &Batch) {
        let Some(vhost) = self.vhost_by_id(vhost) else { return };
        if message.heads.is_empty() {
            return;
        }
        let mut own = crate::link::copy_out(message, 0);
        own.arrived_ms = self.now_ms();
        if let Some(head) = own.heads.first_mut().filter(|h| h.expires_ms != 0) {
            head.expires_ms += own.arrived_ms;
        }
        let info = ConnectionInfo {
            peer: broker_api::Peer::Unix,

            identity: None,
            protocol: crate::link::INTERNAL,
            vhost: vhost.name.clone(),
            allow_anonymous: false,
        };
        Link::internal(self, info, vhost).publish_one(Arc::new(own));
    }

    pub fn session_bound(&self) -> Bound {
        self.config.session_bound()
    }

    /// Tells the timer when a queue's heads are to be looked at, if something came that expires earlier than it knows. Under the queue's lock.
    /// And the spiller of a backlog that grew.
    pub fn arm(&self, queue: &Arc<Queue>, state: &mut crate::queue::State) {
        self.spill.report(queue, state);
        if std::mem::take(&mut state.wants_alarm) {
            if queue.delays {
                return self.arm_delays(queue, state);
            }
            let now = self.now_ms();
            self.timers.add(now + ms_until(state.alarm, now), crate::timers::Timer::Heads { queue: queue.id.0 });
        }
        if std::mem::take(&mut state.wants_trim) {
            self.timers.add(self.now_ms(), crate::timers::Timer::Trim { queue: queue.id.0 });
        }
    }

    /// The time of a queue's heads has come.
    pub fn expire_heads(&self, id: u64) {
        let Some(queue) = self.queue(QueueId(id)) else { return };
        let mut follow = Follow::default();
        let now = self.now_ms();
        if let Some(next) = queue.expire(&self.log, tick_of(now), &mut follow) {
            // Not at once even if more is due: others have their turn.
            self.timers.add(now + ms_until(next, now).max(1), crate::timers::Timer::Heads { queue: id });
        }
        self.checkpoint.queue(&queue);
        self.follow_up(follow);
    }

    /// What was put off while a queue's lock was held. Dead-lettering and pumping may cause more.
    pub fn follow_up(&self, follow: Follow) {
        let mut next = follow;
        while !next.is_empty() {
            let Follow { fills, load, pump, look, leaving, uncommitted, resting } = next;
            next = Follow::default();
            for fill in fills {
                // On the list before the slot is filled: a checkpoint that begins behind it has to hold what it did.
                if let Some(queue) = self.queue(fill.queue) {
                    self.checkpoint.queue(&queue);
                }
                self.log.fill_settle(fill, &[]);
            }
            if !uncommitted.is_empty() {
                self.after_commit(uncommitted);
            }
            for queue in load {
                // The reader thread ends only with the process.
                let _ = self.loader.send(Job::Load(queue));
            }
            for (queue, scan) in look {
                let _ = self.loader.send(Job::Look(queue, scan));
            }
            for (queue, until_ms) in resting {
                self.set_rest_timer(&queue, until_ms);
            }
            for leaving in leaving {
                self.dead_letter(leaving, &mut next, &mut How::Own(&mut |slot, filled| slot.fill(filled)));
            }
            let now_ticks = self.now_ticks();
            for queue in pump {
                queue.pump(&self.log, now_ticks, &mut next);
            }
        }
    }
}

/// The core. Cloning is cheap; the last clone does not stop it, [`Core::close`] does.
#[derive(Clone)]
pub struct Core(pub(crate) Arc<Shared>);

impl Core {
    /// Tells every connection that the broker goes down, and where clients are served instead.
    pub fn shut_down_connections(&self, elsewhere: Option<Elsewhere>) {
        self.0.stopping.store(true, Ordering::Release);
        let elsewhere = elsewhere.map(Arc::new);
        for link in self.0.links.iter() {
            link.signal(match &elsewhere {
                Some(elsewhere) => Signal::Moved(elsewhere.clone()),
                None => Signal::Shutdown,
            });
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        self.0.links.len() as u64
    }

    /// A clean stop: everything staged is committed and the log is closed.
    pub fn close(&self) -> Result<(), journal::CloseError> {
        self.0.timers.stop();
        self.0.spill.close();
        self.0.log.close()
    }

    /// A door for who needs no login: the operator's own files. It may do everything in this virtual host.
    pub fn trusted(&self, vhost: &VhostName) -> Result<Box<dyn CoreSession>, Refusal> {
        let found = self.0.vhost(vhost).filter(|vhost| !vhost.is_deleted());
        let found = found.ok_or_else(|| Refusal::NotFound { what: "vhost", name: vhost.to_string() })?;
        let peer = broker_api::Peer::Unix;
        let info = ConnectionInfo { peer, identity: None, protocol: crate::link::INTERNAL, vhost: vhost.clone(), allow_anonymous: false };
        Ok(Box::new(Link::internal(&self.0, info, found).trusted()))
    }

    /// Retained messages of a virtual host, for metrics and tests.
    pub fn retained(&self, vhost: &str) -> usize {
        self.0.vhosts.get(vhost).map_or(0, |vhost| vhost.retained.len())
    }

    /// Bytes of messages that are in memory, for metrics and tests.
    pub fn memory_held(&self) -> u64 {
        self.0.memory.held()
    }

    /// Pages of references that a checkpoint read a part of and wrote again with what had come behind it, for metrics and tests.
    pub fn pages_merged(&self) -> u64 {
        Counters::get(&self.0.counters.pages_merged)
    }

    /// What of messages is in spill files, for metrics and tests.
    pub fn spill_stats(&self) -> crate::spill::SpillStats {
        self.0.spill.stats()
    }

    /// The log, for who sends it to another node.
    pub fn journal(&self) -> &Arc<journal::Journal> {
        self.0.log.journal()
    }

    /// The log's counters, for metrics.
    pub fn journal_stats(&self) -> journal::Stats {
        self.0.log.journal().stats()
    }

    /// Counts every queue over again and compares. For tests and tools: it walks all that is stored.
    pub fn recount(&self) -> Result<(), String> {
        self.0.queues.iter().try_for_each(|queue| queue.recount())?;
        let spilled: u64 = self.0.queues.iter().map(|queue| queue.count_spilled()).sum();
        match self.spill_stats().messages {
            // With threads, one of them may be between the two.
            counted if counted != spilled && self.0.stepped => Err(format!("{spilled} entries are spilled but {counted} are counted")),
            _ => Ok(()),
        }
    }

    /// What queues hold against what the log keeps for them, for tests and tools. A page file that was damaged leaves references that nobody
    /// knows of.
    pub fn audit(&self) -> Result<(), String> {
        self.0.audit()
    }

    /// Messages that wait in a session's queue, for tests and tools.
    pub fn session_depth(&self, vhost: &str, session: &str) -> Option<u64> {
        let vhost = self.0.vhosts.get(vhost)?.clone();
        let session = vhost.sessions.get(session)?.clone();
        Some(session.queue.depth.load(Ordering::Relaxed))
    }
}

impl Broker for Core {
    fn connect(&self, info: ConnectionInfo) -> Result<Box<dyn CoreSession>, Refusal> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(Refusal::LimitReached(broker_api::Limit::Connections));
        }
        if self.0.links.len() as u64 >= self.0.config.connections_max {
            return Err(Refusal::LimitReached(broker_api::Limit::Connections));
        }
        Link::open(&self.0, info).map(|link| Box::new(link) as Box<dyn CoreSession>)
    }

    fn trusts_anonymous(&self, peer: &Peer) -> bool {
        self.0.auth.trusts_anonymous(peer)
    }

    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
}
