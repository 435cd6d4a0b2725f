//! What `[ha]` and the witness's file have in common: how the three nodes know each other, and how long promises last.

use super::units::Whole;
use anyhow::{bail, Context, Result};
use replication::coordinator::{NodeName, Settings};
use replication::net::{Identity, Secret, TlsFiles};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    pub ca: PathBuf,
}

pub type LeaseMs = Whole<150, 30_000>;
pub type HeartbeatMs = Whole<10, 5_000>;

/// How long a lease lasts, and how often voters speak.
pub fn times(lease: Option<LeaseMs>, heartbeat: Option<HeartbeatMs>) -> (Duration, Duration) {
    let millis = Duration::from_millis;
    (lease.map_or(Settings::LEASE, |ms| millis(ms.0)), heartbeat.map_or(Settings::HEARTBEAT, |ms| millis(ms.0)))
}

/// By what a node proves who it is. `section`: where these keys stand, in front of their names.
pub struct Proof<'a> {
    pub section: &'a str,
    pub secret: Option<&'a str>,
    pub secret_file: Option<&'a PathBuf>,
    pub tls: Option<&'a Tls>,
}

impl Proof<'_> {
    pub fn identity(&self, name: &NodeName) -> Result<Identity> {
        let section = self.section;
        let secret = match (self.secret, self.secret_file) {
            (Some(_), Some(_)) => bail!("{section}secret and {section}secret_file: one of them"),
            (Some(text), None) => {
                let short = || format!("{section}secret: it has at least {} characters", Secret::LEN_MIN);
                Some(Secret::new(text).with_context(short)?)
            }
            (None, Some(path)) => Some(Secret::read(path).map_err(anyhow::Error::msg).with_context(|| format!("{section}secret_file"))?),
            (None, None) => None,
        };
        match (self.tls, secret) {
            (Some(Tls { certificate, private_key, ca }), secret) => {
                let files = TlsFiles { certificate: certificate.clone(), private_key: private_key.clone(), ca: ca.clone() };
                Identity::with_tls(name.clone(), &files, secret).with_context(|| format!("{section}tls"))
            }
            (None, Some(secret)) => Ok(Identity::with_secret(name.clone(), secret)),
            (None, None) => {
                bail!("{section}secret, {section}secret_file or {section}tls: one of them, by which the nodes know each other")
            }
        }
    }
}
