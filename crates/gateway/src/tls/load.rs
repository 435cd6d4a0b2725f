//! From files to what rustls serves with. Every error names the file, what is wrong with it and what would be right.

use super::settings::{ClientAuth, MinVersion, TlsSettings};
use super::x509;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio_rustls::rustls::crypto::{ring, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Larger than any chain or key; what is more is another file.
const FILE_MAX: u64 = 4 << 20;

#[derive(Debug, Error)]
#[error("{setting} {}: {why}; right would be {right}", path.display())]
pub struct TlsError {
    pub setting: &'static str,
    pub path: PathBuf,
    pub why: String,
    pub right: &'static str,
}

/// A file that a setting names, for errors about it.
#[derive(Clone, Copy)]
struct Named<'a> {
    setting: &'static str,
    path: &'a Path,
}

const RIGHT_CERTIFICATE: &str =
    "a PEM file that begins with the server's own certificate (-----BEGIN CERTIFICATE-----), those of its issuers behind it";
const RIGHT_KEY: &str = "the certificate's private key as a PEM file, not encrypted (-----BEGIN PRIVATE KEY-----)";
const RIGHT_CA: &str = "a PEM file with the certificates of those who sign the certificates of clients";

impl Named<'_> {
    fn error(self, why: impl Into<String>, right: &'static str) -> TlsError {
        TlsError { setting: self.setting, path: self.path.to_owned(), why: why.into(), right }
    }

    fn read(self, right: &'static str) -> Result<Vec<u8>, TlsError> {
        let size = std::fs::metadata(self.path).map(|meta| meta.len());
        if size.is_ok_and(|size| size > FILE_MAX) {
            return Err(self.error("it is larger than 4 MiB", right));
        }
        match std::fs::read(self.path) {
            Ok(bytes) if bytes.is_empty() => Err(self.error("it is empty", right)),
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(self.error("this process may not read it", "a file that its user or group may read"))
            }
            Err(error) => Err(self.error(format!("it cannot be read: {error}"), right)),
        }
    }

    fn sections(self, right: &'static str) -> Result<Vec<(SectionKind, Vec<u8>)>, TlsError> {
        let bytes = self.read(right)?;
        let sections: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes).collect();
        let sections = sections.map_err(|error| self.error(format!("it is not whole: {error}"), right))?;
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        match sections.is_empty() {
            false => Ok(sections),
            true if has("BEGIN ENCRYPTED PRIVATE KEY") => {
                Err(self.error("the key is encrypted, and there is nobody to ask for its password", right))
            }
            true if bytes[0] == 0x30 => Err(self.error("it is DER, not PEM (openssl converts it: -inform der)", right)),
            true => Err(self.error("there is nothing in it that could be used", right)),
        }
    }
}

fn kinds(sections: &[(SectionKind, Vec<u8>)]) -> String {
    let name = |kind: &SectionKind| match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PublicKey => "a public key",
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a signing request",
        _ => "something else",
    };
    let mut names: Vec<_> = sections.iter().map(|(kind, _)| name(kind)).collect();
    names.dedup();
    names.join(" and ")
}

pub(super) fn server_config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match settings.min_version {
        MinVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::V13 => &[&rustls::version::TLS13],
    };
    let key = certified_key(settings, &provider)?;
    let verifier = client_verifier(settings, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.map_err(|error| nowhere(settings, error.to_string()))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    // Who comes back takes a ticket along, so that we keep nothing for him. Its keys are made anew with each load of the files.
    config.ticketer = ring::Ticketer::new().map_err(|error| nowhere(settings, error.to_string()))?;
    Ok(config)
}

fn nowhere(settings: &TlsSettings, why: String) -> TlsError {
    TlsError { setting: "tls", path: settings.certificate.clone().unwrap_or_default(), why, right: "to report this" }
}

fn certified_key(settings: &TlsSettings, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let unset = Path::new("(not set)");
    let path = settings.certificate.as_deref().unwrap_or(unset);
    let file = Named { setting: "certificate", path };
    if settings.certificate.is_none() {
        return Err(file
            .error("a TLS listener has nothing to show its clients", "certificate = \"FILE\" in [tls]; carrick tls dev makes one to try"));
    }
    let sections = file.sections(RIGHT_CERTIFICATE)?;
    let chain: Vec<_> =
        sections.iter().filter(|(kind, _)| *kind == SectionKind::Certificate).map(|(_, der)| CertificateDer::from(der.clone())).collect();
    let Some(own) = chain.first() else {
        return Err(file.error(format!("it holds {}, and no certificate", kinds(&sections)), RIGHT_CERTIFICATE));
    };
    let facts = x509::read(own).ok_or_else(|| file.error("its first certificate cannot be read", RIGHT_CERTIFICATE))?;
    let now = unix_now();
    if now > facts.not_after {
        return Err(file.error(format!("it has expired, {} ago", ago(now - facts.not_after)), "a certificate that has been renewed"));
    }
    if now < facts.not_before {
        let why = format!("it is not valid before {} from now", ago(facts.not_before - now));
        return Err(file.error(why, "a certificate that is valid by this machine's clock"));
    }
    let (key_file, key) = match &settings.private_key {
        None => (file, private_key(Named { setting: "private_key", path }, &sections)?),
        Some(path) => {
            let named = Named { setting: "private_key", path };
            (named, private_key(named, &named.sections(RIGHT_KEY)?)?)
        }
    };
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => key_file.error(
            format!("it is not the key of the first certificate in {}", path.display()),
            "the key with which that certificate was requested; in a chain, the server's own certificate comes first",
        ),
        other => key_file
            .error(format!("it cannot be used: {other}"), "an RSA key of 2048 bits or more, an ECDSA one (P-256, P-384) or an Ed25519 one"),
    })?;
    super::tell_of(path, &facts, now);
    Ok(certified)
}

fn private_key(file: Named<'_>, sections: &[(SectionKind, Vec<u8>)]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let found = sections.iter().find_map(|(kind, der)| PrivateKeyDer::from_pem(*kind, der.clone()));
    found.ok_or_else(|| file.error(format!("it holds {}, and no private key", kinds(sections)), RIGHT_KEY))
}

fn client_verifier(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let path = match (&settings.client_ca, settings.client_auth) {
        (_, ClientAuth::None) => return Ok(None),
        (Some(path), _) => path,
        (None, _) => {
            let file = Named { setting: "client_ca", path: Path::new("(not set)") };
            return Err(file.error("client_auth asks for certificates, and nobody is named who may have signed them", RIGHT_CA));
        }
    };
    let file = Named { setting: "client_ca", path };
    let sections = file.sections(RIGHT_CA)?;
    let mut roots = RootCertStore::empty();
    for (_, der) in sections.iter().filter(|(kind, _)| *kind == SectionKind::Certificate) {
        roots
            .add(CertificateDer::from(der.clone()))
            .map_err(|error| file.error(format!("one of its certificates cannot be used: {error}"), RIGHT_CA))?;
    }
    if roots.is_empty() {
        return Err(file.error(format!("it holds {}, and no certificate", kinds(&sections)), RIGHT_CA));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let builder = match settings.client_auth {
        ClientAuth::Require => builder,
        _ => builder.allow_unauthenticated(),
    };
    builder.build().map(Some).map_err(|error| file.error(error.to_string(), RIGHT_CA))
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn ago(secs: i64) -> String {
    match secs {
        0..=7199 => format!("{} minutes", secs / 60),
        7200..=172_799 => format!("{} hours", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}
