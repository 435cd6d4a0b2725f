//! The configuration file of `carrick witness`.

use super::file::LogLevel;
use super::nodes::{times, HeartbeatMs, LeaseMs, Proof, Tls};
use anyhow::{ensure, Context, Result};
use replication::coordinator::{NodeName, Settings, VoterPeer};
use replication::net::Identity;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// This node's name; the other two know it under that name.
    node: String,
    /// `host:port` where the other two reach it.
    listen: String,
    /// The two data nodes: name = "host:port".
    peers: BTreeMap<String, String>,
    /// What it has promised is kept here: a few KiB, and not to be lost.
    data_dir: PathBuf,
    /// What all three know and nobody else, 16 characters or more.
    secret: Option<String>,
    /// A file with it.
    secret_file: Option<PathBuf>,
    /// Certificates that name the nodes, instead of a secret or beside it.
    tls: Option<Tls>,
    /// How long a promise lasts; the same on all three.
    lease_ms: Option<LeaseMs>,
    heartbeat_ms: Option<HeartbeatMs>,
    log: Option<LogLevel>,
}

/// It, checked.
pub struct WitnessConfig {
    pub listen: String,
    pub voter: Settings,
    pub identity: Identity,
    pub log: String,
}

impl WitnessConfig {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let file: File = super::parse(text)?;
        let name: NodeName = file.node.parse().context("node")?;
        ensure!(
            file.peers.len() == 2,
            "peers: a witness has two, the nodes that keep the data: peers = {{ a = \"HOST:PORT\", b = \"HOST:PORT\" }}"
        );
        let peer = |(peer, address): (String, String)| Ok(VoterPeer { name: peer.parse().context("peers")?, address, witness: false });
        let peers: Vec<VoterPeer> = file.peers.into_iter().map(peer).collect::<Result<_>>()?;
        ensure!(peers.iter().all(|peer| peer.name != name), "peers: {name} is this node itself");
        let (secret, secret_file) = (file.secret.as_deref(), file.secret_file.as_ref());
        let identity = Proof { section: "", secret, secret_file, tls: file.tls.as_ref() }.identity(&name)?;
        let (lease, heartbeat) = times(file.lease_ms, file.heartbeat_ms);
        let voter = Settings { name, witness: true, peers, folder: file.data_dir, lease, heartbeat };
        Ok(Self { listen: file.listen, voter, identity, log: file.log.map_or_else(|| "info".to_owned(), |log| log.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GOOD: &str =
        "node = 'w'\nlisten = '127.0.0.1:0'\ndata_dir = 'd'\nsecret = 'sixteen letters!'\npeers = { a = 'h:1', b = 'h:2' }\n";

    #[test]
    fn five_lines_are_enough() {
        let config = WitnessConfig::parse(GOOD).expect("good");
        assert_eq!((config.voter.name.as_str(), config.voter.peers.len(), config.voter.witness), ("w", 2, true));
        assert_eq!((config.voter.lease, config.log.as_str()), (Settings::LEASE, "info"));
        let longer = WitnessConfig::parse(&format!("lease_ms = 900\n{GOOD}")).expect("good");
        assert_eq!(longer.voter.lease, Duration::from_millis(900));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, why) in [
            ("node = 'w'", "node = 'W'", "node"),
            ("node = 'w'", "node = 'a'", "this node itself"),
            ("secret = 'sixteen letters!'", "secret = 'short'", "at least 16"),
            ("secret = 'sixteen letters!'", "", "one of them, by which"),
            ("secret = 'sixteen letters!'", "secret_file = 'no/such/file'", "no/such/file"),
            ("peers = { a = 'h:1', b = 'h:2' }", "peers = { a = 'h:1' }", "a witness has two"),
            ("data_dir = 'd'", "data_dir = 'd'\nlease_ms = 3", "out of bounds"),
            ("data_dir = 'd'", "data_dir = 'd'\nquorum = 3", "quorum"),
            ("listen = '127.0.0.1:0'", "", "listen"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = WitnessConfig::parse(&text).err().expect(why);
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }
}
