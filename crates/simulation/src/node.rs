//! A data node: the process, which dies and comes again, and the disk, which stays.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::{Core, Promotion, Standby, Steps};
use journal::sim::{Crash, SimClock, SimStorage};
use journal::storage::Storage;
use journal::{Journal, Lsn, Receiver};
use replication::coordinator::{MemoryCluster, NodeName};
use replication::{run, Begin, End, Follows, House, Role, Settings, StandbyAck, Status, Unopened};
use tokio::sync::mpsc;

use crate::history::Broken;
use crate::machine::{SimCoordinator, SimMachine};
use crate::network::{Listening, Network};
use crate::trace::Trace;
use crate::world::{Group, Kind, World};

/// How often a node that serves looks for work that no thread of its own would do here.
const STEP: Duration = Duration::from_micros(700);
const MAINTAIN: Duration = Duration::from_millis(25);

/// A primary, as clients reach it.
#[derive(Clone)]
pub struct Serving {
    pub core: Core,
    pub steps: Arc<Steps>,
    pub epoch: u64,
    /// Which reign: a client that was connected to another one has lost its connection.
    pub number: u64,
    pub group: Group,
}

/// What survives a process.
pub struct SimNode {
    pub name: NodeName,
    pub storage: SimStorage,
    pub clock: Arc<SimClock>,
    rate: u32,
    standby_ack: StandbyAck,
    parts: Parts,
    process: Mutex<Option<Process>>,
    reigns: Arc<AtomicU64>,
    /// Up to where this node has said, or was found, to have its log synced.
    synced: Arc<AtomicU64>,
    /// Its log was cut or replaced, or nothing has died since it was opened: it may end anywhere.
    crashed: Arc<AtomicBool>,
    stalled: AtomicBool,
    /// How its next end is, whoever brings it about.
    dies_by: Mutex<Crash>,
    broken: Arc<Mutex<Option<Broken>>>,
    found: Arc<Mutex<Found>>,
    /// Of the reign that served when the first fault began: its number, and what had been evacuated by then.
    before_faults: Mutex<Option<(u64, u64)>>,
}

/// What happened to its store.
#[derive(Clone, Copy, Default)]
pub struct Found {
    pub truncations: u64,
    pub torn_tails: u64,
    pub evacuations: u64,
    /// Digests that it compared as a standby.
    pub digests: u64,
    asides: u64,
}

#[derive(Clone)]
pub struct Parts {
    pub world: World,
    pub network: Network,
    pub cluster: MemoryCluster,
    pub trace: Trace,
}

