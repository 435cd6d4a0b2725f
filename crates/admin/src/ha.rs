//! `/api/ha`: what a node knows of its pair, and what an operator can ask of it.

use crate::access::{MayChange, MayLook};
use crate::house::{House, Refusal};
use crate::problem::Problem;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tracing::info;

/// The answer to GET. A broker that is no part of a pair has the role `alone`, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pair {
    /// `alone`, `joining`, `standby`, `promoting`, `primary`, `handing over` or `stopping`.
    pub role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Of the register, read now, or as this node has last read it if nobody answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    pub in_sync: Vec<String>,
    pub members: Vec<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// Those that follow this node, if it is primary.
    pub standbys: Vec<Standby>,
    /// Of a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digests: Option<Digests>,
    /// What it waits for, or last complained of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// Who keeps the register, and which of them can be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    pub node: String,
    /// Where the other node reaches it.
    pub peer: String,
    /// Where clients reach it.
    pub clients: Vec<String>,
}

/// Positions in the log, in bytes since its beginning; the same on both nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// What stands in the log here: as primary written, as standby written and synced.
    pub end: u64,
    /// As primary: up to where it is committed. As standby: up to where it is redone.
    pub done: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standby {
    pub node: String,
    pub in_sync: bool,
    pub synced: u64,
    pub redone: u64,
    /// Of the primary's log, what it has not synced.
    pub lag_bytes: u64,
}

/// What a standby has redone, compared with what the primary said of itself, since its process began.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Digests {
    pub compared: u64,
    /// Stores that differed: each was replaced by a copy, or stands there still if the one before it was within an hour.
    pub differed: u64,
    /// How the last one differed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// The body of POST `/api/ha/promote`, which may be empty.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promote {
    /// Where an operator is the coordinator: the other node is off, and this is the epoch that comes next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// The body of POST `/api/ha/replace-voter`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceVoter {
    pub voter: String,
}

/// The answer to a POST that was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Whose turn it is now: the new primary, the one that a copy comes from, or the voter.
    pub node: String,
}

pub fn routes() -> Router<Arc<dyn House>> {
    Router::new()
        .route("/api/ha", get(pair))
        .route("/api/ha/switchover", post(switch_over))
        .route("/api/ha/promote", post(promote))
        .route("/api/ha/join", post(join))
        .route("/api/ha/replace-voter", post(replace_voter))
}

async fn pair(State(house): State<Arc<dyn House>>, _: MayLook) -> Json<Pair> {
    Json(house.pair().await)
}

async fn switch_over(State(house): State<Arc<dyn House>>, MayChange(who): MayChange) -> Result<Json<Done>, Problem> {
    info!(user = %who.name, "asked to hand over to the standby");
    done(house.switch_over().await)
}

async fn promote(State(house): State<Arc<dyn House>>, MayChange(who): MayChange, body: Bytes) -> Result<Json<Done>, Problem> {
    let how = match body.is_empty() {
        true => Promote::default(),
        false => read(Json::from_bytes(&body))?,
    };
    info!(user = %who.name, epoch = how.epoch, "asked to become primary");
    done(house.promote(how).await)
}

async fn join(State(house): State<Arc<dyn House>>, MayChange(who): MayChange) -> Result<Json<Done>, Problem> {
    info!(user = %who.name, "asked to take a copy of the primary's store");
    done(house.join().await)
}

async fn replace_voter(
    State(house): State<Arc<dyn House>>,
    MayChange(who): MayChange,
    body: Result<Json<ReplaceVoter>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let which = read(body)?;
    info!(user = %who.name, voter = %which.voter, "asked to let a voter vote again");
    done(house.replace_voter(which).await)
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    let Json(body) = body.map_err(|rejection| Problem::new(rejection.status(), "bad_request", rejection.body_text()))?;
    Ok(body)
}

fn done(result: Result<String, Refusal>) -> Result<Json<Done>, Problem> {
    result.map(|node| Json(Done { node })).map_err(Problem::from)
}
