//! What a data node does: it asks the register who is primary, follows that one or is it, and takes over when it may.
//!
//! ```text
//! Joining ──► Following ──► (in sync) ──► Promoting ──► Primary ──► Fenced, or HandedOver (the process exits, and joins again)
//! ```
//!
//! Rules that the code below keeps, and the register with it:
//! * A confirm waits for the sync of every member of the in-sync set. A member is taken out by a write to the register *before* a confirm does
//!   without it, and put in by one *after* confirms have begun to wait for it.
//! * A standby that proposes itself acks nothing any more until it knows what became of the proposal.
//! * What comes of a write is not known (`Unknown`): the node keeps to the stricter of both until a read tells.
//! * A primary without a lease stops, unless it is the only one in sync: then nobody else can be primary.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use journal::{cut, start_over, Cut, Lsn, Receiver};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::coordinator::{Cas, Coordinator, Member, NodeName, Read, Register, Version};
use crate::house::House;
use crate::machine::Machine;
use crate::mutants::{self, Mutant};
use crate::net::Link;
use crate::peer::{Followed, Following, Hello, Standby};
use crate::replace::Replaced;
use crate::status::{Role, Status};

/// Between two looks at the register, and two attempts to reach somebody.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// A primary says nothing before it is greeted; one that is none says so at once.
const TURNED_AWAY: Duration = Duration::from_millis(150);
/// Whoever was offered the primary's place waits no longer for it before it looks at the register anew.
const OFFERED: Duration = Duration::from_secs(2);

/// How a node is set up.
#[derive(Clone)]
pub struct Settings {
    pub name: NodeName,
    /// The other data nodes: where their links are accepted.
    pub peers: BTreeMap<NodeName, String>,
    /// Where this node's are, as others reach it.
    pub advertise: String,
    /// What clients are told of this node.
    pub clients: Vec<String>,
    /// A standby that has not acked for so long is taken out, and a primary that is silent for so long is gone.
    pub peer_timeout: Duration,
    /// What confirms of this node's reigns wait for on its standby.
    pub standby_ack: StandbyAck,
    /// Bytes a second for a standby that is not in sync; `None`: as fast as it goes.
    pub catch_up: Option<NonZeroU64>,
}

/// When a standby has a message, as far as confirms are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StandbyAck {
    /// It is synced on its disk.
    #[default]
    Synced,
    /// It is in the memory of its process. Where that ends before it is written, the message is on the primary's disk only, and the standby
    /// is not eligible until it has caught up.
    Received,
}

/// Why a node has ended. The process that had it goes as well.
#[derive(Debug)]
pub enum End {
    /// It is primary no more, or cannot know whether it is.
    Fenced(String),
    /// It was asked to give its place to this node, and has.
    HandedOver(NodeName),
    /// Its store cannot be used.
    Failed(String),
}

/// Runs a node for good. `links`: those that others made to it, as to a primary.
pub async fn run<H: House>(
    settings: Settings,
    machine: Arc<dyn Machine>,
    coordinator: Arc<dyn Coordinator>,
    house: Arc<H>,
    mut links: mpsc::Receiver<(Link, NodeName)>,
    status: Arc<Status>,
) -> End {
    let replaced = Mutex::default();
    let node = Node { settings, machine, coordinator, house, status, replaced };
    loop {
        let stood_by = tokio::select! {
            biased;
            stood_by = node.stand_by() => stood_by,
            () = node.turn_away(&mut links) => unreachable!("it goes on for ever"),
        };
        match stood_by {
            Ok(StoodBy::Again) => {}
            Ok(StoodBy::Promoted(won)) => return node.reign(*won, links).await,
            Err(why) => return End::Failed(why),
        }
    }
}

pub(crate) const OTHER_CLUSTER: &str =
    "this store belongs to another cluster than the register; empty the data directory to let it be replaced";

/// What a node says that stands by with a store in which nothing ever was.
const EMPTY: &[u8] = b"this node is not primary, and its store is empty";

pub(crate) struct Node<H: House> {
    pub settings: Settings,
    pub machine: Arc<dyn Machine>,
    pub coordinator: Arc<dyn Coordinator>,
    pub house: Arc<H>,
    pub status: Arc<Status>,
    pub(crate) replaced: Mutex<Replaced>,
}

