//! `[ha]`: this node is one of a pair.

use super::nodes::{times, HeartbeatMs, LeaseMs, Proof, Tls};
use super::units::Whole;
use anyhow::{ensure, Context, Result};
use replication::coordinator::{NodeName, Settings as Voters, VoterPeer};
use replication::net::Identity;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ha {
    /// This node's name; the other two know it under that name.
    pub node: String,
    /// `host:port` where the other two reach it.
    pub listen: String,
    /// The same as they see it, where that differs.
    pub advertise: Option<String>,
    /// The other data node: name = "host:port".
    pub peers: BTreeMap<String, String>,
    /// The third voter: name = "host:port".
    pub witness: BTreeMap<String, String>,
    /// What all three know and nobody else, 16 characters or more.
    pub secret: Option<String>,
    /// A file with it.
    pub secret_file: Option<PathBuf>,
    /// Certificates that name the nodes, instead of a secret or beside it.
    pub tls: Option<Tls>,
    /// Where clients find this node, for those that can be told.
    #[serde(default)]
    pub clients: Vec<String>,
    /// How long a promise lasts; the same on all three.
    pub lease_ms: Option<LeaseMs>,
    pub heartbeat_ms: Option<HeartbeatMs>,
    /// A standby that has not acked for so long is taken out of the in-sync set, and a primary that is silent for so long is gone.
    pub peer_timeout_ms: Option<Whole<100, 60_000>>,
}

/// It, checked.
pub struct Pair {
    pub listen: String,
    pub node: replication::Settings,
    pub voter: Voters,
    pub identity: Identity,
}

const PEER_TIMEOUT: Duration = Duration::from_millis(1000);

impl Ha {
    /// `data_dir`: what the voter promises is kept in a folder of it.
    pub fn check(&self, data_dir: &Path) -> Result<Pair> {
        let name: NodeName = self.node.parse().context("ha.node")?;
        ensure!(self.peers.len() == 1, "ha.peers: the other data node, and only that: peers = {{ b = \"HOST:PORT\" }}");
        ensure!(self.witness.len() == 1, "ha.witness: the third voter, and only one: witness = {{ w = \"HOST:PORT\" }}");
        let named = |of: &BTreeMap<String, String>, what: &'static str| -> Result<Vec<(NodeName, String)>> {
            of.iter().map(|(name, address)| Ok((name.parse().context(what)?, address.clone()))).collect()
        };
        let (peers, witness) = (named(&self.peers, "ha.peers")?, named(&self.witness, "ha.witness")?);
        ensure!(peers.iter().chain(&witness).all(|(other, _)| *other != name), "ha: {name} is this node itself");
        let (secret, secret_file) = (self.secret.as_deref(), self.secret_file.as_ref());
        let identity = Proof { section: "ha.", secret, secret_file, tls: self.tls.as_ref() }.identity(&name)?;
        let (lease, heartbeat) = times(self.lease_ms, self.heartbeat_ms);
        let voters = peers.iter().map(|peer| (peer, false)).chain(witness.iter().map(|peer| (peer, true)));
        let voter =
            |((name, address), witness): (&(NodeName, String), bool)| VoterPeer { name: name.clone(), address: address.clone(), witness };
        Ok(Pair {
            listen: self.listen.clone(),
            voter: Voters {
                name: name.clone(),
                witness: false,
                peers: voters.map(voter).collect(),
                folder: data_dir.join("ha"),
                lease,
                heartbeat,
            },
            node: replication::Settings {
                name,
                peers: peers.into_iter().collect(),
                advertise: self.advertise.clone().unwrap_or_else(|| self.listen.clone()),
                clients: self.clients.clone(),
                peer_timeout: self.peer_timeout_ms.map_or(PEER_TIMEOUT, |ms| Duration::from_millis(ms.0)),
            },
            identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "node = 'a'\nlisten = '127.0.0.1:0'\npeers = { b = 'h:1' }\nwitness = { w = 'h:2' }\nsecret = 'sixteen letters!'\n";

    fn check(text: &str) -> Result<Pair> {
        let ha: Ha = toml::from_str(text)?;
        ha.check(Path::new("d"))
    }

    #[test]
    fn five_lines_are_enough() {
        let pair = check(GOOD).expect("good");
        assert_eq!((pair.voter.peers.len(), pair.voter.witness, pair.node.peers.len()), (2, false, 1));
        assert_eq!(pair.voter.folder, Path::new("d/ha"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, why) in [
            ("node = 'a'", "node = 'b'", "this node itself"),
            ("secret = 'sixteen letters!'", "secret = 'short'", "at least 16"),
            ("secret = 'sixteen letters!'", "", "one of them, by which"),
            ("peers = { b = 'h:1' }", "peers = { b = 'h:1', c = 'h:3' }", "ha.peers"),
            ("witness = { w = 'h:2' }", "witness = {}", "ha.witness"),
            ("node = 'a'", "node = 'a'\nlease_ms = 3", "lease_ms"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = check(&text).err().expect(why);
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }
}
