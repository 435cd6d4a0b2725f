//! What a data node does: it asks the register who is primary, follows that one or is it, and takes over when it may.
//!
//! ```text
//! Joining ──► Following ──► (in sync) ──► Promoting ──► Primary ──► Fenced (the process exits with 75, and joins again)
//! ```
//!
//! Rules that the code below keeps, and the register with it:
//! * A confirm waits for the sync of every member of the in-sync set. A member is taken out by a write to the register *before* a confirm does
//!   without it, and put in by one *after* confirms have begun to wait for it.
//! * A standby that proposes itself acks nothing any more until it knows what became of the proposal.
//! * What comes of a write is not known (`Unknown`): the node keeps to the stricter of both until a read tells.
//! * A primary without a lease stops, unless it is the only one in sync: then nobody else can be primary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use journal::{cut, start_over, Cut, Incoming, Journal, Lsn, Progress, Receiver};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::coordinator::{Cas, Coordinator, Lease, Member, NodeName, Read, Register, Version};
use crate::disk::Pulse;
use crate::house::{Begin, House, Leads};
use crate::net::{Identity, Link, Purpose};
use crate::peer::{follow, serve, Followed, Following, Hello, Peers};
use crate::status::{Role, Status};

/// Between two looks at the register, and two attempts to reach somebody.
const RETRY: Duration = Duration::from_millis(50);
/// A primary says nothing before it is greeted; one that is none says so at once.
const TURNED_AWAY: Duration = Duration::from_millis(150);
/// How often the primary looks after its standby.
const TICK: Duration = Duration::from_millis(20);
/// A standby is put in once what it lacks is at most this much log.
const NEAR: u64 = 8 << 20;

/// How a node is set up.
#[derive(Clone)]
pub struct Settings {
    pub name: NodeName,
    pub identity: Identity,
    /// The other data nodes: where their links are accepted.
    pub peers: BTreeMap<NodeName, String>,
    /// Where this node's are, as others reach it.
    pub advertise: String,
    /// What clients are told of this node.
    pub clients: Vec<String>,
    /// A standby that has not acked for so long is taken out, and a primary that is silent for so long is gone.
    pub silence: Duration,
}

/// Why a node has ended. The process that had it goes as well.
#[derive(Debug)]
pub enum End {
    /// It is primary no more, or cannot know whether it is.
    Fenced(String),
    /// Its store cannot be used.
    Failed(String),
}

/// Runs a node for good. `links`: those that others made to it, for [`Purpose::Peer`].
pub async fn run<H: House>(
    settings: Settings,
    coordinator: Arc<dyn Coordinator>,
    house: Arc<H>,
    mut links: mpsc::Receiver<(Link, NodeName)>,
    status: Arc<Status>,
) -> End {
    let mut node = Node { settings, coordinator, house, status: status.clone() };
    loop {
        let stood_by = tokio::select! {
            stood_by = node.stand_by() => stood_by,
            () = turn_away(&mut links, &status) => unreachable!("it goes on for ever"),
        };
        match stood_by {
            Ok(StoodBy::Again) => {}
            Ok(StoodBy::Promoted(won)) => return node.reign(*won, links).await,
            Err(why) => return End::Failed(why),
        }
    }
}

/// What a node says that stands by with a store in which nothing ever was.
const EMPTY: &[u8] = b"this node is not primary, and its store is empty";

/// Somebody takes us for the primary.
async fn turn_away(links: &mut mpsc::Receiver<(Link, NodeName)>, status: &Status) {
    loop {
        match links.recv().await {
            Some((mut link, peer)) => {
                debug!(%peer, "a node takes this one for the primary, which it is not");
                let text = if status.store_is_empty() { EMPTY } else { b"this node is not primary" };
                let _ = tokio::time::timeout(RETRY, link.send(crate::peer::NO, text, &[])).await;
            }
            None => std::future::pending().await,
        }
    }
}

struct Node<H: House> {
    settings: Settings,
    coordinator: Arc<dyn Coordinator>,
    house: Arc<H>,
    status: Arc<Status>,
}

enum StoodBy<F> {
    /// The store has to be opened anew.
    Again,
    Promoted(Box<Won<F>>),
}

