//! The voter as its own node's coordinator.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::message::{Request, Response};
use super::peer::Peer;
use super::promise::Verdict;
use super::types::{Answer, Command, Serial, Wish};
use super::voter::{lock, Shared, Voter};
use crate::coordinator::{grant, BoxFuture, Cas, Coordinator, Lease, Read, Register, Version};

/// Answers that say nothing are asked for again until then.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);
/// Of three.
const MAJORITY: usize = 2;

/// What a round of asking for promises came to.
#[derive(Debug, Default)]
struct Round {
    yes: usize,
    taken: usize,
    not_primary: bool,
    /// When it may be worth asking again, in milliseconds.
    wait: Option<u64>,
}

impl Coordinator for Voter {
    fn read(&self) -> BoxFuture<'_, Read> {
        Box::pin(async move {
            let shared = &self.shared;
            if !shared.unresolved.load(Ordering::Acquire) {
                return shared.read_from_leader().await.map_or(Read::Unknown, Read::Known);
            }
            let _one = shared.commands.lock().await;
            match shared.propose(Wish::Fence).await {
                Some(Answer::Fenced(stored)) => {
                    shared.unresolved.store(false, Ordering::Release);
                    Read::Known(stored)
                }
                Some(Answer::Late) => {
                    shared.outlive();
                    Read::Unknown
                }
                _ => Read::Unknown,
            }
        })
    }

    fn cas(&self, expect: Option<Version>, new: Register) -> BoxFuture<'_, Cas> {
        Box::pin(async move {
            let shared = &self.shared;
            let _one = shared.commands.lock().await;
            // Should this future be dropped, nobody knows what comes of it.
            shared.unresolved.store(true, Ordering::Release);
            let answer = match shared.propose(Wish::Cas { expect, new }).await {
                Some(Answer::Won(version)) => Cas::Won(version),
                Some(Answer::Lost(stored)) => Cas::Lost(stored),
                Some(Answer::Refused(refused)) => Cas::Refused(refused),
                _ => return Cas::Unknown,
            };
            // It is done, so what this node asked for before it never will be.
            shared.unresolved.store(false, Ordering::Release);
            answer
        })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Lease> {
        Box::pin(async move {
            let asked = Instant::now();
            let limit = grant(self.shared.settings.lease) / 2;
            let round = self.shared.ask(self.shared.next_serial(), Some(epoch), limit).await;
            match round {
                Round { not_primary: true, .. } => Lease::Refused,
                Round { yes, .. } if yes >= MAJORITY => Lease::Granted { until: asked + grant(self.shared.settings.lease) },
                Round { taken, .. } if taken >= MAJORITY => Lease::Refused,
                _ => Lease::Unknown,
            }
        })
    }

    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let serial = self.shared.next_serial();
                // Short, because a voter that is silent is likely the one whose promises are about to run out.
                let round = self.shared.ask(serial, None, self.shared.settings.lease / 8).await;
                if round.yes >= MAJORITY {
                    return;
                }
                // Half a majority helps nobody, and would keep the other node waiting.
                if round.yes > 0 {
                    self.shared.free(serial).await;
                }
                let step = (self.shared.settings.lease.as_millis() as u64 / 16).max(2);
                let wait = round.wait.unwrap_or(step).min(step);
                let wait = rand::thread_rng().gen_range(wait / 2..=wait);
                sleep(Duration::from_millis(wait)).await;
            }
        })
    }

    fn release(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.shared.free(self.shared.next_serial()).await })
    }

    fn lease(&self) -> Duration {
        self.shared.settings.lease
    }

    fn describe(&self) -> String {
        let shared = &self.shared;
        let Some(running) = shared.running() else {
            return match shared.old.load(Ordering::Acquire) {
                true => "no voter: its directory is older than what it has promised, or a copy".into(),
                false => "no voter yet".into(),
            };
        };
        let (leader, term) = {
            let metrics = running.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term)
        };
        let mut text = format!("voters (term {term}):");
        for (id, name) in shared.voters() {
            let leads = if leader == Some(id) { ", leads" } else { "" };
            let place = match shared.peers.get(&name) {
                None => "here",
                Some(peer) if peer.id() == Some(id) => "reachable",
                Some(peer) if peer.id().is_some() => "another directory in its place",
                Some(_) => "out of reach",
            };
            let _ = write!(text, " {name} ({place}{leads})");
        }
        let version = running.machine.with(|state| state.stored.as_ref().map(|(version, _)| *version));
        let _ = match version {
            Some(version) => write!(text, "; register {version}"),
            None => write!(text, "; no register"),
        };
        if let Some(holder) = lock(&shared.promise).holder(Instant::now()) {
            let _ = write!(text, "; promised to {holder}");
        }
        text
    }
}

