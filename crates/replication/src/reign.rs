//! A primary's part: its lease, the care for its standby, and the register.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use journal::record::known_level;
use journal::{Journal, Lsn, Progress};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::coordinator::{Cas, Coordinator, NodeName, Read, Register, Version};
use crate::disk::DiskProbe;
use crate::house::{Begin, House};
use crate::lease::Granted;
use crate::machine::Machine;
use crate::mutants::{self, Mutant};
use crate::net::Link;
use crate::node::{End, Node, Settings, StandbyAck, Won, RETRY};
use crate::peer::{Peer, Peers, Terms};
use crate::status::{Role, Status};

/// How often the primary looks after its standby.
const TICK: Duration = Duration::from_millis(20);
/// A standby is put in once what it lacks is at most this much log.
const NEAR: u64 = 8 << 20;

impl<H: House> Node<H> {
    /// This node's reign, until it is over.
    pub(crate) async fn reign(&self, won: Won<H::Follows>, links: mpsc::Receiver<(Link, NodeName)>) -> End {
        let Won { follows, receiver, version, register } = won;
        let (epoch, machine) = (register.epoch, self.machine.clone());
        let watch = Arc::new(Watch::default());
        // The lease first: whoever is granted it may serve, and starting to serve takes its time.
        let lease = Arc::new(Granted::new(machine.clone(), self.coordinator.lease()));
        let (lost, fenced) = oneshot::channel();
        let disk = match DiskProbe::start(machine.clone(), self.house.storage().as_ref(), lease.lasts / 6) {
            Ok(disk) => disk,
            Err(error) => return End::Failed(format!("a probe of the disk cannot be written: {error}")),
        };
        machine.spawn(Box::pin(lease.clone().keep(self.coordinator.clone(), epoch, disk, lost)));
        let (house, begin) = (self.house.clone(), Begin { epoch, permitted: Lsn(u64::MAX), progress: watch.clone() });
        let journal = match machine.blocking(move || house.lead(follows, receiver, begin)).await {
            Ok(Ok(journal)) => journal,
            Ok(Err(why)) | Err(why) => return End::Failed(why),
        };
        let gate = Arc::new(Gate { journal: journal.clone(), needed: Mutex::default() });
        let on_ack = {
            let (gate, watch) = (gate.clone(), watch.clone());
            Box::new(move || gate.refresh(watch.peers.get().and_then(Weak::upgrade).as_ref()))
        };
        let Settings { standby_ack, catch_up, .. } = self.settings;
        let peers = Arc::new(Peers::new(epoch, Terms { standby_ack, catch_up }, machine.clone(), journal, on_ack));
        watch.peers.set(Arc::downgrade(&peers)).ok();
        if self.coordinator.by_hand().is_some() {
            peers.tell(version, &register);
        }
        info!(epoch, "this node is primary");
        self.status.set_register(Some(&(version, register.clone())));
        self.status.set_role(Role::Primary);
        let (coordinator, settings, status) = (self.coordinator.clone(), self.settings.clone(), self.status.clone());
        let mut reign = Reign { coordinator, machine, settings, peers, gate, version, register, lease, status };
        tokio::select! {
            biased;
            why = fenced => End::Fenced(why.unwrap_or_else(|_| "the lease's keeper has ended".into())),
            end = reign.look_after(links) => end,
        }
    }
}

/// Told by the commit thread.
#[derive(Default)]
struct Watch {
    /// They hold the journal, which holds this.
    peers: OnceLock<Weak<Peers>>,
}

impl Progress for Watch {
    fn written(&self, _: Lsn) {
        if let Some(peers) = self.peers.get().and_then(Weak::upgrade) {
            peers.written.notify_one();
        }
    }

    fn committed(&self, _: Lsn) {
        // The standby hears of it with what is written next, or with the next sign of life.
    }
}

/// Whom confirms wait for, and for what of his.
struct Gate {
    journal: Arc<Journal>,
    needed: Mutex<BTreeMap<NodeName, StandbyAck>>,
}

impl Gate {
    fn refresh(&self, peers: Option<&Arc<Peers>>) {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |(name, how): (&NodeName, &StandbyAck)| peers.and_then(|peers| peers.has(name, *how)).unwrap_or(Lsn(0));
        let permitted = needed.iter().map(has).min().unwrap_or(Lsn(u64::MAX));
        self.journal.permit(permitted);
    }