/// The register names this node.
struct Won<F> {
    follows: F,
    receiver: Receiver,
    version: Version,
    register: Register,
}

/// What this node says of itself wherever it writes.
struct Me {
    member: Member,
    cluster: u128,
    hello: Hello,
}

impl<H: House> Node<H> {
    fn opened(&self, receiver: &Receiver) -> Me {
        let member = Member {
            boot: u128::from(receiver.store_id()) << 64 | u128::from(receiver.boot_id()),
            peer: self.settings.advertise.clone(),
            clients: self.settings.clients.clone(),
        };
        let (cluster, promised, end) = (receiver.cluster(), receiver.promised(), receiver.position());
        Me { member: member.clone(), cluster, hello: Hello { cluster, promised, end, member } }
    }

    /// One life of the store as a standby's.
    async fn stand_by(&mut self) -> Result<StoodBy<H::Follows>, String> {
        self.status.set_role(Role::Joining);
        self.status.opened(false);
        let house = self.house.clone();
        let (mut follows, mut receiver) = blocking(move || house.open()).await?;
        let mut me = self.opened(&receiver);
        self.status.opened(me.hello.end.lsn == Lsn(0));
        loop {
            let known = match self.coordinator.read().await {
                Read::Known(known) => known,
                Read::Unknown => {
                    self.status.say("nobody answers for the register");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.status.set_register(known.as_ref());
            let Some((version, register)) = known else {
                // The first node of all: one that has messages, or of two empty ones that with the lower name. Nobody writes past a store that is
                // still being opened.
                if me.hello.end.lsn == Lsn(0) && !self.may_be_first().await {
                    self.status.say("waiting for the other data node, which may have messages");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                let epoch = receiver.promised() + 1;
                match self.propose(None, &me, epoch, BTreeMap::new()).await {
                    Some((version, register)) => return Ok(promoted(follows, receiver, version, register)),
                    None => continue,
                }
            };
            if register.cluster != me.cluster && me.hello.end.lsn != Lsn(0) {
                return Err(
                    "this store belongs to another cluster than the register; empty the data directory to let it be replaced".into()
                );
            }
            let mine = register.primary == self.settings.name;
            let eligible = self.eligible(&register, &me);
            // It was ours before a restart, or the primary is gone from sight.
            if eligible && (mine || !self.reachable(&register).await) {
                self.status.say("waiting until no other node can be primary");
                tokio::select! {
                    () = self.coordinator.vacant() => {}
                    () = self.until_reachable(&register), if !mine => continue,
                }
                let epoch = register.epoch + 1;
                match self.propose(Some(version), &me, epoch, register.members).await {
                    // The log may have been used without the register and be in a later epoch: then one step does not do.
                    Some((_, register)) if register.epoch <= receiver.promised() => continue,
                    Some((version, register)) => return Ok(promoted(follows, receiver, version, register)),
                    None => {
                        self.coordinator.release().await;
                        continue;
                    }
                }
            }
            if mine {
                self.status.say("the register names this node, but not with this store: another member in sync has to take over");
                tokio::time::sleep(RETRY * 10).await;
                continue;
            }
            let (over, back) = self.follow_once(&register, &me, follows, receiver).await?;
            (follows, receiver) = back;
            me = self.opened(&receiver);
            match over {
                Followed::Lost(why) => {
                    self.status.say(&format!("the link to {} is over: {why}", register.primary));
                    tokio::time::sleep(RETRY).await;
                }
                Followed::Refused(why) => {
                    warn!(primary = %register.primary, %why, "refused by the primary");
                    self.status.say(&format!("{} refuses us: {why}", register.primary));
                    tokio::time::sleep(RETRY * 10).await;
                }
                Followed::Failed(why) => return Err(why),
                Followed::Cut(to) => {
                    drop((follows, receiver));
                    self.cut(to).await?;
                    return Ok(StoodBy::Again);
                }
                Followed::StartOver(cluster) => {
                    drop((follows, receiver));
                    let (storage, config) = (self.house.storage(), self.house.journal_config());
                    blocking(move || start_over(storage, cluster, &config).map_err(|error| error.to_string())).await?;
                    return Ok(StoodBy::Again);
                }
                Followed::Copied(cluster, incoming) => {
                    drop((follows, receiver));
                    let config = self.house.journal_config();
                    blocking(move || incoming.finish(cluster, &config).map_err(|error| error.to_string())).await?;
                    return Ok(StoodBy::Again);
                }
            }
        }
    }

    /// Whether the register says that this very store has everything that was confirmed.
    fn eligible(&self, register: &Register, me: &Me) -> bool {
        let name = &self.settings.name;
        let same_store = register.members.get(name).is_some_and(|member| member.boot >> 64 == me.member.boot >> 64);
        register.in_sync.contains(name) && register.cluster == me.cluster && same_store
    }

    /// Writes a register that names this node, alone in sync. `None`: it did not come about, or nobody knows yet.
    async fn propose(
        &self,
        expect: Option<Version>,
        me: &Me,
        epoch: u64,
        mut members: BTreeMap<NodeName, Member>,
    ) -> Option<(Version, Register)> {
        members.insert(self.settings.name.clone(), me.member.clone());
        let name = self.settings.name.clone();
        let register = Register { epoch, primary: name.clone(), in_sync: BTreeSet::from([name]), cluster: me.cluster, members };
        self.status.set_role(Role::Promoting);
        match self.coordinator.cas(expect, register.clone()).await {
            Cas::Won(version) => Some((version, register)),
            Cas::Lost(_) => None,
            Cas::Refused(why) => {
                warn!(%why, "the register refuses this node as primary");
                tokio::time::sleep(RETRY * 10).await;
                None
            }
            // A read tells: until then nothing is acked, since nobody is followed.
            Cas::Unknown => loop {
                match self.coordinator.read().await {
                    Read::Known(Some((version, found))) if found == register => return Some((version, found)),
                    Read::Known(_) => return None,
                    Read::Unknown => tokio::time::sleep(RETRY).await,
                }
            },
        }
    }

    fn address(&self, register: &Register) -> String {
        let told = register.members.get(&register.primary).map(|member| member.peer.clone());
        self.settings.peers.get(&register.primary).cloned().or(told).unwrap_or_default()
    }

    async fn reachable(&self, register: &Register) -> bool {
        let (address, identity) = (self.address(register), self.settings.identity.clone());
        let dial = Link::dial(&address, &register.primary, Purpose::Peer, &identity);
        let Ok(Ok(mut link)) = tokio::time::timeout(self.settings.silence, dial).await else { return false };
        // A process is not a primary yet.
        tokio::time::timeout(TURNED_AWAY, link.recv()).await.is_err()
    }

    /// Whether an empty store may begin the cluster: the other data node's is empty too, and its name is higher.
    async fn may_be_first(&self) -> bool {
        let Some((peer, address)) = self.settings.peers.iter().next() else { return true };
        let dial = Link::dial(address, peer, Purpose::Peer, &self.settings.identity);
        let Ok(Ok(mut link)) = tokio::time::timeout(self.settings.silence, dial).await else { return false };
        match tokio::time::timeout(self.settings.silence, link.recv()).await {
            Ok(Ok(Some((crate::peer::NO, text)))) => text == EMPTY && self.settings.name < *peer,
            _ => false,
        }
    }

    async fn until_reachable(&self, register: &Register) {
        while !self.reachable(register).await {
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Follows the primary over one link, and answers with the store's halves back.
    async fn follow_once(
        &self,
        register: &Register,
        me: &Me,
        follows: H::Follows,
        receiver: Receiver,
    ) -> Result<(Followed, (H::Follows, Receiver)), String> {
        let address = self.address(register);
        let dial = Link::dial(&address, &register.primary, Purpose::Peer, &self.settings.identity);
        let link = match tokio::time::timeout(self.settings.silence, dial).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Ok((Followed::Lost(error.to_string()), (follows, receiver))),
            Err(_) => return Ok((Followed::Lost("it does not answer".into()), (follows, receiver))),
        };
        self.status.set_role(Role::Following);
        let hello = Hello { promised: receiver.promised(), end: receiver.position(), ..me.hello.clone() };
        let following = Following::start(follows, receiver).map_err(|error| format!("starting a thread: {error}"))?;
        let storage = self.house.storage();
        let over = {
            let following = &following;
            let status = self.status.clone();
            let watch = async move {
                loop {
                    let (synced, redone) = following.progress();
                    status.set_progress(synced, redone);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            tokio::select! {
                over = follow(link, &hello, following, || Incoming::begin(storage.clone()), self.settings.silence) => over,
                () = watch => unreachable!("it goes on for ever"),
            }
        };
        info!(primary = %register.primary, over = ?OverText(&over), "no longer following");
        let back = blocking(move || following.stop()).await?;
        Ok((over, back))
    }

    async fn cut(&self, to: Lsn) -> Result<(), String> {
        let (storage, config) = (self.house.storage(), self.house.journal_config());
        let done = blocking(move || cut(storage.as_ref(), &config, to).map_err(|error| error.to_string())).await?;
        match done {
            Cut::Done { kept_in } => {
                warn!(%to, kept_in, "a tail of the log that no other node has was cut off");
                Ok(())
            }
            Cut::TooLate => Err(format!(
                "this store has a checkpoint behind {to}, where its log leaves the primary's; empty the data directory to let it be replaced"
            )),
        }
    }

    /// This node's reign, until it is over.
    async fn reign(&mut self, won: Won<H::Follows>, links: mpsc::Receiver<(Link, NodeName)>) -> End {
        let Won { follows, receiver, version, register } = won;
        let epoch = register.epoch;
        let watch = Arc::new(Watch::default());
        let house = self.house.clone();
        let begin = Begin { epoch, permitted: Lsn(u64::MAX), progress: watch.clone() };
        // The lease first: whoever is granted it may serve, and starting to serve takes its time.
        let lease = Arc::new(Granted::new(self.coordinator.lease()));
        let (lost, fenced) = oneshot::channel();
        let disk = match Pulse::start(self.house.storage(), self.coordinator.lease() / 6) {
            Ok(disk) => disk,
            Err(error) => return End::Failed(format!("the disk's pulse: {error}")),
        };
        tokio::spawn(keep_lease(self.coordinator.clone(), epoch, lease.clone(), disk, lost));
        let leads = match blocking(move || house.lead(follows, receiver, begin)).await {
            Ok(leads) => leads,
            Err(why) => return End::Failed(why),
        };
        let gate = Arc::new(Gate { leads: leads.clone(), needed: Mutex::default() });
        let on_ack = {
            let gate = gate.clone();
            let watch = watch.clone();
            Box::new(move || gate.refresh(watch.peers.get()))
        };
        let peers = Arc::new(Peers::new(epoch, leads, on_ack));
        watch.peers.set(peers.clone()).ok();
        info!(epoch, "this node is primary");
        self.status.set_register(Some(&(version, register.clone())));
        self.status.set_role(Role::Primary);
        let settings = self.settings.clone();
        let mut reign =
            Reign { coordinator: self.coordinator.clone(), settings, peers, gate, version, register, lease, status: self.status.clone() };
        tokio::select! {
            why = reign.look_after(links) => End::Fenced(why),
            why = fenced => End::Fenced(why.unwrap_or_else(|_| "the lease's keeper has ended".into())),
        }
    }
}

fn promoted<F>(follows: F, receiver: Receiver, version: Version, register: Register) -> StoodBy<F> {
    StoodBy::Promoted(Box::new(Won { follows, receiver, version, register }))
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R, String> + Send + 'static) -> Result<R, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(format!("a thread of the node panicked: {error}")))
}

struct OverText<'a>(&'a Followed);

impl std::fmt::Debug for OverText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Followed::Lost(why) => write!(f, "{why}"),
            Followed::Refused(why) => write!(f, "refused: {why}"),
            Followed::Cut(to) => write!(f, "the log is to be cut at {to}"),
            Followed::StartOver(_) => write!(f, "this empty store joins the cluster"),
            Followed::Copied(..) => write!(f, "a copy of the primary's store is here"),
            Followed::Failed(why) => write!(f, "the store failed: {why}"),
        }
    }
}

/// Told by the commit thread.
#[derive(Default)]
struct Watch {
    peers: std::sync::OnceLock<Arc<Peers>>,
}

impl Progress for Watch {
    fn written(&self, _: Lsn) {
        if let Some(peers) = self.peers.get() {
            peers.written.notify_one();
        }
    }

    fn committed(&self, _: Lsn) {
        if let Some(peers) = self.peers.get() {
            // The standby redoes what is committed.
            peers.written.notify_one();
        }
    }
}

/// Whose sync confirms wait for.
struct Gate {
    leads: Arc<dyn Leads>,
    needed: Mutex<BTreeSet<NodeName>>,
}

impl Gate {
    fn refresh(&self, peers: Option<&Arc<Peers>>) {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = |name: &NodeName| peers.and_then(|peers| peers.synced(name)).unwrap_or(Lsn(0));
        let permitted = needed.iter().map(synced).min().unwrap_or(Lsn(u64::MAX));
        self.leads.with_journal(&mut |journal: &Journal| journal.permit(permitted));
    }

    fn need(&self, name: &NodeName, peers: &Arc<Peers>) {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        self.refresh(Some(peers));
    }

    fn forgo(&self, name: &NodeName, peers: &Arc<Peers>) {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.refresh(Some(peers));
    }
}

/// Until when this node may act, in nanoseconds since it began to count.
struct Granted {
    base: Instant,
    until: AtomicU64,
    /// Nobody else is in sync, so nobody else can be primary.
    alone: std::sync::atomic::AtomicBool,
    lease: Duration,
}

impl Granted {
    fn new(lease: Duration) -> Granted {
        // The register has just been written by this node: until the first renewal that counts as a grant.
        let until = AtomicU64::new(lease.as_nanos() as u64);
        Granted { base: Instant::now(), until, alone: true.into(), lease }
    }

    fn extend(&self, until: Instant) {
        self.until.fetch_max(until.saturating_duration_since(self.base).as_nanos() as u64, Ordering::AcqRel);
    }

    fn left(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire)).saturating_sub(self.base.elapsed())
    }