impl Shared {
    /// Asks every voter for its word, this one first. Ends as soon as a majority has given it.
    async fn ask(self: &Arc<Self>, serial: Serial, epoch: Option<u64>, limit: Duration) -> Round {
        let mut round = Round::default();
        round.count(Some(self.promise(&self.settings.name, serial, epoch)));
        let mut calls = self.call_voters(limit, move || Request::Promise(serial, epoch));
        while let Some(answer) = calls.join_next().await {
            round.count(match answer {
                Ok(Some(Response::Promise(verdict))) => Some(verdict),
                _ => None,
            });
            if round.yes >= MAJORITY && !round.not_primary {
                // What is still on its way is to arrive all the same: the more voters keep their word, the better.
                calls.detach_all();
                break;
            }
        }
        round
    }

    async fn free(self: &Arc<Self>, serial: Serial) {
        lock(&self.promise).free(&self.settings.name, serial);
        let limit = grant(self.settings.lease) / 2;
        let calls = self.call_voters(limit, move || Request::Free(serial));
        calls.join_all().await;
    }

    /// Calls those who are voters by this voter's log, beside each other.
    fn call_voters(self: &Arc<Self>, limit: Duration, request: impl Fn() -> Request) -> JoinSet<Option<Response>> {
        let voters = self.voters();
        let votes = |peer: &&Arc<Peer>| peer.id().is_some_and(|id| voters.contains_key(&id));
        let mut calls = JoinSet::new();
        for peer in self.peers.values().filter(votes) {
            let (peer, request) = (peer.clone(), request());
            calls.spawn(async move { peer.call(request, limit).await });
        }
        calls
    }

    /// Has the leader do it, whoever that is. A command that is sent twice is done once.
    async fn propose(self: &Arc<Self>, wish: Wish) -> Option<Answer> {
        let command = Command { from: self.settings.name.clone(), serial: self.next_serial(), wish };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            if let Some(Response::Answer(answer)) = self.at_leader(left, || Request::Propose(command.clone())).await {
                return Some(answer);
            }
            sleep(PAUSE).await;
        }
        None
    }

    async fn read_from_leader(self: &Arc<Self>) -> Option<Option<(Version, Register)>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            if let Some(Response::Stands(stored)) = self.at_leader(left, || Request::Read).await {
                return Some(stored);
            }
            sleep(PAUSE).await;
        }
        None
    }

    async fn at_leader(self: &Arc<Self>, limit: Duration, request: impl Fn() -> Request) -> Option<Response> {
        let running = self.running()?;
        let leader = running.raft.metrics().borrow().current_leader?;
        match self.voters().get(&leader)? {
            name if *name == self.settings.name => tokio::time::timeout(limit, self.answer(name, leader, request())).await.ok(),
            name => self.peers.get(name)?.call(request(), limit.min(PATIENCE / 2)).await,
        }
    }
}

impl Round {
    fn count(&mut self, verdict: Option<Verdict>) {
        let wait = match verdict {
            None => return,
            Some(Verdict::Yes) => {
                self.yes += 1;
                return;
            }
            Some(Verdict::NotPrimary) => {
                self.not_primary = true;
                return;
            }
            Some(Verdict::Taken(_, wait)) => {
                self.taken += 1;
                wait
            }
            Some(Verdict::NotYet(wait)) => wait,
        };
        self.wait = Some(self.wait.map_or(wait, |shorter| shorter.min(wait)));
    }
}
