//! How a cluster of voters begins, and how one of them is replaced.
//!
//! A directory without a cluster is *blank*. The data node with the lower name begins when it reaches two others that are blank as well: it writes down a cluster
//! id and the three voters' ids, has each of them take the cluster's id, and makes the first entry of the log. If somebody is already a voter of a cluster,
//! a blank one has lost its directory: it is not let in before [`Voter::replace_voter`], which an operator asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers};
use tokio::time::{sleep, timeout};
use tracing::{error, info};

use super::identity::Forming;
use super::message::{Request, Response};
use super::peer::Peer;
use super::voter::{lock, Shared, Voter};
use crate::coordinator::NodeName;

const CALL: Duration = Duration::from_secs(2);
/// For a new voter to have every entry, and for the two steps of the change.
const CHANGE: Duration = Duration::from_secs(10);

impl Voter {
    /// Makes a voter of the node `name` again, whose directory was lost or is an older copy. It takes the other two.
    pub async fn replace_voter(&self, name: &NodeName) -> Result<(), String> {
        let shared = &self.shared;
        if shared.leads() {
            return shared.replace(name).await;
        }
        let mut why = "no leader of the voters can be reached".to_owned();
        for peer in shared.peers.values() {
            match peer.call(Request::Replace(name.clone()), CHANGE * 3).await {
                Some(Response::Done) => return Ok(()),
                Some(Response::Refused(said)) if said != NOT_LEADER => why = said,
                _ => {}
            }
        }
        Err(why)
    }
}

const NOT_LEADER: &str = "it does not lead the voters";

pub(super) async fn form(shared: Arc<Shared>) {
    let first = !shared.settings.witness && shared.settings.peers.iter().all(|peer| peer.witness || shared.settings.name < peer.name);
    let mut told = false;
    loop {
        sleep(Duration::from_millis(50)).await;
        let forming = lock(&shared.file).identity.forming.clone();
        if let Some(forming) = forming {
            if let Err(why) = shared.begin(forming).await {
                info!(why, "the voters' cluster cannot begin yet");
                sleep(Duration::from_secs(1)).await;
            }
            continue;
        }
        if shared.cluster().is_some() {
            // What has begun need not be looked at again, unless this voter is made anew.
            sleep(Duration::from_secs(1)).await;
            continue;
        }
        let hellos: Vec<_> = shared.peers.values().filter_map(|peer| Some((peer.name.clone(), peer.hello()?))).collect();
        if hellos.iter().any(|(_, hello)| !hello.voters.is_empty()) {
            if !std::mem::replace(&mut told, true) {
                error!(
                    folder = %shared.settings.folder.display(),
                    "this voter's directory is empty, and the others have a cluster already, so it has no vote; \
                     carrick ha replace-voter {} makes it a new voter", shared.settings.name
                );
            }
            continue;
        }
        if first && hellos.len() == 2 && hellos.iter().all(|(_, hello)| hello.standing.cluster.is_none()) {
            let mut voters: BTreeMap<u64, NodeName> = hellos.into_iter().map(|(name, hello)| (hello.standing.id, name)).collect();
            let cluster = rand::random();
            let mut file = lock(&shared.file);
            voters.insert(file.identity.id, shared.settings.name.clone());
            let forming = Forming { cluster, voters };
            shared.must(file.change(|identity| {
                identity.forming = Some(forming);
                identity.cluster = Some(cluster);
            }));
        }
    }
}

impl Shared {
    async fn begin(self: &Arc<Self>, forming: Forming) -> Result<(), String> {
        for (id, name) in forming.voters.iter().filter(|(_, name)| **name != self.settings.name) {
            let peer = self.peers.get(name).ok_or_else(|| format!("{name} is no voter in the settings any more"))?;
            match peer.call(Request::Adopt(forming.cluster), CALL).await {
                Some(Response::Voter(found)) if found == *id => {}
                Some(Response::Voter(_)) => {
                    return Err(format!(
                        "the directory of {name} was emptied meanwhile; empty those of all three voters and start them again"
                    ))
                }
                Some(Response::Refused(why)) => return Err(format!("{name}: {why}")),
                _ => return Err(format!("{name} cannot be reached")),
            }
        }
        if self.running().is_none() {
            self.run().await.map_err(|error| error.to_string())?;
        }
        let running = self.running().ok_or("it has stopped")?;
        let members: BTreeMap<u64, BasicNode> = forming.voters.iter().map(|(id, name)| (*id, BasicNode::new(name.as_str()))).collect();
        if !running.raft.is_initialized().await.map_err(|error| error.to_string())? {
            running.raft.initialize(members).await.map_err(|error| error.to_string())?;
        }
        lock(&self.file).change(|identity| identity.forming = None).map_err(|error| error.to_string())?;
        info!(cluster = %format_args!("{:032x}", forming.cluster), "the voters have become a cluster");
        Ok(())
    }

    /// Takes the cluster's id, if this voter is blank or has taken it before.
    pub async fn adopt(self: &Arc<Self>, cluster: u128) -> Result<u64, String> {
        let id = {
            let mut file = lock(&self.file);
            match file.identity.cluster {
                Some(ours) if ours != cluster => return Err("it is a voter of another cluster".into()),
                Some(_) => {}
                None => file.change(|identity| identity.cluster = Some(cluster)).map_err(|error| error.to_string())?,
            }
            file.identity.id
        };
        if self.running().is_none() {
            self.run().await.map_err(|error| error.to_string())?;
        }
        Ok(id)
    }

    /// The leader's part of replacing a voter.
    pub async fn replace(self: &Arc<Self>, name: &NodeName) -> Result<(), String> {
        let running = self.running().filter(|_| self.leads()).ok_or(NOT_LEADER)?;
        let peer = self.peers.get(name).ok_or_else(|| format!("{name} is no other voter"))?;
        let cluster = self.cluster().ok_or("it has no cluster")?;
        let voters = self.voters();
        let id = self.newcomer(peer, cluster, &voters).await?;
        let change = async {
            let node = BasicNode::new(name.as_str());
            running.raft.add_learner(id, node, true).await.map_err(|error| error.to_string())?;
            let mut ids: std::collections::BTreeSet<u64> = voters.iter().filter(|(_, other)| *other != name).map(|(id, _)| *id).collect();
            ids.insert(id);
            let change = ChangeMembers::ReplaceAllVoters(ids);
            running.raft.change_membership(change, false).await.map_err(|error| error.to_string())
        };
        timeout(CHANGE, change).await.map_err(|_| "no majority in time".to_owned())??;
        info!(voter = %name, id, "a voter was replaced");
        Ok(())
    }

    /// Has the node become a voter with a new id.
    async fn newcomer(&self, peer: &Peer, cluster: u128, voters: &BTreeMap<u64, NodeName>) -> Result<u64, String> {
        let hello = peer.hello().ok_or_else(|| format!("{} cannot be reached", peer.name))?;
        let request = match (hello.standing.cluster, voters.contains_key(&hello.standing.id)) {
            (None, _) => Request::Adopt(cluster),
            (Some(_), true) => Request::BeginAnew(cluster),
            // Replaced before, and interrupted.
            (Some(_), false) => Request::Adopt(cluster),
        };
        match peer.call(request, CALL).await {
            Some(Response::Voter(id)) => {
                peer.became(id, cluster);
                Ok(id)
            }
            Some(Response::Refused(why)) => Err(format!("{}: {why}", peer.name)),
            _ => Err(format!("{} cannot be reached", peer.name)),
        }
    }
}