    fn has_run_out(&self) -> bool {
        self.left().is_zero()
    }

    fn is_over(&self) -> bool {
        self.has_run_out() && !self.alone.load(Ordering::Acquire)
    }

    /// How long to wait for something at most, so that the end is noticed when it comes.
    fn at_most(&self, wait: Duration) -> Duration {
        if self.alone.load(Ordering::Acquire) {
            wait
        } else {
            wait.min(self.left() + Duration::from_millis(1))
        }
    }
}

/// Renews the lease for as long as the disk earns it.
async fn keep_lease(coordinator: Arc<dyn Coordinator>, epoch: u64, granted: Arc<Granted>, disk: Pulse, lost: oneshot::Sender<String>) {
    let every = granted.lease / 6;
    loop {
        if disk.since() < granted.lease {
            let answer = tokio::time::timeout(granted.at_most(granted.lease), coordinator.renew(epoch)).await;
            if let Ok(Lease::Granted { until }) = answer {
                granted.extend(until);
            }
        }
        if granted.is_over() {
            let _ = lost.send("the lease is over and cannot be renewed".into());
            return;
        }
        tokio::time::sleep(granted.at_most(every)).await;
    }
}

/// A primary's care for its standby, and for the register.
struct Reign {
    coordinator: Arc<dyn Coordinator>,
    settings: Settings,
    peers: Arc<Peers>,
    gate: Arc<Gate>,
    version: Version,
    register: Register,
    lease: Arc<Granted>,
    status: Arc<Status>,
}

