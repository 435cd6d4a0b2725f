//! The configuration file of `carrick witness`.

use super::file::LogLevel;
use super::units::Whole;
use anyhow::{ensure, Context, Result};
use replication::coordinator::{NodeName, Settings, VoterPeer};
use replication::net::{Identity, Secret, TlsFiles};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    lease_ms: Option<Whole<150, 30_000>>,
    heartbeat_ms: Option<Whole<10, 5_000>>,
    log: Option<LogLevel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    private_key: PathBuf,
    ca: PathBuf,
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
        let secret = match (file.secret, file.secret_file) {
            (Some(_), Some(_)) => anyhow::bail!("secret and secret_file: one of them"),
            (Some(text), None) => {
                Some(Secret::new(&text).with_context(|| format!("secret: it has at least {} characters", Secret::LEN_MIN))?)
            }
            (None, Some(path)) => Some(Secret::read(&path).map_err(anyhow::Error::msg).context("secret_file")?),
            (None, None) => None,
        };
        let identity = match (file.tls, secret) {
            (Some(tls), secret) => {
                let files = TlsFiles { certificate: tls.certificate, private_key: tls.private_key, ca: tls.ca };
                Identity::with_tls(name.clone(), &files, secret).context("tls")?
            }
            (None, Some(secret)) => Identity::with_secret(name.clone(), secret),
            (None, None) => anyhow::bail!("secret, secret_file or [tls]: one of them, by which the nodes know each other"),
        };
        let millis = |value: u64| Duration::from_millis(value);
        let voter = Settings {
            name,
            witness: true,
            peers,
            folder: file.data_dir,
            lease: file.lease_ms.map_or(Settings::LEASE, |ms| millis(ms.0)),
            heartbeat: file.heartbeat_ms.map_or(Settings::HEARTBEAT, |ms| millis(ms.0)),
        };
        Ok(Self { listen: file.listen, voter, identity, log: file.log.map_or_else(|| "info".to_owned(), |log| log.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
