//! What voters say to each other: frames whose body is a number, which the answer repeats, and JSON.

use std::collections::BTreeMap;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, LogId, SnapshotMeta, Vote};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identity::Standing;
use super::promise::Verdict;
use super::types::{Answer, Command, Serial, State, Types};
use crate::coordinator::{NodeName, Register, Version};

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first on each link.
    Hello(Hello),
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot(Vote<u64>, SnapshotMeta<u64, BasicNode>, Box<State>),
    /// Whether a candidate whose log ends here would do well to stand: what is asked before a term is spent on it.
    Canvass(Option<LogId<u64>>),
    /// To promise the sender not to help others for the length of a lease; with the epoch in which it is primary, or before it is.
    Promise(Serial, Option<u64>),
    Free(Serial),
    Propose(Command),
    Read,
    /// To become a voter of a cluster that is being formed, or that takes in a new one.
    #[serde(with = "crate::coordinator::hex")]
    Adopt(u128),
    /// To forget what it was, because it is being replaced by itself.
    #[serde(with = "crate::coordinator::hex")]
    BeginAnew(u128),
    Replace(NodeName),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    Hello(Hello),
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(SnapshotResponse<u64>),
    Canvass(bool),
    Promise(Verdict),
    Answer(Answer),
    Stands(Option<(Version, Register)>),
    NotLeader,
    /// The id of the voter.
    Voter(u64),
    Done,
    Refused(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    pub standing: Standing,
    /// How long this node's promises last, in milliseconds: one that counts on longer ones than others make would be wrong.
    pub lease: u64,
    /// What the other side has said before, as far as this one remembers.
    pub seen: Option<Standing>,
    /// The ids of the cluster, where this node knows of any.
    pub voters: BTreeMap<u64, NodeName>,
}

pub fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("a message has only what JSON can say")
}

/// The number and the message; `None`: neither.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<(u64, T)> {
    let (number, json) = body.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), serde_json::from_slice(json).ok()?))
}