impl Reign {
    /// Answers why the reign is over.
    async fn look_after(&mut self, mut links: mpsc::Receiver<(Link, NodeName)>) -> String {
        let mut last_read = Instant::now();
        loop {
            tokio::select! {
                Some((link, name)) = links.recv() => {
                    tokio::spawn(serve(link, name, self.peers.clone()));
                }
                () = self.peers.changed.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            let step = self.step().await;
            if let Err(why) = step {
                return why;
            }
            // Somebody may have been put in our place by force.
            if last_read.elapsed() > self.lease.lease * 4 {
                last_read = Instant::now();
                if let Read::Known(found) = self.coordinator.read().await {
                    if let Err(why) = self.learn(found) {
                        return why;
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), String> {
        let connected = self.peers.connected();
        let now = Instant::now();
        let me = self.settings.name.clone();
        let gone = self
            .register
            .in_sync
            .iter()
            .filter(|name| **name != me)
            .find(|name| connected.get(*name).is_none_or(|peer| now.duration_since(peer.heard) > self.settings.silence));
        if let Some(name) = gone.cloned() {
            return self.shrink(&name).await;
        }
        let (committed, written) = self.positions();
        let ready = connected.iter().find(|(name, peer)| {
            let fresh = now.duration_since(peer.heard) <= self.settings.silence / 2;
            let near = peer.synced >= committed && written.0.saturating_sub(peer.synced.0) <= NEAR;
            // From then on the lease counts, so it has to be there.
            !self.register.in_sync.contains(*name) && fresh && near && !self.lease.has_run_out()
        });
        if let Some((name, peer)) = ready {
            let (name, member) = (name.clone(), peer.member.clone());
            return self.grow(&name, member).await;
        }
        let standbys = connected.iter().map(|(name, peer)| (name.clone(), peer.synced, peer.redone)).collect();
        self.status.set_standbys(committed, written, standbys);
        Ok(())
    }

    fn positions(&self) -> (Lsn, Lsn) {
        let mut found = (Lsn(0), Lsn(0));
        self.gate.leads.with_journal(&mut |journal| found = (journal.committed_lsn(), journal.written_and_synced().0));
        found
    }

    /// Confirms begin to wait for it before it is proposed, so that whenever the write takes effect nothing is confirmed that it lacks.
    async fn grow(&mut self, name: &NodeName, member: Member) -> Result<(), String> {
        self.gate.need(name, &self.peers);
        let (committed, _) = self.positions();
        if self.peers.synced(name).is_none_or(|synced| synced < committed) {
            // Something was confirmed between the look and the wait; the next look sees whether it has that.
            self.gate.forgo(name, &self.peers);
            return Ok(());
        }
        let mut register = self.register.clone();
        register.in_sync.insert(name.clone());
        register.members.insert(name.clone(), member);
        // From now on somebody else may become primary: the lease counts.
        self.lease.alone.store(false, Ordering::Release);
        let result = self.write(register).await?;
        if result {
            info!(standby = %name, "the standby is in sync: confirms wait for it, and it can take over");
        } else {
            self.lease.alone.store(self.register.in_sync.len() == 1, Ordering::Release);
            self.gate.forgo(name, &self.peers);
        }
        Ok(())
    }

    /// Confirms do without it only when the register says so.
    async fn shrink(&mut self, name: &NodeName) -> Result<(), String> {
        let mut register = self.register.clone();
        register.in_sync.remove(name);
        if self.write(register).await? {
            warn!(standby = %name, "the standby is out of sync: confirms no longer wait for it");
            self.gate.forgo(name, &self.peers);
            self.lease.alone.store(self.register.in_sync.len() == 1, Ordering::Release);
        }
        Ok(())
    }

    /// Whether it took effect. Where that is not known, it waits until it is. An error: the reign is over.
    async fn write(&mut self, register: Register) -> Result<bool, String> {
        match self.coordinator.cas(Some(self.version), register.clone()).await {
            Cas::Won(version) => {
                (self.version, self.register) = (version, register);
                self.status.set_register(Some(&(self.version, self.register.clone())));
                Ok(true)
            }
            Cas::Lost(found) => {
                self.learn(found)?;
                Ok(self.register == register)
            }
            Cas::Refused(why) => {
                warn!(%why, "the register refuses a write");
                tokio::time::sleep(RETRY * 10).await;
                Ok(false)
            }
            Cas::Unknown => loop {
                match self.coordinator.read().await {
                    Read::Known(found) => {
                        self.learn(found)?;
                        return Ok(self.register == register);
                    }
                    Read::Unknown => tokio::time::sleep(RETRY).await,
                }
            },
        }
    }

    fn learn(&mut self, found: Option<(Version, Register)>) -> Result<(), String> {
        let Some((version, register)) = found else { return Err("the register is gone".into()) };
        if register.epoch != self.register.epoch || register.primary != self.settings.name {
            return Err(format!("{} is primary in epoch {}", register.primary, register.epoch));
        }
        (self.version, self.register) = (version, register);
        Ok(())
    }
}
