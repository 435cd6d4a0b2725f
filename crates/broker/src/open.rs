//! Bringing the core up: recovery, what every lost connection leaves behind, and the threads.

use crate::auth::{Auth, ConfigError};
use crate::core::{Config, Core, Counters, DeliveryPoint, Job, Shared};
use crate::queue::{Follow, Queue, Wanted};
use crate::session::{Session, Subscription};
use crate::spill::{is_spilled, name_of, spill_backlogs, Limits, Spill, Spiller};
use crate::store::{push_handed, Dirty, Log, Recovery, RecoveryLimits};
use crate::timers::{Timer, Timers};
use crate::vhost::{TopicTarget, Vhost};
use broker_api::{Expiry, VhostName};
use journal::{Failure, Journal, OpenError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Weak};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum CoreError {
    #[error(transparent)]
    Journal(#[from] OpenError),
    #[error(transparent)]
    Auth(#[from] ConfigError),
    #[error("the standby's state is in use elsewhere")]
    Busy,
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}

impl CoreError {
    /// Is what had been synced not what it was?
    pub fn is_damage(&self) -> bool {
        matches!(self, CoreError::Journal(OpenError::Corrupt { .. }))
    }
}

impl Core {
    /// Recovers the store and starts serving it. `on_failure` is called once if the store fails while we run.
    pub fn open(
        storage: Arc<dyn journal::storage::Storage>,
        journal_config: journal::Config,
        config: Config,
        on_failure: OnFailure,
    ) -> Result<Core, CoreError> {
        let (core, to_load) = Core::recover(storage, journal_config, config, on_failure)?;
        core.serve(to_load)
    }

    /// Like [`Core::open`], but with no thread at all: a simulation takes every step itself, in an order that follows from its seed.
    pub fn open_stepped(
        storage: Arc<dyn journal::storage::Storage>,
        journal_config: journal::Config,
        config: Config,
        on_failure: OnFailure,
    ) -> Result<(Core, Steps), CoreError> {
        let (core, to_load) = Core::recover(storage, journal_config, config, on_failure)?;
        Ok(core.serve_stepped(to_load))
    }

    fn recover(
        storage: Arc<dyn journal::storage::Storage>,
        journal_config: journal::Config,
        config: Config,
        on_failure: OnFailure,
    ) -> Result<(Core, Receiver<Job>), CoreError> {
        let plan = Plan::new(storage, journal_config, config)?;
        let mut recovery = plan.recovery();
        let journal = Journal::open(plan.storage.clone(), plan.journal.clone(), &mut recovery)?;
        Ok(Core::assemble(plan, journal, recovery, on_failure))
    }

    /// Everything is recovered: what was read becomes what is served.
    pub(crate) fn assemble(plan: Plan, journal: Journal, recovery: Recovery, on_failure: OnFailure) -> (Core, Receiver<Job>) {
        let Plan { storage, journal: journal_config, config, auth } = plan;
        let stepped = journal_config.simulated;
        let clock = journal_config.clock.clone();
        let keep_free = journal_config.min_free_bytes.saturating_add(journal_config.segment_bytes);
        let started_ms = journal.broker_time_ms();
        let memory = crate::memory::Memory::new(config.memory_high);
        let limits = Limits { share: config.transient_memory, high: config.memory_high, file_bytes: config.spill_file_bytes, keep_free };
        // Behind the journal, whose lock says that nobody else uses these files.
        let spill = Spill::new(storage, limits, memory.counter());
        let late = config.delivery == DeliveryPoint::Committed;
        let (log, door) = Log::new(journal, spill.clone(), clock, late, on_failure);
        let (loader, to_load) = channel();
        let shared = Arc::new(Shared {
            memory,
            spill,
            config,
            log,
            auth,
            vhosts: recovery.vhosts.iter().map(|v| (v.name.clone(), v.clone())).collect(),
            vhosts_by_id: recovery.vhosts.iter().map(|v| (v.id, v.clone())).collect(),
            next_vhost: Mutex::new(recovery.next_vhost),
            queues: Default::default(),
            sessions: Default::default(),
            links: Default::default(),
            next_id: AtomicU64::new(recovery.next_id),
            next_link: AtomicU64::new(1),
            yielding: AtomicUsize::new(0),
            timers: Timers::default(),
            counters: Counters::default(),
            sys: Default::default(),
            fans: Default::default(),
            voided: Default::default(),
            stepped,
            commit_gate: crate::commit_gate::CommitGate::new(loader.clone()),
            loader,
            checkpoint: Dirty::default(),
            digests: Default::default(),
            started_ms,
            stopping: AtomicBool::new(false),
            crons: AtomicBool::new(false),
        });
        door.connect(&shared);
        shared.adopt(recovery);
        (Core(shared), to_load)
    }

    pub(crate) fn serve_stepped(self, to_load: Receiver<Job>) -> (Core, Steps) {
        let shared = self.0.clone();
        shared.log.journal().start_stepped(Arc::new(crate::store::CoreSnapshot(Arc::downgrade(&shared))));
        shared.after_restart();
        (self, Steps { shared, to_load: Mutex::new(to_load), spiller: Mutex::default() })
    }

    /// Begins to serve.
    pub(crate) fn serve(self, to_load: Receiver<Job>) -> Result<Core, CoreError> {
        let shared = &self.0;
        shared.log.journal().start(Arc::new(crate::store::CoreSnapshot(Arc::downgrade(shared))));
        shared.after_restart();
        start_threads(shared, to_load).map_err(CoreError::Thread)?;
        Ok(self)
    }
}

pub(crate) type OnFailure = Box<dyn Fn(&Failure) + Send + Sync>;

/// What a core is made with.
pub(crate) struct Plan {
    pub storage: Arc<dyn journal::storage::Storage>,
    pub journal: journal::Config,
    pub config: Config,
    auth: Auth,
}

impl Plan {
    pub fn new(storage: Arc<dyn journal::storage::Storage>, journal: journal::Config, config: Config) -> Result<Plan, CoreError> {
        let auth = Auth::new(&config.auth)?;
        Ok(Plan { storage, journal, config, auth })
    }

    pub fn recovery(&self) -> Recovery {
        let limits = RecoveryLimits { session: self.config.session_bound(), delayed_max: self.config.delayed_max };
        Recovery::new(vec![Vhost::new(0, VhostName::new("/"))], limits, self.config.header_views.clone())
    }
}

/// What the threads of a running core do, one step at a time. Each answers whether there was something to do.
pub struct Steps {
    shared: Arc<Shared>,
    to_load: Mutex<Receiver<Job>>,
    spiller: Mutex<Spiller>,
}

impl Steps {
    /// The journal's commit thread: takes what is staged, writes, syncs, tells who waits.
    pub fn commit(&self) -> bool {
        self.shared.log.journal().step_commit()
    }

    /// The journal's maintenance thread: checkpoints, evacuation, room on the disk.
    pub fn maintain(&self) -> bool {
        self.shared.log.journal().step_maintain()
    }

    /// The reader: fetches from the log for one queue.
    pub fn read(&self) -> bool {
        match self.to_load.lock().try_recv() {
            Ok(job) => {
                self.shared.on_job(job);
                true
            }
            Err(_) => false,
        }
    }

    /// The spiller: notes a run of a backlog, or writes the one that it noted.
    pub fn spill(&self) -> bool {
        self.spiller.lock().step(&self.shared)
    }

    /// One timer that is due by broker time.
    pub fn time(&self) -> bool {
        match self.shared.timers.take_due(self.shared.now_ms()) {
            Some(timer) => {
                self.shared.on_timer(timer);
                true
            }
            None => false,
        }
    }
}

fn start_threads(shared: &Arc<Shared>, to_load: Receiver<Job>) -> std::io::Result<()> {
    let weak = Arc::downgrade(shared);
    std::thread::Builder::new().name("broker-read".into()).spawn(move || read_back(&weak, &to_load))?;
    let weak = Arc::downgrade(shared);
    std::thread::Builder::new().name("broker-time".into()).spawn(move || keep_time(&weak))?;
    let (weak, spill) = (Arc::downgrade(shared), shared.spill.clone());
    std::thread::Builder::new().name("broker-spill".into()).spawn(move || spill_backlogs(&weak, &spill))?;
    Ok(())
}

/// Fetches from the log what queues are to deliver next, and shows what transactions did.
fn read_back(shared: &Weak<Shared>, to_load: &Receiver<Job>) {
    let mut line = Line::default();
    loop {
        if line.is_empty() {
            let Ok(job) = to_load.recv() else { return };
            line.add(job);
        }
        while let Ok(job) = to_load.try_recv() {
            line.add(job);
        }
        let (Some(job), Some(shared)) = (line.next(), shared.upgrade()) else { return };
        shared.on_job(job);
    }
}

/// What the reader has before it. Looking for what a selector wants goes through whole backlogs, and what somebody is about to be handed does not
/// wait for that.
#[derive(Default)]
struct Line {
    looks: VecDeque<Job>,
    others: VecDeque<Job>,
    /// How many of the others were done since the last look.
    ahead: u32,
}

/// Done before the next look, at most.
const AHEAD_OF_A_LOOK: u32 = 8;

impl Line {
    fn is_empty(&self) -> bool {
        self.looks.is_empty() && self.others.is_empty()
    }

    fn add(&mut self, job: Job) {
        match job {
            Job::Look(..) => self.looks.push_back(job),
            _ => self.others.push_back(job),
        }
    }

    fn next(&mut self) -> Option<Job> {
        if self.looks.is_empty() || self.ahead < AHEAD_OF_A_LOOK {
            if let Some(job) = self.others.pop_front() {
                self.ahead += 1;
                return Some(job);
            }
        }
        self.ahead = 0;
        self.looks.pop_front()
    }
}

fn keep_time(shared: &Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let timer = strong.timers.next(|| strong.now_ms());
        match timer {
            None => return,
            Some(timer) => strong.on_timer(timer),
        }
    }
}

impl Shared {
    fn on_job(&self, job: Job) {
        match job {
            Job::Load(queue) => self.load(&queue),
            Job::Look(queue, scan) => self.look_through(&queue, scan),
            Job::Reveal(commit) => {
                let mut follow = Follow::default();
                commit.reveal(self, &mut follow);
                self.follow_up(follow);
            }
            Job::Fan(fan) => {
                if fan.step(self) {
                    let _ = self.loader.send(Job::Fan(fan));
                }
            }
            Job::Due(queue) => self.release_due(&queue),
            Job::Pump(queues) => self.follow_up(Follow { pump: queues, ..Follow::default() }),
        }
    }

    fn load(&self, queue: &Arc<Queue>) {
        let wanted = queue.wanted(self.now_ticks());
        let at_head = matches!(wanted, Wanted::Head(..));
        let wanted = match wanted {
            Wanted::Nothing => Vec::new(),
            Wanted::Messages(wanted) => wanted,
            Wanted::Page(level, number) | Wanted::Head(level, number) => match self.log.read_page(queue.id, level, number) {
                Ok(entries) => {
                    queue.page_read(level, number, entries);
                    Vec::new()
                }
                Err(error) => {
                    // The queue waits for a restart rather than pass over messages.
                    tracing::error!(queue = %queue.name, level, number, %error, "a page of references cannot be read");
                    return;
                }
            },
        };
        let lsns: Vec<u64> = wanted.iter().map(|(_, lsn)| *lsn).collect();
        let found = match self.log.read_many(&lsns) {
            Ok(found) => wanted.iter().zip(found).map(|((seq, _), (held, head))| (*seq, held, head)).collect(),
            Err(error) => {
                tracing::error!(queue = %queue.name, %error, "messages cannot be read back");
                self.read_one_by_one(queue, &wanted)
            }
        };
        let mut follow = Follow::default();
        queue.loaded(found, &self.log, self.now_ticks(), &mut follow);
        self.follow_up(follow);
        if at_head {
            // By the thread of the timers alone: two that dead-letter from one queue would lose its order.
            self.timers.add(self.now_ms(), Timer::Heads { queue: queue.id.0 });
        }
    }

    /// Recovery's maps become the core's.
    fn adopt(self: &Arc<Shared>, mut recovery: Recovery) {
        *self.voided.lock() = recovery.void_fan_outs();
        recovery.refresh_rules();
        for (id, queue) in recovery.queues {
            queue.recovered();
            self.queues.insert(id, queue);
        }
        recovery.ended_vhosts.iter().for_each(|id| self.checkpoint.vhost_gone(*id));
        for (id, session) in recovery.sessions {
            self.sessions.insert(id, session);
        }
        recovery.exchanges.adopt(self);
        for vhost in self.vhosts.iter() {
            vhost.exchanges.iter().for_each(|exchange| crate::policy::rule_exchange(&vhost, &exchange));
        }
        recovery.touched_policies.iter().for_each(|vhost| self.checkpoint.policies(*vhost));
        // The next checkpoint begins behind the records that were redone, so it has to hold what they did.
        for queue in recovery.touched_queues.iter().filter_map(|id| self.queues.get(id)) {
            self.checkpoint.queue(&queue);
        }
        for session in recovery.touched_sessions.iter().filter_map(|id| self.sessions.get(id)) {
            self.checkpoint.session(&session);
        }
        for queue in &recovery.ended {
            self.checkpoint.queue_gone(queue);
        }
        recovery.ended_sessions.iter().for_each(|id| self.checkpoint.session_ended(*id));
        recovery.ended_queues.iter().for_each(|id| self.checkpoint.queue_ended(*id));
        for (key, found) in recovery.subscriptions.into_values().flatten() {
            let Some(vhost) = self.vhost_by_id(found.session.vhost) else { continue };
            let text = key.pattern.clone();
            let Ok(pattern) = crate::routing::Pattern::parse(crate::route::syntax(key.separator), text.as_bytes()) else { continue };
            let share = key.share.is_some().then(|| self.share(&vhost, &key));
            let subscription = Arc::new(Subscription {
                id: found.id,
                session: found.session.clone(),
                level: found.level,
                identifier: found.identifier,
                no_local: found.no_local,
                flags: found.flags,
                selector: found.selector,
                share: share.clone(),
            });
            match share {
                Some(share) => {
                    share.members.lock().push(subscription.clone());
                    vhost.topics.insert(&pattern, share.id, TopicTarget::Share(share.clone()));
                }
                None => {
                    vhost.topics.insert(&pattern, subscription.id, TopicTarget::Subscription(subscription.clone()));
                }
            }
            Counters::add(&self.counters.subscriptions, 1);
            found.session.state.lock().subscriptions.insert(key, subscription);
        }
    }

    /// Every connection counts as lost at this moment.
    fn after_restart(self: &Arc<Shared>) {
        let now = self.now_ms();
        for (fan, known) in std::mem::take(&mut *self.voided.lock()) {
            let releases = journal::Releases { known, ..Default::default() };
            let records = crate::store::fan_void_record(fan);
            self.log.reserve().fill(journal::Filled { records, releases, ..Default::default() });
        }
        self.make_configured_vhosts();
        let sessions: Vec<Arc<Session>> = self.sessions.iter().map(|s| s.clone()).collect();
        for session in sessions {
            self.session_after_restart(&session, now);
        }
        if !self.log.journal().was_clean() {
            self.suspect_named_queues();
        }
        self.drop_orphan_shares();
        self.drop_orphan_delays();
        let queues: Vec<Arc<Queue>> = self.queues.iter().map(|q| q.clone()).collect();
        for queue in queues {
            queue.wake_delays(now);
            let mut state = queue.lock();
            if state.rules.message_ttl_ms.is_some() && state.ready > 0 {
                // Its pages may be away, and nobody knows what in them expires.
                state.expires(self.now_ticks().wrapping_add(10).max(1));
            }
            state.wants_trim |= state.is_over();
            self.arm(&queue, &mut state);
            drop(state);
            self.watch_expiry(&queue);
        }
        self.timers.add(now + crate::retained_expiry::LOOK_MS, Timer::Retained);
        if self.config.sys_interval_secs > 0 {
            self.timers.add(now, Timer::Sys);
        }
    }

    /// After a crash nobody knows who consumed from queues that have a name, nor how far.
    fn suspect_named_queues(&self) {
        let vhosts: Vec<Arc<Vhost>> = self.vhosts.iter().map(|v| v.clone()).collect();
        for queue in vhosts.iter().flat_map(|v| v.queues.iter().map(|q| q.clone()).collect::<Vec<_>>()) {
            if !queue.durable || queue.depth.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                continue;
            }
            let slot = self.log.reserve();
            let mut records = journal::Records::new();
            push_handed(&mut records, queue.id, &queue.suspect());
            self.checkpoint.queue(&queue);
            slot.fill(journal::Filled { records, ..Default::default() });
        }
    }

    /// Queues of share groups whose members all died with their connections.
    fn drop_orphan_shares(&self) {
        let vhosts: Vec<Arc<Vhost>> = self.vhosts.iter().map(|v| v.clone()).collect();
        for vhost in vhosts {
            let kept: std::collections::HashSet<u64> = vhost.shares.iter().map(|s| s.queue.id.0).collect();
            let orphan = |q: &Arc<Queue>| q.name.as_str().starts_with("$share/") && !kept.contains(&q.id.0);
            let orphans: Vec<Arc<Queue>> = vhost.queues.iter().filter(|q| orphan(q)).map(|q| q.clone()).collect();
            for queue in orphans {
                vhost.queues.remove(&queue.name);
                self.drop_queue(&queue);
            }
        }
    }

    fn session_after_restart(self: &Arc<Shared>, session: &Arc<Session>, now: u64) {
        let grace = u64::from(self.config.restart_will_delay_secs);
        let slot = self.log.reserve();
        let mut state = session.state.lock();
        let was_attached = state.detached_ms == 0;
        let mut records = journal::Records::new();
        if was_attached {
            state.detached_ms = now;
            push_handed(&mut records, session.queue.id, &session.queue.suspect());
            for share in state.subscriptions.values().filter_map(|s| s.share.as_ref()) {
                push_handed(&mut records, share.queue.id, &share.queue.suspect());
            }
        }
        let lives_ms = match state.expiry {
            Some(Expiry::Never) => u64::MAX,
            Some(Expiry::Seconds(secs)) => u64::from(secs) * 1000,
            Some(Expiry::WithConnection) | None => 0,
        };
        let leases: Vec<_> = state.map.values().filter_map(|e| e.lease).collect();
        let ends = state.detached_ms.saturating_add(lives_ms);
        let mut fires = u64::MAX;
        if let Some(parting) = &state.parting {
            let delay = u64::from(parting.delay_secs) * 1000;
            fires = (state.detached_ms + delay.min(lives_ms)).max(now + grace * 1000);
        }
        let incarnation = state.incarnation;
        drop(state);
        for (queue, seq) in leases {
            if let Some(queue) = self.queue(queue) {
                queue.pin(seq, session.id, &self.log);
            }
        }
        let id = session.id;
        if fires != u64::MAX {
            self.timers.add(fires, Timer::Parting { session: id, incarnation });
        }
        if ends != u64::MAX {
            // A will that waits for its grace goes first.
            let at = if fires == u64::MAX { ends } else { ends.max(fires) };
            self.timers.add(at, Timer::Expiry { session: id, incarnation });
        }
        if was_attached {
            self.log_meta(slot, session, records);
        }
    }

    fn on_timer(self: &Arc<Shared>, timer: Timer) {
        let session = |id: u64| self.sessions.get(&id).map(|s| s.clone());
        match timer {
            Timer::Parting { session: id, incarnation } => {
                if let Some(session) = session(id) {
                    self.fire_parting(&session, incarnation);
                }
            }
            Timer::Expiry { session: id, incarnation } => {
                if let Some(session) = session(id) {
                    self.expire_session(&session, incarnation);
                }
            }
            Timer::LastWords { session: id, incarnation } => {
                if let Some(session) = session(id) {
                    self.finish_takeover(&session, incarnation);
                }
            }
            Timer::Sys => {
                self.publish_sys();
                self.timers.add(self.now_ms() + self.config.sys_interval_secs * 1000, Timer::Sys);
            }
            Timer::Retained => {
                let wait = if self.expire_retained() { 1 } else { crate::retained_expiry::LOOK_MS };
                self.timers.add(self.now_ms() + wait, Timer::Retained);
            }
            Timer::Memory => self.look_at_memory(),
            Timer::Heads { queue } => self.expire_heads(queue),
            Timer::Stuck { queue } => self.retry_stuck(queue),
            Timer::Due { queue } => self.delays_are_due(queue),
            Timer::QueueExpiry { queue, at_ms } => self.queue_may_expire(queue, at_ms),
            Timer::Trim { queue } => self.trim(queue),
            Timer::Policies { vhost } => self.policies_changed(vhost),
        }
    }

    /// A transient message cannot be read back from its spill file: it is gone, and its queue goes on.
    pub fn lose(&self, queue: &Queue, seq: broker_api::Seq, place: u64, error: &journal::ReadError) {
        if queue.drop_unreadable(seq, place) {
            tracing::error!(queue = %queue.name, place = name_of(place), %error, "a spilled message cannot be read back and is lost");
            Counters::add(&self.counters.messages_dropped, 1);
            self.spill.count_lost();
        }
    }

    /// One unreadable record must not hold up what stands behind it.
    fn read_one_by_one(&self, queue: &Queue, wanted: &[(broker_api::Seq, u64)]) -> Vec<(broker_api::Seq, Arc<crate::queue::Held>, u32)> {
        let mut found = Vec::new();
        for (seq, lsn) in wanted {
            match self.log.read_one(*lsn) {
                Ok(held) => found.push((*seq, held, 0)),
                Err(error) if is_spilled(*lsn) => self.lose(queue, *seq, *lsn, &error),
                Err(error) => {
                    tracing::error!(queue = %queue.name, lsn, %error, "a message cannot be read and stays where it is");
                    queue.lock().set_aside(*seq);
                }
            }
        }
        found
    }
}
