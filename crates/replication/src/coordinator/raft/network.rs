//! The calls to other voters, as openraft makes them.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, OptionalSend, Snapshot, Vote};

use super::message::{Request, Response};
use super::peer::Peer;
use super::types::Types;
use crate::coordinator::NodeName;

/// Between two tries at a voter that is out of reach.
const PAUSE: Duration = Duration::from_millis(50);

pub type Noted = Arc<dyn Fn(&NodeName, u64, u64) + Send + Sync>;

#[derive(Clone)]
pub struct Network {
    pub peers: Arc<BTreeMap<NodeName, Arc<Peer>>>,
    /// Told what another voter is known to have: its term, and how many committed entries.
    pub noted: Noted,
}

pub struct Client {
    peer: Option<Arc<Peer>>,
    id: u64,
    noted: Noted,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, id: u64, node: &BasicNode) -> Client {
        Client { peer: self.peers.get(node.addr.as_str()).cloned(), id, noted: self.noted.clone() }
    }
}

fn unreachable(why: &str) -> Unreachable {
    Unreachable::new(&io::Error::other(why.to_owned()))
}

impl Client {
    async fn call(&self, request: Request, option: &RPCOption) -> Result<Response, Unreachable> {
        let peer = self.peer.as_ref().ok_or_else(|| unreachable("no such voter in the settings"))?;
        if peer.id() != Some(self.id) {
            return Err(unreachable("out of reach, or another voter in its place"));
        }
        match peer.call(request, option.hard_ttl()).await {
            Some(Response::Refused(why)) => Err(unreachable(&why)),
            Some(response) => Ok(response),
            None => Err(unreachable("no answer")),
        }
    }
}

fn confused<E: std::error::Error>() -> RPCError<u64, BasicNode, E> {
    RPCError::Network(NetworkError::new(&io::Error::other("the answer to another question")))
}

impl RaftNetwork<Types> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        // Only what is committed stays: the rest a later leader may cut off again.
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id).min(rpc.leader_commit);
        let term = rpc.vote.leader_id.term;
        match self.call(Request::Append(rpc), &option).await? {
            Response::Append(answer) => {
                if let (AppendEntriesResponse::Success, Some(peer)) = (&answer, &self.peer) {
                    (self.noted)(&peer.name, term, last.map_or(0, |last| last.index + 1));
                }
                Ok(answer)
            }
            _ => Err(confused()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        match self.call(Request::Vote(rpc), &option).await? {
            Response::Vote(answer) => Ok(answer),
            _ => Err(confused()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        match self.call(Request::Snapshot(vote, snapshot.meta, snapshot.snapshot), &option).await? {
            Response::Snapshot(answer) => Ok(answer),
            _ => Err(StreamingError::Network(NetworkError::new(&io::Error::other("the answer to another question")))),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
