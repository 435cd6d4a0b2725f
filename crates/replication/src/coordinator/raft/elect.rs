//! When a voter stands for leader of the voters.
//!
//! Whoever leads serves reads and writes of the register and nothing else, so an election hurts nobody; but a term that is spent in vain takes
//! the leader's place away. So a voter asks the others first ([`Request::Canvass`]), and stands only if a majority hears no leader either. The witness
//! comes last: it stands when nobody else can, because it alone has the newest entry, and steps aside when another has caught up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::LogId;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use super::message::{Request, Response};
use super::voter::{lock, Shared};

/// How much longer the witness waits than the others.
const WITNESS_WAITS: u32 = 4;

pub(super) async fn elect(shared: Arc<Shared>) {
    let timeout = shared.election_timeout();
    let first = shared.settings.peers.iter().all(|peer| peer.witness || shared.settings.name < peer.name);
    // The two data nodes do not stand at the same moment.
    let patience = match (shared.settings.witness, first) {
        (true, _) => timeout * WITNESS_WAITS,
        (false, true) => timeout + timeout / 16,
        (false, false) => timeout + timeout / 4,
    };
    loop {
        sleep(shared.settings.heartbeat / 4).await;
        shared.must_run();
        let Some(running) = shared.running() else { continue };
        if shared.leads() {
            *lock(&shared.heard) = Instant::now();
            step_aside(&shared).await;
            continue;
        }
        running.raft.runtime_config().heartbeat(true);
        if lock(&shared.heard).elapsed() < patience || !shared.voters().values().any(|name| *name == shared.settings.name) {
            continue;
        }
        if !canvass(&shared).await {
            continue;
        }
        debug!("standing for leader of the voters");
        if running.raft.trigger().elect().await.is_err() {
            continue;
        }
        let pause = rand::thread_rng().gen_range(0..timeout.as_millis() as u64 / 2);
        sleep(timeout / 2 + Duration::from_millis(pause)).await;
    }
}

async fn canvass(shared: &Shared) -> bool {
    let last = shared.last_entry();
    let limit = shared.settings.heartbeat * 2;
    let voters = shared.voters();
    let mut calls = JoinSet::new();
    for peer in shared.peers.values().filter(|peer| peer.id().is_some_and(|id| voters.contains_key(&id))) {
        let peer = peer.clone();
        calls.spawn(async move { matches!(peer.call(Request::Canvass(last), limit).await, Some(Response::Canvass(true))) });
    }
    while let Some(vote) = calls.join_next().await {
        // Of three, one other is a majority with this one.
        if vote.unwrap_or(false) {
            return true;
        }
    }
    false
}

/// A witness that had to lead ends that as soon as a data node has every entry: it stops its signs of life, and the other stands.
async fn step_aside(shared: &Shared) {
    let Some(running) = shared.running().filter(|_| shared.settings.witness) else { return };
    let caught_up = {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow();
        let matched = |at: Option<LogId<u64>>| at.is_some() && at.map(|at| at.index) == metrics.last_log_index;
        metrics.replication.as_ref().is_some_and(|others| others.iter().any(|(id, at)| *id != metrics.id && matched(*at)))
    };
    running.raft.runtime_config().heartbeat(!caught_up);
}

impl Shared {
    /// Whether an election would be of use, by what this voter knows.
    pub fn would_vote(&self, last: Option<LogId<u64>>) -> bool {
        let aside = self.settings.witness && self.leads();
        let hears = lock(&self.heard).elapsed() <= self.election_timeout() + Duration::from_millis(5);
        let leads = self.leads() && !self.settings.witness;
        !leads && (aside || !hears) && last >= self.last_entry()
    }
}
