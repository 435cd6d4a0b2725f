//! `[ha]`: this node is one of a pair.

use super::coordinator::{self, Choice, Etcd, Kind};
use super::nodes::{times, HeartbeatMs, LeaseMs, Proof, Tls};
use super::units::{Bytes, Whole};
use anyhow::{ensure, Context, Result};
use replication::coordinator::NodeName;
use replication::net::Identity;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What stands there, with a coordinator that has all it needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Ha(Written);

impl TryFrom<Written> for Ha {
    type Error = String;

    fn try_from(written: Written) -> Result<Ha, String> {
        coordinator::check(&written).map(|()| Ha(written))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// This node's name; the others know it under that name.
    pub node: String,
    /// `host:port` where the others reach it.
    pub listen: String,
    /// The same as they see it, where that differs.
    pub advertise: Option<String>,
    /// The other data node: name = "host:port".
    pub peers: BTreeMap<String, String>,
    /// Who keeps the register that says which node is primary.
    #[serde(default)]
    pub coordinator: Kind,
    /// The third voter: name = "host:port".
    #[serde(default)]
    pub witness: BTreeMap<String, String>,
    pub etcd: Option<Etcd>,
    /// Of coordinator "file".
    pub folder: Option<PathBuf>,
    /// What the nodes know and nobody else, 16 characters or more.
    pub secret: Option<String>,
    /// A file with it.
    pub secret_file: Option<PathBuf>,
    /// Certificates that name the nodes, instead of a secret or beside it.
    pub tls: Option<Tls>,
    /// Where clients find this node, for those that can be told.
    #[serde(default)]
    pub clients: Vec<String>,
    /// How long a promise lasts; the same on all of them.
    pub lease_ms: Option<LeaseMs>,
    pub heartbeat_ms: Option<HeartbeatMs>,
    /// A standby that has not acked for so long is taken out of the in-sync set, and a primary that is silent for so long is gone.
    pub peer_timeout_ms: Option<Whole<100, 60_000>>,
    /// What a confirm waits for on a standby in sync.
    #[serde(default)]
    pub standby_ack: Acked,
    /// Of the log, or of a copy of the store, in a second, for a standby that is not in sync; 0: without a limit.
    pub catch_up_bytes_per_second: Option<Bytes<0, { 1 << 40 }>>,
}

#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acked {
    #[default]
    Synced,
    Received,
}

/// It, checked.
pub struct Pair {
    pub listen: String,
    pub node: replication::Settings,
    pub coordinator: Choice,
    pub identity: Identity,
}

const PEER_TIMEOUT: Duration = Duration::from_millis(1000);
/// A million messages of 1 KiB in eight seconds, and the primary's clients hardly notice (docs/ha.md, figures).
const CATCH_UP: u64 = 128 << 20;
/// Less, and a copy of a store takes longer than anybody waits.
const CATCH_UP_MIN: u64 = 1 << 20;