pub(crate) enum StoodBy<F> {
    /// The store has to be opened anew.
    Again,
    Promoted(Box<Won<F>>),
}

/// The register names this node.
pub(crate) struct Won<F> {
    pub follows: F,
    pub receiver: Receiver,
    pub version: Version,
    pub register: Register,
}

/// What this node says of itself wherever it writes.
pub(crate) struct Me {
    pub member: Member,
    pub cluster: u128,
    pub hello: Hello,
}

/// What a node that stands by does next.
pub(crate) enum Next {
    /// Looks at the register again after that time.
    Wait(Duration),
    Follow(Register),
    Propose {
        expect: Option<Version>,
        epoch: u64,
        members: BTreeMap<NodeName, Member>,
    },
}

impl<H: House> Node<H> {
    /// Somebody takes us for the primary.
    async fn turn_away(&self, links: &mut mpsc::Receiver<(Link, NodeName)>) {
        loop {
            let Some((mut link, peer)) = links.recv().await else { return std::future::pending().await };
            debug!(%peer, "a node takes this one for the primary, which it is not");
            let text = if self.status.store_is_empty() { EMPTY } else { b"this node is not primary" };
            let _ = self.machine.within(RETRY, link.send(crate::peer::NO, text, &[])).await;
        }
    }

    fn opened(&self, receiver: &Receiver) -> Me {
        let member = Member {
            boot: u128::from(receiver.store_id()) << 64 | u128::from(receiver.boot_id()),
            peer: self.settings.advertise.clone(),
            clients: self.settings.clients.clone(),
        };
        let (cluster, promised, end) = (receiver.cluster(), receiver.promised(), receiver.position());
        Me { member: member.clone(), cluster, hello: Hello { cluster, promised, end, member, level: journal::record::known_level() } }
    }

    /// One life of the store as a standby's.
    async fn stand_by(&self) -> Result<StoodBy<H::Follows>, String> {
        self.status.set_role(Role::Joining);
        self.status.opened(false);
        let house = self.house.clone();
        let opened = self.machine.blocking(move || house.open()).await?;
        let (mut follows, mut receiver) = match opened {
            Ok(opened) => opened,
            Err(unopened) if unopened.damaged => return self.replace_damaged(&unopened.why).await,
            Err(unopened) => return Err(unopened.why),
        };
        self.status.opened(receiver.position().lsn == Lsn(0));
        // The primary has given up its place, and everything that it had is here.
        let mut offered = false;
        loop {
            let Read::Known(known) = self.coordinator.read().await else {
                self.status.say("nobody answers for the register");
                self.machine.sleep(RETRY).await;
                continue;
            };
            self.status.set_register(known.as_ref());
            let me = self.opened(&receiver);
            match self.decide(known, &me, std::mem::take(&mut offered)).await? {
                Next::Wait(time) => self.machine.sleep(time).await,
                Next::Propose { expect, epoch, members } => match self.propose(expect, &me, epoch, members).await {
                    // The log may have been used without the register and be in a later epoch: then one step does not do.
                    Some((_, register)) if register.epoch <= receiver.promised() => {}
                    Some((version, register)) => return Ok(StoodBy::Promoted(Box::new(Won { follows, receiver, version, register }))),
                    None => self.coordinator.release().await,
                },
                Next::Follow(register) => {
                    let (over, back) = self.follow_once(&register, &me, follows, receiver).await?;
                    if !self.goes_on(&register, &over).await {
                        drop(back);
                        return self.open_anew(over).await;
                    }
                    (follows, receiver) = back;
                    offered = matches!(over, Followed::HandedOver(end) if receiver.position().lsn == end);
                }
            }
        }
    }

