//! One node of a pair: the store as [`replication`] needs it, the voter, and the news that this node serves now, or does no more.

use crate::config::coordinator::Choice;
use crate::config::ha::Pair;
use crate::door::{self, Door};
use crate::wiring::{self, House, Plan};
use anyhow::{Context, Result};
use broker::{Promotion, Standby};
use journal::storage::Storage;
use journal::{Journal, Lsn, Receiver};
use replication::coordinator::{Coordinator, Etcd, Folder, Manual, NodeName, Voter};
use replication::net::{Identity, Link, Listener, Purpose};
use replication::{Begin, Compared, End, Follows, Host, Status, Unopened};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, error, info};

/// EX_TEMPFAIL of sysexits.h: started again, it joins as a standby.
const FENCED: i32 = 75;
/// Links at once: of the other node and the witness, and those that break and come again.
const LINKS_MAX: usize = 64;
/// More than the node itself takes for it.
const HANDOVER_LIMIT: Duration = Duration::from_secs(6);

/// Who keeps the register.
#[derive(Clone)]
pub struct Keeper {
    pub coordinator: Arc<dyn Coordinator>,
    /// The same, where this node has a vote.
    pub voter: Option<Arc<Voter>>,
}

/// A node that runs.
pub struct Node {
    keeper: Keeper,
    status: Arc<Status>,
    /// On threads of its own: what clients do to theirs must not cost the lease.
    runtime: tokio::runtime::Runtime,
}

impl Node {
    /// Begins to stand by. The house comes once this node serves.
    pub fn start(plan: Plan, pair: Pair, door: &Door) -> Result<(Node, oneshot::Receiver<Result<House>>)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("carrick-ha")
            .enable_all()
            .build()
            .context("cannot start threads")?;
        let (serves, house) = oneshot::channel();
        let status = Arc::new(Status::default());
        let name = pair.node.name.to_string();
        let keeper = runtime.block_on(live(plan, pair, serves, status.clone()))?;
        door.is_of_pair(door::Node { name, status: status.clone(), keeper: keeper.clone(), threads: runtime.handle().clone() });
        Ok((Node { keeper, status, runtime }, house))
    }

    /// Gives this node's place, whose core is closed, to its standby: who has it now.
    pub fn hand_over(&self) -> Result<String, String> {
        let asked = async { tokio::time::timeout(HANDOVER_LIMIT, self.status.hand_over()).await };
        match self.runtime.block_on(asked) {
            Ok(answer) => answer.map(|name| name.to_string()),
            Err(_) => Err("no answer in time".into()),
        }
    }

    /// Another node may take over at once.
    pub fn stop(self) {
        let Node { keeper, runtime, .. } = self;
        let release = async {
            keeper.coordinator.release().await;
            if let Some(voter) = keeper.voter {
                voter.stop().await;
            }
        };
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), release).await });
        runtime.shutdown_timeout(Duration::from_millis(200));
    }
}

async fn live(plan: Plan, pair: Pair, serves: oneshot::Sender<Result<House>>, status: Arc<Status>) -> Result<Keeper> {
    let bound = Listener::bind(&pair.listen, pair.identity.clone()).await;
    let listener = bound.with_context(|| format!("ha.listen: cannot listen on {}", pair.listen))?;
    info!(node = %pair.node.name, address = %listener.local_addr()?, "one node of a pair");
    let machine = Host::new(pair.identity.clone());
    let keeper = keeper(pair.coordinator, &pair.node.name, pair.identity).await?;
    let (to_node, links) = mpsc::channel(16);
    tokio::spawn(accept(listener, keeper.voter.clone(), to_node));
    let store = Arc::new(Store { plan: Mutex::new(Some(plan)), serves: Mutex::new(Some(serves)) });
    let node = replication::run(pair.node, machine, keeper.coordinator.clone(), store, links, status);
    tokio::spawn(async move {
        match node.await {
            // The process is going down in its own order.
            End::HandedOver(_) => return,
            End::Fenced(why) => error!(why, "stopping: this node is primary no more"),
            End::Failed(why) => error!(why, "stopping: the store cannot be used"),
        }
        // Nothing is told to any client: whatever it hears from now on comes from the other node.
        std::process::exit(FENCED);
    });
    Ok(keeper)
}

