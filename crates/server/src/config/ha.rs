//! `[ha]`: this node is one of a pair.

use super::units::Whole;
use anyhow::{ensure, Context, Result};
use replication::coordinator::{NodeName, Settings as Voters, VoterPeer};
use replication::net::{Identity, Secret, TlsFiles};
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
    pub lease_ms: Option<Whole<150, 30_000>>,
    pub heartbeat_ms: Option<Whole<10, 5_000>>,
    /// A standby that has not acked for so long is taken out of the in-sync set.
    pub silence_ms: Option<Whole<100, 60_000>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    pub ca: PathBuf,
}

/// It, checked.
pub struct Pair {
    pub listen: String,
    pub node: replication::Settings,
    pub voter: Voters,
    pub identity: Identity,
}

const SILENCE: Duration = Duration::from_millis(1000);

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
        let secret = match (&self.secret, &self.secret_file) {
            (Some(_), Some(_)) => anyhow::bail!("ha.secret and ha.secret_file: one of them"),
            (Some(text), None) => {
                Some(Secret::new(text).with_context(|| format!("ha.secret: it has at least {} characters", Secret::LEN_MIN))?)
            }
            (None, Some(path)) => Some(Secret::read(path).map_err(anyhow::Error::msg).context("ha.secret_file")?),
            (None, None) => None,
        };
        let identity = match (&self.tls, secret) {
            (Some(Tls { certificate, private_key, ca }), secret) => {
                let files = TlsFiles { certificate: certificate.clone(), private_key: private_key.clone(), ca: ca.clone() };
                Identity::with_tls(name.clone(), &files, secret).context("ha.tls")?
            }
            (None, Some(secret)) => Identity::with_secret(name.clone(), secret),
            (None, None) => anyhow::bail!("ha.secret, ha.secret_file or [ha.tls]: one of them, by which the nodes know each other"),
        };
        let voters = peers.iter().map(|peer| (peer, false)).chain(witness.iter().map(|peer| (peer, true)));
        let voter =
            |((name, address), witness): (&(NodeName, String), bool)| VoterPeer { name: name.clone(), address: address.clone(), witness };
        let millis = Duration::from_millis;
        Ok(Pair {
            listen: self.listen.clone(),
            voter: Voters {
                name: name.clone(),
                witness: false,
                peers: voters.map(voter).collect(),
                folder: data_dir.join("ha"),
                lease: self.lease_ms.map_or(Voters::LEASE, |ms| millis(ms.0)),
                heartbeat: self.heartbeat_ms.map_or(Voters::HEARTBEAT, |ms| millis(ms.0)),
            },
            node: replication::Settings {
                name,
                identity: identity.clone(),
                peers: peers.into_iter().collect(),
                advertise: self.advertise.clone().unwrap_or_else(|| self.listen.clone()),
                clients: self.clients.clone(),
                silence: self.silence_ms.map_or(SILENCE, |ms| millis(ms.0)),
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
