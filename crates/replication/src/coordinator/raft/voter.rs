//! One voter: its parts, and its life.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use openraft::{Config, LogId, ServerState, SnapshotPolicy};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::identity::{IdentityFile, Standing};
use super::log::{Log, Machine};
use super::message::Hello;
use super::network::Network;
use super::peer::{Greet, Peer};
use super::promise::Promise;
use super::store::{Fatal, Store};
use super::types::{Raft, Serial};
use crate::coordinator::NodeName;
use crate::net;

#[derive(Debug, Clone)]
pub struct VoterPeer {
    pub name: NodeName,
    /// `host:port` of its link.
    pub address: String,
    /// It keeps no data: it begins no cluster, and leads only when nobody else can.
    pub witness: bool,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub name: NodeName,
    pub witness: bool,
    /// The other two.
    pub peers: Vec<VoterPeer>,
    pub folder: PathBuf,
    /// How long a promise lasts. [`Settings::LEASE`].
    pub lease: Duration,
    /// Between two signs of life of the voters' leader. [`Settings::HEARTBEAT`].
    pub heartbeat: Duration,
}

impl Settings {
    pub const LEASE: Duration = Duration::from_millis(350);
    pub const HEARTBEAT: Duration = Duration::from_millis(60);

    fn check(&self) -> Result<(), String> {
        let bounded = |name, value: Duration, low: u128, high: u128| match value.as_millis() {
            ms if ms < low || ms > high => Err(format!("{name} is between {low} and {high} ms")),
            _ => Ok(()),
        };
        bounded("the lease", self.lease, 150, 30_000)?;
        bounded("the heartbeat of voters", self.heartbeat, 10, 5_000)?;
        let names: std::collections::BTreeSet<_> = self.peers.iter().map(|peer| &peer.name).chain([&self.name]).collect();
        if self.peers.len() != 2 || names.len() != 3 {
            return Err("there are three voters with a name each: two data nodes and a witness".into());
        }
        match self.peers.iter().filter(|peer| peer.witness).count() + usize::from(self.witness) {
            1 => Ok(()),
            _ => Err("one of the three voters is the witness".into()),
        }
    }
}

/// A voter that has a part in raft.
#[derive(Clone)]
pub(super) struct Running {
    pub raft: Raft,
    pub machine: Machine,
    pub store: Arc<Mutex<Store>>,
}