async fn keeper(choice: Choice, name: &NodeName, identity: Identity) -> Result<Keeper> {
    let coordinator: Arc<dyn Coordinator> = match choice {
        Choice::Witness(settings) => {
            let fatal = Arc::new(|why: &str| {
                error!(why, "stopping: the voter's disk has failed");
                std::process::exit(FENCED);
            });
            let folder = settings.folder.clone();
            let voter = Voter::start(settings, identity, fatal).await;
            let voter = voter.with_context(|| format!("cannot be a voter with {}", folder.display()))?;
            return Ok(Keeper { coordinator: voter.clone(), voter: Some(voter) });
        }
        Choice::Etcd(settings) => Arc::new(Etcd::new(settings).map_err(anyhow::Error::msg).context("ha.etcd")?),
        Choice::File { folder, lease } => {
            let opened = Folder::open(&folder, name.clone(), lease);
            Arc::new(opened.with_context(|| format!("ha.folder: {} cannot be used", folder.display()))?)
        }
        Choice::Manual { folder, lease } => {
            let opened = Manual::open(&folder, name.clone(), lease);
            Arc::new(opened.with_context(|| format!("the register cannot be kept in {}", folder.display()))?)
        }
    };
    Ok(Keeper { coordinator, voter: None })
}

/// Links of the other node, and calls of the other voters.
async fn accept(mut listener: Listener, voter: Option<Arc<Voter>>, to_node: mpsc::Sender<(Link, NodeName)>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            (link, peer, purpose) = listener.accept(), if open.len() < LINKS_MAX => match (purpose, &voter) {
                (Purpose::Voters, Some(voter)) => {
                    let voter = voter.clone();
                    open.spawn(async move { voter.serve(link).await });
                }
                (Purpose::Voters, None) => debug!(%peer, "a voter called, and there are none here: its configuration names another coordinator"),
                (Purpose::Peer, _) => {
                    // A node that cannot keep up with links of its peer drops them; the peer dials again.
                    let _ = to_node.try_send((link, peer));
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

struct Store {
    plan: Mutex<Option<Plan>>,
    serves: Mutex<Option<oneshot::Sender<Result<House>>>>,
}

struct Following(Standby);

impl Follows for Following {
    fn redo_up_to(&mut self, commit: Lsn) -> Result<Lsn, String> {
        self.0.redo_up_to(commit).map_err(|error| error.to_string())
    }

    fn compared(&self) -> Compared {
        let broker::Compared { digests, differs } = self.0.compared();
        Compared { digests, differs }
    }

    fn maintain(&mut self) -> bool {
        self.0.maintain()
    }
}

impl Store {
    fn with_plan<R>(&self, of: impl FnOnce(&Plan) -> R) -> R {
        let plan = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        of(plan.as_ref().expect("it is taken when this node leads, which it does once"))
    }
}

impl replication::House for Store {
    type Follows = Following;

    fn open(&self) -> Result<(Following, Receiver), Unopened> {
        let opened = self.with_plan(|plan| Standby::open(plan.storage.clone(), plan.journal.clone(), plan.config.clone()));
        let (standby, receiver) = opened.map_err(|error| Unopened { damaged: error.is_damage(), why: error.to_string() })?;
        Ok((Following(standby), receiver))
    }

    fn lead(&self, follows: Following, receiver: Receiver, begin: Begin) -> Result<Arc<Journal>, String> {
        let (on_failure, failed) = wiring::failure_watch();
        let Begin { epoch, permitted, progress } = begin;
        let promotion = Promotion { receiver, epoch, permitted, progress: Some(progress) };
        let core = follows.0.promote(promotion, on_failure).map_err(|error| error.to_string())?;
        let journal = core.journal().clone();
        let plan = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let serves = self.serves.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let (Some(plan), Some(serves)) = (plan, serves) {
            // On its own thread: what the definitions make is committed by what this call's return sets going.
            std::thread::spawn(move || drop(serves.send(plan.settle(core, failed))));
        }
        Ok(journal)
    }

    fn storage(&self) -> Arc<dyn Storage> {
        self.with_plan(|plan| plan.storage.clone())
    }

    fn journal_config(&self) -> journal::Config {
        self.with_plan(|plan| plan.journal.clone())
    }
}