    async fn decide(&self, known: Option<(Version, Register)>, me: &Me, offered: bool) -> Result<Next, String> {
        if let Some(manual) = self.coordinator.by_hand() {
            return self.decide_by_hand(manual, known, me, offered).await;
        }
        let empty = me.hello.end.lsn == Lsn(0);
        let Some((version, register)) = known else {
            // The first node of all: one that has messages, or of two empty ones that with the lower name. Nobody writes past a store that is
            // still being opened.
            if empty && !self.may_be_first().await {
                self.status.say("waiting for the other data node, which may have messages");
                return Ok(Next::Wait(RETRY));
            }
            return Ok(Next::Propose { expect: None, epoch: me.hello.promised + 1, members: BTreeMap::new() });
        };
        if register.cluster != me.cluster && !empty {
            return Err(OTHER_CLUSTER.into());
        }
        let mine = register.primary == self.settings.name;
        // It was ours before a restart, or the primary is gone from sight.
        if self.eligible(&register, me) && (mine || offered || !self.reachable(&register).await) {
            self.status.say("waiting until no other node can be primary");
            tokio::select! {
                biased;
                () = self.vacant() => {}
                () = self.until_reachable(&register), if !mine && !offered => return Ok(Next::Wait(Duration::ZERO)),
                () = self.until_changed(version) => return Ok(Next::Wait(Duration::ZERO)),
                () = self.machine.sleep(OFFERED), if offered => return Ok(Next::Wait(Duration::ZERO)),
            }
            return Ok(Next::Propose { expect: Some(version), epoch: register.epoch + 1, members: register.members });
        }
        if mine {
            self.status.say("the register names this node, but not with this store: another member in sync has to take over");
            return Ok(Next::Wait(RETRY * 10));
        }
        Ok(Next::Follow(register))
    }

    async fn vacant(&self) {
        if !mutants::active(Mutant::IgnoreLease) {
            self.coordinator.vacant().await;
        }
    }

    /// Whether the register says that this very store has everything that was confirmed.
    pub(crate) fn eligible(&self, register: &Register, me: &Me) -> bool {
        let name = &self.settings.name;
        let by_memory = register.by_memory.contains(name) && !mutants::active(Mutant::EligibleByStore);
        let same = |boot: u128| if by_memory { boot == me.member.boot } else { boot >> 64 == me.member.boot >> 64 };
        let same_store = register.members.get(name).is_some_and(|member| same(member.boot));
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
        let (cluster, by_memory) = (me.cluster, BTreeSet::new());
        let register = Register { epoch, primary: name.clone(), in_sync: BTreeSet::from([name]), cluster, members, by_memory };
        self.status.set_role(Role::Promoting);
        match self.coordinator.cas(expect, register.clone()).await {
            Cas::Won(version) => Some((version, register)),
            Cas::Lost(_) => None,
            Cas::Refused(why) => {
                warn!(%why, "the register refuses this node as primary");
                self.machine.sleep(RETRY * 10).await;
                None
            }
            // A read tells: until then nothing is acked, since nobody is followed.
            Cas::Unknown => loop {
                match self.coordinator.read().await {
                    Read::Known(Some((version, found))) if found == register => return Some((version, found)),
                    Read::Known(_) => return None,
                    Read::Unknown => self.machine.sleep(RETRY).await,
                }
            },
        }
    }

    async fn dial(&self, name: &NodeName, address: &str, limit: Duration) -> Result<Link, String> {
        match self.machine.within(limit, self.machine.dial(address, name)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it does not answer".into()),
        }
    }

    async fn dial_primary(&self, register: &Register, limit: Duration) -> Result<Link, String> {
        let told = register.members.get(&register.primary).map(|member| member.peer.clone());
        let address = self.settings.peers.get(&register.primary).cloned().or(told).unwrap_or_default();
        self.dial(&register.primary, &address, limit).await
    }

    pub(crate) async fn reachable(&self, register: &Register) -> bool {
        // One that does not answer for so long cannot renew its lease either; a frozen process is waited for no longer than that.
        let limit = self.coordinator.lease().min(self.settings.peer_timeout);
        let Ok(mut link) = self.dial_primary(register, limit).await else { return false };
        // A process is not a primary yet.
        self.machine.within(TURNED_AWAY, link.recv()).await.is_err()
    }

    async fn until_reachable(&self, register: &Register) {
        while !self.reachable(register).await {
            self.machine.sleep(RETRY).await;
        }
    }

