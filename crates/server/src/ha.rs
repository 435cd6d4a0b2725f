//! One node of a pair: the store as [`replication`] needs it, the voter, and the news that this node serves now, or does no more.

use crate::config::ha::Pair;
use crate::door::{self, Door};
use crate::wiring::{self, House, Plan};
use anyhow::{Context, Result};
use broker::{Promotion, Standby};
use journal::storage::Storage;
use journal::{Journal, Lsn, Receiver};
use replication::coordinator::{Coordinator, Voter};
use replication::net::{Listener, Purpose};
use replication::{Begin, End, Follows, Host, Status};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{error, info};

/// EX_TEMPFAIL of sysexits.h: started again, it joins as a standby.
const FENCED: i32 = 75;
/// Links at once: of the other node and the witness, and those that break and come again.
const LINKS_MAX: usize = 64;
/// More than the node itself takes for it.
const HANDOVER_LIMIT: Duration = Duration::from_secs(6);

/// A node that runs.
pub struct Node {
    coordinator: Arc<Voter>,
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
        let coordinator = runtime.block_on(live(plan, pair, serves, status.clone()))?;
        door.is_of_pair(door::Node { name, status: status.clone(), voter: coordinator.clone(), threads: runtime.handle().clone() });
        Ok((Node { coordinator, status, runtime }, house))
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
        let Node { coordinator, runtime, .. } = self;
        let release = async {
            coordinator.release().await;
            coordinator.stop().await;
        };
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), release).await });
        runtime.shutdown_timeout(Duration::from_millis(200));
    }
}

async fn live(plan: Plan, pair: Pair, serves: oneshot::Sender<Result<House>>, status: Arc<Status>) -> Result<Arc<Voter>> {
    let bound = Listener::bind(&pair.listen, pair.identity.clone()).await;
    let mut listener = bound.with_context(|| format!("ha.listen: cannot listen on {}", pair.listen))?;
    info!(node = %pair.node.name, address = %listener.local_addr()?, "one node of a pair");
    let fatal = Arc::new(|why: &str| {
        error!(why, "stopping: the voter's disk has failed");
        std::process::exit(FENCED);
    });
    let folder = pair.voter.folder.clone();
    let machine = Host::new(pair.identity.clone());
    let voter = Voter::start(pair.voter, pair.identity, fatal).await;
    let voter = voter.with_context(|| format!("cannot be a voter with {}", folder.display()))?;
    let (to_node, links) = mpsc::channel(16);
    let answering = voter.clone();
    tokio::spawn(async move {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                (link, peer, purpose) = listener.accept(), if open.len() < LINKS_MAX => match purpose {
                    Purpose::Voters => {
                        let voter = answering.clone();
                        open.spawn(async move { voter.serve(link).await });
                    }
                    Purpose::Peer => {
                        // A node that cannot keep up with links of its peer drops them; the peer dials again.
                        let _ = to_node.try_send((link, peer));
                    }
                },
                Some(_) = open.join_next() => {}
            }
        }
    });
    let store = Arc::new(Store { plan: Mutex::new(Some(plan)), serves: Mutex::new(Some(serves)) });
    let coordinator: Arc<dyn Coordinator> = voter.clone();
    let node = replication::run(pair.node, machine, coordinator, store, links, status);
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
    Ok(voter)
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

    fn open(&self) -> Result<(Following, Receiver), String> {
        let opened = self.with_plan(|plan| Standby::open(plan.storage.clone(), plan.journal.clone(), plan.config.clone()));
        let (standby, receiver) = opened.map_err(|error| error.to_string())?;
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