struct Process {
    group: Group,
    status: Arc<Status>,
    serving: Arc<Mutex<Option<Serving>>>,
    /// Set when it has ended by itself.
    ended: Arc<Mutex<Option<String>>>,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimNode {
    pub fn new(name: &NodeName, storage: SimStorage, (rate, standby_ack): (u32, StandbyAck), parts: &Parts) -> SimNode {
        let clock = Arc::new(SimClock::default());
        clock.pass_ms(1_700_000_000_000);
        SimNode {
            name: name.clone(),
            storage,
            clock,
            rate,
            standby_ack,
            parts: parts.clone(),
            process: Mutex::default(),
            reigns: Arc::default(),
            synced: Arc::default(),
            crashed: Arc::default(),
            stalled: AtomicBool::new(false),
            dies_by: Mutex::new(Crash::Kill),
            broken: Arc::default(),
            found: Arc::default(),
            before_faults: Mutex::default(),
        }
    }

    fn machine(&self, group: Group) -> Arc<SimMachine> {
        let Parts { world, network, .. } = &self.parts;
        Arc::new(SimMachine { world: world.clone(), network: network.clone(), name: self.name.clone(), group, rate: self.rate })
    }

    /// Starts the process.
    pub fn start(&self, peers: &[NodeName]) {
        // Whoever starts what has ended by itself may have been here before.
        if self.is_up() {
            return;
        }
        let Parts { world, network, cluster, trace } = self.parts.clone();
        let group = world.group();
        let machine = self.machine(group);
        let (links, taken) = mpsc::channel(16);
        network.listen(&self.name, Listening { group, links });
        let status = Arc::new(Status::default());
        let process = Process { group, status: status.clone(), serving: Arc::default(), ended: Arc::default() };
        let house = Arc::new(SimHouse {
            machine: machine.clone(),
            storage: self.storage.clone(),
            clock: self.clock.clone(),
            serving: process.serving.clone(),
            ended: process.ended.clone(),
            reigns: self.reigns.clone(),
            synced: self.synced.clone(),
            crashed: self.crashed.clone(),
            broken: self.broken.clone(),
            found: self.found.clone(),
            trace: trace.clone(),
        });
        let coordinator = Arc::new(SimCoordinator { machine: machine.clone(), register: cluster.node(self.name.clone()) });
        let settings = Settings {
            name: self.name.clone(),
            peers: peers.iter().filter(|peer| **peer != self.name).map(|peer| (peer.clone(), String::new())).collect::<BTreeMap<_, _>>(),
            advertise: String::new(),
            clients: Vec::new(),
            peer_timeout: Duration::from_millis(1000),
            standby_ack: self.standby_ack,
            catch_up: std::num::NonZeroU64::new(64 << 20),
        };
        trace.note(world.elapsed(), &self.name, "starts");
        let ended = process.ended.clone();
        let node = async move {
            let end = run(settings, machine, coordinator, house, taken, status).await;
            let why = match end {
                End::Fenced(why) => format!("fenced: {why}"),
                End::HandedOver(name) => format!("handed over to {name}"),
                End::Failed(why) => format!("failed: {why}"),
            };
            lock(&ended).get_or_insert(why);
        };
        if self.stalled.load(Ordering::Relaxed) {
            world.stall(group, true);
        }
        world.spawn(group, Kind::Plain, Box::pin(node));
        *lock(&self.process) = Some(process);
    }

    pub fn is_up(&self) -> bool {
        lock(&self.process).is_some()
    }

    /// The group of the process that runs.
    pub fn group(&self) -> Option<Group> {
        lock(&self.process).as_ref().map(|process| process.group)
    }

    pub fn serving(&self) -> Option<Serving> {
        lock(&self.process).as_ref().and_then(|process| lock(&process.serving).clone())
    }

    /// Why the process has ended by itself, if it has.
    pub fn ended(&self) -> Option<String> {
        lock(&self.process).as_ref().and_then(|process| lock(&process.ended).clone())
    }

    /// Up to where its log is synced, as far as it ever told.
    pub fn synced(&self) -> Lsn {
        if let Some(process) = lock(&self.process).as_ref() {
            let now = process.status.get();
            if now.role == Role::Following {
                self.synced.fetch_max(now.log.0 .0, Ordering::Relaxed);
            }
        }
        Lsn(self.synced.load(Ordering::Relaxed))
    }

    /// What it says of itself.
    pub fn says(&self) -> String {
        let Some(now) = lock(&self.process).as_ref().map(|process| process.status.get()) else { return format!("{} is down", self.name) };
        format!("{} is {}, log {:?}, standbys {:?}, {}", self.name, now.role.as_str(), now.log, now.standbys, now.says)
    }

    /// The first fault begins: evacuations count from now on.
    pub fn faults_begin(&self) {
        let now = self.serving().map_or((0, 0), |serving| (serving.number, serving.core.journal_stats().evacuated_ranges));
        lock(&self.before_faults).get_or_insert(now);
    }

    fn evacuated(&self, serving: &Serving) -> u64 {
        let all = serving.core.journal_stats().evacuated_ranges;
        match *lock(&self.before_faults) {
            None => 0,
            Some((number, before)) if number == serving.number => all - before,
            Some(_) => all,
        }
    }

    pub fn found(&self) -> Found {
        let mut found = *lock(&self.found);
        found.evacuations += self.serving().map_or(0, |serving| self.evacuated(&serving));
        found
    }

    /// Its disk answers nothing, whichever process asks.
    pub fn stall(&self, on: bool) {
        self.stalled.store(on, Ordering::Relaxed);
        if let Some(group) = self.group() {
            self.parts.world.stall(group, on);
        }
    }

    /// What a clean stop does, and what an operator asks for: clients lose their connections, the core is closed, and the standby is given the
    /// place. `false`: it serves nobody.
    pub fn hand_over(&self) -> bool {
        let process = lock(&self.process);
        let Some(process) = process.as_ref() else { return false };
        let Some(serving) = lock(&process.serving).take() else { return false };
        lock(&self.found).evacuations += self.evacuated(&serving);
        if let Err(error) = serving.core.close() {
            lock(&process.ended).get_or_insert(format!("closing: {error}"));
            return true;
        }
        let (status, ended) = (process.status.clone(), process.ended.clone());
        let given = async move {
            // Whatever came of it, this process has served.
            let why = match status.hand_over().await {
                Ok(name) => format!("handed over to {name}"),
                Err(why) => format!("could not hand over: {why}"),
            };
            lock(&ended).get_or_insert(why);
        };
        self.parts.world.spawn(process.group, Kind::Plain, Box::pin(given));
        true
    }

    /// A promise that its store broke.
    pub fn broken(&self) -> Option<Broken> {
        lock(&self.broken).clone()
    }

    /// After so many more operations of its disk the machine is dead.
    pub fn power_cut_after(&self, operations: u64) {
        *lock(&self.dies_by) = Crash::PowerCut;
        self.storage.crash_after(operations);
    }

    /// The process is gone, and its disk gives back something else than what was written.
    pub fn damage(&self, checkpoints: bool) {
        self.crash(Crash::Kill);
        let mut names = vec!["meta".to_string()];
        if checkpoints {
            let roots: Vec<String> = self.storage.list("x").unwrap_or_default().iter().map(|name| format!("x/{name}")).collect();
            // A log that begins at its beginning needs none.
            names = if roots.len() > 1 { roots } else { names };
        }
        for name in names {
            let Some(mut bytes) = self.storage.contents(&name) else { continue };
            bytes.iter_mut().skip(20).step_by(512).for_each(|byte| *byte ^= 0x55);
            self.storage.plant(&name, bytes);
        }
        self.parts.trace.note(self.parts.world.elapsed(), &self.name, "its disk is damaged");
    }

    /// The process is gone, and what its disk loses by that.
    pub fn crash(&self, kind: Crash) {
        let meant = std::mem::replace(&mut *lock(&self.dies_by), Crash::Kill);
        let kind = if meant == Crash::PowerCut { meant } else { kind };
        self.synced();
        let Some(process) = lock(&self.process).take() else {
            if kind == Crash::PowerCut {
                // The process has died before, and what the page cache kept of it goes now.
                self.storage.crash(kind);
            }
            return;
        };
        self.parts.network.close(&self.name);
        self.storage.crash(kind);
        self.crashed.store(true, Ordering::Relaxed);
        self.parts.world.kill(process.group);
        let serving = lock(&process.serving).take();
        if let Some(serving) = serving {
            lock(&self.found).evacuations += self.evacuated(&serving);
            // Its handles are of another life: nothing is written.
            serving.core.close().ok();
        }
        self.parts.trace.note(self.parts.world.elapsed(), &self.name, &format!("{kind:?}"));
    }
}

struct SimHouse {
    machine: Arc<SimMachine>,
    storage: SimStorage,
    clock: Arc<SimClock>,
    serving: Arc<Mutex<Option<Serving>>>,
    ended: Arc<Mutex<Option<String>>>,
    reigns: Arc<AtomicU64>,
    synced: Arc<AtomicU64>,
    crashed: Arc<AtomicBool>,
    broken: Arc<Mutex<Option<Broken>>>,
    found: Arc<Mutex<Found>>,
    trace: Trace,
}

struct Following {
    standby: Standby,
    name: NodeName,
    compared: u64,
    broken: Arc<Mutex<Option<Broken>>>,
    found: Arc<Mutex<Found>>,
}

impl Follows for Following {
    fn redo_up_to(&mut self, commit: Lsn) -> Result<Lsn, String> {
        let redone = self.standby.redo_up_to(commit).map_err(|error| error.to_string());
        let compared = self.standby.compared();
        lock(&self.found).digests += compared.digests - std::mem::replace(&mut self.compared, compared.digests);
        if let Some(what) = compared.differs {
            let seen = format!("{}: {what}", self.name);
            lock(&self.broken).get_or_insert(Broken { invariant: "digests_agree", seen });
        }
        redone
    }