    /// Another node may have become primary since the register was read: then there is no end to the wait for its lease.
    async fn until_changed(&self, version: Version) {
        loop {
            self.machine.sleep(self.coordinator.lease()).await;
            match self.coordinator.read().await {
                Read::Known(Some((found, _))) if found == version => {}
                Read::Known(_) => return,
                Read::Unknown => {}
            }
        }
    }

    /// Whether an empty store may begin the cluster: the other data node's is empty too, and its name is higher.
    async fn may_be_first(&self) -> bool {
        let Some((peer, address)) = self.settings.peers.iter().next() else { return true };
        let Ok(mut link) = self.dial(peer, address, self.settings.peer_timeout).await else { return false };
        match self.machine.within(self.settings.peer_timeout, link.recv()).await {
            Ok(Ok(Some((crate::peer::NO, text)))) => text == EMPTY && self.settings.name < *peer,
            _ => false,
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
        let link = match self.dial_primary(register, self.settings.peer_timeout).await {
            Ok(link) => link,
            Err(why) => return Ok((Followed::Lost(why), (follows, receiver))),
        };
        self.status.set_role(Role::Following);
        let following = Following::start(self.machine.as_ref(), follows, receiver);
        let following = following.map_err(|error| format!("starting a thread: {error}"))?;
        let standby = Standby {
            machine: self.machine.clone(),
            hello: &me.hello,
            following: &following,
            status: &self.status,
            storage: self.house.storage(),
            timeout: self.settings.peer_timeout,
            may_be_replaced: self.may_be_replaced(),
            complaint: self.complaint(),
            coordinator: self.coordinator.as_ref(),
        };
        let over = standby.follow(link).await;
        info!(primary = %register.primary, over = ?OverText(&over), "no longer following");
        Ok((over, following.stop().await?))
    }

    /// Whether the store stays open after this end of a link.
    async fn goes_on(&self, register: &Register, over: &Followed) -> bool {
        match over {
            Followed::Lost(why) => {
                self.status.say(&format!("the link to {} is over: {why}", register.primary));
                self.machine.sleep(RETRY).await;
                true
            }
            Followed::Refused(why) => {
                warn!(primary = %register.primary, %why, "refused by the primary");
                self.status.say(&format!("{} refuses us: {why}", register.primary));
                self.machine.sleep(RETRY * 10).await;
                true
            }
            Followed::HandedOver(_) => {
                info!(primary = %register.primary, "the primary hands over");
                true
            }
            Followed::Differs(_)
            | Followed::Asked
            | Followed::Failed(_)
            | Followed::Cut(_)
            | Followed::StartOver(_)
            | Followed::Copied(..) => false,
        }
    }

    /// What has to be done to the closed store.
    async fn open_anew(&self, over: Followed) -> Result<StoodBy<H::Follows>, String> {
        let (storage, config) = (self.house.storage(), self.house.journal_config());
        let done = match over {
            Followed::Cut(to) => return self.cut(to).await.map(|()| StoodBy::Again),
            Followed::StartOver(cluster) => self.machine.blocking(move || start_over(storage, cluster, &config)).await?,
            Followed::Copied(cluster, incoming) => self.machine.blocking(move || incoming.finish(cluster, &config)).await?,
            Followed::HandedOver(_) => return Ok(StoodBy::Again),
            Followed::Differs(what) => return self.replace_differing(&what).await,
            Followed::Asked => return self.replace_as_asked().await,
            Followed::Failed(why) | Followed::Lost(why) | Followed::Refused(why) => return Err(why),
        };
        done.map(|()| StoodBy::Again).map_err(|error| error.to_string())
    }

    async fn cut(&self, to: Lsn) -> Result<(), String> {
        let (storage, config) = (self.house.storage(), self.house.journal_config());
        let done = self.machine.blocking(move || cut(storage.as_ref(), &config, to)).await?.map_err(|error| error.to_string())?;
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
            Followed::HandedOver(end) => write!(f, "the primary has given up its place at {end}"),
            Followed::Differs(what) => write!(f, "what stands here differs from the primary's: {what}"),
            Followed::Asked => write!(f, "somebody asked for a copy of the primary's store"),
            Followed::Failed(why) => write!(f, "the store failed: {why}"),
        }
    }
}
