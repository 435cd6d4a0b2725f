//! What an operator can say about TLS.

use serde::Deserialize;
use std::path::PathBuf;

/// `[tls]` in the configuration file; a listener may have its own for each key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM: the server's own certificate first, then those between it and what its clients trust.
    pub certificate: Option<PathBuf>,
    /// PEM, not encrypted. Without it the key is looked for in the file of the certificate.
    pub private_key: Option<PathBuf>,
    /// PEM: who may have signed the certificates of clients.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
    pub min_version: MinVersion,
    /// Where in a client's certificate its user stands. Without it a certificate opens the door, and says nothing of who comes in.
    pub user_from: Option<UserFrom>,
}

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// No certificate.
    #[default]
    None,
    /// A certificate that is verified if they have one.
    Request,
    /// A certificate, or they are turned away.
    Require,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub enum MinVersion {
    #[default]
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserFrom {
    /// The common name of its subject.
    Cn,
    /// The first DNS name, mail address or URI of its alternative names.
    San,
}

impl TlsSettings {
    /// Names of what can be set for one listener, in its URL.
    pub const NAMES: [&'static str; 6] = ["certificate", "private_key", "client_ca", "client_auth", "min_version", "user_from"];

    /// Sets one by its name, as it stands in a URL. The error says what would be right.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "certificate" => self.certificate = Some(value.into()),
            "private_key" => self.private_key = Some(value.into()),
            "client_ca" => self.client_ca = Some(value.into()),
            "client_auth" => {
                self.client_auth = match value {
                    "none" => ClientAuth::None,
                    "request" => ClientAuth::Request,
                    "require" => ClientAuth::Require,
                    _ => return Err("none, request or require"),
                }
            }
            "min_version" => {
                self.min_version = match value {
                    "1.2" => MinVersion::V12,
                    "1.3" => MinVersion::V13,
                    _ => return Err("1.2 or 1.3"),
                }
            }
            "user_from" => {
                self.user_from = match value {
                    "cn" => Some(UserFrom::Cn),
                    "san" => Some(UserFrom::San),
                    _ => return Err("cn or san"),
                }
            }
            _ => return Err("one of certificate, private_key, client_ca, client_auth, min_version and user_from"),
        }
        Ok(())
    }
}