    fn need(&self, name: &NodeName, how: StandbyAck, peers: &Arc<Peers>) {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), how);
        self.refresh(Some(peers));
    }

    fn forgo(&self, name: &NodeName, peers: &Arc<Peers>) {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.refresh(Some(peers));
    }
}

/// A primary's care for its standby, and for the register.
pub(crate) struct Reign {
    pub coordinator: Arc<dyn Coordinator>,
    pub machine: Arc<dyn Machine>,
    settings: Settings,
    pub peers: Arc<Peers>,
    gate: Arc<Gate>,
    version: Version,
    pub register: Register,
    pub lease: Arc<Granted>,
    pub status: Arc<Status>,
}

impl Reign {
    /// Answers why the reign is over.
    async fn look_after(&mut self, mut links: mpsc::Receiver<(Link, NodeName)>) -> End {
        let mut last_read = self.machine.now();
        loop {
            tokio::select! {
                biased;
                Some((link, name)) = links.recv() => self.machine.spawn(Box::pin(self.peers.clone().serve(link, name))),
                () = self.peers.changed.notified() => {}
                answer = self.status.asked_to_hand_over() => match self.hand_over().await {
                Ok(name) => {
                    let _ = answer.send(Ok(name.clone()));
                    return End::HandedOver(name);
                }
                Err(why) => drop(answer.send(Err(why))),
            },
                () = self.peers.wanted.notified() => self.status.wanted(),
                () = self.machine.sleep(TICK) => {}
            }
            if let Err(why) = self.step().await {
                return End::Fenced(why);
            }
            // Somebody may have been put in our place by force.
            let now = self.machine.now();
            if now.duration_since(last_read) > self.lease.lasts * 4 {
                last_read = now;
                if let Read::Known(found) = self.coordinator.read().await {
                    if let Err(why) = self.learn(found) {
                        return End::Fenced(why);
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), String> {
        let connected = self.peers.connected();
        let now = self.machine.now();
        let me = self.settings.name.clone();
        let gone = self.register.in_sync.iter().filter(|name| **name != me).find(|name| {
            connected
                .get(*name)
                .is_none_or(|peer| now.duration_since(peer.heard) > self.settings.peer_timeout || self.has_forgotten(name, peer))
        });
        if let Some(name) = gone.cloned() {
            return self.shrink(&name).await;
        }
        let (committed, written) = self.positions();
        let ready = connected.iter().find(|(name, peer)| {
            let fresh = now.duration_since(peer.heard) <= self.settings.peer_timeout / 2;
            let has = peer.has(self.waits_for(peer));
            let near = has >= committed && written.0.saturating_sub(has.0) <= NEAR;
            // From then on the lease counts, so it has to be there.
            !self.register.in_sync.contains(*name) && fresh && near && !self.lease.has_run_out()
        });
        if let Some((name, peer)) = ready {
            let (name, peer) = (name.clone(), peer.clone());
            return self.grow(&name, peer).await;
        }
        self.raise_level(&connected);
        let standbys = connected.iter().map(|(name, peer)| (name.clone(), peer.synced, peer.redone)).collect();
        self.status.set_standbys(committed, written, standbys);
        Ok(())
    }

    /// The log goes over to what this version writes once both nodes understand it, and have the whole log.
    fn raise_level(&self, connected: &BTreeMap<NodeName, Peer>) {
        let (journal, known) = (&self.gate.journal, known_level());
        if journal.level() >= known {
            return;
        }
        let understands = |name| connected.get(name).is_some_and(|peer| peer.level >= known) && self.register.in_sync.contains(name);
        match self.settings.peers.keys().find(|name| !understands(*name)) {
            Some(name) => self
                .status
                .say(&format!("the log stays at level {} until {name} understands level {known} and is in sync", journal.level())),
            None => {
                journal.raise_level(known);
                self.status.say("");
            }
        }
    }

    /// One that does not say what it has received is waited for until it has synced.
    fn waits_for(&self, peer: &Peer) -> StandbyAck {
        if peer.version >= 2 {
            self.settings.standby_ack
        } else {
            StandbyAck::Synced
        }
    }

    /// Its store is another one; or what it had in memory and not on its disk is gone: it was restarted, so quickly that its link was not missed.
    fn has_forgotten(&self, name: &NodeName, peer: &Peer) -> bool {
        let known = self.register.members.get(name).map(|member| member.boot);
        let is_another_store = known.is_some_and(|known| known >> 64 != peer.member.boot >> 64);
        is_another_store || self.register.by_memory.contains(name) && known != Some(peer.member.boot)
    }

    /// Committed, and written.
    pub(crate) fn positions(&self) -> (Lsn, Lsn) {
        let journal = &self.gate.journal;
        (journal.committed_lsn(), journal.written_and_synced().0)
    }

    /// Confirms begin to wait for it before it is proposed, so that whenever the write takes effect nothing is confirmed that it lacks.
    async fn grow(&mut self, name: &NodeName, peer: Peer) -> Result<(), String> {
        let how = self.waits_for(&peer);
        if !mutants::active(Mutant::GrowLate) {
            self.gate.need(name, how, &self.peers);
        }
        let (committed, _) = self.positions();
        if self.peers.has(name, how).is_none_or(|has| has < committed) {
            // Something was confirmed between the look and the wait; the next look sees whether it has that.
            self.gate.forgo(name, &self.peers);
            return Ok(());
        }
        let mut register = self.register.clone();
        register.in_sync.insert(name.clone());
        register.members.insert(name.clone(), peer.member);
        if how == StandbyAck::Received {
            register.by_memory.insert(name.clone());
        }
        // From now on somebody else may become primary: the lease counts.
        self.lease.set_alone(false);
        if self.write(register).await? {
            self.gate.need(name, how, &self.peers);
            info!(standby = %name, "the standby is in sync: confirms wait for it, and it can take over");
        } else {
            self.lease.set_alone(self.register.in_sync.len() == 1);
            self.gate.forgo(name, &self.peers);
        }
        Ok(())
    }

    /// Confirms do without it only when the register says so.
    async fn shrink(&mut self, name: &NodeName) -> Result<(), String> {
        let mut register = self.register.clone();
        register.in_sync.remove(name);
        register.by_memory.remove(name);
        if mutants::active(Mutant::ShrinkEarly) {
            self.gate.forgo(name, &self.peers);
        }
        if self.write(register).await? {
            warn!(standby = %name, "the standby is out of sync: confirms no longer wait for it");
            self.gate.forgo(name, &self.peers);
            self.lease.set_alone(self.register.in_sync.len() == 1);
        }
        Ok(())
    }

    /// Whether it took effect. Where that is not known, it waits until it is. An error: the reign is over.
    async fn write(&mut self, register: Register) -> Result<bool, String> {
        match self.coordinator.cas(Some(self.version), register.clone()).await {
            Cas::Won(version) => {
                self.stands(version, register);
                Ok(true)
            }
            Cas::Lost(found) => {
                self.learn(found)?;
                Ok(self.register == register)
            }
            Cas::Refused(why) => {
                warn!(%why, "the register refuses a write");
                self.machine.sleep(RETRY * 10).await;
                Ok(false)
            }
            Cas::Unknown => loop {
                match self.coordinator.read().await {
                    Read::Known(found) => {
                        self.learn(found)?;
                        return Ok(self.register == register);
                    }
                    Read::Unknown => self.machine.sleep(RETRY).await,
                }
            },
        }
    }

    fn learn(&mut self, found: Option<(Version, Register)>) -> Result<(), String> {
        let Some((version, register)) = found else { return Err("the register is gone".into()) };
        if register.epoch != self.register.epoch || register.primary != self.settings.name {
            return Err(format!("{} is primary in epoch {}", register.primary, register.epoch));
        }
        self.stands(version, register);
        Ok(())
    }

    /// The register as it stands now.
    fn stands(&mut self, version: Version, register: Register) {
        if self.coordinator.by_hand().is_some() && version != self.version {
            self.peers.tell(version, &register);
        }
        self.peers.are_in_sync(&register.in_sync);
        self.status.set_register(Some(&(version, register.clone())));
        (self.version, self.register) = (version, register);
    }
}