/// One of the three voters, in the process of its node.
pub struct Voter {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

pub(super) struct Shared {
    pub settings: Settings,
    pub peers: Arc<BTreeMap<NodeName, Arc<Peer>>>,
    pub file: Mutex<IdentityFile>,
    pub running: Mutex<Option<Running>>,
    pub promise: Mutex<Promise>,
    /// When the voters' leader was last heard of.
    pub heard: Mutex<Instant>,
    /// Others remember more of this directory than is in it, or might: it is a copy.
    pub old: AtomicBool,
    pub stopped: AtomicBool,
    /// Of this process, among those of its directory.
    pub life: AtomicU64,
    pub number: AtomicU64,
    /// Raised when this voter becomes another one: those with links to it have to greet it again.
    pub generation: AtomicU64,
    /// Something that this node asked for may still happen.
    pub unresolved: AtomicBool,
    /// One command of this node at a time.
    pub commands: tokio::sync::Mutex<()>,
    fatal: Fatal,
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Voter {
    /// Opens the voter's directory and begins to reach for the others. Links that come in are given to [`Voter::serve`]. `fatal` is told when
    /// its disk fails: nothing it says may be relied on after that, so the process has to end.
    pub async fn start(settings: Settings, identity: net::Identity, fatal: Fatal) -> io::Result<Arc<Self>> {
        settings.check().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let file = IdentityFile::open(&settings.folder, &settings.name)?;
        let (peers, queues): (Vec<_>, Vec<_>) =
            settings.peers.iter().map(|peer| Peer::new(peer.name.clone(), peer.address.clone())).unzip();
        let now = Instant::now();
        if file.copied {
            error!(
                folder = %settings.folder.display(),
                "this voter's directory is a copy, and may be older than what it has promised, so it has no vote; \
                 carrick ha replace-voter {} makes it a new voter", settings.name
            );
        }
        let shared = Arc::new(Shared {
            old: AtomicBool::new(file.copied),
            life: file.identity.life.into(),
            peers: Arc::new(peers.iter().map(|peer| (peer.name.clone(), peer.clone())).collect()),
            file: Mutex::new(file),
            running: Mutex::new(None),
            promise: Mutex::new(Promise::new(settings.lease, now)),
            heard: Mutex::new(now),
            stopped: AtomicBool::new(false),
            number: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            // What an earlier life of this node asked for.
            unresolved: AtomicBool::new(true),
            commands: tokio::sync::Mutex::new(()),
            fatal,
            settings,
        });
        if lock(&shared.file).identity.cluster.is_some() {
            shared.run().await?;
        }
        let mut tasks = JoinSet::new();
        for (peer, queue) in peers.into_iter().zip(queues) {
            tasks.spawn(peer.keep(queue, identity.clone(), shared.clone()));
        }
        tasks.spawn(super::form::form(shared.clone()));
        tasks.spawn(super::elect::elect(shared.clone()));
        Ok(Arc::new(Self { shared, tasks: Mutex::new(tasks) }))
    }

    pub fn name(&self) -> &NodeName {
        &self.shared.settings.name
    }

    /// Ends its part in raft and its own links. Its directory may be opened again after that.
    pub async fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        let running = lock(&self.shared.running).take();
        if let Some(running) = running {
            let _ = running.raft.shutdown().await;
        }
        lock(&self.shared.file).close();
    }
}

impl Shared {
    /// Takes part in raft from now on.
    pub async fn run(self: &Arc<Self>) -> io::Result<()> {
        let id = lock(&self.file).identity.id;
        let store = Store::open(&self.settings.folder, id, self.fatal.clone())?;
        let store = Arc::new(Mutex::new(store));
        let machine = Machine::new(store.clone());
        let heartbeat = self.settings.heartbeat.as_millis() as u64;
        let config = Config {
            cluster_name: "carrick".into(),
            heartbeat_interval: heartbeat,
            election_timeout_min: heartbeat * 3,
            election_timeout_max: self.election_timeout().as_millis() as u64,
            // `elect` decides when.
            enable_elect: false,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(256),
            max_in_snapshot_log_to_keep: 64,
            install_snapshot_timeout: 2_000,
            ..Config::default()
        };
        let weak = Arc::downgrade(self);
        let network = Network {
            peers: self.peers.clone(),
            noted: Arc::new(move |peer, term, entries| {
                if let Some(shared) = weak.upgrade() {
                    shared.note(peer, term, entries);
                }
            }),
        };
        let config = Arc::new(config.validate().map_err(io::Error::other)?);
        let raft = Raft::new(id, config, network, Log(store.clone()), machine.clone()).await.map_err(io::Error::other)?;
        *lock(&self.running) = Some(Running { raft, machine, store });
        Ok(())
    }

    /// So long nobody stands after the leader was heard of last.
    pub fn election_timeout(&self) -> Duration {
        self.settings.heartbeat * 4
    }

    pub fn running(&self) -> Option<Running> {
        if self.old.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.running).clone()
    }

    pub fn cluster(&self) -> Option<u128> {
        lock(&self.file).identity.cluster
    }

