use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::tls::Tls;
use super::{TlsError, TlsFiles};
use crate::coordinator::NodeName;

/// What all nodes of a cluster know and nobody else.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Fewer bytes can be guessed by whoever has once listened.
    pub const LEN_MIN: usize = 16;

    /// `None`: too short.
    pub fn new(text: &str) -> Option<Self> {
        let bytes = text.trim_end_matches(['\r', '\n']).as_bytes();
        (bytes.len() >= Self::LEN_MIN).then(|| Self(bytes.into()))
    }

    /// What stands in a file, without the end of its line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::new(&text).ok_or_else(|| format!("{}: a secret has at least {} characters", path.display(), Self::LEN_MIN))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who this node is among the others, and how it proves it.
#[derive(Clone)]
pub struct Identity {
    pub(super) name: NodeName,
    pub(super) secret: Option<Secret>,
    pub(super) tls: Option<Tls>,
    pub(super) handshake_timeout: Duration,
}

impl Identity {
    /// A dial, with everything until the first frame, takes no longer than this.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

    pub fn with_secret(name: NodeName, secret: Secret) -> Self {
        Self { name, secret: Some(secret), tls: None, handshake_timeout: Self::HANDSHAKE_TIMEOUT }
    }

    /// Certificates prove the name, which stands in them as a DNS name. A secret is asked for besides where there is one.
    pub fn with_tls(name: NodeName, files: &TlsFiles, secret: Option<Secret>) -> Result<Self, TlsError> {
        let tls = Some(Tls::load(files)?);
        Ok(Self { name, secret, tls, handshake_timeout: Self::HANDSHAKE_TIMEOUT })
    }

    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    pub fn name(&self) -> &NodeName {
        &self.name
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}
