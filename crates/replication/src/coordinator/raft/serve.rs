//! What a voter answers to others.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::Snapshot;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::message::{self, Request, Response};
use super::peer::Greet;
use super::promise::Verdict;
use super::types::{Command, Serial};
use super::voter::{lock, Running, Shared, Voter};
use crate::coordinator::NodeName;
use crate::net::{Link, NetError};

/// Calls of one voter that are worked on at once; it makes a few.
const CALLS_MAX: usize = 64;
const GREETING_MAX: Duration = Duration::from_secs(3);
/// How soon a link notices that this voter has become another one.
const GENERATION_CHECK: Duration = Duration::from_millis(250);
/// For what needs a majority. Who asked has given up by then.
const MAJORITY_MAX: Duration = Duration::from_secs(2);

impl Voter {
    /// Answers a voter on a link that came in for [`Purpose::Voters`](crate::net::Purpose::Voters), until it ends.
    pub async fn serve(&self, link: Link) {
        let peer = link.peer().clone();
        if !self.shared.peers.contains_key(&peer) {
            debug!(%peer, "a link of somebody who is no voter in the settings");
            return;
        }
        if let Err(error) = serve(self.shared.clone(), &peer, link).await {
            debug!(voter = %peer, %error, "a voter's link has ended");
        }
    }
}

async fn serve(shared: Arc<Shared>, peer: &NodeName, link: Link) -> Result<(), NetError> {
    let (mut reader, mut writer) = link.split();
    let greeting = timeout(GREETING_MAX, reader.recv()).await.unwrap_or(Err(NetError::Late(GREETING_MAX)))?;
    let Some((0, Request::Hello(hello))) = parse(greeting)? else { return Err(NetError::NotOurs("no greeting of a voter")) };
    // One that is older than it knows learns it from the greeting.
    let (answer, counts) = match shared.judge(peer, &hello) {
        Ok(counts) => (Response::Hello(shared.hello(peer)), counts),
        Err(why) => (Response::Refused(why), false),
    };
    writer.send(message::RESPONSE, &0u64.to_le_bytes(), &message::encode(&answer)).await?;
    // A call of one that does not count is not answered, except that it may ask to be replaced.
    let (answers, mut answered) = mpsc::channel::<(u64, Response)>(CALLS_MAX);
    let mut calls = JoinSet::new();
    let id = hello.standing.id;
    let generation = shared.generation.load(Ordering::Acquire);
    let mut tick = tokio::time::interval(GENERATION_CHECK);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if shared.generation.load(Ordering::Acquire) != generation {
                    return Ok(());
                }
            }
            frame = reader.recv(), if calls.len() < CALLS_MAX => {
                let Some((number, request)) = parse(frame?)? else { return Ok(()) };
                let (shared, peer, answers) = (shared.clone(), peer.clone(), answers.clone());
                calls.spawn(async move {
                    let response = match counts || matches!(request, Request::Replace(_)) {
                        true => shared.answer(&peer, id, request).await,
                        false => Response::Refused("no voter".into()),
                    };
                    let _ = answers.send((number, response)).await;
                });
            }
            Some((number, response)) = answered.recv() => {
                writer.send(message::RESPONSE, &number.to_le_bytes(), &message::encode(&response)).await?;
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

fn parse(frame: Option<(u8, bytes::Bytes)>) -> Result<Option<(u64, Request)>, NetError> {
    match frame {
        Some((message::REQUEST, body)) => message::decode(&body).map(Some).ok_or(NetError::NotOurs("no call of a voter")),
        Some(_) => Err(NetError::NotOurs("no call of a voter")),
        None => Ok(None),
    }
}

fn refused(why: impl ToString) -> Response {
    Response::Refused(why.to_string())
}

impl Shared {
    /// `id`: which voter it is that asks.
    pub async fn answer(self: &Arc<Self>, peer: &NodeName, id: u64, request: Request) -> Response {
        match request {
            Request::Hello(_) => refused("a second greeting"),
            Request::Adopt(cluster) => self.adopt(cluster).await.map_or_else(refused, Response::Voter),
            Request::BeginAnew(cluster) => match self.cluster() {
                Some(ours) if ours != cluster => refused("this is a voter of another cluster"),
                _ => match self.begin_anew(cluster).await {
                    Ok(id) => Response::Voter(id),
                    Err(error) => refused(error),
                },
            },
            Request::Replace(name) => match self.replace(&name).await {
                Ok(()) => Response::Done,
                Err(why) => Response::Refused(why),
            },
            request => match self.running() {
                Some(running) => self.answer_as_voter(&running, peer, id, request).await,
                None if self.old.load(Ordering::Acquire) => refused("its directory is older than what it has promised, or a copy"),
                None => refused("it is no voter yet"),
            },
        }
    }

    async fn answer_as_voter(&self, running: &Running, peer: &NodeName, id: u64, request: Request) -> Response {
        // One that was replaced has no vote, and gets none. Before its first entry a voter knows no others.
        let voters = self.voters();
        let replaced = !voters.is_empty() && !voters.contains_key(&id);
        match request {
            Request::Vote(_) | Request::Promise(..) if replaced => refused("it was replaced"),
            Request::Append(rpc) => match running.raft.append_entries(rpc).await {
                Ok(answer) => {
                    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                        *lock(&self.heard) = Instant::now();
                    }
                    Response::Append(answer)
                }
                Err(error) => refused(error),
            },
            Request::Vote(rpc) => running.raft.vote(rpc).await.map_or_else(refused, Response::Vote),
            Request::Snapshot(vote, meta, snapshot) => {
                let installed = running.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
                installed.map_or_else(refused, Response::Snapshot)
            }
            Request::Canvass(last) => Response::Canvass(self.would_vote(last)),
            Request::Promise(serial, epoch) => Response::Promise(self.promise(peer, serial, epoch)),
            Request::Free(serial) => {
                lock(&self.promise).free(peer, serial);
                Response::Done
            }
            Request::Propose(command) => self.propose_here(running, command).await,
            Request::Read => self.read_here(running).await,
            _ => refused("not a call for a voter"),
        }
    }

    /// This voter's word, to itself as well.
    pub fn promise(&self, to: &NodeName, serial: Serial, epoch: Option<u64>) -> Verdict {
        let Some(running) = self.running() else { return Verdict::NotYet(self.settings.lease.as_millis() as u64) };
        let other = running.machine.with(|state| match (&state.stored, epoch) {
            (Some((_, register)), Some(epoch)) => register.epoch > epoch || (register.epoch == epoch && register.primary != *to),
            _ => false,
        });
        match other {
            true => Verdict::NotPrimary,
            false => lock(&self.promise).ask(to, serial, Instant::now()),
        }
    }

    pub async fn propose_here(&self, running: &Running, command: Command) -> Response {
        match timeout(MAJORITY_MAX, running.raft.client_write(command)).await {
            Ok(Ok(written)) => Response::Answer(written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Response::NotLeader,
            Ok(Err(error)) => refused(error),
            Err(_) => refused("no majority in time"),
        }
    }

    pub async fn read_here(&self, running: &Running) -> Response {
        match timeout(MAJORITY_MAX, running.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Response::Stands(running.machine.with(|state| state.stored.clone())),
            Ok(Err(RaftError::APIError(_))) => Response::NotLeader,
            Ok(Err(error)) => refused(error),
            Err(_) => refused("no majority in time"),
        }
    }
}