    pub fn next_serial(&self) -> Serial {
        Serial { life: self.life.load(Ordering::Acquire), number: self.number.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// A node of this name has asked for more than this directory knows of, so that what is asked from here comes too late: the directory was lost or
    /// is a copy. From now on this is a later life than that one's.
    pub fn outlive(&self) {
        let name = &self.settings.name;
        let latest = self.running().and_then(|running| running.machine.with(|state| state.latest_of(name)));
        let life = self.life.load(Ordering::Acquire).max(latest.map_or(0, |serial| serial.life)) + 1;
        self.must(lock(&self.file).change(|identity| identity.life = life));
        self.life.store(life, Ordering::Release);
    }

    pub fn standing(&self) -> Standing {
        let (id, cluster, life) = {
            let file = lock(&self.file);
            (file.identity.id, file.identity.cluster, file.identity.life)
        };
        let (term, entries) = lock(&self.running).as_ref().map_or((0, 0), |running| {
            let memory = &lock(&running.store).memory;
            let snapshot = memory.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
            (memory.vote.map_or(0, |vote| vote.leader_id.term), memory.last().max(snapshot).map_or(0, |last| last.index + 1))
        });
        Standing { id, cluster, life, term, entries }
    }

    /// The ids of the voters by this voter's log. Empty before it has one.
    pub fn voters(&self) -> BTreeMap<u64, NodeName> {
        let Some(running) = self.running() else { return BTreeMap::new() };
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let named = |id: u64| Some((id, membership.get_node(&id)?.addr.parse().ok()?));
        membership.voter_ids().filter_map(named).collect()
    }

    pub fn last_entry(&self) -> Option<LogId<u64>> {
        self.running().and_then(|running| lock(&running.store).memory.last())
    }

    pub fn leads(&self) -> bool {
        self.running().is_some_and(|running| running.raft.metrics().borrow().state == ServerState::Leader)
    }

    /// What is known of another voter's directory is kept, so that an older copy of it does not pass for it.
    fn note(&self, peer: &NodeName, term: u64, entries: u64) {
        let mut file = lock(&self.file);
        let Some(seen) = file.identity.seen.get(peer).copied() else { return };
        if seen.term >= term && seen.entries >= entries {
            return;
        }
        let seen = Standing { term: seen.term.max(term), entries: seen.entries.max(entries), ..seen };
        let peer = peer.clone();
        self.must(file.change(|identity| {
            identity.seen.insert(peer, seen);
        }));
    }

    /// A raft that has stopped, for whatever reason, is a voter that cannot know what it promises on.
    pub fn must_run(&self) {
        let why = |running: Running| running.raft.metrics().borrow().running_state.as_ref().err().map(ToString::to_string);
        let Some(why) = self.running().and_then(why) else { return };
        // It is stopped on purpose when this voter ends or is made anew; then it is not there any more.
        if lock(&self.running).is_some() {
            self.must(Err(io::Error::other(format!("the voters' raft has stopped: {why}"))));
        }
    }

    /// An error of the disk ends the voter.
    pub fn must(&self, outcome: io::Result<()>) {
        let Err(error) = outcome else { return };
        if !self.stopped.load(Ordering::Acquire) {
            (self.fatal)(&format!("{}: {error}", self.settings.folder.display()));
        }
    }

    fn judge(&self, peer: &NodeName, hello: &Hello) -> Result<bool, String> {
        let own = self.standing();
        if hello.seen.is_some_and(|seen| own.is_older_than(&seen)) && !self.old.swap(true, Ordering::AcqRel) {
            error!(
                folder = %self.settings.folder.display(), by = %peer,
                "this voter's directory is older than what it has promised to others, so it has no vote; \
                 carrick ha replace-voter {} makes it a new voter", self.settings.name
            );
        }
        let said = hello.standing;
        let lease = self.settings.lease.as_millis() as u64;
        if hello.lease != lease {
            let why = format!(
                "the lease is {lease} ms on {}, and {} ms on {peer}: it has to be the same on all three",
                self.settings.name, hello.lease
            );
            warn!(voter = %peer, why, "a voter is refused");
            return Err(why);
        }
        if let (Some(ours), Some(theirs)) = (own.cluster, said.cluster) {
            if ours != theirs {
                return Err(format!("{} and {peer} are voters of different clusters", self.settings.name));
            }
        }
        let mut file = lock(&self.file);
        let seen = file.identity.seen.get(peer).copied();
        if let Some(seen) = seen.filter(|seen| said.is_older_than(seen)) {
            warn!(voter = %peer, says = ?said, seen = ?seen, "another voter's directory is older than what it has promised, so it has no vote");
            return Ok(false);
        }
        let entries = seen.filter(|seen| seen.id == said.id).map_or(0, |seen| seen.entries);
        let noted = Standing { entries, ..said };
        if seen != Some(noted) {
            let peer = peer.clone();
            self.must(file.change(|identity| {
                identity.seen.insert(peer, noted);
            }));
        }
        Ok(true)
    }

    /// Becomes another voter in the same place.
    pub async fn begin_anew(self: &Arc<Self>, cluster: u128) -> io::Result<u64> {
        let running = lock(&self.running).take();
        if let Some(running) = running {
            let _ = running.raft.shutdown().await;
        }
        let id: u64 = {
            let mut file = lock(&self.file);
            file.begin_anew()?;
            file.change(|identity| identity.cluster = Some(cluster))?;
            file.identity.id
        };
        *lock(&self.promise) = Promise::new(self.settings.lease, Instant::now());
        self.unresolved.store(true, Ordering::Release);
        self.old.store(false, Ordering::Release);
        self.run().await?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        info!(id, "this node has become a new voter");
        Ok(id)
    }
}

impl Greet for Shared {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn hello(&self, to: &NodeName) -> Hello {
        let seen = lock(&self.file).identity.seen.get(to).copied();
        Hello { standing: self.standing(), lease: self.settings.lease.as_millis() as u64, seen, voters: self.voters() }
    }

    fn judge(&self, peer: &NodeName, hello: &Hello) -> Result<bool, String> {
        Shared::judge(self, peer, hello)
    }
}