impl Ha {
    /// `data_dir`: what this node promises is kept in a folder of it.
    pub fn check(&self, data_dir: &Path) -> Result<Pair> {
        let Ha(ha) = self;
        let name: NodeName = ha.node.parse().context("ha.node")?;
        ensure!(ha.peers.len() == 1, "ha.peers: the other data node, and only that: peers = {{ b = \"HOST:PORT\" }}");
        let peer = |(peer, address): (&String, &String)| Ok((peer.parse().context("ha.peers")?, address.clone()));
        let peers: Vec<(NodeName, String)> = ha.peers.iter().map(peer).collect::<Result<_>>()?;
        ensure!(peers.iter().all(|(peer, _)| *peer != name), "ha.peers: {name} is this node itself");
        let (secret, secret_file) = (ha.secret.as_deref(), ha.secret_file.as_ref());
        let identity = Proof { section: "ha.", secret, secret_file, tls: ha.tls.as_ref() }.identity(&name)?;
        let catch_up = ha.catch_up_bytes_per_second.map_or(CATCH_UP, |bytes| bytes.0);
        ensure!(
            catch_up == 0 || catch_up >= CATCH_UP_MIN,
            "ha.catch_up_bytes_per_second: right would be at least 1 MiB, or 0 for no limit"
        );
        let coordinator = coordinator::choose(ha, &name, &peers, times(ha.lease_ms, ha.heartbeat_ms), data_dir)?;
        Ok(Pair {
            listen: ha.listen.clone(),
            coordinator,
            node: replication::Settings {
                name,
                peers: peers.into_iter().collect(),
                advertise: ha.advertise.clone().unwrap_or_else(|| ha.listen.clone()),
                clients: ha.clients.clone(),
                peer_timeout: ha.peer_timeout_ms.map_or(PEER_TIMEOUT, |ms| Duration::from_millis(ms.0)),
                standby_ack: match ha.standby_ack {
                    Acked::Synced => replication::StandbyAck::Synced,
                    Acked::Received => replication::StandbyAck::Received,
                },
                catch_up: NonZeroU64::new(catch_up),
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
        let Choice::Witness(voter) = pair.coordinator else { panic!("the default is a witness") };
        assert_eq!((voter.peers.len(), voter.witness, pair.node.peers.len()), (2, false, 1));
        assert_eq!(voter.folder, Path::new("d/ha"));
        assert_eq!((pair.node.standby_ack, pair.node.catch_up.map(NonZeroU64::get)), (replication::StandbyAck::Synced, Some(CATCH_UP)));
    }

    #[test]
    fn there_are_other_coordinators() {
        let with = |lines: &str| check(&GOOD.replace("witness = { w = 'h:2' }", lines)).expect(lines).coordinator;
        let Choice::Etcd(etcd) = with("coordinator = 'etcd'\netcd = { endpoints = ['http://e:2379'], user = 'u', password = 'p' }") else {
            panic!("etcd")
        };
        assert_eq!((etcd.prefix.as_str(), etcd.lease, etcd.tls.is_none()), ("/carrick/", Duration::from_secs(2), true));
        assert_eq!(etcd.user.map(|user| user.password).as_deref(), Some("p"));
        let Choice::File { folder, lease } = with("coordinator = 'file'\nfolder = '/run/pair'\nlease_ms = 900") else { panic!("file") };
        assert_eq!((folder.as_path(), lease), (Path::new("/run/pair"), Duration::from_millis(900)));
        let Choice::Manual { folder, .. } = with("coordinator = 'manual'") else { panic!("manual") };
        assert_eq!(folder, Path::new("d/ha"));
    }

    #[test]
    fn each_coordinator_has_its_own_keys_and_needs_them() {
        for (lines, why) in [
            ("", "right would be witness = { w = \"HOST:PORT\" }"),
            ("witness = { w = 'h:2', v = 'h:3' }", "and only one"),
            ("witness = { b = 'h:2' }", "b is one of the data nodes"),
            ("coordinator = 'zookeeper'", "`manual`"),
            ("coordinator = 'manual'\nwitness = { w = 'h:2' }", "ha.witness is for coordinator = \"witness\", and here it is \"manual\""),
            ("coordinator = 'manual'\nheartbeat_ms = 50", "ha.heartbeat_ms"),
            ("coordinator = 'file'", "folder = \"/run/carrick-pair\""),
            ("coordinator = 'witness'\nwitness = { w = 'h:2' }\nfolder = 'x'", "ha.folder is for coordinator = \"file\""),
            ("coordinator = 'etcd'", "endpoints = [\"http://HOST:2379\"]"),
            ("coordinator = 'etcd'\netcd = { endpoints = [] }", "ha.etcd.endpoints is empty"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['e:2379'] }", "http://HOST:PORT"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['https://e:2379'] }", "ha.etcd.ca"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['http://e:1'], user = 'u' }", "ha.etcd.password"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['http://e:1'], password = 'u' }", "no user"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['http://e:1'], certificate = 'u' }", "ha.etcd.private_key"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['http://e:1'], prefix = '' }", "ha.etcd.prefix"),
            ("coordinator = 'etcd'\netcd = { endpoints = ['http://e:1'], user = 'u', password_file = 'no/such' }", "no/such"),
            ("coordinator = 'etcd'\nlease_ms = 1500\netcd = { endpoints = ['http://e:1'] }", "steps of 1000"),
        ] {
            let error = check(&GOOD.replace("witness = { w = 'h:2' }", lines)).err().expect(why);
            assert!(format!("{error:#}").contains(why), "{lines}: {error:#}");
        }
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
            ("node = 'a'", "node = 'a'\nstandby_ack = 'applied'", "`received`"),
            ("node = 'a'", "node = 'a'\ncatch_up_bytes_per_second = '9 KiB'", "at least 1 MiB"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = check(&text).err().expect(why);
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }
}
