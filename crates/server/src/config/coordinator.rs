//! `[ha] coordinator`: who keeps the register that says which node is primary, and the keys that go with each choice.

use super::ha::Written;
use super::nodes::LeaseMs;
use anyhow::{ensure, Context, Result};
use replication::coordinator::{EtcdSettings, EtcdTls, EtcdUser, NodeName, Settings as Voters, VoterPeer};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The two nodes and `carrick witness`, which vote.
    #[default]
    Witness,
    /// One that is there already.
    Etcd,
    /// A folder on the one host where both processes run.
    File,
    /// A person: nothing takes over by itself.
    Manual,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Witness => "witness",
            Kind::Etcd => "etcd",
            Kind::File => "file",
            Kind::Manual => "manual",
        }
    }
}

/// `[ha.etcd]`
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// `http://host:port` or `https://host:port`; tried in turn.
    pub endpoints: Vec<String>,
    /// In front of all keys. Pairs that share an etcd have one each.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// Whose signature the members of etcd have, for https.
    pub ca: Option<PathBuf>,
    /// This node's own certificate, where etcd asks for one.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Etcd {{ endpoints: {:?}, prefix: {:?}, user: {:?}, .. }}", self.endpoints, self.prefix, self.user)
    }
}

fn default_prefix() -> String {
    "/carrick/".into()
}

/// A stock etcd makes no lease shorter than that.
const ETCD_LEASE: Duration = Duration::from_secs(2);

/// What the node is started with.
pub enum Choice {
    Witness(Voters),
    Etcd(EtcdSettings),
    File { folder: PathBuf, lease: Duration },
    Manual { folder: PathBuf, lease: Duration },
}

/// Refused with the section's line: keys that belong to another choice, and those that are missing.
pub fn check(ha: &Written) -> Result<(), String> {
    let chosen = ha.coordinator;
    let keys = [
        (!ha.witness.is_empty(), "witness", Kind::Witness),
        (ha.etcd.is_some(), "etcd", Kind::Etcd),
        (ha.folder.is_some(), "folder", Kind::File),
    ];
    for (there, key, of) in keys {
        if there && of != chosen {
            return Err(format!(
                "ha.{key} is for coordinator = \"{}\", and here it is \"{}\": right would be the one or the other",
                of.name(),
                chosen.name()
            ));
        }
    }
    if ha.heartbeat_ms.is_some() && chosen != Kind::Witness {
        return Err("ha.heartbeat_ms is between voters, and there are none: right would be to leave it out".into());
    }
    let wrong = match chosen {
        Kind::Witness if ha.witness.len() != 1 => "ha.witness: the third voter, and only one: right would be witness = { w = \"HOST:PORT\" }, or another coordinator (etcd, file, manual)",
        Kind::Etcd if ha.etcd.is_none() => "coordinator = \"etcd\" needs to know where it is: right would be etcd = { endpoints = [\"http://HOST:2379\"] }",
        Kind::File if ha.folder.is_none() => "coordinator = \"file\" needs a folder that both processes on this host use: right would be folder = \"/run/carrick-pair\"",
        Kind::Etcd if ha.lease_ms.is_some_and(|ms| ms.0 < 1000 || ms.0 % 1000 != 0) => "ha.lease_ms: etcd counts in whole seconds: right would be 1000 to 30000, in steps of 1000",
        _ => return ha.etcd.as_ref().map_or(Ok(()), check_etcd),
    };
    Err(wrong.into())
}

fn check_etcd(etcd: &Etcd) -> Result<(), String> {
    let wrong = match etcd {
        Etcd { endpoints, .. } if endpoints.is_empty() => "ha.etcd.endpoints is empty: right would be [\"http://HOST:2379\"]",
        Etcd { endpoints, ca: None, .. } if endpoints.iter().any(|url| url.starts_with("https://")) => {
            "ha.etcd.endpoints has https:// and there is no ha.etcd.ca: right would be the file with the CA that has signed etcd's certificates"
        }
        Etcd { endpoints, .. } if !endpoints.iter().all(|url| url.starts_with("http://") || url.starts_with("https://")) => {
            "ha.etcd.endpoints: right would be http://HOST:PORT or https://HOST:PORT"
        }
        Etcd { certificate, private_key, .. } if certificate.is_some() != private_key.is_some() => {
            "ha.etcd.certificate and ha.etcd.private_key: right would be both, or none"
        }
        Etcd { user: None, password, password_file, .. } if password.is_some() || password_file.is_some() => {
            "ha.etcd has a password and no user: right would be both"
        }
        Etcd { user: Some(_), password, password_file, .. } if password.is_some() == password_file.is_some() => {
            "ha.etcd.user: right would be one of ha.etcd.password and ha.etcd.password_file beside it"
        }
        Etcd { prefix, .. } if prefix.is_empty() => "ha.etcd.prefix is empty: right would be one for each pair, like \"/carrick/NAME/\"",
        _ => return Ok(()),
    };
    Err(wrong.into())
}

/// `lease`, `heartbeat`: as written, or the voters' defaults. `data_dir`: what a node promises is kept in a folder of it.
pub fn choose(
    ha: &Written,
    name: &NodeName,
    peers: &[(NodeName, String)],
    (lease, heartbeat): (Duration, Duration),
    data_dir: &Path,
) -> Result<Choice> {
    let folder = data_dir.join("ha");
    Ok(match ha.coordinator {
        Kind::Witness => {
            let mut voters: Vec<VoterPeer> = Vec::new();
            for (peer, address) in peers {
                voters.push(VoterPeer { name: peer.clone(), address: address.clone(), witness: false });
            }
            for (witness, address) in &ha.witness {
                let witness: NodeName = witness.parse().context("ha.witness")?;
                ensure!(
                    witness != *name && peers.iter().all(|(peer, _)| *peer != witness),
                    "ha.witness: {witness} is one of the data nodes"
                );
                voters.push(VoterPeer { name: witness, address: address.clone(), witness: true });
            }
            Choice::Witness(Voters { name: name.clone(), witness: false, peers: voters, folder, lease, heartbeat })
        }
        Kind::Etcd => {
            let etcd = ha.etcd.as_ref().context("ha.etcd")?;
            Choice::Etcd(etcd.settings(name, ha.lease_ms)?)
        }
        Kind::File => Choice::File { folder: ha.folder.clone().context("ha.folder")?, lease },
        Kind::Manual => Choice::Manual { folder, lease },
    })
}

impl Etcd {
    fn settings(&self, name: &NodeName, lease: Option<LeaseMs>) -> Result<EtcdSettings> {
        let client = self.certificate.clone().zip(self.private_key.clone());
        let password = match (&self.password, &self.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(path)) => {
                let read = std::fs::read_to_string(path).with_context(|| format!("ha.etcd.password_file: {}", path.display()))?;
                Some(read.trim_end_matches(['\r', '\n']).to_owned())
            }
            (None, None) => None,
        };
        Ok(EtcdSettings {
            name: name.clone(),
            endpoints: self.endpoints.clone(),
            prefix: self.prefix.clone(),
            lease: lease.map_or(ETCD_LEASE, |ms| Duration::from_millis(ms.0)),
            tls: self.ca.clone().map(|ca| EtcdTls { ca, client }),
            user: self.user.clone().zip(password).map(|(name, password)| EtcdUser { name, password }),
        })
    }
}