    fn maintain(&mut self) -> bool {
        self.standby.maintain()
    }
}

impl SimHouse {
    /// Segments and checkpoints so small that a few hundred messages rotate and evacuate them.
    fn config(&self) -> journal::Config {
        journal::Config {
            clock: self.clock.clone(),
            segment_bytes: 32 << 10,
            checkpoint_bytes: 96 << 10,
            staging_bytes: 32 << 10,
            checkpoint_interval: Duration::from_secs(1),
            simulated: true,
            ..Default::default()
        }
    }

    fn drive(&self, serving: &Serving) {
        let (machine, steps) = (self.machine.clone(), serving.steps.clone());
        let commit = async move {
            loop {
                if steps.commit() {
                    machine.disk().await;
                } else {
                    machine.world.sleep(STEP / 2).await;
                }
            }
        };
        self.machine.world.spawn(self.machine.group, Kind::Disk, Box::pin(commit));
        let (machine, steps) = (self.machine.clone(), serving.steps.clone());
        let maintain = async move {
            loop {
                steps.maintain();
                machine.world.sleep(MAINTAIN).await;
            }
        };
        self.machine.world.spawn(self.machine.group, Kind::Disk, Box::pin(maintain));
        let (machine, steps) = (self.machine.clone(), serving.steps.clone());
        let work = async move {
            loop {
                while steps.read() | steps.time() | steps.spill() {}
                machine.world.sleep(STEP).await;
            }
        };
        self.machine.world.spawn(self.machine.group, Kind::Plain, Box::pin(work));
    }
}

impl House for SimHouse {
    type Follows = Following;

    fn open(&self) -> Result<(Following, Receiver), Unopened> {
        let config = broker::Config { sys_interval_secs: 0, index_bytes: 0, ..Default::default() };
        let opened = Standby::open(Arc::new(self.storage.clone()), self.config(), config);
        let (standby, receiver) = opened.map_err(|error| Unopened { damaged: error.is_damage(), why: error.to_string() })?;
        let (said, found) = (self.synced.swap(receiver.synced().0, Ordering::Relaxed), receiver.position().lsn.0);
        if self.crashed.swap(false, Ordering::Relaxed) && found < said {
            let seen = format!("{} said that its log is synced up to {said}, and it ends at {found}", self.machine.name);
            lock(&self.broken).get_or_insert(Broken { invariant: "synced_is_kept", seen });
        }
        let mut found = lock(&self.found);
        found.torn_tails += u64::from(receiver.recovered_tail_bytes() > 0);
        let asides = self.storage.list("aside").map_or(0, |names| names.len() as u64);
        found.truncations += asides.saturating_sub(found.asides);
        found.asides = asides;
        drop(found);
        let (name, broken, found) = (self.machine.name.clone(), self.broken.clone(), self.found.clone());
        Ok((Following { standby, name, compared: 0, broken, found }, receiver))
    }

    fn lead(&self, follows: Following, receiver: Receiver, begin: Begin) -> Result<Arc<Journal>, String> {
        let Begin { epoch, permitted, progress } = begin;
        let ended = self.ended.clone();
        let on_failure = Box::new(move |failure: &journal::Failure| {
            lock(&ended).get_or_insert(format!("the disk: {failure}"));
        });
        let promotion = Promotion { receiver, epoch, permitted, progress: Some(progress) };
        let (core, steps) = follows.standby.promote_stepped(promotion, on_failure).map_err(|error| error.to_string())?;
        let journal = core.journal().clone();
        let number = self.reigns.fetch_add(1, Ordering::Relaxed) + 1;
        let serving = Serving { core, steps: Arc::new(steps), epoch, number, group: self.machine.group };
        self.drive(&serving);
        self.trace.note(self.machine.world.elapsed(), &self.machine.name, &format!("serves in epoch {epoch}"));
        *lock(&self.serving) = Some(serving);
        Ok(journal)
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.storage.clone())
    }

    fn journal_config(&self) -> journal::Config {
        // Asked for by who cuts the log or replaces the store.
        self.synced.store(0, Ordering::Relaxed);
        self.config()
    }
}
